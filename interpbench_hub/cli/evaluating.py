"""Commands that judge circuit discovery methods: run them, score what others found, compare results."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from interpbench_hub.cli.common import Seed, Tier, app, case_id, console, errors, print_text
from interpbench_hub.errors import SettingError

if TYPE_CHECKING:
    from pandas import DataFrame

    from interpbench_hub.discovery.comparison import Interval

Granularity = Literal["qkv-edge", "edge", "node"]
Ablation = Literal["resample", "zero", "mean"]

_SHOWN = ("edge_auroc", "node_auroc", "cpr_agreement", "cpu_seconds")
"""Columns of the table after an evaluation, unless others are asked for: what fits a terminal of 80 columns."""


@app.command()
def evaluate(
    methods: Annotated[
        list[str], typer.Argument(metavar="METHOD", help="Names (`interpbench methods`), or package.module:function.")
    ],
    cases: Annotated[
        list[str] | None,
        typer.Option("--cases", "--case", help="Models: case_3,case_8_siit,namespace/id or folders."),
    ] = None,
    tier: Annotated[Tier | None, typer.Option(help="All certified models of this tier.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All certified models that come along.")] = False,
    out: Annotated[Path, typer.Option(help="Folder that keeps the rows; a call that was cut short goes on.")] = Path(
        "results"
    ),
    workers: Annotated[
        int | None, typer.Option(help="Processes at the same time; as many as cores if left out.")
    ] = None,
    granularity: Annotated[
        Granularity, typer.Option(help="Edges into q, k and v, edges into heads as wholes, or nodes.")
    ] = "qkv-edge",
    ablation: Annotated[Ablation, typer.Option(help="What replaces the value of an edge.")] = "resample",
    pairs: Annotated[int, typer.Option(help="Pairs of inputs a model.")] = 256,
    faithfulness_pairs: Annotated[
        int, typer.Option(help="Pairs of these that faithfulness is measured on; 0 leaves it out.")
    ] = 128,
    seed: Seed = 0,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="An option of the methods, its value as JSON or text."),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="A column of the table that is printed; several times.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Make rows again that are there.")] = False,
) -> None:
    """Run circuit discovery methods on models with known circuits and score what they find.

    Rows go into <out> as they come; <out>/results.parquet has all columns (docs/evaluating.md). The exit status is 1 if
    a row has an error.
    """
    from interpbench_hub.discovery.evaluation import evaluate as run
    from interpbench_hub.discovery.results import check_metric

    for one in metric or ():
        check_metric(one)
    if bool(cases or tier) == all_:
        raise typer.BadParameter("name models by --cases or --tier, or give --all (but not both)")
    named = [case_id(name) for text in cases or () for name in text.split(",")]
    chosen = None if all_ else [*named, *([tier] if tier else [])]
    try:
        with _bar() as bar:
            table = run(
                methods,
                chosen,
                granularity=granularity,
                ablation=ablation,
                n_pairs=pairs,
                faithfulness_pairs=faithfulness_pairs,
                seed=seed,
                workers=workers,
                out=out,
                restart=restart,
                report=_Reporter(bar),
                **_options(option or ()),
            )
    except KeyboardInterrupt:
        errors.print(f"interrupted; the rows so far are in {out}, the same command goes on", highlight=False)
        raise typer.Exit(130) from None
    _print_summary(table, metric or _SHOWN)
    failed = [
        (name, model, error)
        for name, model, error in zip(table["method"], table["model"], table["error"], strict=True)
        if isinstance(error, str)
    ]
    for name, model, error in failed:
        print_text(f"{name} on {model}: {error}")
    n_failed = f", {len(failed)} with an error" if len(failed) else ""
    print_text(f"{len(table)} rows{n_failed}; all columns in {out / 'results.parquet'}")
    if len(failed):
        raise typer.Exit(1)


def _options(texts: Iterable[str]) -> dict[str, Any]:
    from interpbench_hub.validation import json_or_text

    found: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.isidentifier():
            raise typer.BadParameter(f"option {text!r} is not of the form name=value")
        found[name.replace("-", "_")] = json_or_text(value)
    return found


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[last]}", markup=False),
        console=errors,
    )


class _Reporter:
    """Moves the bar as rows come in, and names the last one."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: Any = None

    def __call__(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "jobs":
                # Not before: what is wrong with the call should not stand below an empty bar.
                self._task = self._bar.add_task("rows", total=event["total"], completed=event["kept"], last="")
            case "row":
                row = event["row"]
                what = "error" if row["error"] else f"{row['cpu_seconds']:.1f} s"
                self._bar.update(self._task, advance=1, last=f"{row['method']} {row['model']}: {what}")


def _print_summary(table: "DataFrame", metrics: Sequence[str]) -> None:
    """Medians by method and tier, and below each its bootstrap interval over models."""
    from interpbench_hub.discovery.results import summarise

    shown = Table(box=None, header_style="bold", pad_edge=False)
    shown.add_column("method")
    shown.add_column("tier", no_wrap=True)
    shown.add_column("models", justify="right")
    for metric in metrics:
        shown.add_column(metric.replace("_", " "), justify="right")
    for lines in zip(*(summarise(table, metric) for metric in metrics), strict=True):
        most = max(line.n for line in lines)
        if most:
            cells = [_cell(line.median, line.interval) for line in lines]
            shown.add_row(lines[0].label, lines[0].tier or "all", str(most), *cells)
    if shown.row_count:
        console.print(shown)
        print_text("medians over models, below them their 95 % bootstrap intervals")


def _cell(median: float | None, interval: "Interval | None") -> str:
    if median is None:
        return ""
    return f"{median:.3g}" if interval is None else f"{median:.3g}\n{interval.low:.2g} – {interval.high:.2g}"


@app.command()
def methods(as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of objects.")] = False) -> None:
    """List the circuit discovery methods that come along, and the options each of them has."""
    from interpbench_hub.discovery.methods import METHODS

    rows = [
        {"name": entry.name, "title": entry.title, "paper": entry.paper, "path": entry.path, "options": entry.options}
        for entry in METHODS.values()
    ]
    if as_json:
        print_text(json.dumps(rows, indent=1, default=repr))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("method", no_wrap=True)
    for heading in ("what it is", "paper", "options"):
        table.add_column(heading)
    for row in rows:
        options = ", ".join(f"{name}={_brief(value)}" for name, value in row["options"].items())
        table.add_row(row["name"], row["title"], row["paper"], options)
    console.print(table)


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:21] + "..."


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help="JSON of scores: ours, or that of EAP-IG and MIB, ACDC, auto-circuit.")],
    name: Annotated[str, typer.Argument(metavar="CASE", help="The model that was scored, as load_model takes it.")],
    missing: Annotated[
        float | None, typer.Option(help="Score of edges that the file leaves out; else they have to be there.")
    ] = None,
    absolute: Annotated[bool, typer.Option("--absolute", help="Rank by the size of signed scores.")] = False,
    granularity: Annotated[
        Granularity | None, typer.Option(help="What the file scores, if that is to be said.")
    ] = None,
    ablation: Annotated[Ablation, typer.Option(help="What replaces the value of an edge, for faithfulness.")] = (
        "resample"
    ),
    pairs: Annotated[int, typer.Option(help="Pairs of inputs for faithfulness; 0 leaves it out.")] = 128,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Score the edges or nodes of a model that were found elsewhere, and print every metric."""
    from interpbench_hub.discovery.scoring import METRICS
    from interpbench_hub.discovery.subject import score_file

    found = score_file(
        file,
        case_id(name),
        missing=missing,
        absolute=absolute,
        granularity=granularity,
        ablation=ablation,
        n_pairs=pairs,
        seed=seed,
    )
    if as_json:
        print_text(json.dumps(found, indent=1))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("what it is")
    for metric, value in found.items():
        table.add_row(metric, "undefined" if value is None else f"{value:.4g}", METRICS[metric])
    console.print(table)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="METHOD", help="A method of the results.")],
    second: Annotated[str, typer.Argument(metavar="METHOD", help="The one it is compared with.")],
    results: Annotated[
        list[Path] | None,
        typer.Option("--from", help="Folder or parquet file of results, results if left out; several times."),
    ] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Metrics to compare by, edge_auroc if left out.")] = None,
    tier: Annotated[Tier | None, typer.Option(help="Only models of this tier.")] = None,
) -> None:
    """Compare two methods over models: medians, paired Wilcoxon test, Vargha-Delaney A12."""
    from interpbench_hub.discovery.results import compare as compared
    from interpbench_hub.discovery.results import read_results

    table = read_results(*(results or [Path("results")]))
    for one in metric or ["edge_auroc"]:
        found = compared(table, first, second, one, tier=tier)
        if found.medians is None:
            of_tier = f" of tier {tier}" if tier else ""
            raise SettingError(
                f"no model{of_tier} has {one} for both {first} and {second}; evaluate both on the same models"
            )
        test = "too few for a test" if found.test is None else f"p = {found.test.p:.2g} (Wilcoxon, two-sided)"
        print_text(
            f"{one}: {first} {found.medians[0]:.4g}, {second} {found.medians[1]:.4g} (medians of {found.n} models); "
            f"{found.n_differ} differ, {test}; A12 = {found.a12:.3f} for {first} ({found.effect})"
        )
