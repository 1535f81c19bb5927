"""Weights of single variables of a compiled transformer: MLP neurons of a map, query, key and value maps of a head.

Owns the constructions, which are those of Tracr (Lindner et al. 2023, arXiv:2301.05062) save for how BOS is handled:
it is told apart by its position, inside heads only. Heads turn BOS into a key and a value of its own whatever
variables happen to hold there, so MLPs need not know about it. Knows nothing of layers; `compiler` assembles.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from typing import NamedTuple

import torch
from torch import Tensor

from interpbench_hub.circuit import Slot
from interpbench_hub.errors import ProgramError
from interpbench_hub.rasp.language import Value
from interpbench_hub.rasp.residual import magnitude, vector, width
from interpbench_hub.rasp.variables import Graph, Variable

MARGIN = 20.0
"""Between the scores of keys that differ: e^-20 of attention is lost, which float32 does not see."""
FINEST = 1e-5
"""Smallest distance between values an MLP can tell apart, as a share of the largest."""

AtBos = Mapping[str, Tensor]
"""What each variable's directions hold at BOS, by name. It never depends on the input: BOS attends to itself only."""


class MapWeights(NamedTuple):
    """Hidden neurons of one map, from the directions of the variables it reads, in that order, to its own."""

    w_in: Tensor
    b_in: Tensor
    w_out: Tensor
    b_out: Tensor

    def __call__(self, inputs: Tensor) -> Tensor:
        return torch.relu(inputs @ self.w_in + self.b_in) @ self.w_out + self.b_out


class Reading(NamedTuple):
    """How a head reads one slot: an affine map of the variable there, and what the mark of BOS adds to it."""

    variable: str | None
    weight: Tensor
    bias: Tensor
    bos: Tensor


class HeadWeights(NamedTuple):
    """One head: its three readings and how what the values carry is written to the variable's own directions."""

    q: Reading
    k: Reading
    v: Reading
    out: Tensor


def value_at_bos(variable: Variable, at_bos: AtBos, neurons: MapWeights | None) -> Tensor:
    """What a variable's directions hold at BOS, given those of the variables it reads; `neurons` if it is a map."""
    if neurons is not None:
        return neurons(torch.cat([at_bos[read.variable] for read in variable.reads]))
    # BOS keeps all its attention to itself, which is the fraction 1; embeddings and aggregates carry nothing there.
    return torch.full((width(variable),), float(variable.kind == "fraction"), dtype=torch.float64)


# -- maps --------------------------------------------------------------------------------------------------------------


def map_weights(graph: Graph, variable: Variable) -> MapWeights:
    """The neurons that compute a map."""
    inputs = [graph[read.variable] for read in variable.reads]
    encodings = {reader.encoding for reader in inputs}
    if encodings == {"categorical"}:
        return _look_up(variable, inputs)
    if encodings == {"numerical"} and len(inputs) == 1:
        return _affine(variable, inputs[0]) or _steps(variable, inputs[0])
    if encodings == {"numerical"} and len(inputs) == 2 and variable.encoding == "numerical":
        return _linear(variable, inputs)
    described = " and ".join(f"the {reader.encoding} {reader.name!r}" for reader in inputs)
    raise ProgramError(f"variable {variable.name!r} is a map of {described}; no MLP is known that computes it")


def _result(variable: Variable, *values: Value) -> Value:
    assert variable.function is not None
    return variable.function(*values)


def _look_up(variable: Variable, inputs: Sequence[Variable]) -> MapWeights:
    """Neurons that fire for a set of values of the first input together with a set of values of the second.

    `ReLU(x in A + y in B - 1)` is 1 where both hold, else 0. Combinations with one result share neurons: there is one
    for each result and each distinct set of seconds (or, where that is fewer, of firsts) that leads to it.
    """
    first, *rest = inputs
    second: Sequence[Value] = rest[0].classes if rest else (None,)
    table = {
        (i, j): _result(variable, x, *([y] if rest else []))
        for (i, x), (j, y) in product(enumerate(first.classes), enumerate(second))
    }
    pairs = min(
        _rectangles(table), [(a, b) for b, a in _rectangles({(j, i): z for (i, j), z in table.items()})], key=len
    )
    columns, biases, outputs = [], [], []
    for rows, others in pairs:
        firsts, bias = _membership(first, rows)
        if rest:
            seconds, more = _membership(rest[0], others)
            firsts, bias = firsts + seconds, bias + more - 1
        columns.append(firsts)
        biases.append(bias)
        outputs.append(vector(variable, table[min(rows), min(others)]))
    return _stack(columns, biases, outputs, [0.0] * width(variable), sum(map(width, inputs)))


def _rectangles(table: Mapping[tuple[int, int], Value]) -> list[tuple[frozenset[int], frozenset[int]]]:
    """Sets of rows and of columns whose combinations all have one result; together they cover each result once."""
    columns_of: dict[tuple[Value, int], set[int]] = {}
    for (row, column), result in table.items():
        if result is not None:
            columns_of.setdefault((result, row), set()).add(column)
    rows_of: dict[tuple[Value, frozenset[int]], set[int]] = {}
    for (result, row), columns in columns_of.items():
        rows_of.setdefault((result, frozenset(columns)), set()).add(row)
    return [(frozenset(rows), columns) for (_, columns), rows in rows_of.items()]


def _membership(variable: Variable, codes: frozenset[int]) -> tuple[list[float], float]:
    """Weights and bias on a variable's directions that give 1 where its code is one of `codes`, else 0."""
    places = range(len(variable.values))
    if variable.undefined in codes:
        # Undefined is all zero: it is one of the codes unless some other code is present.
        return [float(place in codes) - 1 for place in places], 1.0
    return [float(place in codes) for place in places], 0.0


def _linear(variable: Variable, inputs: Sequence[Variable]) -> MapWeights:
    """A weighted sum of two numbers, which a pair of neurons carries: `u = ReLU(u) - ReLU(-u)`."""
    p, q = float(_result(variable, 1.0, 0.0)), float(_result(variable, 0.0, 1.0))
    for x, y in product(*([reader.values[0], reader.values[-1]] for reader in inputs)):
        if not math.isclose(_result(variable, x, y), p * x + q * y, rel_tol=1e-9, abs_tol=1e-9):
            raise ProgramError(f"variable {variable.name!r} is no linear function of the two numbers it reads")
    return _stack([[p, q], [-p, -q]], [0.0, 0.0], [[1.0], [-1.0]], [0.0], 2)


def _affine(variable: Variable, reader: Variable) -> MapWeights | None:
    """A number that lies on one line over the number read: two neurons do, and are exact. None for other maps."""
    if variable.encoding != "numerical":
        return None
    points = [(magnitude(reader, value), float(_result(variable, value))) for value in reader.values]
    (low, first), (high, last) = min(points), max(points)
    slope = (last - first) / (high - low) if high > low else 0.0
    offset = first - slope * low
    if not all(math.isclose(slope * x + offset, y, rel_tol=1e-9, abs_tol=1e-9) for x, y in points):
        return None
    return _stack([[slope], [-slope]], [0.0, 0.0], [[1.0], [-1.0]], [offset], 1)


def _steps(variable: Variable, reader: Variable) -> MapWeights:
    """A step function of a number: between neighbouring values with different results lies a steep slope.

    `ReLU(s (x - t) + 1/2) - ReLU(s (x - t) - 1/2)` climbs from 0 to 1 around t; s makes it fill the middle half of the
    gap between the two values, so that an error of a quarter of the gap does no harm.
    """
    points = sorted((magnitude(reader, value), value) for value in reader.values)
    largest = max(abs(place) for place, _ in points)
    result = _result(variable, points[0][1])
    constant = torch.tensor(vector(variable, result), dtype=torch.float64)
    columns, biases, outputs = [], [], []
    for (place, _), (following, value) in pairwise(points):
        new = _result(variable, value)
        if _same(variable, result, new):
            continue
        if following - place < FINEST * largest:
            raise ProgramError(
                f"variable {variable.name!r} tells {place!r} and {following!r} of {reader.name!r} apart; float32 "
                f"carries differences down to {FINEST:g} of the largest; round or coarsen {reader.name!r} first"
            )
        change = torch.tensor(vector(variable, new), dtype=torch.float64) - torch.tensor(vector(variable, result))
        slope, middle = 2 / (following - place), (following + place) / 2
        # The two neurons grow with the distance from t, and so do their rounding errors: let them grow on that side
        # where less room is left. Descending, the step is 1 - the ascending one.
        if middle - points[0][0] < points[-1][0] - middle:
            slope, constant, change = -slope, constant + change, -change
        for half, sign in ((0.5, 1.0), (-0.5, -1.0)):
            columns.append([slope])
            biases.append(half - slope * middle)
            outputs.append((sign * change).tolist())
        result = new
    return _stack(columns, biases, outputs, constant.tolist(), 1)


def _same(variable: Variable, a: Value, b: Value) -> bool:
    if variable.encoding == "numerical":
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
    return a == b


def _stack(
    columns: Sequence[Sequence[float]],
    biases: Sequence[float],
    outputs: Sequence[Sequence[float]],
    constant: Sequence[float],
    n_inputs: int,
) -> MapWeights:
    hidden = len(columns)
    return MapWeights(
        torch.tensor(columns, dtype=torch.float64).reshape(hidden, n_inputs).T,
        torch.tensor(biases, dtype=torch.float64),
        torch.tensor(outputs, dtype=torch.float64).reshape(hidden, len(constant)),
        torch.tensor(constant, dtype=torch.float64),
    )


# -- heads -------------------------------------------------------------------------------------------------------------


def head_weights(graph: Graph, variable: Variable, at_bos: AtBos) -> HeadWeights:
    """The head that computes an aggregate or the fraction of a selector width.

    Keys are one-hot, BOS being one more key; queries hold the score of each key: 0, BOS `MARGIN`, selected twice
    that. So a query that selects nothing attends to BOS. For a selector width, BOS scores as selected keys do.
    BOS itself attends to nothing but BOS, so that what it holds does not depend on the input.
    """
    assert variable.selects is not None
    keys, queries = _classes(graph, variable, "k"), _classes(graph, variable, "q")
    selected = 2 * MARGIN
    at_rest = selected if variable.kind == "fraction" else MARGIN
    scores = [[selected * variable.selects(key, query) for key in keys] + [at_rest] for query in queries]
    one_hot = torch.eye(len(keys) + 1, dtype=torch.float64)
    return HeadWeights(
        _reading(graph, variable, "q", torch.tensor(scores, dtype=torch.float64), selected * one_hot[-1], at_bos),
        _reading(graph, variable, "k", one_hot[:-1], one_hot[-1], at_bos),
        _values(graph, variable, at_bos),
        torch.eye(width(variable), dtype=torch.float64),
    )


def _classes(graph: Graph, variable: Variable, slot: Slot) -> tuple[Value, ...]:
    """All that can stand in a slot: the classes of the variable read there, or a constant."""
    name = variable.read_in(slot)
    if name is None:
        return (dict(variable.constants)[slot],)
    if graph[name].encoding == "numerical":
        raise ProgramError(f"variable {variable.name!r} selects by the numerical {name!r}; heads compare classes only")
    return graph[name].classes


def _values(graph: Graph, variable: Variable, at_bos: AtBos) -> Reading:
    """The value slot: the variable as it is; at BOS nothing, but for a selector width 1 there and nothing elsewhere."""
    nothing = torch.zeros(width(variable), dtype=torch.float64)
    if variable.kind == "fraction":
        return Reading(None, nothing.new_zeros(0, 1), nothing, nothing + 1)
    name = variable.read_in("v")
    if name is not None and variable.encoding == "numerical":
        return Reading(name, nothing.new_ones(1, 1), nothing, -at_bos[name])
    carried = [vector(variable, value) for value in _classes(graph, variable, "v")]
    return _reading(graph, variable, "v", torch.tensor(carried, dtype=torch.float64), nothing, at_bos)


def _reading(graph: Graph, variable: Variable, slot: Slot, rows: Tensor, bos: Tensor, at_bos: AtBos) -> Reading:
    """The affine map that yields `rows[c]` where the slot holds its class number c, and `bos` at BOS."""
    name = variable.read_in(slot)
    if name is None:
        return Reading(None, rows.new_zeros(0, rows.shape[1]), rows[0], bos - rows[0])
    # An undefined variable is all zero, so its row is the bias.
    bias = rows[graph[name].undefined] if graph[name].may_be_undefined else torch.zeros_like(bos)
    weight = rows[: len(graph[name].values)] - bias
    return Reading(name, weight, bias, bos - bias - at_bos[name] @ weight)
