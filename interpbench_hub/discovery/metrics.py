"""How well scores or sets of edges agree with a circuit: rankings, their curves, and sets.

Every ranking metric takes `scores` [edge] (any numbers, +-inf included, ties allowed; larger means "more likely in the
circuit") and `labels` [edge] (bool; `labels_of` makes them), and depends on the order of the scores alone. Where all
labels are positive or all are negative a ranking has nothing to tell apart: these metrics then return None, not NaN
and not an error, so that a table over many cases goes on and a mean over it cannot swallow the gap unnoticed.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from interpbench_hub.circuit import Circuit, Edge, Node
from interpbench_hub.discovery.arrays import FloatArray, as_floats
from interpbench_hub.discovery.labels import known_edges, labels_of, node_labels_of
from interpbench_hub.errors import SettingError


class _Cuts(NamedTuple):
    """What each distinct score keeps as a threshold, highest first: int [cut] positives and negatives at or above."""

    thresholds: FloatArray
    hits: NDArray[np.int64]
    false_alarms: NDArray[np.int64]

    @property
    def n_positives(self) -> int:
        return int(self.hits[-1])

    @property
    def n_negatives(self) -> int:
        return int(self.false_alarms[-1])


def _cuts(scores: ArrayLike, labels: ArrayLike) -> _Cuts | None:
    """None if there is no positive or no negative."""
    values, is_positive = as_floats(scores, "scores", is_finite=False), np.asarray(labels)
    if is_positive.shape != values.shape:
        raise SettingError(
            f"scores have shape {values.shape} and labels {is_positive.shape}; pass one label for each score"
        )
    if is_positive.dtype != bool:
        if not np.isin(is_positive, (0, 1)).all():
            raise SettingError(f"labels have type {is_positive.dtype} and values other than 0 and 1; pass booleans")
        is_positive = is_positive.astype(bool)
    n_positives = int(np.count_nonzero(is_positive))
    if n_positives in (0, len(values)):
        return None
    order = np.argsort(values)[::-1]
    values = values[order]
    # The last entry of every run of equal scores. Not np.diff: inf - inf is NaN.
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    hits = np.cumsum(is_positive[order], dtype=np.int64)[last]
    return _Cuts(values[last], hits, last + 1 - hits)


# -- rankings ----------------------------------------------------------------------------------------------------------


def auroc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Area under the ROC curve: the chance that a random positive scores above a random negative, ties counting half.

    This is the Mann-Whitney U statistic with average ranks, divided by the number of pairs (Mann and Whitney 1947;
    Hanley and McNeil 1982); no grid of thresholds is involved, and all counts are integers up to one last division.
    1 is perfect, 0.5 chance. None without a positive or without a negative.

    >>> auroc([3, 1, 2, 2], [True, False, True, False])
    0.875
    """
    cuts = _cuts(scores, labels)
    if cuts is None:
        return None
    # Trapezoids, doubled to stay integers: each negative of a run beats no positive of the runs above and half its own.
    before = np.append(0, cuts.hits[:-1])
    doubled = int(np.diff(cuts.false_alarms, prepend=0) @ (before + cuts.hits))
    return doubled / (2 * cuts.n_positives * cuts.n_negatives)


def auprc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Average precision: the mean over positives of the precision among all edges scored no lower.

    The sum over distinct thresholds, highest first, of (increase of recall) x (precision at the threshold), so equal
    scores form one threshold, and no line is drawn between points, which would flatter (Davis and Goadrich 2006). The
    same as scikit-learn's `average_precision_score`. 1 is perfect; chance is about the share of positives. None
    without a positive or without a negative.
    """
    cuts = _cuts(scores, labels)
    if cuts is None:
        return None
    precision = cuts.hits / (cuts.hits + cuts.false_alarms)
    return float(np.diff(cuts.hits, prepend=0) @ precision) / cuts.n_positives


class BestF1(NamedTuple):
    """The largest F1 over all thresholds, and the threshold: edges scored no lower are kept."""

    f1: float
    threshold: float


def best_f1(scores: ArrayLike, labels: ArrayLike) -> BestF1 | None:
    """The largest F1 that keeping all edges with `score >= threshold` reaches, over every distinct score.

    F1 = 2 TP / (2 TP + FP + FN) (van Rijsbergen 1979). Of several best thresholds the highest, which keeps the fewest
    edges. The threshold is chosen with the answer key at hand: an upper bound of what a method's user can reach. None
    without a positive or without a negative.
    """
    cuts = _cuts(scores, labels)
    if cuts is None:
        return None
    f1 = 2 * cuts.hits / (cuts.hits + cuts.false_alarms + cuts.n_positives)
    best = int(np.argmax(f1))
    return BestF1(float(f1[best]), float(cuts.thresholds[best]))


def precision_at(scores: ArrayLike, labels: ArrayLike, k: int | None = None) -> float | None:
    """Share of positives among the `k` highest scores; `k` is the number of positives unless given.

    With the default the share equals recall too ("R-precision"). Where the border falls among equal scores, they count
    in expectation over a random choice of them (McSherry and Najork 2008). None without a positive or without a
    negative; `SettingError` for a `k` that is no whole number from 1 to the number of scores.
    """
    cuts = _cuts(scores, labels)
    n_scores = len(np.asarray(scores))
    if k is not None and not (isinstance(k, int | np.integer) and 1 <= k <= n_scores):
        raise SettingError(f"k is {k!r}; with {n_scores} scores it must be a whole number from 1 to {n_scores}")
    if cuts is None:
        return None
    k = cuts.n_positives if k is None else k
    # In expectation the kept positives grow linearly within a run of equal scores.
    kept = np.append(0, cuts.hits + cuts.false_alarms)
    return float(np.interp(k, kept, np.append(0, cuts.hits))) / k


class RocCurve(NamedTuple):
    """Points of a ROC curve, from nothing kept to everything: float [point] each."""

    false_positive_rate: FloatArray
    true_positive_rate: FloatArray
    thresholds: FloatArray


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> RocCurve | None:
    """The ROC curve: false and true positive rates at (0, 0) and at each distinct score, highest first.

    Straight lines between the points enclose `auroc`. The threshold of (0, 0) is inf and stands for "above every
    score", one of inf included. None without a positive or without a negative.
    """
    cuts = _cuts(scores, labels)
    if cuts is None:
        return None
    return RocCurve(
        np.append(0, cuts.false_alarms) / cuts.n_negatives,
        np.append(0, cuts.hits) / cuts.n_positives,
        np.append(np.inf, cuts.thresholds),
    )


class PrCurve(NamedTuple):
    """Points of a precision-recall curve, by falling threshold and so by rising recall: float [point] each."""

    recall: FloatArray
    precision: FloatArray
    thresholds: FloatArray


def pr_curve(scores: ArrayLike, labels: ArrayLike) -> PrCurve | None:
    """The precision-recall curve: one point for each distinct score, highest first.

    No point is invented at recall 0, where precision is undefined. To be drawn as steps (each precision holds from the
    recall before to its own), which enclose `auprc`. None without a positive or without a negative.
    """
    cuts = _cuts(scores, labels)
    if cuts is None:
        return None
    return PrCurve(
        cuts.hits / cuts.n_positives,
        cuts.hits / (cuts.hits + cuts.false_alarms),
        cuts.thresholds,
    )


# -- nodes -------------------------------------------------------------------------------------------------------------


def node_scores(scores: Mapping[Edge, float]) -> dict[Node, float]:
    """A score for every node that the edges touch: the largest score of an edge that it sends or receives.

    With this rule a method that ranks the positive edges of a circuit first also ranks its positive nodes first: a
    positive node has a positive edge, a negative node has negative edges only. In the order of a forward pass.
    `SettingError` for NaN, naming the edge.
    """
    best: dict[Node, float] = {}
    for edge, value in scores.items():
        score = float(value)
        if score != score:
            raise SettingError(f"the score of edge {edge} is NaN; a ranking has no place for it: find what produced it")
        for node in (edge.source, edge.target):
            if node not in best or best[node] < score:
                best[node] = score
    return dict(sorted(best.items()))


def node_auroc(scores: Mapping[Edge, float], circuit: Circuit, *, with_embedding: bool = True) -> float | None:
    """`auroc` of the nodes by `node_scores`, with the positives and negatives of `node_labels_of`.

    `scores` holds the edges of the circuit's model at either granularity; edges of `embed` and `pos_embed` count for
    their receivers even where `with_embedding=False` leaves these two nodes out. None without a positive or without a
    negative node; `SettingError` for a node none of whose edges has a score.
    """
    nodes, is_positive = node_labels_of(circuit, with_embedding=with_embedding)
    by_node = node_scores(scores)
    for node in nodes:
        if node not in by_node:
            raise SettingError(f"no edge of node {node} has a score; score at least one edge of every node")
    return auroc([by_node[node] for node in nodes], is_positive)


# -- sets --------------------------------------------------------------------------------------------------------------


class SetScores(NamedTuple):
    """Precision, recall and F1 of a set of edges; None where nothing stands below the line of the fraction."""

    precision: float | None
    recall: float | None
    f1: float | None


def structural_hamming_distance(
    found: Iterable[Edge | str],
    truth: Circuit,
    universe: Iterable[Edge | str] | None = None,
    *,
    with_embedding: bool = True,
) -> int:
    """How many edges must be added to or taken from `found` to make it right: false positives + false negatives.

    The structural Hamming distance of Tsamardinos, Brown and Aliferis (2006); edges here have one possible direction,
    so none is ever reversed. Only scored edges count (`labels_of(truth, universe)`): `constant` and `inert` ones are
    neither missed nor wrong. `found` may be a `Circuit`. 0 is perfect.
    """
    _, false_positives, false_negatives = _set_counts(found, truth, universe, with_embedding)
    return false_positives + false_negatives


def precision_recall_f1(
    found: Iterable[Edge | str],
    truth: Circuit,
    universe: Iterable[Edge | str] | None = None,
    *,
    with_embedding: bool = True,
) -> SetScores:
    """Precision TP / (TP + FP), recall TP / (TP + FN) and F1 = 2 TP / (2 TP + FP + FN) of a set of edges.

    Only scored edges count (`labels_of(truth, universe)`). `found` may be a `Circuit`. Each of the three is None where
    its denominator is 0: precision if nothing scored was found, recall if there is no positive, F1 if both.
    """
    hits, false_positives, false_negatives = _set_counts(found, truth, universe, with_embedding)

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole else None

    return SetScores(
        share(hits, hits + false_positives),
        share(hits, hits + false_negatives),
        share(2 * hits, 2 * hits + false_positives + false_negatives),
    )


def _set_counts(
    found: Iterable[Edge | str], truth: Circuit, universe: Iterable[Edge | str] | None, with_embedding: bool
) -> tuple[int, int, int]:
    """True positives, false positives and false negatives."""
    kept = set(known_edges(truth, found, "the found set"))
    edges, is_positive = labels_of(truth, universe, with_embedding=with_embedding)
    is_found = np.fromiter((edge in kept for edge in edges), bool, len(edges))
    return (
        int(np.count_nonzero(is_found & is_positive)),
        int(np.count_nonzero(is_found & ~is_positive)),
        int(np.count_nonzero(~is_found & is_positive)),
    )
