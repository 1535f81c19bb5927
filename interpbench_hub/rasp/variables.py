"""Variables of a high-level model and the graph they form: plain data, made by `graph.build_graph`."""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from interpbench_hub.circuit import Slot
from interpbench_hub.rasp.language import Encoding, Value

VariableKind = Literal["tokens", "indices", "map", "fraction", "aggregate"]


@dataclass(frozen=True)
class Read:
    """One variable read by another, in a head's slot or (slot None) as an MLP's input."""

    variable: str
    slot: Slot | None = None


@dataclass(frozen=True, eq=False)
class Variable:
    """One variable of the high-level model.

    Its value at a position is a code: a place in `values`, or `undefined` (= len(values)) for None.
    """

    name: str
    kind: VariableKind
    """`tokens` and `indices` are inputs; `map` (any MLP computation), `fraction` (the head of a selector width; its
    value is the number of selected keys), `aggregate`."""
    reads: tuple[Read, ...]
    """What it reads: the arguments of a map; for heads those of keys, queries and values that are not constant."""
    values: tuple[Value, ...]
    may_be_undefined: bool
    encoding: Encoding
    is_positional: bool
    """Whether the value depends on the position at most: the same in all inputs."""
    meaning: str
    text: str
    """The expression it is computed by."""
    function: Callable[..., Value] | None = None
    """For a map: its value from those it reads."""
    selects: Callable[[Value, Value], bool] | None = None
    """For a head: whether a query value (second) selects a key value (first)."""
    constants: tuple[tuple[Slot, Value], ...] = ()
    """For a head: slots that hold the same constant everywhere instead of a variable."""
    default: Value = None
    """For an aggregate: its value where nothing is selected."""

    @property
    def classes(self) -> tuple[Value, ...]:
        """The values, then None if the variable can be undefined."""
        return (*self.values, None) if self.may_be_undefined else self.values

    @property
    def undefined(self) -> int:
        """Code of the value None."""
        return len(self.values)

    @property
    def ambiguous(self) -> int:
        """Code of a value that an interchange leaves without a meaning (see `HighLevelModel`)."""
        return len(self.values) + 1

    @cached_property
    def code_of(self) -> dict[Value, int]:
        return {value: code for code, value in enumerate((*self.values, None))}

    def code(self, value: Value) -> int:
        """The code of a value; of a number, that of the nearest one: sums differ by rounding errors."""
        if value is None or self.encoding == "categorical":
            return self.code_of[value]
        above = bisect_left(self.values, value)
        near = range(max(above - 1, 0), min(above + 1, len(self.values)))
        return min(near, key=lambda code: abs(self.values[code] - value))

    def read_in(self, slot: Slot | None) -> str | None:
        """Name of the variable read in a slot, None if the slot holds a constant."""
        return next((read.variable for read in self.reads if read.slot == slot), None)


@dataclass(frozen=True, eq=False)
class Graph:
    """A program's variables in an order in which they can be computed, `output` among them."""

    variables: tuple[Variable, ...]
    output: Variable
    vocab: tuple[Value, ...]
    min_tokens: int
    """Shortest input, BOS not counted."""
    max_tokens: int
    """Longest input, BOS not counted."""
    causal: bool

    @cached_property
    def _by_name(self) -> dict[str, Variable]:
        return {variable.name: variable for variable in self.variables}

    def __getitem__(self, name: str) -> Variable:
        return self._by_name[name]

    def n_compared(self, heads: Iterable[Variable]) -> int:
        """The most values that one of these heads reads in its queries or in its keys; 0 if they read none."""
        reads = (read for head in heads for read in head.reads if read.slot != "v")
        return max((len(self[read.variable].classes) for read in reads), default=0)
