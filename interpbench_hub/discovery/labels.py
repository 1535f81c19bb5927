"""What a score counts as right: which edges and nodes are positives, which negatives, and which neither.

Owns the answer key that every metric uses. Knows nothing of scores.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from interpbench_hub.circuit import EMBED, LOGITS, POS_EMBED, Circuit, Edge, Node
from interpbench_hub.errors import SettingError

EMBEDDINGS = (EMBED, POS_EMBED)


class EdgeLabels(NamedTuple):
    """Edges that are scored, in the order of the universe, and which of them are positives."""

    edges: tuple[Edge, ...]
    is_positive: NDArray[np.bool_]
    """bool [edge]"""


class NodeLabels(NamedTuple):
    """Nodes that are scored, in the order of a forward pass, and which of them are positives."""

    nodes: tuple[Node, ...]
    is_positive: NDArray[np.bool_]
    """bool [node]"""


def labels_of(
    circuit: Circuit, universe: Iterable[Edge | str] | None = None, *, with_embedding: bool = True
) -> EdgeLabels:
    """The edges that a score counts, and a bool array [edge] of which of them are positives.

    Positives are the circuit's edges of kind `varying`. Its `constant` and `inert` edges are left out, of positives
    and negatives alike: no method that resamples inputs can see the former, and the latter carry what never reaches
    the output. All other edges are negatives. `with_embedding=False` leaves out whatever `embed` and `pos_embed` send.

    `universe` restricts and orders the edges (default: all the model has); what it lacks is not scored. The
    granularity is the circuit's: for heads with q, k and v merged pass `circuit.to_head_level()`, where an edge is
    `varying` if one of its parts is; for nodes see `node_labels_of`.

    Raises `SettingError` for an edge listed twice or not of this model, and for an edge of the circuit without a kind.

    >>> circuit = Circuit(1, 1, [Edge.parse("embed->m0"), Edge.parse("m0->logits")])
    >>> circuit = Circuit(1, 1, [Edge(edge.source, edge.target, kind="varying") for edge in circuit])
    >>> edges, is_positive = labels_of(circuit, with_embedding=False)
    >>> [str(edge) for edge in edges], is_positive.tolist()
    (['a0.h0->m0', 'a0.h0->logits', 'm0->logits'], [False, False, True])
    """
    _check_kinds(circuit)
    if universe is None:
        edges = circuit.universe
    else:
        edges = known_edges(circuit, universe, "the universe")
        if len(set(edges)) < len(edges):
            seen: set[Edge] = set()
            twice = next(edge for edge in edges if edge in seen or seen.add(edge))
            raise SettingError(f"edge {twice} is listed twice in the universe; list every edge once")
    if not with_embedding:
        edges = tuple(edge for edge in edges if edge.source not in EMBEDDINGS)
    kinds = {edge: edge.kind for edge in circuit}
    scored = [(edge, kinds.get(edge)) for edge in edges]
    scored = [(edge, kind) for edge, kind in scored if kind is None or kind == "varying"]
    return EdgeLabels(
        tuple(edge for edge, _ in scored), np.fromiter((kind is not None for _, kind in scored), bool, len(scored))
    )


def node_labels_of(circuit: Circuit, *, with_embedding: bool = True) -> NodeLabels:
    """The nodes that a score counts, and a bool array [node] of which of them are positives.

    Positives are the nodes that send or receive a `varying` edge, negatives those that no edge of the circuit touches.
    A node with `constant` or `inert` edges only is neither, as in `labels_of`. `logits` is left out: it is in every
    circuit and would be a positive for nothing. `with_embedding=False` leaves out `embed` and `pos_embed` too.
    """
    _check_kinds(circuit)
    varying = {node for edge in circuit.of_kind("varying") for node in (edge.source, edge.target)}
    unscored = {LOGITS, *(set(circuit.nodes) - varying), *(() if with_embedding else EMBEDDINGS)}
    nodes = tuple(node for node in circuit.node_universe if node not in unscored)
    return NodeLabels(nodes, np.fromiter((node in varying for node in nodes), bool, len(nodes)))


def known_edges(circuit: Circuit, edges: Iterable[Edge | str], what: str) -> tuple[Edge, ...]:
    """`edges` parsed, each of them one that the circuit's model has at the circuit's granularity."""
    parsed = tuple(Edge.parse(edge) if isinstance(edge, str) else edge for edge in edges)
    known = set(circuit.universe)
    for edge in parsed:
        if edge not in known:
            raise SettingError(
                f"edge {edge} of {what} does not exist in a transformer with {circuit.n_layers} layers of "
                f"{circuit.n_heads} heads at granularity {circuit.granularity}; bring both to one granularity, with "
                "circuit.to_head_level() for instance"
            )
    return parsed


def _check_kinds(circuit: Circuit) -> None:
    for edge in circuit:
        if edge.kind is None:
            raise SettingError(
                f"edge {edge} of the circuit has no kind, so nobody knows whether it is a positive; take a circuit of "
                "load_circuit or of a case, or give every edge a kind (varying, constant or inert)"
            )
