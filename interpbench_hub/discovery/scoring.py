"""From a method's scores and the true circuit to one number a metric: the metric columns of a table of results.

Owns which metrics there are and at which size of circuit they are taken; each is defined in `metrics`, `labels` and
`faithfulness`. The answer key meets the scores here and nowhere before.
"""

import random
from collections.abc import Collection
from typing import cast

import numpy as np

from interpbench_hub.circuit import LOGITS, Circuit, Edge
from interpbench_hub.discovery.arrays import FloatArray
from interpbench_hub.discovery.behaviour import AblatedModel
from interpbench_hub.discovery.faithfulness import MIB_FRACTIONS, cmd, completeness, cpr, minimality, sparsity
from interpbench_hub.discovery.labels import labels_of
from interpbench_hub.discovery.metrics import auprc, auroc, best_f1, node_auroc, node_scores, precision_at
from interpbench_hub.discovery.naming import ScoreGranularity, Universe, granularity_of, scored_items
from interpbench_hub.discovery.scores import EdgeScores
from interpbench_hub.errors import SettingError

Scored = dict[str, float | None]
"""Metrics by their names; None where one is not defined."""

METRICS: dict[str, str] = {
    "edge_auroc": "AUROC of varying edges against edges outside the circuit",
    "edge_auroc_no_embedding": "the same without edges from embed and pos_embed",
    "edge_auprc": "average precision of the same edges",
    "edge_auprc_no_embedding": "the same without edges from embed and pos_embed",
    "best_f1": "largest F1 over all thresholds",
    "precision_at_size": "share of varying edges among as many highest scores as there are varying edges",
    "hamming_at_size": "structural Hamming distance of that many edges from the varying ones; smaller is better",
    "node_auroc": "AUROC of nodes, each scored by its best edge",
    "node_auroc_no_embedding": "the same without embed and pos_embed",
    "cpr": "area under the faithfulness curve (MIB), faithfulness by the difference of outputs",
    "cmd": "area between the faithfulness curve and 1 (MIB); smaller is better",
    "cpr_agreement": "as cpr, faithfulness by the share of outputs that stay the same",
    "cmd_agreement": "as cmd, faithfulness by the share of outputs that stay the same; smaller is better",
    "faithfulness_at_size": "faithfulness by difference of the found circuit",
    "agreement_at_size": "faithfulness by agreement of the found circuit",
    "completeness": "completeness of the found circuit, by agreement",
    "minimality": "minimality of the found circuit, by agreement",
    "sparsity": "share of edges that the smallest faithful circuit of the ranking leaves out",
}
"""What each metric is, in a line; larger is better unless it says otherwise."""
SMALLER_IS_BETTER = ("hamming_at_size", "cmd", "cmd_agreement")

FAITHFUL = 0.99
"""Faithfulness by agreement from which on a circuit counts as faithful."""
N_RANDOM_KNOCKOUTS = 8
_GROWTH = 1.25  # of the sizes tried in search of the smallest faithful circuit


def ranking_metrics(scores: EdgeScores, circuit: Circuit) -> Scored:
    """The metrics that need no model: how far up the scores put the circuit's edges and nodes.

    `scores` cover the universe of `circuit` (the true one, with kinds) at its granularity or at a coarser one; scores
    of nodes are lifted to edges by `EdgeScores.from_nodes`. Scores that are equal at the border of the circuit's size
    count in expectation, as in `precision_at`. Raises `SettingError` for scores of another model.
    """
    truth, scores = _aligned(scores, circuit)
    found: Scored = {}
    for suffix, with_embedding in (("", True), ("_no_embedding", False)):
        edges, is_positive = labels_of(truth, with_embedding=with_embedding)
        values = [scores[edge] for edge in edges]
        found[f"edge_auroc{suffix}"] = auroc(values, is_positive)
        found[f"edge_auprc{suffix}"] = auprc(values, is_positive)
        found[f"node_auroc{suffix}"] = node_auroc(cast(dict[Edge, float], scores), truth, with_embedding=with_embedding)
    edges, is_positive = labels_of(truth)
    values = [scores[edge] for edge in edges]
    best, precision = best_f1(values, is_positive), precision_at(values, is_positive)
    found["best_f1"] = None if best is None else best.f1
    found["precision_at_size"] = precision
    # As many are wrongly kept as are missed; not from a set, whose choice among equal scores would be arbitrary.
    found["hamming_at_size"] = None if precision is None else 2 * float(is_positive.sum()) * (1 - precision)
    return found


def faithfulness_metrics(scores: EdgeScores, circuit: Circuit, model: AblatedModel, *, seed: int = 0) -> Scored:
    """The metrics that run the model with parts of it ablated.

    - `cpr`, `cmd`: the int(share x edges) highest scores are kept, for each of `MIB_FRACTIONS` of all edges; of equal
      scores the first in the universe. Once with F minus the difference of outputs, which is unbounded, once with F the
      agreement, from 0 to 1 before it is scaled. MIB takes differences of logits and averages over prompts; it also
      prunes dead ends, which changes no output here.
    - at size: the found circuit C keeps as many of the highest scores, among the edges that count (`labels_of`), as
      there are varying edges, and all edges of the true circuit that do not count. A perfect ranking finds the true
      circuit.
    - `completeness`: knockouts K are single edges of C and, from `seed`, 8 random halves of it; `minimality`: K = {}.
    - `sparsity` of the smallest circuit of the ranking that is faithful (`FAITHFUL`, by agreement), of sizes that grow
      by a quarter. Smaller ones between two sizes, and faithful ones below unfaithful ones, are not looked for.
    """
    truth, scores = _aligned(scores, circuit)
    edges = truth.universe
    ranking = [edges[place] for place in np.argsort(-scores.array, kind="stable")]
    sizes = [int(share * len(edges)) for share in MIB_FRACTIONS]
    curve, agreement = model.faithfulness([ranking[:size] for size in sizes])
    found: Scored = dict.fromkeys(
        ("cpr", "cmd", "cpr_agreement", "cmd_agreement", "faithfulness_at_size", "agreement_at_size"), None
    )
    found |= dict.fromkeys(("completeness", "minimality", "sparsity"), None)
    if curve is not None:
        found |= {"cpr": cpr(MIB_FRACTIONS, curve), "cmd": cmd(MIB_FRACTIONS, curve)}
    if agreement is not None:
        found |= {"cpr_agreement": cpr(MIB_FRACTIONS, agreement), "cmd_agreement": cmd(MIB_FRACTIONS, agreement)}
        found["sparsity"] = _smallest_faithful(ranking, model)
    return found | _at_size(scores, truth, model, seed)


def _at_size(scores: EdgeScores, truth: Circuit, model: AblatedModel, seed: int) -> Scored:
    """Faithfulness, completeness and minimality of the circuit that is found at the true one's size."""
    counted, is_positive = labels_of(truth)
    size = int(is_positive.sum())
    order = np.argsort([-scores[edge] for edge in counted], kind="stable")[:size]
    varying = [counted[place] for place in order]
    found = {*varying, *truth.of_kind("constant", "inert")}
    draws = random.Random(seed)
    halves = [set(draws.sample(varying, size // 2)) for _ in range(N_RANDOM_KNOCKOUTS)] if size > 1 else []
    knockouts: list[Collection[Edge]] = [*({edge} for edge in varying), *halves]
    whole = set(truth.universe)
    kept = [found, *(found - set(gone) for gone in knockouts), *(whole - set(gone) for gone in knockouts)]
    by_difference, by_agreement = model.faithfulness(kept)
    result: Scored = {"faithfulness_at_size": None if by_difference is None else float(by_difference[0])}
    if by_agreement is None:
        return result
    circuit_without: FloatArray = by_agreement[1 : 1 + len(knockouts)]
    return result | {
        "agreement_at_size": float(by_agreement[0]),
        "completeness": completeness(circuit_without, by_agreement[1 + len(knockouts) :]),
        "minimality": minimality(circuit_without[:size], by_agreement[0]),
    }


def _smallest_faithful(ranking: list[Edge], model: AblatedModel) -> float | None:
    """Sparsity of the first prefix of the ranking that is faithful; every edge together always is."""
    size = 0
    while size < len(ranking):
        kept = model.faithfulness([ranking[:size]])[1]
        assert kept is not None
        if kept[0] >= FAITHFUL:
            break
        size = min(len(ranking), max(size + 1, int(size * _GROWTH)))
    return sparsity(size, len(ranking))


# -- granularities -----------------------------------------------------------------------------------------------------


def at_granularity(scores: EdgeScores, universe: Universe, granularity: ScoreGranularity) -> EdgeScores:
    """Scores brought to a granularity: slots merge to the largest, nodes lift to edges by `EdgeScores.from_nodes`, and
    a node gets the largest score of the edges that it sends or receives.

    Raises `SettingError` where that cannot be, since merged slots are not told apart again, and for scores that are not
    those of this universe.
    """
    given = scores.granularity
    if given == granularity:
        found = scores
    elif given == "node":
        found = EdgeScores.from_nodes(cast(tuple[Edge, ...], scored_items(universe, granularity)), scores)
    elif granularity == "node":
        best = node_scores(cast(dict[Edge, float], scores))
        nodes = [node for node in best if node != LOGITS]
        found = EdgeScores(nodes, [best[node] for node in nodes])
    elif granularity == "edge":
        found = scores.to_head_level()
    else:
        raise SettingError(
            "scores of edges into heads as wholes say nothing of their q, k and v; evaluate at granularity edge"
        )
    items = scored_items(universe, granularity)
    if tuple(found) == items:
        return found
    unknown = sorted(map(str, set(found) - set(items)))
    lacking = sorted(map(str, set(items) - set(found)))
    if unknown or lacking:
        raise SettingError(
            f"the scores are not those of this model's {len(items)} {granularity}s: {len(lacking)} have none "
            f"({', '.join(lacking[:3])}), {len(unknown)} are not among them ({', '.join(unknown[:3])}); score exactly "
            "the universe"
        )
    return EdgeScores(items, [found[item] for item in items])


def _aligned(scores: EdgeScores, circuit: Circuit) -> tuple[Circuit, EdgeScores]:
    """Circuit and scores of edges at one granularity, the finest that the scores have."""
    if scores.granularity == "edge" and circuit.granularity == "qkv-edge":
        circuit = circuit.to_head_level()
    return circuit, at_granularity(scores, circuit.universe, granularity_of(circuit))
