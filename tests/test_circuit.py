"""Nodes, edges and circuits: their names, their order, their JSON, and what is refused."""

import doctest
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interpbench_hub import circuit as circuit_module
from interpbench_hub.circuit import (
    EMBED,
    KINDS,
    LOGITS,
    POS_EMBED,
    SLOTS,
    Circuit,
    Edge,
    Granularity,
    Kind,
    Node,
    Role,
    all_edges,
    all_nodes,
)
from interpbench_hub.errors import CheckpointError, SettingError, UnknownNameError

sizes = st.integers(1, 3)
kinds: st.SearchStrategy[Kind | None] = st.none() | st.sampled_from(KINDS)
granularities: st.SearchStrategy[Granularity] = st.sampled_from(("qkv-edge", "edge"))
effects = st.none() | st.floats(0, 1)


@st.composite
def circuits(draw: st.DrawFn) -> Circuit:
    n_layers, n_heads = draw(sizes), draw(sizes)
    granularity = draw(granularities)
    universe = all_edges(n_layers, n_heads, granularity=granularity)
    chosen = draw(st.lists(st.sampled_from(universe), unique=True, max_size=12))
    edges = [Edge(e.source, e.target, e.slot, draw(kinds), draw(effects)) for e in chosen]
    nodes = draw(st.lists(st.sampled_from(all_nodes(n_layers, n_heads)), unique=True, max_size=4))
    # Text that UTF-8 can hold: JSON files are UTF-8.
    texts = st.text(st.characters(codec="utf-8"), max_size=8)
    roles = {node: Role(tuple(draw(st.lists(texts, max_size=3))), draw(texts)) for node in nodes}
    return Circuit(n_layers, n_heads, edges, roles, case=draw(st.none() | texts), granularity=granularity)


def count_edges(n_layers: int, n_heads: int) -> int:
    """By counting senders before each receiver, layer by layer."""
    total, before = 0, 2
    for _ in range(n_layers):
        total += 3 * n_heads * before
        before += n_heads
        total += before
        before += 1
    return total + before


# -- names and order ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["embed", "pos_embed", "logits", "a0.h0", "a12.h34", "m7"])
def test_a_node_is_its_name(name):
    assert str(Node(name)) == name
    assert Node(name) == Node(name)


@pytest.mark.parametrize("name", ["", "a0", "a0.h", "a01.h0", "m", "m-1", "mlp0", "a0.h0 ", "A0.h0", "m00", "logits\n"])
def test_other_names_are_no_nodes(name):
    with pytest.raises(UnknownNameError, match=r"unknown node .*a node is embed"):
        Node(name)


def test_nodes_know_their_place():
    assert [Node("a3.h5").layer, Node("a3.h5").head, Node("m2").layer, Node("m2").head] == [3, 5, 2, None]
    assert [EMBED.layer, LOGITS.layer, Node("a0.h0").is_head, Node("m0").is_mlp, EMBED.is_mlp] == [
        None,
        None,
        True,
        True,
        False,
    ]


@given(sizes, sizes)
def test_nodes_sort_as_a_forward_pass_reaches_them(n_layers, n_heads):
    nodes = all_nodes(n_layers, n_heads)
    assert sorted(reversed(nodes)) == nodes
    assert nodes[:2] == [EMBED, POS_EMBED]
    assert nodes[-1] == LOGITS
    assert len(nodes) == 3 + n_layers * (n_heads + 1)


@given(sizes, sizes)
def test_every_edge_is_read_back_from_its_name(n_layers, n_heads):
    for edge in all_edges(n_layers, n_heads) + all_edges(n_layers, n_heads, granularity="edge"):
        assert Edge.parse(str(edge)) == edge


@pytest.mark.parametrize("name", ["m0", "m0->", "->m0", "m0 -> m1", "m0->a1.h0<x>", "m0->a1.h0<q", "m0->m1->m2", ""])
def test_other_texts_are_no_edges(name):
    with pytest.raises(UnknownNameError):
        Edge.parse(name)


@pytest.mark.parametrize("name", ["m1->m0", "a0.h0->a0.h1<q>", "logits->m0", "m0->embed", "m0->m0", "m0->a0.h0<k>"])
def test_an_edge_runs_forwards(name):
    with pytest.raises(SettingError, match="does not come before"):
        Edge.parse(name)


def test_only_heads_have_slots():
    with pytest.raises(SettingError, match="only heads have q, k and v"):
        Edge.parse("m0->m1<q>")
    with pytest.raises(SettingError, match="a kind is one of varying, constant, inert"):
        Edge(EMBED, Node("m0"), kind="fixed")  # type: ignore[arg-type]


def test_kind_and_effect_take_no_part_in_equality():
    known = Edge(EMBED, Node("m0"), kind="varying", effect=0.5)
    assert known == Edge.parse("embed->m0")
    assert hash(known) == hash(Edge.parse("embed->m0"))


# -- the universe ------------------------------------------------------------------------------------------------------


@given(sizes, sizes)
def test_the_universe_has_every_edge_once_and_in_order(n_layers, n_heads):
    universe = all_edges(n_layers, n_heads)
    assert len(universe) == len(set(universe)) == count_edges(n_layers, n_heads)
    assert sorted(universe) == universe
    assert list(Circuit(n_layers, n_heads, []).universe) == universe


def test_the_universe_of_a_small_transformer_is_this_and_stays_this():
    # Masks, score files and tables are in this order: changing it would silently reorder them.
    assert [str(edge) for edge in all_edges(1, 1)] == [
        "embed->a0.h0<q>",
        "pos_embed->a0.h0<q>",
        "embed->a0.h0<k>",
        "pos_embed->a0.h0<k>",
        "embed->a0.h0<v>",
        "pos_embed->a0.h0<v>",
        "embed->m0",
        "pos_embed->m0",
        "a0.h0->m0",
        "embed->logits",
        "pos_embed->logits",
        "a0.h0->logits",
        "m0->logits",
    ]


# -- circuits ----------------------------------------------------------------------------------------------------------


@given(circuits())
def test_a_circuit_divides_the_universe(circuit):
    negatives = circuit.negatives
    assert len(circuit) + len(negatives) == len(circuit.universe)
    assert not set(circuit) & set(negatives)
    assert all(edge in circuit and str(edge) in circuit for edge in circuit)
    assert not any(edge in circuit for edge in negatives)
    assert list(circuit) == sorted(circuit)
    assert set(circuit.nodes) <= set(circuit.node_universe)


@given(circuits())
def test_a_circuit_comes_back_from_json(circuit):
    again = Circuit.from_json(circuit.to_json())
    assert again == circuit
    assert hash(again) == hash(circuit)
    assert again.to_json() == circuit.to_json()
    assert [(e.kind, e.effect) for e in again] == [(e.kind, e.effect) for e in circuit]
    assert again.roles == circuit.roles


@given(circuits(), st.randoms(use_true_random=False))
def test_the_order_in_which_edges_are_given_is_forgotten(circuit, random):
    edges = list(circuit)
    random.shuffle(edges)
    shuffled = Circuit(
        circuit.n_layers, circuit.n_heads, edges, circuit.roles, case=circuit.case, granularity=circuit.granularity
    )
    assert shuffled.to_json() == circuit.to_json()


@given(circuits())
def test_head_level_merges_the_slots_of_a_head(circuit):
    merged = circuit.to_head_level()
    assert merged.granularity == "edge"
    assert set(merged) == {edge.without_slot for edge in circuit}
    assert merged.roles == circuit.roles
    for edge in merged:
        parts = [part for part in circuit if part.without_slot == edge]
        if any(part.kind == "varying" for part in parts):
            assert edge.kind == "varying"
        assert edge.effect == (parts[0].effect if len(parts) == 1 else None)
    assert merged.to_head_level() == merged


def test_a_merged_edge_takes_the_strongest_kind():
    def kind_of(*parts: Any) -> str | None:
        edges = [Edge(EMBED, Node("a0.h0"), slot, kind) for slot, kind in zip(SLOTS, parts, strict=False)]
        return Circuit(1, 1, edges).to_head_level()["embed->a0.h0"].kind

    assert kind_of("constant", "varying", "inert") == "varying"
    assert kind_of("constant", "inert", "constant") == "inert"
    assert kind_of("constant", "constant") == "constant"
    assert kind_of(None) is None


def test_node_level_leaves_out_what_only_constants_touch():
    edges = [Edge.parse("embed->m0"), Edge(POS_EMBED, Node("a0.h0"), "k", "constant")]
    assert Circuit(1, 1, edges).to_node_level() == {EMBED, Node("m0")}


def test_circuits_of_the_same_edges_may_know_different_things_of_them():
    edges = ["embed->m0", "m0->logits"]
    circuit = Circuit(2, 2, edges)
    assert circuit.has_edges_of(circuit.with_effects({Edge.parse("embed->m0"): 0.5}))
    assert circuit.has_edges_of(Circuit(2, 2, edges[::-1], {Node("m0"): Role(("x",))}, case="case_3"))
    for other in (Circuit(2, 2, edges[:1]), Circuit(2, 3, edges), Circuit(3, 2, edges)):
        assert not circuit.has_edges_of(other) and not other.has_edges_of(circuit)
    assert not circuit.has_edges_of(circuit.to_head_level())


def test_edges_are_found_by_name_with_what_is_known_of_them():
    circuit = Circuit(1, 1, [Edge(EMBED, Node("m0"), kind="varying", effect=0.25)])
    assert circuit["embed->m0"].effect == circuit[Edge.parse("embed->m0")].effect == 0.25
    assert [edge.kind for edge in circuit.of_kind("varying", "inert")] == ["varying"]
    assert circuit.of_kind("constant") == []
    with pytest.raises(UnknownNameError, match="edge m0->logits is not in this circuit"):
        circuit["m0->logits"]
    with pytest.raises(UnknownNameError, match="unknown edge 'nothing'"):
        assert "nothing" in circuit
    with pytest.raises(SettingError, match="kind 'some' is not one of"):
        circuit.of_kind("some")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((1, 1, ["m1->logits"]), {}, r"edge m1->logits does not exist in a transformer with 1 layers of 1 heads"),
        ((1, 1, ["embed->a0.h1<q>"]), {}, "does not exist"),
        ((1, 1, ["embed->a0.h0"]), {}, "at granularity qkv-edge"),
        ((1, 1, ["embed->a0.h0<q>"]), {"granularity": "edge"}, "at granularity edge"),
        ((1, 1, ["embed->m0", "embed->m0"]), {}, "edge embed->m0 is listed twice"),
        ((0, 1, []), {}, "at least one layer and one head"),
        ((1, 1, []), {"granularity": "node"}, "granularity 'node' is not one of"),
    ],
)
def test_a_circuit_must_fit_its_transformer(arguments, options, message):
    with pytest.raises(SettingError, match=message):
        Circuit(*arguments, **options)


# -- JSON that is none of ours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version 2; this package reads 1"),
        ({"edges": [{"source": "embed"}]}, "lacks the key 'target'"),
        (
            {"edges": [{"source": "m1", "target": "m0", "slot": None, "kind": None, "effect": None}]},
            "no edge m1->m0: m1 does not come before m0",
        ),
        ({"nodes": [{"name": "mlp", "variables": [], "meaning": ""}]}, "unknown node 'mlp'"),
        ({"edges": 3}, "not a circuit"),
        ({"granularity": "fine"}, "granularity 'fine'"),
    ],
)
def test_json_that_is_no_circuit_is_refused(change, message):
    data = Circuit(1, 1, ["embed->m0"]).to_dict() | change
    with pytest.raises(CheckpointError, match=message):
        Circuit.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "{}"])
def test_text_that_is_no_circuit_is_refused(text):
    with pytest.raises(CheckpointError):
        Circuit.from_json(text)


# -- for people --------------------------------------------------------------------------------------------------------


def test_a_circuit_prints_as_a_table():
    edges = [
        Edge(EMBED, Node("m0"), kind="varying", effect=0.5),
        Edge(Node("m0"), Node("a1.h0"), "v", kind="varying"),
    ]
    circuit = Circuit(2, 1, edges, {Node("m0"): Role(("is_x", "is_y"))}, case="case_3")
    assert str(circuit).splitlines() == [
        "edge          kind     effect  carries",
        "------------  -------  ------  ----------",
        "embed->m0     varying  0.500",
        "m0->a1.h0<v>  varying          is_x, is_y",
    ]
    assert repr(circuit) == f"<Circuit case_3: 2 of {len(circuit.universe)} edges (2 varying)>"


def test_the_examples_in_the_docstrings_run():
    assert doctest.testmod(circuit_module).failed == 0
