"""Baselines that know nothing of the model: what a method must beat to have found anything."""

from typing import TYPE_CHECKING, cast

import numpy as np

from interpbench_hub.circuit import LOGITS, Edge, Node
from interpbench_hub.discovery.labels import EMBEDDINGS
from interpbench_hub.discovery.scores import EdgeScores, ScoreGranularity, Universe, scored_items

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from interpbench_hub.discovery.data import PairData
    from interpbench_hub.transformer import Transformer


def random_scores(
    model: "HookedTransformer | Transformer | None",
    universe: Universe,
    data: "PairData | None" = None,
    *,
    granularity: ScoreGranularity | None = None,
    seed: int | str = 0,
) -> EdgeScores:
    """Scores drawn uniformly from 0 to 1, the same for the same seed and data.

    The model is not looked at. The data enters the seed alone: two models of one size, with data of their own, get
    independent scores, and an average over cases is one over independent draws.
    """
    from interpbench_hub.cases.pairs import seeded

    items = scored_items(universe, granularity)
    of_data = None if data is None else (data.clean.tolist(), data.corrupted.tolist())
    generator = np.random.default_rng(seeded("random scores", seed, of_data))
    return EdgeScores(items, generator.random(len(items)))


def central_scores(
    model: "HookedTransformer | Transformer | None",
    universe: Universe,
    data: "PairData | None" = None,
    *,
    granularity: ScoreGranularity | None = None,
) -> EdgeScores:
    """How many of the universe's paths from the embeddings to the logits run through an edge; from an embedding, 0.

    "Most central, no embedding": which edges matter may be guessed from where they lie. Of the edges that leave an
    embedding most do not belong to a circuit, though many paths begin there, so they come last. Neither the model nor
    the data is looked at. A node's score is the number of paths through it, an embedding's 0.
    """
    edges = cast(tuple[Edge, ...], scored_items(universe))
    items = scored_items(universe, granularity)
    # Whole numbers of any size: a float would round those of deep models before the last step.
    to_node: dict[Node, int] = dict.fromkeys(EMBEDDINGS, 1)
    from_node: dict[Node, int] = {LOGITS: 1}
    for edge in sorted(edges, key=lambda edge: edge.target):
        to_node[edge.target] = to_node.get(edge.target, 0) + to_node.get(edge.source, 0)
    for edge in sorted(edges, key=lambda edge: edge.source, reverse=True):
        from_node[edge.source] = from_node.get(edge.source, 0) + from_node.get(edge.target, 0)
    through: dict[Edge | Node, int] = {}
    for edge in edges:
        paths = 0 if edge.source in EMBEDDINGS else to_node.get(edge.source, 0) * from_node.get(edge.target, 0)
        for item in {edge, edge.without_slot, edge.source}:
            through[item] = through.get(item, 0) + paths
    return EdgeScores(items, [float(through[item]) for item in items])
