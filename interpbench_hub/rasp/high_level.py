"""The high-level model: a graph's variables on batches, with node and path (edge) interchange.

Every variable is a tensor of integer codes; a map is a table look-up, a selector a look-up in a table of
(key, query) pairs. An interchange is given as a mask over the circuit's edges, one row an input, so that one
call serves a batch in which every row has its own interchange.
"""

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from interpbench_hub.circuit import LOGITS, Edge, Slot
from interpbench_hub.rasp.alignment import Alignment
from interpbench_hub.rasp.causal_model import SELECTED, UNCLEAR, CausalModel, Slots, Values
from interpbench_hub.rasp.variables import Graph, Variable

_CHUNK = 4_000_000
"""Most (key, query) pairs looked up at a time, so that memory stays small on large batches."""


class HighLevelModel(CausalModel):
    """A program's variables on batches of inputs.

    Codes: a variable with n values has codes 0 .. n-1, n for undefined (None) and n + 1 for *ambiguous*: attention
    that an interchange spreads over different classes has no value the program defines, nor has what is computed
    from it. Ambiguous positions of the output are no target and no evidence.
    """

    def __init__(self, graph: Graph, alignment: Alignment, *, device: torch.device | str = "cpu") -> None:
        super().__init__(graph, alignment, device=device)
        self._tables = {v.name: _table(graph, v).to(self.device) for v in graph.variables if v.reads or v.constants}
        self._means = {
            v.name: _MeanCodes(graph, v, self.device)
            for v in graph.variables
            if v.kind == "aggregate" and v.encoding == "numerical"
        }
        self._output_edge = self.edge_index[Edge(alignment.node_of[graph.output.name], LOGITS)]

    def selects_alike(self, head: Variable) -> bool:
        table = self._tables[head.name]
        return bool((table == table[0, 0]).all())

    def selects_nothing(self, head: Variable) -> bool:
        return not bool(self._tables[head.name].any())

    def selects(self, head: Variable, compared: Slots, lengths: Tensor, width: int) -> Tensor:
        valid = torch.arange(width, device=lengths.device) < lengths[:, None]
        return self._verdicts(head, compared, valid)

    def output(self, values: Values, source: Values, edges: Tensor) -> Tensor:
        name = self.graph.output.name
        own = values[name]
        return torch.where(edges[:, self._output_edge, None], source[name][:, : own.shape[1]], own)

    def _run(self, tokens: Tensor, lengths: Tensor, source: Values | None, edges: Tensor | None) -> Values:
        values: Values = {}
        batch, width = tokens.shape
        valid = torch.arange(width, device=tokens.device) < lengths[:, None]

        for variable in self.graph.variables:
            match variable.kind:
                case "tokens":
                    # Padding may hold any id: a code within the tables keeps look-ups in range.
                    values[variable.name] = tokens.masked_fill(~valid, 0)
                case "indices":
                    values[variable.name] = torch.arange(width, device=tokens.device).expand(batch, width)
                case "map":
                    arguments = [self.read(variable, read, values, source, edges) for read in variable.reads]
                    values[variable.name] = _look_up(self._tables[variable.name], arguments)
                case _:
                    slots = self.slots(variable, values, source, edges)
                    values[variable.name] = self._attend(variable, slots, valid)
        return values

    # -- heads -------------------------------------------------------------------------------------------------------

    def _attend(self, variable: Variable, slots: Slots, valid: Tensor) -> Tensor:
        batch, width = valid.shape
        if batch == 0:
            return valid.new_zeros(valid.shape, dtype=torch.long)
        selector = (variable.read_in("k"), variable.read_in("q"))
        if all(name is None or self.graph[name].is_positional for name in selector):
            return self._attend_by_position(variable, slots, valid)
        rows = max(1, _CHUNK // width**2)
        parts = [
            self._attend_by_content(variable, {slot: codes[at : at + rows] for slot, codes in slots.items()}, part)
            for at, part in ((at, valid[at : at + rows]) for at in range(0, batch, rows))
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend_by_position(self, variable: Variable, slots: Slots, valid: Tensor) -> Tensor:
        """A head whose selector looks at positions only: the same (query, key) pairs in every row."""
        batch, width = valid.shape
        zero = valid.new_zeros((1, width), dtype=torch.long)
        k, q = slots.get("k", zero)[0], slots.get("q", zero)[0]
        chosen = (_look_up(self._tables[variable.name], [k[None, :], q[:, None]]) == SELECTED).expand(width, width)
        if self.graph.causal:
            chosen = chosen.tril()
        weights = chosen.to(torch.float64).T
        count = (valid.to(torch.float64) @ weights).long()
        if variable.kind == "fraction":
            return count
        codes = slots.get("v", zero.expand(batch, width))
        ambiguous = variable.ambiguous
        if variable.encoding == "numerical":
            numbers = self._means[variable.name].numbers[codes] * valid
            result = self._means[variable.name].codes(numbers @ weights, count)
            spoilt = codes == len(self._means[variable.name].numbers) - 1
            if bool(spoilt.any()):
                result = torch.where((spoilt & valid).to(torch.float64) @ weights > 0, ambiguous, result)
            return result
        if bool((chosen.sum(-1) > 1).any()):
            return self._select(variable, chosen[None] & valid[:, None, :], codes, count)
        only = chosen.int().argmax(-1)
        return torch.where(count > 0, codes[:, only], variable.undefined)

    def _attend_by_content(self, variable: Variable, slots: Slots, valid: Tensor) -> Tensor:
        """A head whose selector compares what keys and queries hold."""
        verdicts = self._verdicts(variable, slots, valid)
        chosen = verdicts == SELECTED
        count = chosen.sum(-1)
        ambiguous = variable.ambiguous
        codes = slots.get("v", torch.zeros_like(count))
        if variable.kind == "fraction":
            result = count
        elif variable.encoding == "numerical":
            means = self._means[variable.name]
            total = torch.bmm(chosen.to(torch.float64), means.numbers[codes][:, :, None])[..., 0]
            result = means.codes(total, count)
            spoilt = codes == len(means.numbers) - 1
            if bool(spoilt.any()):
                result = torch.where((chosen & spoilt[:, None, :]).any(-1), ambiguous, result)
        else:
            result = self._select(variable, chosen, codes, count)
        if self._holds_ambiguous(variable, "k", slots) or self._holds_ambiguous(variable, "q", slots):
            result = torch.where((verdicts == UNCLEAR).any(-1), ambiguous, result)
        return result

    def _verdicts(self, variable: Variable, slots: Slots, valid: Tensor) -> Tensor:
        """What a head's selector says of every key within reach: [batch, query, key], 0, `SELECTED` or `UNCLEAR`."""
        batch, width = valid.shape
        zero = valid.new_zeros((1, 1), dtype=torch.long)
        k, q = slots.get("k", zero), slots.get("q", zero)
        found = _look_up(self._tables[variable.name], [k[:, None, :], q[:, :, None]]).expand(batch, width, width)
        found = found * valid[:, None, :]
        return found.tril() if self.graph.causal else found

    def _holds_ambiguous(self, variable: Variable, slot: Slot, slots: Slots) -> bool:
        name = variable.read_in(slot)
        return name is not None and bool((slots[slot] == self.graph[name].ambiguous).any())

    def _select(self, variable: Variable, chosen: Tensor, codes: Tensor, count: Tensor) -> Tensor:
        """The value of a categorical aggregate: what all selected keys hold, ambiguous if they differ."""
        # Codes are below 2**15 (`value_sets.MAX_VALUES`): short integers halve the time of these large tensors.
        spread = codes.to(torch.int16)[:, None, :]
        low = torch.where(chosen, spread, torch.iinfo(torch.int16).max).amin(-1)
        high = torch.where(chosen, spread, -1).amax(-1)
        # Codes of an aggregate are those of what it averages: equal selected values pass on as they are.
        result = torch.where(count == 0, variable.undefined, low.long())
        return torch.where(low < high, variable.ambiguous, result)


def _look_up(table: Tensor, codes: Sequence[Tensor]) -> Tensor:
    """`table[codes[0], codes[1], ...]`, broadcast."""
    index = codes[0]
    for size, more in zip(table.shape[1:], codes[1:], strict=True):
        index = index * size + more
    return table.reshape(-1)[index]


def _table(graph: Graph, variable: Variable) -> Tensor:
    """Codes of a map by the codes it reads; for a head, 0, `SELECTED` or `UNCLEAR` by key and query."""
    if variable.kind == "map":
        assert variable.function is not None
        inputs = [graph[read.variable] for read in variable.reads]
        table = torch.full([len(v.values) + 2 for v in inputs], variable.ambiguous)
        flat = [variable.code(variable.function(*values)) for values in product(*((*v.values, None) for v in inputs))]
        table[tuple(slice(-1) for _ in inputs)] = torch.tensor(flat).reshape([len(v.values) + 1 for v in inputs])
        return table
    assert variable.selects is not None
    constants = dict(variable.constants)
    sides = []
    for slot in ("k", "q"):
        name = variable.read_in(slot)
        sides.append((constants[slot],) if name is None else (*graph[name].values, None))
    flat = [int(variable.selects(key, query)) for key, query in product(*sides)]
    body = torch.tensor(flat).reshape([len(side) for side in sides])
    # A last row and column for ambiguous keys and queries; a predicate that does not look at them decides all the same.
    table = torch.full([len(side) + 1 for side in sides], UNCLEAR)
    table[:-1, :-1] = body
    if bool((body == body[0, 0]).all()):
        table.fill_(int(body[0, 0]))
    return table.to(torch.uint8)


class _MeanCodes:
    """Codes of the mean of selected values."""

    def __init__(self, graph: Graph, variable: Variable, device: torch.device) -> None:
        name = variable.read_in("v")
        inner = (dict(variable.constants)["v"],) if name is None else graph[name].values
        # Undefined and ambiguous values do not enter a numerical mean as numbers; zeros keep the arithmetic defined.
        self.numbers = torch.tensor([*(float(value) for value in inner), 0.0, 0.0], dtype=torch.float64, device=device)
        values = torch.tensor([float(value) for value in variable.values], dtype=torch.float64, device=device)
        # Codes follow ascending values; halfway marks between neighbours turn a mean into the nearest one's code.
        self.marks = (values[1:] + values[:-1]) / 2

    def codes(self, total: Tensor, count: Tensor) -> Tensor:
        """Codes of `total / count`, 0 where nothing is selected."""
        return torch.bucketize(total / count.clamp(min=1), self.marks)
