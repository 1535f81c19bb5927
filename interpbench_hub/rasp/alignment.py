"""Which node of the low-level transformer implements which variables, and the circuit that follows from it."""

import random
from dataclasses import dataclass
from functools import cached_property

from interpbench_hub.circuit import EMBED, LOGITS, POS_EMBED, SLOTS, Circuit, Edge, Node, Role
from interpbench_hub.rasp.variables import Graph, Variable

MIN_HEADS = 4
"""Heads a layer: more than most programs need, so that finding the circuit's heads is a task."""
MAX_COUNTED = 32
"""The most values that a head of usual width counts among."""
MIN_WIDE_HEADS = 2
"""Heads a layer where a head counts among more: there all heads are wide, and fewer keep the model small."""
MIN_LAYERS = 2
"""Layers of a low-level model: even the simplest circuits leave a layer outside them."""


@dataclass(frozen=True)
class Alignment:
    """Where each variable of a graph lives in a transformer of `n_layers` layers of `n_heads` heads."""

    n_layers: int
    n_heads: int
    node_of: dict[str, Node]
    """Node of each variable, by name."""

    @cached_property
    def variables_of(self) -> dict[Node, tuple[str, ...]]:
        """Variables of each node that implements any, in the order of a forward pass."""
        variables: dict[Node, list[str]] = {}
        for name, node in self.node_of.items():
            variables.setdefault(node, []).append(name)
        return {node: tuple(variables[node]) for node in sorted(variables)}


def layer_of_variables(graph: Graph) -> dict[str, int]:
    """Layer of every variable but the inputs, as Tracr allocates them.

    A variable's depth is its longest path from the inputs, a selector width counting as one step; each depth comes
    after all of the one before. A layer runs its heads, then its MLP.
    """
    depth: dict[str, int] = {}
    for variable in graph.variables:
        below = max((depth[read.variable] for read in variable.reads), default=0)
        is_input = variable.kind in ("tokens", "indices")
        depth[variable.name] = 0 if is_input else below + (not _is_width(graph, variable))
    # Half-layers: 2 * layer for heads, 2 * layer + 1 for MLPs.
    half: dict[str, int] = {}
    done = -1
    for level in range(1, max(depth.values()) + 1):
        first = done + 1
        for variable in (v for v in graph.variables if depth[v.name] == level):
            if _is_width(graph, variable):
                half[variable.name] = half[variable.reads[0].variable] + 1
            else:
                half[variable.name] = first + ((first % 2 == 1) != (variable.kind == "map"))
            done = max(done, half[variable.name])
    return {name: place // 2 for name, place in half.items()}


def _is_width(graph: Graph, variable: Variable) -> bool:
    """Whether a map is the second half of a selector width."""
    return variable.kind == "map" and graph[variable.reads[0].variable].kind == "fraction"


def n_counted(graph: Graph) -> int:
    """The most values that a head counts among: of the keys or queries of a selector width; 0 without any."""
    return graph.n_compared(variable for variable in graph.variables if variable.kind == "fraction")


def has_wide_heads(graph: Graph) -> bool:
    """Whether a head counts among so many values that all heads are wide, and fewer."""
    return n_counted(graph) > MAX_COUNTED


def align(graph: Graph, *, seed: int | str = 0) -> Alignment:
    """An alignment: maps in their layer's MLP, each head variable in a head drawn at random from its layer.

    The draw depends on `seed` alone. There are at least `MIN_HEADS` heads a layer, or `MIN_WIDE_HEADS`, and
    `MIN_LAYERS` layers.
    """
    layers = layer_of_variables(graph)
    heads: dict[int, list[str]] = {}
    node_of: dict[str, Node] = {}
    for variable in graph.variables:
        match variable.kind:
            case "tokens":
                node_of[variable.name] = EMBED
            case "indices":
                node_of[variable.name] = POS_EMBED
            case "map":
                node_of[variable.name] = Node.of_mlp(layers[variable.name])
            case _:
                heads.setdefault(layers[variable.name], []).append(variable.name)
    min_heads = MIN_WIDE_HEADS if has_wide_heads(graph) else MIN_HEADS
    n_heads = max([min_heads, *(len(names) for names in heads.values())])
    rng = random.Random(f"interpbench alignment {seed}")
    for layer in sorted(heads):
        for name, head in zip(heads[layer], rng.sample(range(n_heads), len(heads[layer])), strict=True):
            node_of[name] = Node.of_head(layer, head)
    n_layers = max([MIN_LAYERS, *(layer + 1 for layer in layers.values())])
    return Alignment(n_layers, n_heads, node_of)


def prescribed_circuit(graph: Graph, alignment: Alignment, *, case: str | None = None) -> Circuit:
    """The edges a graph prescribes through an alignment, kinds not yet decided.

    An edge is in the circuit iff a variable implemented by the receiver directly reads, in that slot, a variable
    implemented by the sender. Besides, every head of the circuit reads the position in q, k and v: it must tell BOS
    apart, which it attends to when nothing is selected. An output without a node is computed by the logits
    themselves, from all that it reads.
    """
    edges: dict[Edge, None] = {}
    for variable in graph.variables:
        node = alignment.node_of.get(variable.name, LOGITS)
        for read in variable.reads:
            edges[Edge(alignment.node_of[read.variable], node, read.slot)] = None
        if node.is_head:
            edges.update((Edge(POS_EMBED, node, slot), None) for slot in SLOTS)
    if graph.output.name in alignment.node_of:
        edges[Edge(alignment.node_of[graph.output.name], LOGITS)] = None
    roles = {
        node: Role(names, "; ".join(_meaning(graph[name]) for name in names))
        for node, names in alignment.variables_of.items()
    }
    if POS_EMBED not in roles and any(node.is_head for node in roles):
        roles[POS_EMBED] = Role((), "the position, by which heads tell BOS apart")
    return Circuit(alignment.n_layers, alignment.n_heads, edges, roles, case=case)


def _meaning(variable: Variable) -> str:
    return variable.meaning or variable.text
