"""The study of discovery methods: its tables and charts against hand-made rows, what is checked in against its rows."""

import re
import statistics
import xml.etree.ElementTree as ElementTree
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.discovery import study
from benchmarks.discovery.charts import Axis, Series, strip_chart
from benchmarks.discovery.plots import all_plots
from benchmarks.discovery.saturation import THRESHOLDS, staircase_auc
from benchmarks.discovery.tables import (
    PAPER_CASES,
    PAPER_MEDIANS,
    all_tables,
    cost_table,
    metric_groups,
    paper_table,
    twin_rows,
    twins_table,
)
from dataset_builders.results import leaderboard, load_rows
from interpbench_hub.discovery.metrics import auroc
from interpbench_hub.discovery.results import COLUMNS

Row = dict[str, Any]


def row(method: str, model: str, area: float | None, **others: Any) -> Row:
    return {
        **dict.fromkeys(COLUMNS),
        "method": method,
        "model": model,
        "case": model,
        "tier": "elementwise",
        "recipe": "edge-siit",
        "options": "{}",
        "edge_auroc": area,
        "cpu_seconds": 2.0,
        "wall_seconds": 3.0,
        "forward_passes": 1.0,
        "backward_passes": 0.0,
        "settings": f"{method} {others.get('options', '')}",
        "weights_sha256": model,
        "seed": 0,
        "n_pairs": 256,
        "created": "2026-01-02T03:04:05Z",
    } | others


# -- what is checked in ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written() -> dict[Any, str]:
    return study.written(load_rows())


def test_what_is_checked_in_is_what_the_command_writes(written: dict[Any, str]) -> None:
    stale = [path.name for path, text in written.items() if not study.is_text(path, text)]
    assert not stale, "run python benchmarks/discovery/study.py --write"


def test_the_readme_has_the_leaderboard_of_the_checked_in_rows(written: dict[Any, str]) -> None:
    text = study.README.read_text(encoding="utf-8")
    lines = text.partition(study.BEGIN)[2].partition(study.END)[0].strip().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    main = [row for row in load_rows() if row["recipe"] == "edge-siit" and row["options"] == "{}"]
    for cells in rows:
        areas = [r["edge_auroc"] for r in main if r["method"] == cells[0].strip("`") and r["edge_auroc"] is not None]
        median, mean, exact = cells[5], cells[6], cells[7]
        assert 0 <= statistics.median(areas) - float(median) < 0.001 + 1e-9
        assert 0 <= statistics.fmean(areas) - float(mean) < 0.001 + 1e-9
        assert exact == f"{sum(area >= 1 for area in areas)} of {len(areas)}"
    means = [float(cells[6]) for cells in rows]
    assert means == sorted(means, reverse=True) and len(rows) == len({r["method"] for r in main})


def test_charts_are_small_whole_and_without_dates(written: dict[Any, str]) -> None:
    charts = {path: text for path, text in written.items() if path.suffix == ".svg"}
    assert {path.name for path in study.HERE.glob("*.svg")} == {path.name for path in charts}
    for path, text in charts.items():
        assert len(text) < 100_000, path
        ElementTree.fromstring(text)
        assert not re.search(r"20\d\d-\d\d", text)
        assert f"discovery/{path.name}" in written[study.BENCHMARKS]


# -- tables ------------------------------------------------------------------------------------------------------------


def test_the_paper_s_table_counts_the_paper_s_methods_and_cases_only() -> None:
    areas = [0.5, 0.75, 1.0]
    rows = [row("acdc", case, area) for case, area in zip(PAPER_CASES, areas, strict=False)]
    rows += [row("acdc", "case_1", 0.0), row("exhaustive", "case_3", 0.0), row("eap", "case_3", None)]
    found = {cells[0]: cells for cells in paper_table(rows).rows}
    assert list(found) == [f"`{method}`" for method in PAPER_MEDIANS]
    _, paper, median, mean, least, exact = found["`acdc`"]
    assert (paper, mean, least, exact) == ("0.959", "0.750", "0.500", "1 of 3")
    assert str(median).startswith("0.750 [0.5")
    assert found["`eap`"][2:] == ("–", "–", "–", "0 of 0")


def test_costs_add_up() -> None:
    rows = [row(method, f"case_{number}", 1.0) for method, number in product(("eap", "acdc"), range(3))]
    made = cost_table(rows)
    assert [cells[0] for cells in made.rows] == ["`acdc`", "`eap`", "**all**"]
    assert made.rows[-1][4:6] == ("12", "18")
    assert "0.2 minutes of processor time, 0.1 on 2 cores" in made.note


def test_metrics_are_compared_on_the_models_that_both_have() -> None:
    main = [row("eap", model, 0.9) for model in ("case_3", "case_8", "case_13")]
    other = [row("eap", model, 0.1, options='{"metric": "kl"}') for model in ("case_3", "case_8")]
    assert metric_groups(main, other) == [
        ("eap", "classes", "logit_difference", [0.9]),
        ("eap", "classes", "kl", [0.1]),
        ("eap", "numbers", "logit_difference", [0.9]),
        ("eap", "numbers", "kl", [0.1]),
    ]


def test_twins_are_compared_where_all_three_models_have_a_score() -> None:
    recipes = {"": "edge-siit", "_siit": "siit", "_natural": "behaviour"}

    def of(method: str, case: str, areas: list[float | None]) -> list[Row]:
        named = zip(recipes.items(), areas, strict=True)
        return [row(method, case + end, area, case=case, recipe=recipe) for (end, recipe), area in named]

    rows = of("eap", "case_3", [1.0, 0.8, 0.6]) + of("eap", "case_4", [0.8, 0.6, 0.5])
    rows += of("acdc", "case_3", [1.0, None, 0.5])
    main = [one for one in rows if one["recipe"] == "edge-siit"]
    twins = [one for one in rows if one["recipe"] != "edge-siit"]
    assert {(one["method"], one["case"]) for one in twin_rows(main, twins)} == {("eap", "case_3"), ("eap", "case_4")}
    (cells,) = twins_table(main, twins).rows
    assert cells[:5] == ("`eap`", 2, "0.900", "0.700", "0.550")


def test_every_table_and_chart_is_made_of_few_rows_too() -> None:
    rows = [row("eap", "case_3", 0.5), row("eap", "case_3", 0.4, options='{"metric": "kl"}')]
    board = leaderboard(rows[:1])
    assert all(one.markdown for one in all_tables(rows, board, []))
    assert set(all_plots(rows, board)) == {"paper.svg", "collection.svg", "costs.svg", "metrics.svg"}


# -- staircase ---------------------------------------------------------------------------------------------------------

SCORES = st.lists(st.tuples(st.sampled_from([0.0, 1e-9, 1e-4, 0.03, 0.3, 7.0, 1e3]), st.booleans()), min_size=2)


def slow_staircase(scores: list[float], positive: list[bool]) -> float:
    """The area by strips: at each false positive rate the highest point so far to the left of it or on it."""
    points = {(0.0, 0.0)}
    for threshold in THRESHOLDS:
        found = [label for score, label in zip(scores, positive, strict=True) if score >= threshold]
        n_true, n_false = sum(found), len(found) - sum(found)
        points.add((n_false / (len(positive) - sum(positive)), n_true / sum(positive)))
    places = sorted({x for x, _ in points} | {1.0})
    strips = pairwise(places)
    return sum((end - start) * max(y for x, y in points if x <= start) for start, end in strips)


@given(SCORES)
def test_the_staircase_is_the_area_below_its_points_and_never_above_the_exact_area(items) -> None:
    scores, positive = map(list, zip(*items, strict=True))
    found = staircase_auc(scores, positive)
    if all(positive) or not any(positive):
        assert np.isnan(found)
        return
    assert found == pytest.approx(slow_staircase(scores, positive))
    exact = auroc(scores, positive)
    assert exact is not None and found <= exact + 1e-12


def test_scores_between_two_thresholds_get_nothing_whatever_their_order() -> None:
    assert staircase_auc([9e-6, 1e-9, 1e-12], [True, False, False]) == 0
    assert auroc([9e-6, 1e-9, 1e-12], [True, False, False]) == 1


# -- charts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_log", [False, True])
def test_values_lie_in_their_order_within_the_chart(is_log: bool) -> None:
    axis = Axis("x", 0.1, 10, (0.1, 10), is_log)
    places = [axis.place(value) for value in (0.1, 0.5, 1, 10)]
    assert places == sorted(places) and places[0] > 0 and places[-1] < 760
    with pytest.raises(AssertionError, match=r"11 is not on the axis from 0\.1 to 10"):
        axis.place(11)
    middle = axis.place(1.0 if is_log else 5.05)
    assert middle == pytest.approx((places[0] + places[-1]) / 2)


def test_a_chart_has_a_dot_for_each_value_and_text_is_escaped() -> None:
    rows = [("a < b", [Series("one", [0.1, 0.2], 0.15, (0.1, 0.2), 0.9)]), ("c", [Series("two", [0.3])])]
    text = strip_chart("T & U", Axis("x", 0, 1, (0, 1)), rows, "legend")
    assert text == strip_chart("T & U", Axis("x", 0, 1, (0, 1)), rows, "legend")
    root = ElementTree.fromstring(text)
    shown = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"a < b", "c", "T & U", "one", "two", "legend", "x", "0", "1"} == shown
    assert text.count("h0") == 3


# -- the command -------------------------------------------------------------------------------------------------------


def test_a_file_without_the_markers_is_refused(tmp_path) -> None:
    path = tmp_path / "README.md"
    path.write_text("nothing")
    with pytest.raises(SystemExit, match=r"lacks the lines .*begin: written by benchmarks/discovery/study\.py"):
        study.replaced(path, "x")
    path.write_text(f"a\n{study.BEGIN}\nold\n{study.END}\nb")
    assert study.replaced(path, "new") == f"a\n{study.BEGIN}\n\nnew\n\n{study.END}\nb"
