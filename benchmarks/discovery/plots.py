"""The charts that go with the tables, by file name."""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence

from benchmarks.discovery.charts import Axis, Series, strip_chart
from benchmarks.discovery.tables import PAPER_MEDIANS, RECIPES, metric_groups, of_paper, twin_rows
from dataset_builders.results import ALL_TIERS, Row, methods_of, part, values_of

_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_AREA = Axis("edge AUROC", 0.0, 1.0, _SHARES)


def all_plots(rows: Sequence[Row], board: Sequence[Row]) -> dict[str, str]:
    """The SVG text of each chart that there are rows for; `board` is their leaderboard."""
    main, metrics, twins = (part(rows, config) for config in ("methods", "metrics", "twins"))
    plots: dict[str, Callable[[], str]] = {
        "paper.svg": lambda: paper_plot(main),
        "collection.svg": lambda: collection_plot(board),
        "costs.svg": lambda: costs_plot(main),
    }
    if metrics:
        plots["metrics.svg"] = lambda: metrics_plot(main, metrics)
    if twin_rows(main, twins):
        plots["twins.svg"] = lambda: twins_plot(main, twins)
    return {name: plot() for name, plot in plots.items()}


def paper_plot(rows: Sequence[Row]) -> str:
    own = of_paper(rows)
    lanes = []
    for method, median in PAPER_MEDIANS.items():
        values = values_of(own, "edge_auroc", method=method)
        here = Series("cases", values, _median(values), reference=median)
        lanes.append((method, [here]))
    legend = "dots: cases here; filled diamond: their median; hollow diamond: the paper's median"
    return strip_chart("The paper's comparison on certified models", _AREA, lanes, legend)


def collection_plot(board: Sequence[Row]) -> str:
    lanes: dict[str, list[Series]] = {}
    for line in board:
        if line["tier"] != ALL_TIERS:
            low, high = line["edge_auroc_low"], line["edge_auroc_high"]
            interval = None if low is None else (low, high)
            lanes.setdefault(line["method"], []).append(Series(line["tier"], (), line["edge_auroc"], interval))
    legend = "diamonds: medians over models; bars: their 95 % bootstrap intervals"
    return strip_chart("All certified models", _upper_axis(lanes.values()), list(lanes.items()), legend)


def costs_plot(rows: Sequence[Row]) -> str:
    lanes = []
    for method in methods_of(rows):
        values = values_of(rows, "cpu_seconds", method=method)
        lanes.append((method, [Series("models", values, _median(values))]))
    seconds = values_of(rows, "cpu_seconds")
    decades = range(math.floor(math.log10(min(seconds))), math.ceil(math.log10(max(seconds))) + 1)
    ticks = [10.0**decade for decade in decades]
    axis = Axis("processor seconds of one thread", ticks[0], ticks[-1], ticks, is_log=True)
    return strip_chart("What methods cost", axis, lanes, "dots: models; diamonds: medians")


def metrics_plot(main: Sequence[Row], metrics: Sequence[Row]) -> str:
    lanes: dict[str, list[Series]] = {}
    for method, kind, name, values in metric_groups(main, metrics):
        lanes.setdefault(f"{method}, {kind}", []).append(Series(name, values, _median(values)))
    title = "What the metric does to EAP"
    return strip_chart(
        title, _AREA, list(lanes.items()), "dots: models; diamonds: medians; numbers and classes: outputs"
    )


def twins_plot(main: Sequence[Row], twins: Sequence[Row]) -> str:
    rows = twin_rows(main, twins)
    lanes = []
    for method in methods_of(rows):
        series = []
        for recipe, word in RECIPES.items():
            values = values_of([row for row in rows if row["recipe"] == recipe], "edge_auroc", method=method)
            series.append(Series(word, values, statistics.fmean(values)))
        lanes.append((method, series))
    legend = "dots: cases, all scored against the program's circuit; diamonds: means"
    return strip_chart("A wrong answer key", _upper_axis(series for _, series in lanes), lanes, legend)


def _upper_axis(rows: Iterable[Sequence[Series]]) -> Axis:
    """AUROC from the tenth below everything that is shown up to 1."""
    shown = [value for series in rows for one in series for value in (*one.values, one.mark, *(one.interval or ()))]
    first = math.floor(10 * min((value for value in shown if value is not None), default=0.0))
    ticks = [tenths / 10 for tenths in range(min(first, 9), 11)]
    return Axis("edge AUROC", ticks[0], 1.0, ticks)


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
