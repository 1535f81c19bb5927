"""Rankings, curves and sets: against all pairs, all thresholds and all subsets, with ties, infinities and few edges."""

import doctest
import math
import time
from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, rankdata

from interpbench_hub import load_circuit
from interpbench_hub.circuit import KINDS, Circuit, Edge, Node, all_edges
from interpbench_hub.discovery import metrics as metrics_module
from interpbench_hub.discovery.labels import labels_of, node_labels_of
from interpbench_hub.discovery.metrics import (
    SetScores,
    auprc,
    auroc,
    best_f1,
    node_auroc,
    node_scores,
    pr_curve,
    precision_at,
    precision_recall_f1,
    roc_curve,
    structural_hamming_distance,
)
from interpbench_hub.errors import SettingError

# Few different values, so that ties are the rule.
tied = st.sampled_from([-math.inf, -2.0, -1.0, -0.0, 0.0, 0.5, 1.0, 3.0, math.inf])
values = tied | st.floats(allow_nan=False)
rankings = st.lists(st.tuples(st.one_of(tied, values), st.booleans()), max_size=12)
RANKED = [auroc, auprc, best_f1, precision_at, roc_curve, pr_curve]


@st.composite
def mixed(draw: st.DrawFn, max_size: int = 12) -> tuple[list[float], list[bool]]:
    """Scores and labels with a positive and a negative at least."""
    labels = draw(st.permutations([True, False, *draw(st.lists(st.booleans(), max_size=max_size - 2))]))
    score = draw(st.sampled_from([tied, values]))
    return [draw(score) for _ in labels], list(labels)


def thresholds_of(scores, labels) -> list[tuple[float, int, int]]:
    """Threshold, true and false positives at or above it, for every distinct score, highest first."""
    pairs = list(zip(scores, labels, strict=True))
    return [
        (t, sum(s >= t and y for s, y in pairs), sum(s >= t and not y for s, y in pairs))
        for t in sorted(set(scores), reverse=True)
    ]


def test_the_examples_in_docstrings_hold():
    results = doctest.testmod(metrics_module)
    assert results.failed == 0 and results.attempted > 0


# -- auroc -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(mixed())
def test_auroc_is_the_share_of_pairs_in_the_right_order(ranking):
    scores, labels = ranking
    positives = [s for s, y in zip(scores, labels, strict=True) if y]
    negatives = [s for s, y in zip(scores, labels, strict=True) if not y]
    won = sum(Fraction(2 * (p > n) + (p == n), 2) for p in positives for n in negatives)
    assert auroc(scores, labels) == float(won / (len(positives) * len(negatives)))


@settings(deadline=None)
@given(mixed(max_size=40))
def test_auroc_is_scipys_mann_whitney_and_the_sum_of_average_ranks(ranking):
    scores, labels = np.array(ranking[0]), np.array(ranking[1])
    n, m = labels.sum(), (~labels).sum()
    ranks = (rankdata(scores)[labels].sum() - n * (n + 1) / 2) / (n * m)
    assert auroc(scores, labels) == pytest.approx(ranks, abs=1e-12)
    statistic = (
        mannwhitneyu(scores[labels], scores[~labels], method="asymptotic").statistic
        if len(set(scores)) > 1
        else n * m / 2
    )
    assert auroc(scores, labels) == pytest.approx(statistic / (n * m), abs=1e-12)


@settings(deadline=None)
@given(mixed())
def test_auroc_of_swapped_labels_or_negated_scores_is_the_rest(ranking):
    scores, labels = np.array(ranking[0]), np.array(ranking[1])
    area = auroc(scores, labels)
    assert area is not None
    assert auroc(scores, ~labels) == pytest.approx(1 - area, abs=1e-15)
    assert auroc(-scores, labels) == pytest.approx(1 - area, abs=1e-15)


@settings(deadline=None)
@given(mixed(), st.randoms(use_true_random=False))
def test_only_the_order_of_scores_matters_and_not_that_of_edges(ranking, random):
    scores, labels = ranking
    # Dense ranks, cubed: strictly monotone, finite, far from linear.
    transformed = [float(sorted(set(scores)).index(s) - 3) ** 3 for s in scores]
    shuffled = list(range(len(scores)))
    random.shuffle(shuffled)
    for metric in (auroc, auprc, precision_at):
        expected = pytest.approx(metric(scores, labels), abs=1e-15)
        assert metric(transformed, labels) == expected
        assert metric([scores[i] for i in shuffled], [labels[i] for i in shuffled]) == expected
    ours, theirs = best_f1(scores, labels), best_f1(transformed, labels)
    assert ours is not None and theirs is not None and ours.f1 == theirs.f1


def test_auroc_by_hand():
    assert auroc([0.9, 0.8, 0.1], [True, True, False]) == 1
    assert auroc([0.9, 0.8, 0.1], [False, False, True]) == 0
    assert auroc([0, 0, 0, 0], [True, False, False, False]) == 0.5
    assert auroc([math.inf, math.inf, -math.inf], [True, False, False]) == 0.75
    assert auroc([1, 1, 0, 2, -1], [1, 0, 1, 0, 0]) == (0.5 + 0 + 1 + 0 + 0 + 1) / 6
    assert auroc([-0.0, 0.0], [True, False]) == 0.5, "-0 and 0 are a tie"


# -- auprc -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(mixed())
def test_auprc_is_the_sum_over_all_thresholds(ranking):
    scores, labels = ranking
    area, before = Fraction(0), 0
    for _, tp, fp in thresholds_of(scores, labels):
        area += Fraction(tp - before, sum(labels)) * Fraction(tp, tp + fp)
        before = tp
    assert auprc(scores, labels) == pytest.approx(float(area), rel=1e-14)


def test_auprc_by_hand():
    # The example of scikit-learn's documentation.
    assert auprc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert auprc([5, 4, 3], [True, True, False]) == 1
    assert auprc([1, 1, 1, 1], [True, False, False, False]) == 0.25, "chance is the share of positives"
    assert auprc([3, 2, 1], [False, False, True]) == pytest.approx(1 / 3)


# -- best F1 and precision at k ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=300)
@given(mixed())
def test_best_f1_is_the_best_of_all_thresholds_and_the_highest_such(ranking):
    scores, labels = ranking
    all_f1 = {t: Fraction(2 * tp, tp + fp + sum(labels)) for t, tp, fp in thresholds_of(scores, labels)}
    best = max(all_f1.values())
    found = best_f1(scores, labels)
    assert found is not None
    assert found.f1 == float(best)
    assert found.threshold == max(t for t, f1 in all_f1.items() if f1 == best)


def test_best_f1_by_hand():
    assert best_f1([3, 2, 1, 0], [True, True, False, False]) == (1, 2)
    # One of one (F1 2/3) is as good as two of four: the smaller set wins.
    assert best_f1([4, 3, 2, 1], [True, False, False, True]) == (pytest.approx(2 / 3), 4)
    assert best_f1([math.inf, 0], [True, False]) == (1, math.inf)
    assert best_f1([-math.inf, 0], [True, False]) == (pytest.approx(2 / 3), -math.inf)


@settings(deadline=None)
@given(mixed(max_size=7), st.data())
def test_precision_at_is_the_mean_over_all_choices_among_ties(ranking, data):
    scores, labels = ranking
    k = data.draw(st.integers(1, len(scores)))
    # A choice of k edges is a top k if nothing left out scores higher than something chosen.
    tops = [
        chosen
        for chosen in combinations(range(len(scores)), k)
        if all(scores[i] >= scores[j] for i in chosen for j in set(range(len(scores))) - set(chosen))
    ]
    expected = Fraction(sum(labels[i] for chosen in tops for i in chosen), k * len(tops))
    assert precision_at(scores, labels, k) == pytest.approx(float(expected), abs=1e-14)


def test_precision_at_by_hand():
    scores, labels = [5, 4, 4, 4, 1], [True, True, False, False, False]
    assert precision_at(scores, labels, 1) == 1
    assert precision_at(scores, labels) == precision_at(scores, labels, 2) == pytest.approx((1 + 1 / 3) / 2)
    assert precision_at(scores, labels, 4) == 0.5
    assert precision_at(scores, labels, 5) == 0.4


@pytest.mark.parametrize("k", [0, -1, 3, 1.5, "2"])
def test_a_k_that_is_no_number_of_edges_is_refused(k):
    with pytest.raises(SettingError, match=rf"k is {k!r}; with 2 scores it must be a whole number from 1 to 2"):
        precision_at([1, 2], [True, False], k)


# -- curves ------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(mixed())
def test_roc_points_are_those_of_all_thresholds_and_enclose_auroc(ranking):
    scores, labels = ranking
    curve = roc_curve(scores, labels)
    assert curve is not None
    n_positives, n_negatives = sum(labels), len(labels) - sum(labels)
    points = [(0, 0, math.inf)] + [
        (fp / n_negatives, tp / n_positives, t) for t, tp, fp in thresholds_of(scores, labels)
    ]
    assert list(zip(*map(np.ndarray.tolist, curve), strict=True)) == points
    area = sum((x2 - x1) * (y1 + y2) / 2 for (x1, y1, _), (x2, y2, _) in pairwise(points))
    assert auroc(scores, labels) == pytest.approx(area, abs=1e-12)
    assert points[-1][:2] == (1, 1)


@settings(deadline=None)
@given(mixed())
def test_precision_recall_points_are_those_of_all_thresholds_and_their_steps_enclose_auprc(ranking):
    scores, labels = ranking
    curve = pr_curve(scores, labels)
    assert curve is not None
    points = [(tp / sum(labels), tp / (tp + fp), t) for t, tp, fp in thresholds_of(scores, labels)]
    assert list(zip(*map(np.ndarray.tolist, curve), strict=True)) == points
    assert auprc(scores, labels) == pytest.approx(np.diff(curve.recall, prepend=0) @ curve.precision, abs=1e-12)


# -- what all rankings share -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", RANKED)
@pytest.mark.parametrize("labels", [[True] * 3, [False] * 3, []])
def test_one_class_alone_gives_none(metric, labels):
    assert metric(np.arange(len(labels)), labels) is None


@settings(deadline=None)
@given(rankings)
def test_every_metric_is_none_or_in_range_and_never_nan(ranking):
    scores, labels = [s for s, _ in ranking], [y for _, y in ranking]
    found = [auroc(scores, labels), auprc(scores, labels), precision_at(scores, labels)]
    if 0 < sum(labels) < len(labels):
        assert all(isinstance(value, float) and 0 <= value <= 1 for value in found)
    else:
        assert found == [None] * 3


@pytest.mark.parametrize("metric", RANKED)
def test_bad_scores_and_labels_are_refused(metric):
    with pytest.raises(SettingError, match=r"scores hold nan at index 2 \(1 such of 3\).*no place for NaN.*leave"):
        metric([0, math.inf, math.nan], [True, False, True])
    with pytest.raises(SettingError, match=r"scores hold nan at index 0"):
        metric([None, 1.0], [True, False])
    with pytest.raises(SettingError, match=r"scores have shape \(3,\) and labels \(2,\); pass one label for each"):
        metric([1, 2, 3], [True, False])
    with pytest.raises(SettingError, match=r"scores have shape \(1, 2\); pass an array of 1 dimension"):
        metric([[1, 2]], [[True, False]])
    with pytest.raises(SettingError, match=r"scores \['high', 'low'\] are not numbers"):
        metric(["high", "low"], [True, False])
    with pytest.raises(SettingError, match=r"labels have type int64 and values other than 0 and 1"):
        metric([1, 2], [2, 1])
    with pytest.raises(SettingError, match=r"labels have type .* pass booleans"):
        metric([1, 2], ["yes", "no"])


def test_integers_and_zeros_and_ones_do_as_well():
    for metric in RANKED:
        ours, theirs = metric([3, 1, 2], [1, 0, 1]), metric([3.0, 1.0, 2.0], [True, False, True])
        assert repr(ours) == repr(theirs)


def test_a_ranking_of_1500_edges_takes_less_than_a_millisecond():
    generator = np.random.default_rng(0)
    scores, labels = generator.normal(size=1500), generator.random(1500) < 0.02
    for metric in RANKED:
        # The best of many: the machine may be busy with something else.
        seconds = []
        for _ in range(50):
            start = time.perf_counter()
            metric(scores, labels)
            seconds.append(time.perf_counter() - start)
        assert min(seconds) < 1e-3, metric.__name__


# -- nodes -------------------------------------------------------------------------------------------------------------


@st.composite
def circuits(draw: st.DrawFn) -> Circuit:
    n_layers, n_heads = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    chosen = draw(st.sets(st.sampled_from(all_edges(n_layers, n_heads)), max_size=12))
    edges = [Edge(edge.source, edge.target, edge.slot, draw(st.sampled_from(KINDS))) for edge in sorted(chosen)]
    return Circuit(n_layers, n_heads, edges)


def test_a_node_scores_as_the_best_of_its_edges():
    scores = {"embed->m0": 0.2, "embed->logits": -1.0, "m0->logits": 0.7, "embed->a0.h0<q>": -math.inf}
    found = node_scores({Edge.parse(name): score for name, score in scores.items()})
    expected = {"embed": 0.2, "a0.h0": -math.inf, "m0": 0.7, "logits": 0.7}
    assert {node.name: score for node, score in found.items()} == expected
    assert list(found) == [Node(name) for name in expected], "in the order of a forward pass"
    assert node_scores({}) == {}


@settings(deadline=None)
@given(circuits(), st.booleans(), st.data())
def test_node_auroc_is_auroc_of_the_largest_incident_edge_scores(circuit, with_embedding, data):
    scores = {edge: data.draw(tied) for edge in circuit.universe}
    nodes, is_positive = node_labels_of(circuit, with_embedding=with_embedding)
    best = [max(s for e, s in scores.items() if node in (e.source, e.target)) for node in nodes]
    assert node_auroc(scores, circuit, with_embedding=with_embedding) == auroc(best, is_positive)


@settings(deadline=None)
@given(circuits(), st.data())
def test_edges_ranked_perfectly_rank_nodes_perfectly(circuit, data):
    edges, is_positive = labels_of(circuit)
    positives = {edge for edge, positive in zip(edges, is_positive, strict=True) if positive}
    assume(0 < node_labels_of(circuit).is_positive.sum() < len(node_labels_of(circuit).nodes))
    # What is not scored may have any score at all.
    unscored = set(circuit) - positives
    scores = {e: 1.0 if e in positives else data.draw(tied) if e in unscored else 0.0 for e in circuit.universe}
    assert node_auroc(scores, circuit) == 1


def test_node_auroc_at_head_level_and_of_one_class():
    circuit = load_circuit("interpbench/case_3").to_head_level()
    scores = {edge: float(edge in circuit) for edge in circuit.universe}
    assert node_auroc(scores, circuit) == node_auroc(scores, circuit, with_embedding=False) == 1
    assert node_auroc({edge: -score for edge, score in scores.items()}, circuit) == 0.5
    empty = Circuit(1, 1, [])
    assert node_auroc(dict.fromkeys(empty.universe, 0.0), empty) is None


def test_node_scores_that_are_missing_or_nan_are_refused():
    circuit = load_circuit("interpbench/case_3")
    scores = dict.fromkeys(circuit.universe, 0.0)
    with pytest.raises(SettingError, match=r"the score of edge m0->logits is NaN"):
        node_scores(scores | {Edge.parse("m0->logits"): math.nan})
    without = {edge: score for edge, score in scores.items() if "m1" not in (edge.source.name, edge.target.name)}
    with pytest.raises(SettingError, match=r"no edge of node m1 has a score"):
        node_auroc(without, circuit)


# -- sets --------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(circuits(), st.booleans(), st.data())
def test_set_metrics_count_scored_edges_one_by_one(circuit, with_embedding, data):
    found = data.draw(st.sets(st.sampled_from(circuit.universe)))
    tp = fp = fn = 0
    for edge in circuit.universe:
        if edge in circuit and circuit[edge].kind != "varying":
            continue
        if not with_embedding and edge.source.name.endswith("embed"):
            continue
        tp += edge in found and edge in circuit
        fp += edge in found and edge not in circuit
        fn += edge not in found and edge in circuit
    assert structural_hamming_distance(found, circuit, with_embedding=with_embedding) == fp + fn
    scores = precision_recall_f1(found, circuit, with_embedding=with_embedding)
    assert scores.precision == (tp / (tp + fp) if tp + fp else None)
    assert scores.recall == (tp / (tp + fn) if tp + fn else None)
    assert scores.f1 == (2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None)
    if scores.precision and scores.recall:
        harmonic = 2 * scores.precision * scores.recall / (scores.precision + scores.recall)
        assert scores.f1 == pytest.approx(harmonic)


def test_sets_by_hand():
    circuit = load_circuit("interpbench/case_3")
    assert structural_hamming_distance(circuit, circuit) == 0
    assert precision_recall_f1(circuit, circuit) == (1, 1, 1)
    found = ["embed->m0", "m0->logits", "pos_embed->a1.h0<q>", Edge.parse("m0->a1.h0<v>"), "embed->m0"]
    assert structural_hamming_distance(found, circuit) == 2, "m0->logits is wrong, a1.h0->logits missing"
    assert precision_recall_f1(found, circuit) == (2 / 3, 2 / 3, 2 / 3)
    assert precision_recall_f1(found, circuit, with_embedding=False) == (1 / 2, 1 / 2, 1 / 2)
    assert precision_recall_f1([], circuit) == SetScores(None, 0, 0)
    assert structural_hamming_distance([], circuit) == 3
    assert precision_recall_f1(["m0->logits"], Circuit(1, 1, [])) == SetScores(0, None, 0)
    assert precision_recall_f1([], Circuit(1, 1, [])) == SetScores(None, None, None)
    assert structural_hamming_distance(found, circuit, ["embed->m0", "a1.h0->logits"]) == 1
    assert structural_hamming_distance(circuit.to_head_level(), circuit.to_head_level()) == 0


def test_found_edges_of_another_model_or_granularity_are_refused():
    circuit = load_circuit("interpbench/case_3")
    for metric in (structural_hamming_distance, precision_recall_f1):
        with pytest.raises(SettingError, match=r"edge m0->m7 of the found set does not exist"):
            metric(["m0->m7"], circuit)
        with pytest.raises(SettingError, match=r"->a1.h0 of the found set .* at granularity qkv-edge; .*to_head_level"):
            metric(circuit.to_head_level(), circuit)
