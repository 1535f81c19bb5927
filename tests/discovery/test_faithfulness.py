"""Faithfulness and its relatives: against loops that follow the papers' definitions, and values by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interpbench_hub.discovery.faithfulness import (
    MIB_FRACTIONS,
    cmd,
    completeness,
    cpr,
    faithfulness,
    minimality,
    sparsity,
)
from interpbench_hub.errors import SettingError

numbers = st.floats(-100, 100)
curves = st.integers(2, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(0, 1), min_size=n, max_size=n, unique=True).map(sorted),
        st.lists(st.floats(-2, 3), min_size=n, max_size=n),
    )
)


# -- faithfulness ------------------------------------------------------------------------------------------------------


def test_faithfulness_is_the_share_of_the_way_from_corrupted_to_clean():
    assert faithfulness(3.0, 1.0, 5.0) == 0.5
    assert faithfulness(5.0, 1.0, 5.0) == 1 and faithfulness(1.0, 1.0, 5.0) == 0
    assert faithfulness(7.0, 1.0, 5.0) == 1.5 and faithfulness(0.0, 1.0, 5.0) == -0.25
    assert faithfulness(-0.3, -0.6, 0.0) == pytest.approx(0.5), "a divergence from the model, negated"
    assert isinstance(faithfulness(np.float32(3), 1, 5), float)


@given(numbers, numbers, numbers)
def test_faithfulness_forgets_scale_and_sign_of_the_metric(circuit, corrupted, clean):
    found = faithfulness(circuit, corrupted, clean)
    if clean == corrupted:
        assert found is None
    elif abs(clean - corrupted) > 1e-3:
        assert faithfulness(-2 * circuit + 1, -2 * corrupted + 1, -2 * clean + 1) == pytest.approx(found, abs=1e-6)


def test_faithfulness_of_an_array_keeps_its_shape():
    found = faithfulness(np.array([[1.0, 3.0], [5.0, 2.0]]), 1.0, 5.0)
    assert isinstance(found, np.ndarray) and found.tolist() == [[0, 0.5], [1, 0.25]]
    assert faithfulness([1.0, 2.0], 4.0, 4.0) is None


def test_faithfulness_of_what_is_no_number_is_refused():
    with pytest.raises(SettingError, match=r"m_circuit hold nan at index 1 .*must be finite"):
        faithfulness([1.0, math.nan], 0.0, 1.0)
    with pytest.raises(SettingError, match=r"m_clean hold inf"):
        faithfulness(1.0, 0.0, math.inf)
    with pytest.raises(SettingError, match=r"m_corrupted have shape \(2,\)"):
        faithfulness(1.0, [0.0, 0.0], 1.0)  # type: ignore[arg-type]


# -- areas -------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(curves)
def test_areas_are_sums_of_trapezoids(curve):
    fractions, values = curve
    under = from_1 = 0.0
    for i in range(len(values) - 1):
        width = fractions[i + 1] - fractions[i]
        under += width * (values[i] + values[i + 1]) / 2
        from_1 += width * (abs(1 - values[i]) + abs(1 - values[i + 1])) / 2
    assert cpr(fractions, values) == pytest.approx(under, abs=1e-12)
    assert cmd(fractions, values) == pytest.approx(from_1, abs=1e-12)
    assert cpr(fractions, values) == pytest.approx(float(np.trapezoid(values, fractions)), abs=1e-12)


@settings(deadline=None)
@given(curves)
def test_what_never_exceeds_the_model_has_areas_that_add_up(curve):
    fractions, values = curve
    values = [min(value, 1.0) for value in values]
    assert cpr(fractions, values) + cmd(fractions, values) == pytest.approx(fractions[-1] - fractions[0], abs=1e-12)


def test_areas_by_hand():
    assert cpr([0, 1], [0, 1]) == cmd([0, 1], [0, 1]) == 0.5
    assert cpr(MIB_FRACTIONS, [1] * 10) == pytest.approx(0.999) and cmd(MIB_FRACTIONS, [1] * 10) == 0
    assert cpr([0, 0.5, 1], [0, 2, 1]) == 0.5 + 0.75
    # The line from 0 to 2 crosses 1; what counts is 1 at both ends.
    assert cmd([0, 0.5, 1], [0, 2, 1]) == 0.5 + 0.25
    # Linear, not logarithmic: the upper half of the axis is half of the area.
    assert cpr(MIB_FRACTIONS, [0] * 8 + [1, 1]) == pytest.approx(0.5 + 0.3 / 2)


@pytest.mark.parametrize("area", [cpr, cmd])
def test_curves_that_are_none_are_refused(area):
    with pytest.raises(SettingError, match=r"2 fractions and 3 faithfulnesses; a curve needs one of each"):
        area([0, 1], [0, 0.5, 1])
    with pytest.raises(SettingError, match=r"1 fractions and 1 faithfulnesses; .* two points or more"):
        area([1], [1])
    for fractions in ([0.5, 0.5], [1, 0], [-0.1, 1], [0, 1.5]):
        with pytest.raises(SettingError, match=r"fractions \[.*\] do not rise strictly within 0 to 1; sort them"):
            area(fractions, [0, 1])
    with pytest.raises(SettingError, match=r"faithfulnesses hold nan at index 0"):
        area([0, 1], [math.nan, 1])


# -- completeness, minimality, sparsity --------------------------------------------------------------------------------


@given(st.lists(st.tuples(numbers, numbers), max_size=10))
def test_completeness_is_one_minus_the_worst_difference(pairs):
    found = completeness([c for c, _ in pairs], [m for _, m in pairs])
    assert found == (1 - max(abs(c - m) for c, m in pairs) if pairs else None)


def test_completeness_by_hand():
    # A backup outside the circuit: knock the head out and only the model goes on.
    assert completeness([1.0, 0.0], [1.0, 0.9]) == pytest.approx(0.1)
    assert completeness([1.0, 0.0], [1.0, 0.0]) == 1
    with pytest.raises(SettingError, match=r"circuit_without has shape \(2,\) and model_without \(1,\).*same sets"):
        completeness([1.0, 0.0], [1.0])


@given(st.lists(st.lists(st.tuples(numbers, numbers), min_size=3, max_size=3), min_size=1, max_size=6))
def test_minimality_is_the_least_over_edges_of_the_most_over_sets(table):
    pairs = np.array(table)
    expected = min(max(abs(a - b) for a, b in row) for row in table)
    assert minimality(pairs[:, :, 0], pairs[:, :, 1]) == pytest.approx(expected, abs=1e-12)
    expected = min(abs(row[0][0] - row[0][1]) for row in table)
    assert minimality(pairs[:, 0, 0], pairs[:, 0, 1]) == pytest.approx(expected, abs=1e-12)


def test_minimality_by_hand():
    assert minimality([0.2, 0.9, 0.1], 1.0) == pytest.approx(0.1)
    # Two edges that back each other up: each matters only once the other is gone.
    assert minimality([[1.0, 0.0], [1.0, 0.0]], 1.0) == 1
    assert minimality([0.2, 1.0], [1.0, 1.0]) == 0
    assert minimality([], 1.0) is None and minimality(np.empty((3, 0)), 1.0) is None
    for without, whole in (([1.0, 2.0], [1.0]), ([[1.0], [2.0]], [1.0, 1.0]), (1.0, 1.0)):
        with pytest.raises(SettingError, match=r"without_edge has shape .*pass both as \[edge\]"):
            minimality(without, whole)


def test_sparsity_is_the_share_left_out():
    assert sparsity(6, 137) == pytest.approx(131 / 137)
    assert sparsity(0, 5) == 1 and sparsity(5, 5) == 0
    for kept, edges in ((6, 5), (-1, 5), (0, 0)):
        with pytest.raises(SettingError, match=rf"{kept} edges kept of {edges}; a circuit keeps"):
            sparsity(kept, edges)
