"""Baselines that know nothing: what they say follows from the universe alone."""

from functools import cache

import pytest

from interpbench_hub.circuit import EMBED, LOGITS, POS_EMBED, Circuit, Node
from interpbench_hub.discovery.data import PairData
from interpbench_hub.discovery.nulls import central_scores, random_scores

UNIVERSE = Circuit(2, 2, [])


def brute_force_paths(edges) -> list[list]:
    """Every path from an embedding to the logits, as the edges it takes."""

    @cache
    def onwards(node: Node) -> list[list]:
        if node == LOGITS:
            return [[]]
        return [[edge, *rest] for edge in edges if edge.source == node for rest in onwards(edge.target)]

    return [path for start in (EMBED, POS_EMBED) for path in onwards(start)]


@pytest.mark.parametrize("universe", [Circuit(1, 2, []), UNIVERSE, UNIVERSE.to_head_level()], ids=repr)
def test_central_scores_count_the_paths_through_an_edge(universe):
    scores, paths = central_scores(None, universe), brute_force_paths(universe.universe)
    for edge in universe.universe:
        expected = 0 if edge.source in (EMBED, POS_EMBED) else sum(edge in path for path in paths)
        assert scores[edge] == expected, edge


def test_central_scores_count_paths_at_every_granularity():
    paths = brute_force_paths(UNIVERSE.universe)
    heads, nodes = (central_scores(None, UNIVERSE, granularity=level) for level in ("edge", "node"))
    assert heads["m0->a1.h1"] == sum(str(edge.without_slot) == "m0->a1.h1" for path in paths for edge in path)
    assert nodes["m0"] == sum(edge.source == Node("m0") for path in paths for edge in path)
    assert nodes["embed"] == nodes["pos_embed"] == 0


def test_edges_from_the_embeddings_are_never_central():
    scores = central_scores(None, Circuit(6, 6, []))
    others = [scores[edge] for edge in scores.edges if edge.source not in (EMBED, POS_EMBED)]
    assert min(others) > 0 and {scores["embed->m0"], scores["pos_embed->a3.h2<q>"]} == {0.0}


def test_random_scores_follow_from_the_seed_and_from_whose_data_it_is():
    data, other = PairData.of("case_7", n_pairs=4), PairData.of("case_8", n_pairs=4)
    scores = random_scores(None, UNIVERSE, data, seed=1)
    assert scores == random_scores(None, UNIVERSE.universe, data, seed=1)
    assert scores != random_scores(None, UNIVERSE, data, seed=2) != random_scores(None, UNIVERSE, other, seed=2)
    assert random_scores(None, UNIVERSE) == random_scores(None, UNIVERSE, seed=0)
    assert scores.array.min() >= 0 and scores.array.max() < 1 and len(set(scores.array)) == len(scores)


@pytest.mark.parametrize("method", [random_scores, central_scores])
def test_both_score_any_granularity(method):
    assert tuple(method(None, UNIVERSE)) == UNIVERSE.universe
    assert tuple(method(None, UNIVERSE, granularity="edge")) == UNIVERSE.to_head_level().universe
    assert tuple(method(None, UNIVERSE, granularity="node")) == UNIVERSE.node_universe[:-1]
