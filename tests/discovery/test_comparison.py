"""Statistics between methods: against all resamples, all sign patterns, all pairs, and scipy."""

import doctest
import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap, mannwhitneyu, rankdata, wilcoxon

from interpbench_hub.discovery import comparison as comparison_module
from interpbench_hub.discovery.comparison import (
    MAX_EXACT_PAIRS,
    MIN_PAIRS,
    bootstrap_interval,
    magnitude,
    paired_wilcoxon,
    vargha_delaney,
)
from interpbench_hub.errors import SettingError

tied = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, 1.0, 2.0, math.inf])


def test_the_examples_in_docstrings_hold():
    results = doctest.testmod(comparison_module)
    assert results.failed == 0 and results.attempted > 0


# -- bootstrap ---------------------------------------------------------------------------------------------------------


def test_the_interval_is_near_that_of_all_resamples():
    values = np.array([0.1, 0.4, 0.5, 0.9, 1.0])
    means = [np.mean(resample) for resample in product(values, repeat=5)]
    interval = bootstrap_interval(values, np.mean)
    assert interval is not None
    assert interval == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)


def test_the_interval_is_near_that_of_scipy():
    values = np.random.default_rng(1).gamma(2, size=60)
    interval = bootstrap_interval(values, np.median, level=0.9)
    theirs = bootstrap((values,), np.median, confidence_level=0.9, method="percentile", rng=np.random.default_rng(2))
    assert interval == pytest.approx(tuple(theirs.confidence_interval), abs=0.05)


def test_a_statistic_without_axis_gives_the_same_as_one_with():
    values = np.random.default_rng(0).normal(size=20)

    def mean(sample):
        return sample.sum() / len(sample)

    assert bootstrap_interval(values, mean, n=500) == pytest.approx(bootstrap_interval(values, np.mean, n=500))
    assert bootstrap_interval(values, max, n=500) == bootstrap_interval(values, np.max, n=500)


def test_the_interval_follows_seed_level_and_monotone_transforms(monkeypatch):
    values = np.random.default_rng(3).normal(size=31)
    interval = bootstrap_interval(values)
    assert interval == bootstrap_interval(values)
    assert bootstrap_interval(values, np.mean) != bootstrap_interval(values, np.mean, seed=1)
    wide, narrow = bootstrap_interval(values, level=0.99), bootstrap_interval(values, level=0.5)
    assert interval is not None and wide is not None and narrow is not None
    assert wide.low <= interval.low <= narrow.low <= narrow.high <= interval.high <= wide.high
    assert values.min() <= wide.low and wide.high <= values.max()
    assert bootstrap_interval(3 * values - 1) == pytest.approx(3 * np.array(interval) - 1)
    monkeypatch.setattr(comparison_module, "_CHUNK", 1000)
    assert bootstrap_interval(values) == interval, "however many are drawn at a time"


def test_few_values_have_no_interval_and_equal_ones_a_point():
    assert bootstrap_interval([]) is None and bootstrap_interval([0.7]) is None
    assert bootstrap_interval([0.7, 0.7]) == (0.7, 0.7)


def test_settings_and_values_of_a_bootstrap_are_checked():
    for level in (0, 1, 95, -0.5):
        with pytest.raises(SettingError, match=rf"level is {level}; it must lie between 0 and 1"):
            bootstrap_interval([1, 2], level=level)
    with pytest.raises(SettingError, match=r"n is 0; at least one resample"):
        bootstrap_interval([1, 2], n=0)
    with pytest.raises(SettingError, match=r"values hold nan at index 1 .* leave the entry out"):
        bootstrap_interval([1, None, 2])  # type: ignore[list-item]
    with pytest.raises(SettingError, match=r"statistics of resamples hold nan"):
        bootstrap_interval([1, 2], lambda sample: math.nan)


# -- Wilcoxon ----------------------------------------------------------------------------------------------------------


def signed_rank_by_all_signs(differences) -> tuple[float, float]:
    differences = [d for d in differences if d]
    ranks = rankdata(np.abs(differences))
    observed = sum(r for r, d in zip(ranks, differences, strict=True) if d > 0)
    sums = [sum(r for r, up in zip(ranks, signs, strict=True) if up) for signs in product([0, 1], repeat=len(ranks))]
    smaller = min(observed, ranks.sum() - observed)
    return smaller, min(1.0, 2 * sum(s <= smaller for s in sums) / len(sums))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-4, 4), min_size=6, max_size=11))
def test_p_is_the_share_of_all_sign_patterns_with_ties_and_zeros(differences):
    found = paired_wilcoxon(differences, np.zeros(len(differences)))
    if sum(d != 0 for d in differences) < MIN_PAIRS:
        assert found is None
    else:
        assert found == pytest.approx(signed_rank_by_all_signs(differences), abs=1e-12)


@pytest.mark.parametrize("n", [6, 12, 50])
def test_without_ties_it_is_scipys_exact_test(n):
    generator = np.random.default_rng(n)
    a, b = generator.normal(0.3, size=n), generator.normal(size=n)
    theirs = wilcoxon(a, b, method="exact")
    assert paired_wilcoxon(a, b) == pytest.approx((theirs.statistic, theirs.pvalue), rel=1e-9)  # type: ignore[attr-defined]


@pytest.mark.parametrize("n", [MAX_EXACT_PAIRS, MAX_EXACT_PAIRS + 1])
def test_many_pairs_agree_with_the_normal_approximation(n):
    generator = np.random.default_rng(n)
    a, b = np.round(generator.normal(0.1, size=n), 1), np.round(generator.normal(size=n), 1)
    found, theirs = paired_wilcoxon(a, b + 1e-3), wilcoxon(np.round(a - b - 1e-3, 9))
    assert found is not None
    assert found.statistic == theirs.statistic  # type: ignore[attr-defined]
    assert found.p == pytest.approx(theirs.pvalue, rel=0.02)  # type: ignore[attr-defined]


def test_wilcoxon_by_hand():
    assert paired_wilcoxon([1, 2, 3, 4, 5, 6], [0] * 6) == (0, 2 / 2**6)
    assert paired_wilcoxon([1, 2, 3, 4, 5], [0] * 5) is None, "p could not be below 0.0625"
    assert paired_wilcoxon([1, 1, 1, -1, -1, -1], [0] * 6) == (10.5, 1)
    assert paired_wilcoxon([], []) is None and paired_wilcoxon([0] * 9, [0] * 9) is None
    assert paired_wilcoxon([0.5] * 100, [0.5] * 100) is None


def test_swapping_the_methods_or_scaling_changes_nothing():
    generator = np.random.default_rng(5)
    a, b = generator.random(15), generator.random(15)
    found = paired_wilcoxon(a, b)
    assert found == paired_wilcoxon(b, a) == paired_wilcoxon(1e9 * a, 1e9 * b) == paired_wilcoxon(1e-9 * a, 1e-9 * b)


def test_rounding_errors_make_no_difference():
    # 0.3 - 0.2 and 0.2 - 0.1 differ by 3e-17; 0.1 + 0.2 and 0.3 too.
    a = np.array([0.3, 0.2, 0.4, 0.6, 0.8, 1.0, 0.1 + 0.2])
    b = np.array([0.2, 0.1, 0.3, 0.7, 0.9, 0.9, 0.3])
    assert paired_wilcoxon(a, b) == pytest.approx(signed_rank_by_all_signs([1, 1, 1, -1, -1, 1]))


def test_pairs_of_a_wilcoxon_test_are_checked():
    with pytest.raises(SettingError, match=r"a has 2 values and b 3; a paired test needs both for the same cases"):
        paired_wilcoxon([1, 2], [1, 2, 3])
    with pytest.raises(SettingError, match=r"b hold inf at index 1 .*must be finite"):
        paired_wilcoxon([1, 2], [1, math.inf])


# -- Vargha and Delaney ------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(tied, min_size=1, max_size=8), st.lists(tied, min_size=1, max_size=8))
def test_a12_is_the_share_of_all_pairs_and_its_swap_is_the_rest(a, b):
    won = sum(Fraction(2 * (x > y) + (x == y), 2) for x in a for y in b)
    a12, swapped = vargha_delaney(a, b), vargha_delaney(b, a)
    assert a12 is not None and swapped is not None
    assert a12 == float(won / (len(a) * len(b)))
    assert a12 + swapped == pytest.approx(1, abs=1e-15)
    assert magnitude(a12) == magnitude(swapped)


def test_a12_is_mann_whitneys_u_over_pairs():
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 9, 30), generator.integers(1, 11, 40)
    assert vargha_delaney(a, b) == pytest.approx(mannwhitneyu(a, b).statistic / 1200, abs=1e-15)


def test_a12_by_hand():
    assert vargha_delaney([2, 3], [1]) == 1 and vargha_delaney([1], [1, 1]) == 0.5
    assert vargha_delaney([1, 2], [1, 3]) == (0.5 + 0 + 1 + 0) / 4
    assert vargha_delaney([], [1]) is None and vargha_delaney([1], []) is None
    with pytest.raises(SettingError, match=r"b hold nan at index 0"):
        vargha_delaney([1], [math.nan])


@pytest.mark.parametrize(
    ("least", "name", "below"),
    [(0.56, "small", "negligible"), (0.64, "medium", "small"), (0.71, "large", "medium")],
)
def test_magnitudes_start_at_their_thresholds_on_both_sides(least, name, below):
    assert magnitude(least) == magnitude(1 - least) == name
    assert magnitude(least - 1e-6) == magnitude(1 - least + 1e-6) == below
    assert magnitude(0.5) == "negligible" and magnitude(0) == magnitude(1) == "large"


@pytest.mark.parametrize("a12", [-0.1, 1.1, math.nan])
def test_what_is_no_chance_has_no_magnitude(a12):
    with pytest.raises(SettingError, match=rf"A12 is {a12}; it is a chance, from 0 to 1"):
        magnitude(a12)
