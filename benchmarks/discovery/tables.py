"""The tables of the study as Markdown, each from the rows that `dataset_builders.results` keeps.

Owns what is compared with what; medians, intervals and tests are those of `interpbench_hub.discovery`.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import combinations
from typing import Any

from dataset_builders.results import (
    ALL_TIERS,
    MEDIANS,
    TIERS,
    Row,
    methods_of,
    part,
    share,
    values_of,
)
from interpbench_hub.discovery.comparison import bootstrap_interval
from model_cards.rendering import table

PAPER_CASES = tuple(f"case_{number}" for number in (3, 4, 8, 11, 13, 18, 19, 20, 21, 26, 29, 33, 34, 35, 36, 37))
PAPER_MEDIANS = {"acdc": 0.959, "eap-ig-inputs": 0.910, "edge-sp": 0.884, "node-sp": 0.852, "eap": 0.000}
"""Median edge AUROC over these cases in the InterpBench paper (arXiv:2407.14494), best first."""
BUDGET_MINUTES, BUDGET_CORES = 60, 2
"""What all methods on all models may take together."""
RECIPES = {"edge-siit": "certified", "siit": "node-level", "behaviour": "output only"}
"""The recipes of a case's three models, in words."""
_MIDDLE = ("edge_auroc", "best_f1", "agreement_at_size")
_SMALLER_IS_BETTER = ("hamming_at_size", "cpu_seconds")


@dataclass(frozen=True)
class Table:
    """One table of the study."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""
    """What stands before it."""
    picture: str = ""
    """Name of the chart that shows the same, without its folder."""

    @property
    def markdown(self) -> str:
        note = f"{self.note}\n\n" if self.note else ""
        picture = f"\n\n![{self.title}](discovery/{self.picture})" if self.picture else ""
        return f"### {self.title}\n\n{note}{table(self.header, self.rows)}{picture}"


def all_tables(rows: Sequence[Row], board: Sequence[Row], saturation: Sequence[Row]) -> list[Table]:
    """Every table that there are rows for; `board` is their leaderboard."""
    main, metrics, twins = (part(rows, config) for config in ("methods", "metrics", "twins"))
    found = [paper_table(main), paired_table(main), *tier_tables(board), cost_table(main)]
    found += [metric_table(main, metrics)] if metrics else []
    found += [saturation_table(saturation)] if saturation else []
    found += [twins_table(main, twins), twins_by_case_table(main, twins)] if twin_rows(main, twins) else []
    return found


# -- the paper's comparison --------------------------------------------------------------------------------------------


def of_paper(rows: Iterable[Row]) -> list[Row]:
    """The rows of the paper's methods on the paper's cases."""
    return [row for row in rows if row["model"] in PAPER_CASES and row["method"] in PAPER_MEDIANS]


def paper_table(rows: Sequence[Row]) -> Table:
    own = of_paper(rows)
    lines = []
    for method, median in PAPER_MEDIANS.items():
        values = values_of(own, "edge_auroc", method=method)
        lines.append(
            (
                f"`{method}`",
                f"{median:.3f}",
                with_interval(values),
                *(share(value) if values else "–" for value in (_mean(values), min(values, default=0.0))),
                f"{sum(value == 1 for value in values)} of {len(values)}",
            )
        )
    n_models = len({row["model"] for row in own})
    return Table(
        "The paper's comparison",
        ("method", "paper: median", "here: median", "mean", "least", "found exactly"),
        lines,
        f"Edge AUROC on {n_models} of the paper's {len(PAPER_CASES)} cases; in brackets 95 % bootstrap intervals.",
        "paper.svg",
    )


def paired_table(rows: Sequence[Row]) -> Table:
    from interpbench_hub.discovery.results import compare, to_frame

    own = of_paper(rows)
    frame = to_frame(own)
    present = [method for method in PAPER_MEDIANS if method in methods_of(own)]
    lines = []
    for first, second in combinations(present, 2):
        found = compare(frame, first, second)
        p = "too few" if found.test is None else f"{found.test.p:.2g}"
        a12 = "–" if found.a12 is None else f"{found.a12:.2f} ({found.effect})"
        lines.append((f"`{first}`", f"`{second}`", found.n, found.n_differ, p, a12))
    return Table(
        "The same methods in pairs",
        ("first", "second", "cases", "differ", "p", "A12"),
        lines,
        "Two-sided Wilcoxon signed-rank tests on the cases that differ, not corrected for their number (with fewer "
        "than six there is none), and Vargha-Delaney A12: the chance that the first is better on two "
        "cases drawn at random.",
    )


# -- the collection ----------------------------------------------------------------------------------------------------


def tier_tables(board: Sequence[Row]) -> list[Table]:
    tables = []
    for tier in (ALL_TIERS, *TIERS[:-1]):
        lines = [line for line in board if line["tier"] == tier]
        if lines:
            title = "All certified models" if tier == ALL_TIERS else f"Tier {tier}"
            tables.append(
                Table(
                    f"{title} ({max(line['n_models'] for line in lines)})",
                    ("method", *(column.replace("_", " ") for column in MEDIANS)),
                    [(f"`{line['method']}`", *(_board_cell(line, column) for column in MEDIANS)) for line in lines],
                    "Medians, in brackets their 95 % bootstrap intervals over models; docs/evaluating.md says what the "
                    "columns are. Hamming distances and seconds are better where they are smaller."
                    if tier == ALL_TIERS
                    else "",
                    "collection.svg" if tier == ALL_TIERS else "",
                )
            )
    return tables


def _board_cell(line: Row, column: str) -> str:
    if line[column] is None:
        return "–"
    show = _short if column in _SMALLER_IS_BETTER else share
    ends = [line[f"{column}{end}"] for end in ("_low", "_high")]
    return show(line[column]) + ("" if ends[0] is None else f" [{show(ends[0])}, {show(ends[1])}]")


def cost_table(rows: Sequence[Row]) -> Table:
    lines = []
    for method in methods_of(rows):
        own = [row for row in rows if row["method"] == method]
        seconds, passes = values_of(own, "cpu_seconds"), values_of(own, "forward_passes")
        if seconds:
            backward = statistics.median(values_of(own, "backward_passes"))
            figures = (statistics.median(seconds), max(seconds), sum(seconds), sum(values_of(own, "wall_seconds")))
            lines.append(
                (
                    f"`{method}`",
                    len(own),
                    *map(_short, figures),
                    f"{statistics.median(passes):,.0f}",
                    f"{backward:,.0f}",
                )
            )
    cpu, wall = (sum(values_of(rows, column)) for column in ("cpu_seconds", "wall_seconds"))
    lines.append(("**all**", len(rows), "", "", _short(cpu), _short(wall), "", ""))
    models = len({row["model"] for row in rows})
    return Table(
        "What methods cost",
        ("method", "models", "CPU s: median", "most", "sum", "wall s: sum", "forward passes", "backward passes"),
        lines,
        f"One thread; passes are medians a pair. All {len(methods_of(rows))} methods on {models} models take "
        f"{cpu / 60:.1f} minutes of processor time, {cpu / 60 / BUDGET_CORES:.1f} on {BUDGET_CORES} cores (the aim: "
        f"{BUDGET_MINUTES}); loading models, drawing pairs and measuring faithfulness are not counted. With these, and "
        f"beside other work, {_minutes(rows):.0f} minutes went by from the first row to the last.",
        "costs.svg",
    )


# -- metrics -----------------------------------------------------------------------------------------------------------


def metric_table(main: Sequence[Row], metrics: Sequence[Row]) -> Table:
    """EAP and EAP-IG with each metric, on the models that all have."""
    lines = []
    for method, kind, name, values in metric_groups(main, metrics):
        lines.append(
            (
                f"`{method}`",
                kind,
                f"`{name}`",
                len(values),
                with_interval(values),
                *(share(value) for value in (_mean(values), min(values))),
                sum(value <= 0.5 for value in values),
            )
        )
    return Table(
        "What the metric does to EAP",
        ("method", "outputs", "metric", "models", "median edge AUROC", "mean", "least", "at most 0.5"),
        lines,
        "`logit_difference` is the default; `kl`, the divergence from the model's own output, is at its minimum where "
        "EAP takes its gradient. The same models in each pair of lines.",
        "metrics.svg",
    )


def metric_groups(main: Sequence[Row], metrics: Sequence[Row]) -> list[tuple[str, str, str, list[float]]]:
    """Method, kind of output, metric, and the AUROCs of the models that every metric has been tried on."""
    import json

    groups = []
    for method in methods_of(metrics):
        tables: dict[str, dict[str, float]] = {"logit_difference": _by_model(main, method)}
        for row in metrics:
            if row["method"] == method and row["edge_auroc"] is not None:
                name = json.loads(row["options"]).get("metric", row["options"])
                tables.setdefault(name, {})[row["model"]] = row["edge_auroc"]
        shared = set.intersection(*(set(values) for values in tables.values()))
        for kind in ("classes", "numbers"):
            models = sorted(model for model in shared if output_kind(model) == kind)
            groups += [(method, kind, name, [tables[name][model] for model in models]) for name in tables if models]
    return groups


def saturation_table(rows: Sequence[Row]) -> Table:
    lines = []
    groups = dict.fromkeys((row["method"], row["metric"], row["output"]) for row in rows)
    for method, metric, output in groups:
        own = [row for row in rows if (row["method"], row["metric"], row["output"]) == (method, metric, output)]
        largest = statistics.median(row["largest"] for row in own)
        exact, stairs = (statistics.median(row[name] for row in own) for name in ("auroc", "staircase"))
        n_zero = sum(row["staircase"] == 0 for row in own)
        cells = (f"{largest:.1e}", share(exact), share(stairs), f"{n_zero} of {len(own)}")
        lines.append((f"`{method}`", f"`{metric}`", output, len(own), *cells))
    return Table(
        "Saturated metrics and a grid of thresholds",
        ("method", "metric", "outputs", "cases", "largest score", "exact AUROC", "by thresholds", "0 by thresholds"),
        lines,
        "The paper's cases again, medians. *By thresholds* is the area below the lower staircase through the 16 "
        "thresholds of the 2024 release (0, 1e-5, ..., 100), ties counting against the method "
        "(`benchmarks/discovery/saturation.py`); *exact* counts ties half.",
    )


# -- twins -------------------------------------------------------------------------------------------------------------


def twin_rows(main: Sequence[Row], twins: Sequence[Row]) -> list[Row]:
    """The rows of all three models of each case, for methods and cases that have rows of all three."""
    candidates = [*main, *twins]
    recipes: dict[tuple[str, str], set[str]] = {}
    for row in candidates:
        if row["edge_auroc"] is not None:
            recipes.setdefault((row["case"], row["method"]), set()).add(row["recipe"])
    return [row for row in candidates if len(recipes.get((row["case"], row["method"]), ())) == len(RECIPES)]


def twins_table(main: Sequence[Row], twins: Sequence[Row]) -> Table:
    rows = twin_rows(main, twins)
    lines = []
    for method in methods_of(rows):
        cells = []
        for column in _MIDDLE:
            for recipe in RECIPES:
                own = [row for row in rows if row["recipe"] == recipe]
                values = values_of(own, column, method=method)
                cells.append(share(_mean(values)) if values else "–")
        n_cases = len({row["case"] for row in rows if row["method"] == method})
        lines.append((f"`{method}`", n_cases, *cells))
    names = {"edge_auroc": "AUROC", "best_f1": "best F1", "agreement_at_size": "agreement"}
    header = ("method", "cases", *(f"{names[column]}: {word}" for column in _MIDDLE for word in RECIPES.values()))
    return Table(
        "A wrong answer key",
        header,
        lines,
        "Means over cases. The same methods on three models of each case: certified, trained by the node-level recipe "
        "of 2024, trained on the output alone; all scored against the program's circuit, which is certified for the "
        "first only. Agreement: outputs that stay when all but the found circuit is ablated, 0 as with "
        "every edge ablated.",
        "twins.svg",
    )


def twins_by_case_table(main: Sequence[Row], twins: Sequence[Row]) -> Table:
    rows = twin_rows(main, twins)
    methods = methods_of(rows)
    found = {(row["case"], row["method"], row["recipe"]): row["edge_auroc"] for row in rows}
    lines = []
    for case in dict.fromkeys(row["case"] for row in rows):
        cells = [
            " / ".join(share(found[case, method, recipe]) for recipe in RECIPES)
            if (case, method, "siit") in found
            else "–"
            for method in methods
        ]
        lines.append((case, *cells))
    return Table(
        "The same by case",
        ("case", *(f"`{method}`" for method in methods)),
        lines,
        "Edge AUROC: certified / node-level / output only.",
    )


# -- helpers -----------------------------------------------------------------------------------------------------------


def with_interval(values: Sequence[float]) -> str:
    """The median with its bootstrap interval, cut off."""
    if not values:
        return "–"
    interval = bootstrap_interval(values)
    median = share(statistics.median(values))
    return median if interval is None else f"{median} [{share(interval.low)}, {share(interval.high)}]"


@cache
def output_kind(model: str) -> str:
    """`classes` or `numbers`."""
    from interpbench_hub.cases import get_case
    from interpbench_hub.collecting import case_of

    return "classes" if get_case(case_of(model)).categorical else "numbers"


def _by_model(rows: Iterable[Row], method: str) -> dict[str, float]:
    of_method = [row for row in rows if row["method"] == method and row["edge_auroc"] is not None]
    return {row["model"]: row["edge_auroc"] for row in of_method}


def _minutes(rows: Sequence[Row]) -> float:
    """Minutes by the clock from the first row to the last."""
    made = [datetime.fromisoformat(row["created"]) for row in rows]
    return (max(made) - min(made)).total_seconds() / 60


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def _short(value: Any) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
