"""Scores of edges: their order, their checks, other granularities, other tools' names, and files of any of them."""

import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interpbench_hub.circuit import EMBED, POS_EMBED, Circuit, Edge, Node
from interpbench_hub.discovery.naming import NAMINGS, canonical, name_table
from interpbench_hub.discovery.scores import GRANULARITIES, EdgeScores, read_scores, scored_items
from interpbench_hub.errors import SettingError, UnknownNameError

TINY = Circuit(2, 2, ["embed->m0", "m0->a1.h1<v>", "a1.h1->logits"])


def numbered(universe=TINY, granularity=None) -> EdgeScores:
    """A different score for everything."""
    items = scored_items(universe, granularity)
    return EdgeScores(items, range(len(items)))


def embeddings_alike(scores: EdgeScores) -> EdgeScores:
    """The scores with what leaves `embed` and `pos_embed` for one place set to the larger of both."""

    def other(item):
        if isinstance(item, Node):
            return {EMBED: POS_EMBED, POS_EMBED: EMBED}.get(item, item)
        return Edge(other(item.source), item.target, item.slot)

    return EdgeScores(tuple(scores), [max(scores[item], scores[other(item)]) for item in scores])


@st.composite
def any_scores(draw: st.DrawFn) -> tuple[Circuit, EdgeScores]:
    """Scores of a transformer of any small size, at any granularity, infinite ones among them; and its universe."""
    universe = Circuit(draw(st.integers(1, 3)), draw(st.integers(1, 3)), [])
    items = scored_items(universe, draw(st.sampled_from(GRANULARITIES)))
    values = draw(st.lists(st.floats(allow_nan=False), min_size=len(items), max_size=len(items)))
    return universe, EdgeScores(items, values)


# -- what they are -----------------------------------------------------------------------------------------------------


def test_scores_are_in_the_order_of_the_universe_whatever_order_they_are_given_in():
    given = {str(edge): place for place, edge in enumerate(TINY.universe)}
    for source in (TINY, TINY.universe, list(TINY.universe)):
        scores = EdgeScores.of(source, dict(reversed(given.items())))
        assert tuple(scores) == TINY.universe
        assert scores.array.tolist() == list(range(len(TINY.universe)))
    assert scores["m0->a1.h1<v>"] == scores[Edge.parse("m0->a1.h1<v>")] == given["m0->a1.h1<v>"]
    assert "m0->a1.h1<v>" in scores and "m0->a1.h1" not in scores and Edge.parse("m0->m1") in scores


def test_scores_do_not_change():
    values = np.zeros(len(TINY.universe))
    scores = EdgeScores(TINY.universe, values)
    values[0] = 1
    assert scores.array[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        scores.array[0] = 1


def test_scores_do_not_carry_the_circuit_along():
    known = [Edge.parse("embed->m0"), Edge(Node("m0"), Node("logits"), kind="varying", effect=0.5)]
    scores = EdgeScores.of(known, {}, missing=0.0)
    assert all(edge.kind is None and edge.effect is None for edge in scores.edges)
    assert len(scored_items(TINY)) == len(TINY.universe)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"m0->logits": None}, r"no score for m0->logits; every one of the"),
        ({"m0->logits": math.nan}, r"NaN is no score; it is that of m0->logits"),
        ({"m0->a1.h1<v>": "much"}, r"the score of m0->a1\.h1<v> is 'much'; a score is a number"),
        ({"m0->a1.h1": 1.0}, r"scores are given for m0->a1\.h1, not in the universe of 61 at granularity qkv-edge"),
        ({"m7->logits": 1.0}, r"scores are given for m7->logits"),
    ],
)
def test_scores_of_other_edges_than_the_universe_has_are_refused(change, message):
    scores = {str(edge): 0.0 for edge in TINY.universe} | change
    scores = {name: score for name, score in scores.items() if score is not None}
    with pytest.raises(SettingError, match=message):
        EdgeScores.of(TINY, scores)


def test_an_edge_that_is_no_edge_is_refused():
    with pytest.raises(UnknownNameError, match=r"unknown node 'x0'"):
        EdgeScores.of(TINY, {"x0->logits": 1.0})
    with pytest.raises(UnknownNameError, match=r"unknown edge .*m0->a1\.h1.*nearest: m0->a1\.h1<[qkv]>"):
        numbered()["m0->a1.h1"]
    with pytest.raises(SettingError, match="embed->m0 has two scores"):
        EdgeScores.of(TINY, {"embed->m0": 1.0, Edge.parse("embed->m0"): 1.0})


def test_what_is_missing_may_have_a_score_of_its_own():
    scores = EdgeScores.of(TINY, {"m0->logits": 2.0}, missing=-1.0)
    assert scores["m0->logits"] == 2 and scores["embed->logits"] == -1


def test_the_top_edges_are_those_with_the_highest_scores_and_of_equals_the_first():
    scores = EdgeScores.of(TINY, {"m0->logits": 2.0, "m0->m1": math.inf}, missing=0.0)
    assert scores.top(0) == set()
    assert scores.top(1) == {Edge.parse("m0->m1")}
    assert scores.top(3) == {Edge.parse("m0->m1"), Edge.parse("m0->logits"), TINY.universe[0]}
    assert scores.top(len(scores)) == set(TINY.universe)
    for k in (-1, len(scores) + 1, 1.5, True):
        with pytest.raises(SettingError, match=r"k is .*; it is a whole number from 0 to 61"):
            scores.top(k)  # type: ignore[arg-type]


def test_sizes_of_signed_scores():
    scores = EdgeScores.of(TINY, {"m0->logits": -3.0}, missing=0.5)
    assert abs(scores)["m0->logits"] == 3 and abs(scores)["embed->logits"] == 0.5


# -- other granularities -----------------------------------------------------------------------------------------------


def test_a_head_level_edge_gets_the_largest_score_of_its_slots():
    slots = {"m0->a1.h1<q>": -3.0, "m0->a1.h1<k>": -1.0, "m0->a1.h1<v>": -2.0, "m0->m1": 4.0}
    merged = EdgeScores.of(TINY, slots, missing=-9.0).to_head_level()
    assert tuple(merged) == TINY.to_head_level().universe
    assert merged["m0->a1.h1"] == -1 and merged["m0->m1"] == 4 and merged["embed->a1.h1"] == -9
    assert merged.to_head_level() == merged
    with pytest.raises(SettingError, match="scores of nodes have no edges"):
        numbered(granularity="node").to_head_level()


def test_an_edge_gets_the_smaller_score_of_its_two_ends():
    nodes = {"a0.h0": 1, "a0.h1": 2, "m0": 3, "a1.h0": 4, "a1.h1": 5, "m1": 6}
    scores = EdgeScores.from_nodes(TINY, nodes)
    assert scores["a0.h1->m1"] == 2 and scores["m0->a1.h0<q>"] == 3
    assert scores["embed->a1.h1<k>"] == scores["a1.h1->logits"] == 5
    assert scores["embed->logits"] == scores["pos_embed->logits"] == 6
    # What the embeddings and the logits are given does not matter; scores of nodes are taken as they are.
    assert EdgeScores.from_nodes(TINY, nodes | {"embed": -1, "logits": 0}) == scores
    of_nodes = EdgeScores.of(TINY, nodes | {"embed": 0, "pos_embed": 0}, granularity="node")
    assert EdgeScores.from_nodes(TINY, of_nodes) == scores
    assert EdgeScores.from_nodes(TINY.to_head_level(), of_nodes) == scores.to_head_level()
    with pytest.raises(SettingError, match=r"no score for m1; every head and MLP needs one"):
        EdgeScores.from_nodes(TINY, {name: score for name, score in nodes.items() if name != "m1"})
    with pytest.raises(SettingError, match=r"scores are given for m2, nodes that no edge"):
        EdgeScores.from_nodes(TINY, nodes | {"m2": 0})
    with pytest.raises(SettingError, match="NaN is no score"):
        EdgeScores.from_nodes(TINY, nodes | {"m0": math.nan})


def test_a_universe_at_head_level_has_no_slots():
    with pytest.raises(SettingError, match="the universe is at head level"):
        scored_items(TINY.to_head_level(), "qkv-edge")
    with pytest.raises(SettingError, match=r"granularity 'layer' is not one of qkv-edge, edge, node"):
        scored_items(TINY, "layer")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="the universe has no edges"):
        scored_items([])


# -- names of other tools ----------------------------------------------------------------------------------------------

NAMES = {
    "eap-ig": {
        "m0->a1.h1<v>": "m0->a1.h1<v>",
        "pos_embed->a0.h1<q>": "input->a0.h1<q>",
        "a0.h1->m0": "a0.h1->m0",
        "embed->logits": "input->logits",
    },
    "acdc": {
        "a0.h1->a1.h0<q>": "blocks.0.attn.hook_result[:, :, 1]->blocks.1.hook_q_input[:, :, 0]",
        "embed->m0": "hook_embed->blocks.0.hook_mlp_in",
        "pos_embed->logits": "hook_pos_embed->blocks.1.hook_resid_post",
        "m0->m1": "blocks.0.hook_mlp_out->blocks.1.hook_mlp_in",
    },
    "auto-circuit": {
        "a0.h0->a1.h1<q>": "A0.0->A1.1.Q",
        "embed->m0": "Resid Start->MLP 0",
        "pos_embed->a0.h1<v>": "Resid Start->A0.1.V",
        "m1->logits": "MLP 1->Resid End",
    },
}


@pytest.mark.parametrize("naming", NAMES)
def test_names_are_those_the_other_tools_write(naming):
    name_of = {str(item): name for name, items in name_table(naming, TINY.universe).items() for item in items}
    for ours, theirs in NAMES[naming].items():
        assert name_of[ours] == theirs
    heads = {
        str(item): name for name, items in name_table(naming, TINY.to_head_level().universe).items() for item in items
    }
    expected = {
        "eap-ig": "m0->a1.h1",
        "acdc": "blocks.0.hook_mlp_out->blocks.1.hook_attn_in[:, :, 1]",
        "auto-circuit": "MLP 0->A1.1",
    }
    assert heads["m0->a1.h1"] == expected[naming]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(any_scores(), st.sampled_from(NAMINGS))
def test_scores_come_back_from_every_naming_as_far_as_it_can_say_them(made, naming):
    universe, scores = made
    named = scores.by_name(naming)
    read = EdgeScores.from_names(universe, named, naming, granularity=scores.granularity)
    has_both = naming in ("interpbench", "acdc")
    assert read == (scores if has_both else embeddings_alike(scores))
    assert read.by_name(naming) == named
    assert len(named) == len(scores) if has_both else len(named) < len(scores)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(made=any_scores(), naming=st.sampled_from(NAMINGS))
def test_files_of_every_naming_are_recognised(tmp_path_factory, made, naming):
    universe, scores = made
    folder = tmp_path_factory.getbasetemp()
    written = scores.write(folder / "scores.json", naming)
    expected = scores if naming in ("interpbench", "acdc") else embeddings_alike(scores)
    # Names of nodes are not looked for unless asked: a head's name is that of a node in three namings.
    assert read_scores(written, universe) == expected
    bare = folder / "bare.json"
    bare.write_text(json.dumps({name: str(score) for name, score in scores.by_name(naming).items()}))
    assert read_scores(bare, universe, granularity=scores.granularity) == expected


def test_acdcs_names_may_be_written_in_its_other_ways(tmp_path):
    scores = embeddings_alike(numbered())
    path = tmp_path / "acdc.json"
    names = {}
    for name, score in scores.by_name("acdc").items():
        sender, receiver = name.split("->")
        if sender == "hook_pos_embed":
            continue
        sender = {"hook_embed": "blocks.0.hook_resid_pre"}.get(sender, sender)
        sender, receiver = (part if "[" in part else f"{part}[:]" for part in (sender, receiver))
        names[f"{sender} -> {receiver.replace('hook_mlp_in', 'hook_resid_mid').replace(':', 'COLON')}"] = score
    # Steps inside a component are edges of its graph, and none of ours.
    names["blocks.0.attn.hook_q[:, :, 0]->blocks.0.attn.hook_result[:, :, 0]"] = 0.0
    names["blocks.0.hook_q_input[:, :, 0]->blocks.0.attn.hook_q[:, :, 0]"] = 0.0
    names["blocks.0.hook_resid_mid[:]->blocks.0.hook_mlp_out[:]"] = 0.0
    path.write_text(json.dumps(names))
    assert read_scores(path, TINY) == scores
    assert canonical("acdc", "hook_embed[:, :, :]") == "hook_embed"


def test_a_graph_of_eap_ig_is_read(tmp_path):
    scores, of_nodes = embeddings_alike(numbered()), embeddings_alike(numbered(granularity="node"))
    nodes = {name: {"in_graph": True, "score": score} for name, score in of_nodes.by_name("eap-ig").items()}
    graph = {
        "cfg": {"n_layers": 2, "n_heads": 2, "parallel_attn_mlp": False, "d_model": 8},
        "nodes": nodes | {"logits": {"in_graph": True}},
        "edges": {name: {"score": score, "in_graph": False} for name, score in scores.by_name("eap-ig").items()},
    }
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(graph))
    assert read_scores(path, TINY) == scores
    assert read_scores(path, TINY, granularity="node") == of_nodes


@pytest.mark.parametrize(
    "names, message",
    [
        (
            ["input->a0.h1<q>", "input->a0.h9<q>"],
            r"unknown edge 'input->a0\.h9<q>'; nearest: input->a0\.h[01]<q>.*eap-ig",
        ),
        (
            ["A0.0->A1.1.Q", "A0.0->A1.1.W"],
            r"unknown edge 'A0\.0->A1\.1\.W'; nearest: A0\.0->A1\.1\.[QKV].*auto-circuit",
        ),
        (["hook_embed->blocks.0.hook_mlp_in", "hook_embed->blocks.0.hook_mlp_inn"], r"nearest: hook_embed->.*acdc"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(tmp_path, names, message):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(dict.fromkeys(names, 1.0)))
    with pytest.raises(UnknownNameError, match=message):
        read_scores(path, TINY, missing=0.0)


def test_a_naming_that_is_none_is_refused():
    with pytest.raises(UnknownNameError, match=r"unknown naming 'acd'; nearest: acdc"):
        numbered().by_name("acd")  # type: ignore[arg-type]


def test_one_edge_under_two_names_is_refused(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(numbered().by_name("acdc") | {"blocks.0.hook_resid_pre->blocks.0.hook_mlp_in": 1.0}))
    with pytest.raises(SettingError, match=r"embed->m0 has two scores, one of them under the name 'blocks\.0"):
        read_scores(path, TINY)


# -- files -------------------------------------------------------------------------------------------------------------


def test_files_leave_out_edges_only_if_allowed(tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"input->m0": 1.5}))
    with pytest.raises(SettingError, match=r"no score for .* and 53 more; every one of the 61"):
        read_scores(path, TINY)
    scores = read_scores(path, TINY, missing=0.0)
    assert scores["embed->m0"] == scores["pos_embed->m0"] == 1.5 and scores["m0->m1"] == 0


@pytest.mark.parametrize(
    "content, message",
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1, 2]", "holds list; a file of scores holds an object from names to scores"),
        (b"{}", "holds dict"),
        (b'{"scores": {}}', "holds no scores"),
        (b'{"m0->logits": NaN}', "NaN is no score; it is that of m0->logits"),
        (b'{"m0->logits": null}', "the score of m0->logits in .* is None"),
        (b'{"apple": 1}', r"no name in it, such as 'apple', is that of an edge .* interpbench, eap-ig, acdc, auto-c"),
        (
            b'{"schema_version": 2, "scores": {"m0->logits": 1}}',
            "schema_version is 2; this version of the package reads 1",
        ),
        (pickle.dumps({"m0->logits": 1.0}), "this is a pickle or a torch file, which may run code"),
    ],
)
def test_a_file_that_holds_no_scores_is_refused(tmp_path, content, message):
    path = tmp_path / "scores.json"
    path.write_bytes(content)
    with pytest.raises(SettingError, match=message):
        read_scores(path, TINY, missing=0.0)


def test_files_of_torch_and_files_that_are_not_there_are_refused(tmp_path):
    torch.save({"edges_scores": torch.zeros(3)}, tmp_path / "graph.pt")
    with pytest.raises(SettingError, match=r"export the scores as JSON \(EAP-IG: Graph.to_json\)"):
        read_scores(tmp_path / "graph.pt", TINY)
    with pytest.raises(SettingError, match=r"nothing\.json: cannot be read"):
        read_scores(tmp_path / "nothing.json", TINY)
