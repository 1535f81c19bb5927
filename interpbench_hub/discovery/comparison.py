"""Statistics between cases and between methods: intervals, a paired test and an effect size.

Values are one number a case (the AUROC of a method on it, say). NaN raises `SettingError`: leave out the cases where a
metric is None before you compare. Where there are too few values to say anything, the answer is None.
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from interpbench_hub.discovery.arrays import FloatArray, as_floats
from interpbench_hub.discovery.metrics import auroc
from interpbench_hub.errors import SettingError

MIN_PAIRS = 6
"""Differing pairs that a two-sided signed-rank test needs: with five, its p-value is never below 2 / 2**5 = 0.0625."""
MAX_EXACT_PAIRS = 200
"""Up to here the test is exact, in milliseconds; the normal approximation is accurate long before."""

Magnitude = Literal["negligible", "small", "medium", "large"]
MAGNITUDES: tuple[tuple[float, Magnitude], ...] = ((0.71, "large"), (0.64, "medium"), (0.56, "small"))
"""Least A12 of each magnitude (Vargha and Delaney 2000), those of Cohen's d 0.8, 0.5 and 0.2 rounded."""

_CHUNK = 1_000_000  # values resampled at a time: 8 MB


class Interval(NamedTuple):
    low: float
    high: float


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[..., Any] = np.median,
    level: float = 0.95,
    n: int = 10_000,
    seed: int = 0,
) -> Interval | None:
    """Percentile bootstrap interval (Efron 1979; Efron and Tibshirani 1993, chapter 13) of a statistic of `values`.

    `n` times as many values as there are [case] are drawn with replacement, and the interval runs from the
    (1 - level) / 2 to the (1 + level) / 2 quantile of the `n` statistics. It never leaves the range of what resamples
    give and follows monotone transforms; with few cases it is too narrow (below ten or so take it as a rough guide).
    The same seed gives the same interval.

    `statistic` maps values [case] to a number; one with an `axis` parameter (numpy's) is called once for many
    resamples. None for fewer than two values: there is nothing to resample, and an interval of width zero would claim
    certainty. `values` must be finite.
    """
    data = as_floats(values, "values")
    if not 0 < level < 1:
        raise SettingError(f"level is {level}; it must lie between 0 and 1, 0.95 for 95 %")
    if n < 1:
        raise SettingError(f"n is {n}; at least one resample is needed, 10_000 for a steady interval")
    if len(data) < 2:
        return None
    generator = np.random.default_rng(seed)
    has_axis = _has_axis(statistic)
    found: list[FloatArray] = []
    step = max(1, _CHUNK // len(data))
    for start in range(0, n, step):
        resamples = data[generator.integers(len(data), size=(min(step, n - start), len(data)))]
        result = statistic(resamples, axis=1) if has_axis else [statistic(resample) for resample in resamples]
        found.append(as_floats(result, "statistics of resamples"))
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def _has_axis(statistic: Callable[..., Any]) -> bool:
    try:
        return "axis" in inspect.signature(statistic).parameters
    except (TypeError, ValueError):  # builtins without a signature, such as max
        return False


class PairedTest(NamedTuple):
    statistic: float
    """The smaller of the two sums of ranks."""
    p: float
    """Two-sided."""


def paired_wilcoxon(a: ArrayLike, b: ArrayLike) -> PairedTest | None:
    """Wilcoxon's signed-rank test (1945) of whether `a` - `b` [case] is symmetric about 0; two-sided.

    Pairs with no difference are dropped, as Wilcoxon does (scipy's `zero_method="wilcox"`): the test speaks about the
    cases where the methods differ, so give their number along. Differences that agree to 12 digits (relative to the
    largest value) are equal, lest rounding errors decide; equal ones share their average rank. The p-value is exact
    given the ranks, ties included, by counting all sign patterns, up to `MAX_EXACT_PAIRS` differing pairs; beyond, the
    normal approximation of `scipy.stats.wilcoxon` with its correction for ties. It is not corrected for comparing
    several methods.

    None if fewer than `MIN_PAIRS` pairs differ: no outcome could reach 0.05. `SettingError` for different lengths.
    """
    differences = _differences(a, b)
    if len(differences) < MIN_PAIRS:
        return None
    if len(differences) > MAX_EXACT_PAIRS:
        from scipy.stats import wilcoxon

        result: Any = wilcoxon(differences)
        return PairedTest(float(result.statistic), float(result.pvalue))
    from scipy.stats import rankdata

    # Average ranks are multiples of a half: doubled, they are integers, and so are their sums.
    doubled = np.rint(2 * rankdata(np.abs(differences))).astype(np.int64)
    total = int(doubled.sum())
    smaller = min(int(doubled[differences > 0].sum()), int(doubled[differences < 0].sum()))
    # chances[s]: that the ranks of positive sign sum up to s when every sign is a fair coin.
    chances = np.zeros(total + 1)
    chances[0] = 1
    for rank in doubled:
        chances[rank:] = (chances[rank:] + chances[: total + 1 - rank]) / 2
        chances[:rank] /= 2
    return PairedTest(smaller / 2, min(1.0, 2 * float(chances[: smaller + 1].sum())))


def _differences(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """`a` - `b` without zeros, rounded so that what is equal but for rounding errors is equal."""
    first, second = as_floats(a, "a"), as_floats(b, "b")
    if first.shape != second.shape:
        raise SettingError(
            f"a has {len(first)} values and b {len(second)}; a paired test needs both for the same cases"
        )
    scale = max(np.abs(first).max(initial=0), np.abs(second).max(initial=0))
    if scale == 0:
        return np.empty(0)
    differences = np.round(first / scale - second / scale, 12)
    return differences[differences != 0]


def vargha_delaney(a: ArrayLike, b: ArrayLike) -> float | None:
    """A12, the chance that a random value of `a` is larger than one of `b`, ties counting half.

    The A measure of stochastic superiority (Vargha and Delaney 2000): #(a > b) / (m n) + #(a = b) / (2 m n) over all
    pairs, exact with ties. 0.5 says that neither tends to be larger, 1 that every `a` [m] is larger than every `b`
    [n]; the two need not be of one length, pairing plays no part, +-inf is allowed. `magnitude` puts it in words.
    None if either is empty.
    """
    first, second = as_floats(a, "a", is_finite=False), as_floats(b, "b", is_finite=False)
    # The same count as that of a ROC curve, with `a` for positives and `b` for negatives.
    return auroc(np.concatenate([first, second]), np.arange(len(first) + len(second)) < len(first))


def magnitude(a12: float) -> Magnitude:
    """How large an effect `a12` is, whichever side it favours: negligible, small, medium or large.

    Thresholds of Vargha and Delaney (2000) on max(A12, 1 - A12): small from 0.56, medium from 0.64, large from 0.71.
    (Others take 0.147, 0.33 and 0.474 of Cliff's delta = 2 A12 - 1: 0.574, 0.665 and 0.737.)

    >>> magnitude(0.5), magnitude(0.3), magnitude(0.64)
    ('negligible', 'medium', 'medium')
    """
    if not 0 <= a12 <= 1:
        raise SettingError(f"A12 is {a12}; it is a chance, from 0 to 1, as vargha_delaney returns it")
    # Rounded: 1 - 0.44 is not quite 0.56.
    larger = round(max(a12, 1 - a12), 12)
    for least, name in MAGNITUDES:
        if larger >= least:
            return name
    return "negligible"
