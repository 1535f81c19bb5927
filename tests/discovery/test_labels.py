"""The answer key of a score: positives, negatives, and what is neither, at every granularity."""

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interpbench_hub import load_circuit
from interpbench_hub.circuit import KINDS, Circuit, Edge, Granularity, all_edges
from interpbench_hub.discovery import labels as labels_module
from interpbench_hub.discovery.labels import labels_of, node_labels_of
from interpbench_hub.errors import SettingError

granularities: st.SearchStrategy[Granularity] = st.sampled_from(("qkv-edge", "edge"))


@st.composite
def circuits(draw: st.DrawFn) -> Circuit:
    n_layers, n_heads, granularity = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(granularities)
    chosen = draw(st.sets(st.sampled_from(all_edges(n_layers, n_heads, granularity=granularity)), max_size=15))
    edges = [Edge(edge.source, edge.target, edge.slot, draw(st.sampled_from(KINDS))) for edge in sorted(chosen)]
    return Circuit(n_layers, n_heads, edges, granularity=granularity)


def small() -> Circuit:
    """One layer of one head, with an edge of each kind."""
    kinds = {
        "embed->m0": "varying",
        "m0->logits": "varying",
        "pos_embed->a0.h0<q>": "constant",
        "embed->logits": "inert",
    }
    edges = [Edge.parse(name) for name in kinds]
    return Circuit(1, 1, [Edge(e.source, e.target, e.slot, kinds[str(e)]) for e in edges])  # type: ignore[arg-type]


def names(edges) -> list[str]:
    return [str(edge) for edge in edges]


def test_the_examples_in_docstrings_hold():
    results = doctest.testmod(labels_module)
    assert results.failed == 0 and results.attempted > 0


@settings(deadline=None)
@given(circuits(), st.booleans())
def test_every_edge_is_a_positive_a_negative_or_left_out_by_its_kind(circuit, with_embedding):
    edges, is_positive = labels_of(circuit, with_embedding=with_embedding)
    assert is_positive.dtype == bool and len(is_positive) == len(edges)
    expected = {}
    for edge in circuit.universe:
        if not with_embedding and edge.source.name in ("embed", "pos_embed"):
            continue
        if edge not in circuit:
            expected[edge] = False
        elif circuit[edge].kind == "varying":
            expected[edge] = True
    assert dict(zip(edges, is_positive.tolist(), strict=True)) == expected
    assert list(edges) == list(expected), "in the order of the universe"


def test_a_small_circuit_by_hand():
    edges, is_positive = labels_of(small())
    assert len(edges) == 13 - 2
    assert names(np.array(edges)[is_positive]) == ["embed->m0", "m0->logits"]
    assert "pos_embed->a0.h0<q>" not in names(edges) and "embed->logits" not in names(edges)
    edges, is_positive = labels_of(small(), with_embedding=False)
    assert names(edges) == ["a0.h0->m0", "a0.h0->logits", "m0->logits"] and is_positive.tolist() == [False, False, True]


def test_a_bundled_circuit_at_all_granularities():
    circuit = load_circuit("interpbench/case_3")
    edges, is_positive = labels_of(circuit)
    assert len(edges) == len(circuit.universe) - 3
    assert names(np.array(edges)[is_positive]) == ["embed->m0", "m0->a1.h0<v>", "a1.h0->logits"]
    merged = circuit.to_head_level()
    edges, is_positive = labels_of(merged)
    # pos_embed feeds q, k and v of the head: three constant edges are one now.
    assert len(edges) == len(merged.universe) - 1
    assert names(np.array(edges)[is_positive]) == ["embed->m0", "m0->a1.h0", "a1.h0->logits"]
    nodes, is_positive = node_labels_of(circuit)
    assert names(np.array(nodes)[is_positive]) == ["embed", "m0", "a1.h0"]
    assert "pos_embed" not in names(nodes) and "logits" not in names(nodes)
    assert len(nodes) == len(circuit.node_universe) - 2
    assert names(node_labels_of(circuit, with_embedding=False).nodes) == names(nodes)[1:]
    assert node_labels_of(merged).nodes == nodes


def test_a_merged_edge_is_a_positive_if_a_part_is():
    edges = [Edge.parse("embed->a0.h0<k>"), Edge.parse("embed->a0.h0<v>")]
    circuit = Circuit(1, 1, [Edge(e.source, e.target, e.slot, k) for e, k in zip(edges, KINDS[:2], strict=True)])
    edges, is_positive = labels_of(circuit.to_head_level())
    assert names(np.array(edges)[is_positive]) == ["embed->a0.h0"]


def test_a_universe_restricts_and_orders():
    wanted = ["m0->logits", "a0.h0->m0", "embed->logits", Edge.parse("embed->m0")]
    edges, is_positive = labels_of(small(), wanted)
    assert names(edges) == ["m0->logits", "a0.h0->m0", "embed->m0"] and is_positive.tolist() == [True, False, True]
    assert names(labels_of(small(), wanted, with_embedding=False).edges) == ["m0->logits", "a0.h0->m0"]
    empty = labels_of(small(), [])
    assert empty.edges == () and empty.is_positive.shape == (0,) and empty.is_positive.dtype == bool


@settings(deadline=None)
@given(circuits(), st.booleans())
def test_nodes_follow_from_the_edges_they_touch(circuit, with_embedding):
    nodes, is_positive = node_labels_of(circuit, with_embedding=with_embedding)
    expected = {}
    for node in circuit.node_universe:
        kinds = {edge.kind for edge in circuit if node in (edge.source, edge.target)}
        if node.name == "logits" or (not with_embedding and node.name in ("embed", "pos_embed")):
            continue
        if not kinds or "varying" in kinds:
            expected[node] = bool(kinds)
    assert dict(zip(nodes, is_positive.tolist(), strict=True)) == expected
    assert list(nodes) == list(expected)


def test_errors_name_the_edge_and_say_what_to_do():
    with pytest.raises(SettingError, match=r"edge m0->logits is listed twice in the universe"):
        labels_of(small(), ["m0->logits", "embed->m0", "m0->logits"])
    with pytest.raises(SettingError, match=r"edge embed->a0.h0 of the universe does not exist .* qkv-edge; .*to_head"):
        labels_of(small(), small().to_head_level().universe)
    with pytest.raises(SettingError, match=r"edge embed->m0 of the circuit has no kind.*load_circuit"):
        labels_of(Circuit(1, 1, ["embed->m0"]))
    with pytest.raises(SettingError, match=r"edge embed->m0 of the circuit has no kind"):
        node_labels_of(Circuit(1, 1, ["embed->m0"]))
