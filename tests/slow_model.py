"""A slow model of interchange: what a program gives when some edges carry another input's values, by definition.

A test oracle for the high-level model and for the kinds of edges.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from interpbench_hub.cases import Case
from interpbench_hub.rasp import Aggregate, Full, Map, Select, SelectorWidth, SequenceMap, SOp
from interpbench_hub.rasp.alignment import Alignment
from interpbench_hub.rasp.evaluator import in_order
from interpbench_hub.rasp.language import Indices, Tokens
from interpbench_hub.rasp.printing import unique_names
from interpbench_hub.rasp.variables import Graph


class _Ambiguous:
    def __repr__(self) -> str:
        return "AMBIGUOUS"


AMBIGUOUS = _Ambiguous()
"""What a position holds where an interchange leaves it without a value the program defines."""


class SlowModel:
    """Interchange by its definition: expressions are worked out one position at a time, each reader asking anew.

    Of the package's model it uses the names of nodes only, and value sets to tell selectors that look at nothing.
    """

    def __init__(self, program: SOp, graph: Graph, alignment: Alignment) -> None:
        self.program, self.graph = program, graph
        self.names = unique_names([sop for sop in in_order(program) if not isinstance(sop, Full)])
        self.nodes = {name: str(node) for name, node in alignment.node_of.items()}

    @classmethod
    def of(cls, case: Case) -> "SlowModel":
        return cls(case.program, case.graph, case.alignment)

    def output(self, base: Sequence, source: Sequence = (), edges: Iterable[str] = ()) -> list:
        """The output on `base` when the named edges carry their value on `source`."""
        run = _Run(self, base, _Run(self, source, None, frozenset()), frozenset(edges))
        return [run.read(self.program, place, "logits") for place in range(len(base))]

    def values(self, base: Sequence, source: Sequence = (), edges: Iterable[str] = ()) -> dict[str, list]:
        """What every variable's own node holds on `base` when the named edges carry their value on `source`."""
        run = _Run(self, base, _Run(self, source, None, frozenset()), frozenset(edges))
        held = {self.names[sop]: sop for sop in self.names if not is_constant(sop)}
        return {
            name: [run.value(held[name], place) for place in range(len(base))] for name in self.nodes if name in held
        }

    def selected(
        self, base: Sequence, source: Sequence = (), edges: Iterable[str] = ()
    ) -> dict[str, list[list[int] | None]]:
        """The keys that every head's variable selects, query by query; None where an ambiguous value decides."""
        run = _Run(self, base, _Run(self, source, None, frozenset()), frozenset(edges))
        selectors = {}
        for sop, name in self.names.items():
            if isinstance(sop, Aggregate | SelectorWidth):
                selectors[name if isinstance(sop, Aggregate) else f"{name}_fraction"] = sop.selector
        return {
            name: [run.selected(selector, place, self.nodes[name]) for place in range(len(base))]
            for name, selector in selectors.items()
            if name in self.nodes
        }


class _Run:
    """One input, with the edges that carry values of another run instead of this one's."""

    def __init__(self, model: SlowModel, sequence: Sequence, source: "_Run | None", edges: frozenset[str]) -> None:
        self.model, self.sequence, self.source, self.edges = model, sequence, source, edges
        self.known: dict[tuple[SOp, int], Any] = {}

    def read(self, sop: SOp, place: int, reader: str, slot: str = "") -> Any:
        """What `reader` finds in `sop`: the source's value if the edge between them is exchanged."""
        if is_constant(sop):
            return self.value(sop, place)
        if self.source and self.edges and f"{self.home(sop)}->{reader}{slot}" in self.edges:
            return self.source.value(sop, place)
        return self.value(sop, place)

    def home(self, sop: SOp) -> str:
        if isinstance(sop, Tokens | Indices):
            return "embed" if isinstance(sop, Tokens) else "pos_embed"
        return self.model.nodes[self.model.names[sop]]

    def value(self, sop: SOp, place: int) -> Any:
        """What `sop` itself holds, that is what its node writes."""
        if (sop, place) not in self.known:
            self.known[sop, place] = self._value(sop, place)
        return self.known[sop, place]

    def _value(self, sop: SOp, place: int) -> Any:
        match sop:
            case Tokens():
                return self.sequence[place]
            case Indices():
                return place
            case Full():
                return sop.value
            case Map() | SequenceMap():
                here = "" if is_constant(sop) else self.home(sop)
                return result_of(sop, [self.argument(part, place, here, sop) for part in sop.children])
            case SelectorWidth():
                head, mlp = self.model.nodes[f"{self.model.names[sop]}_fraction"], self.home(sop)
                is_exchanged = self.source is not None and f"{head}->{mlp}" in self.edges
                run = self.source if is_exchanged and self.source else self
                found = run.selected(sop.selector, place, head)
                return AMBIGUOUS if found is None else len(found)
            case Aggregate():
                head = self.home(sop)
                found = self.selected(sop.selector, place, head)
                return AMBIGUOUS if found is None else mean(sop, [self.read(sop.sop, k, head, "<v>") for k in found])
        raise AssertionError(sop)

    def argument(self, part: SOp, place: int, reader: str, outer: SOp) -> Any:
        # A map of a map is one step of its node: nothing passes between the two that could be exchanged.
        if type(outer) is Map and type(part) is Map and not is_constant(part):
            return result_of(part, [self.argument(part.inner, place, reader, part)])
        return self.read(part, place, reader)

    def selected(self, selector: Select, place: int, head: str) -> list[int] | None:
        """Places of the selected keys; None where that depends on an ambiguous value."""
        query = self.read(selector.queries, place, head, "<q>")
        within = range(place + 1 if self.model.graph.causal else len(self.sequence))
        keys = [self.read(selector.keys, where, head, "<k>") for where in within]
        if AMBIGUOUS in (query, *keys):
            verdict = self.verdict(selector)
            return None if verdict is None else list(within) if verdict else []
        return [where for where in within if selector.selects(keys[where], query)]

    def verdict(self, selector: Select) -> bool | None:
        """What a selector says of all keys and queries alike; None if it tells them apart."""
        sides = [
            [self.value(sop, 0)] if is_constant(sop) else [*self.model.graph[self.model.names[sop]].values, None]
            for sop in (selector.keys, selector.queries)
        ]
        said = {selector.selects(key, query) for key in sides[0] for query in sides[1]}
        return said.pop() if len(said) == 1 else None


def is_constant(sop: SOp) -> bool:
    return isinstance(sop, Full) or (isinstance(sop, Map | SequenceMap) and all(map(is_constant, sop.children)))


def result_of(sop: Map | SequenceMap, values: list) -> Any:
    if AMBIGUOUS in values or None in values:
        return AMBIGUOUS if AMBIGUOUS in values else None
    try:
        return sop.function(*values)
    except ArithmeticError:
        return None


def mean(sop: Aggregate, values: list) -> Any:
    if not values:
        return sop.default
    if AMBIGUOUS in values:
        return AMBIGUOUS
    if sop.encoding == "numerical":
        return math.fsum(values) / len(values)
    return values[0] if all(value == values[0] for value in values) else AMBIGUOUS


def agree(given_: Any, expected: Any) -> bool:
    if isinstance(given_, float | int) and isinstance(expected, float | int):
        return math.isclose(given_, expected, rel_tol=1e-9, abs_tol=1e-9)
    return given_ is expected or (AMBIGUOUS not in (given_, expected) and given_ == expected)
