"""Kinds of a circuit's edges: which of them can change the output at all.

An edge is `constant` if what its sender implements depends on the position only, `varying` if a path interchange on
the high-level model (the receiver alone sees the sender's source value) changes the output for some pair of inputs,
else `inert`. All pairs are tried where there are few, else a counted number of sampled ones.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interpbench_hub.cases.pairs import Pairs, all_pairs, count_pairs, real_positions
from interpbench_hub.circuit import POS_EMBED, Circuit, Edge, Kind, Node

if TYPE_CHECKING:
    from interpbench_hub.cases.case import Case

MAX_EXACT_PAIRS = 100_000
"""Most pairs of inputs that are tried one and all."""
MAX_SAMPLED_PAIRS = 40_000
"""Pairs tried before an edge of a larger case is called inert."""


def with_kinds(case: "Case", circuit: Circuit) -> Circuit:
    """The same circuit with the kind of every edge decided."""
    decided = [replace(edge, kind=kind) for edge, kind in edge_kinds(case, circuit).items()]
    return Circuit(circuit.n_layers, circuit.n_heads, decided, circuit.roles, case=circuit.case)


def edge_kinds(case: "Case", circuit: Circuit) -> dict[Edge, Kind]:
    """Kind of every edge of a case's circuit."""
    kinds: dict[Edge, Kind] = {edge: "constant" if is_constant(case, edge.source) else "inert" for edge in circuit}
    open_ = [edge for edge, kind in kinds.items() if kind == "inert" and not _selects_alike(case, edge)]
    for pairs in _pairs(case):
        if not open_:
            break
        changes = changes_output(case, pairs, open_)
        for edge, changed in zip(list(open_), changes, strict=True):
            if bool(changed.any()):
                kinds[edge] = "varying"
                open_.remove(edge)
    return kinds


def _selects_alike(case: "Case", edge: Edge) -> bool:
    """Whether an edge feeds a selector that selects the same whatever its keys and queries are."""
    if edge.slot not in ("q", "k"):
        return False
    heads = [case.graph[name] for name in case.alignment.variables_of[edge.target]]
    return all(case.high_level.selects_alike(head) for head in heads)


def is_constant(case: "Case", node: Node) -> bool:
    """Whether what a node carries is the same for all inputs."""
    variables = [case.graph[name] for name in case.alignment.variables_of.get(node, ())]
    return node == POS_EMBED or all(
        variable.is_positional or (node.is_head and case.high_level.selects_nothing(variable)) for variable in variables
    )


def changes_output(case: "Case", pairs: Pairs, edges: list[Edge]) -> Tensor:
    """Whether a path interchange of each edge alone changes the output somewhere: BoolTensor [edge, pair].

    Positions where the interchange leaves the output ambiguous do not count.
    """
    model, output = case.high_level, case.graph.output.name
    clean = model.run(pairs.base, pairs.base_lengths)[output]
    there = real_positions(pairs.base, pairs.base_lengths)
    source = model.run(pairs.source, pairs.source_lengths)
    changes = torch.zeros(len(edges), pairs.n_pairs, dtype=torch.bool)
    for row, edge in enumerate(edges):
        mask = torch.zeros(pairs.n_pairs, len(model.circuit), dtype=torch.bool)
        mask[:, model.edge_index[edge]] = True
        codes = model.interchange(pairs.base, pairs.base_lengths, source, mask)
        changes[row] = ((codes != clean) & (codes != model.output_ambiguous) & there).any(-1)
    return changes


def _pairs(case: "Case") -> Iterator[Pairs]:
    """Batches of pairs: all of them where there are few, else growing samples, half of them of similar inputs."""
    if count_pairs(case) <= MAX_EXACT_PAIRS:
        yield from all_pairs(case)
        return
    sampler = case.pair_sampler(seed="kinds", related=0.5)
    drawn, size = 0, 512
    while drawn < MAX_SAMPLED_PAIRS:
        yield sampler.draw(size, drawn)
        drawn, size = drawn + size, min(4 * size, 8192)
