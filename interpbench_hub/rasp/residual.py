"""The residual stream of a compiled transformer: which direction stands for what.

Every direction is a basis vector: one for each value of a categorical variable (a one-hot code, all zero where the
variable is undefined), one for each numerical variable (its magnitude), and one, written by the position embedding,
that marks BOS. No constant direction is needed: biases serve.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from interpbench_hub.constants import BOS
from interpbench_hub.rasp.language import Value
from interpbench_hub.rasp.variables import Graph, Variable


@dataclass(frozen=True)
class Layout:
    """Directions of a graph's variables, in the order of the variables, then the mark of BOS."""

    graph: Graph

    @cached_property
    def rows(self) -> dict[str, slice]:
        """Directions of each variable, by its name."""
        rows: dict[str, slice] = {}
        start = 0
        for variable in self.graph.variables:
            rows[variable.name] = slice(start, start + width(variable))
            start += width(variable)
        return rows

    @property
    def bos(self) -> int:
        """The direction that is 1 at BOS and 0 elsewhere."""
        return sum(width(variable) for variable in self.graph.variables)

    @property
    def d_model(self) -> int:
        return self.bos + 1

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """What each direction stands for: `is_x:True`, `fraction`, `<bos>`."""
        names = [
            variable.name if variable.encoding == "numerical" else f"{variable.name}:{value}"
            for variable in self.graph.variables
            for value in (variable.values if variable.encoding == "categorical" else [None])
        ]
        return (*names, BOS)


def width(variable: Variable) -> int:
    """How many directions a variable takes."""
    return len(variable.values) if variable.encoding == "categorical" else 1


def magnitude(variable: Variable, value: Value) -> float:
    """How far a numerical variable of this value reaches along its direction."""
    # A selector width's head cannot count; what it carries is the attention that BOS keeps.
    return 1 / (1 + value) if variable.kind == "fraction" else float(value)


def vector(variable: Variable, value: Value) -> Sequence[float]:
    """What stands in a variable's own directions when it has this value; None is all zero."""
    if variable.encoding == "numerical":
        return [magnitude(variable, value)]
    code = variable.undefined if value is None else variable.code_of[value]
    return [float(code == place) for place in range(len(variable.values))]
