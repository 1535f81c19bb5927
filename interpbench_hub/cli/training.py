"""Commands that train models, certify them and fill the collection."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from interpbench_hub.certificate import Grade
from interpbench_hub.cli.common import Device, Seed, Tier, app, case_id, errors, print_text
from interpbench_hub.training_table import TrainingTable, check_text, summary


@app.command()
def train(
    case_ids: Annotated[list[str] | None, typer.Argument(metavar="CASE", help="Ids of cases, such as case_3.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Train every case.")] = False,
    tier: Annotated[Tier | None, typer.Option(help="Train every case of this tier.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the run, runs/<case>/<recipe>_<seed> if left out; for several cases the folder of all "
            "runs, runs if left out."
        ),
    ] = None,
    seed: Seed = 0,
    recipe: Annotated[str, typer.Option(help="edge-siit, siit (per node) or behaviour.")] = "edge-siit",
    max_steps: Annotated[
        int | None,
        typer.Option(
            help="Steps after which training ends, whatever the grade; a run that ended short of its goal goes on if "
            "it is given more."
        ),
    ] = None,
    goal: Annotated[
        Literal["path", "edge"] | None,
        typer.Option(
            help="Grade that ends training early; path if left out, and the recipe's own for siit and behaviour."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change any other field of the recipe; may be repeated."),
    ] = None,
    device: Device = "cpu",
    threads: Annotated[
        int, typer.Option(min=1, help="Threads of each run; with 2, wide models take two thirds of the time.")
    ] = 1,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what is in the folder and start anew.")] = False,
    start_from: Annotated[
        str | None,
        typer.Option(
            help="Folder or name of a model, bundled or on the Hub, whose weights to begin with: of the same case, or "
            "of one that shares variables, tokens and widths. Its steps count in --max-steps."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Runs at the same time; as many as there are cores for if left out.")
    ] = None,
    attempts: Annotated[
        int | None, typer.Option(help="Seeds a case gets at most, counted from --seed; 3 if left out.")
    ] = None,
    accept: Annotated[
        Literal["edge", "path"] | None,
        typer.Option(help="Least grade with which a case needs no further attempt; edge if left out."),
    ] = None,
    backend: Annotated[
        Literal["process", "ray"] | None,
        typer.Option(help="Processes of this machine, or a Ray cluster; process if left out."),
    ] = None,
    imports: Annotated[
        list[str] | None, typer.Option("--import", metavar="MODULE", help="Import a module that registers cases.")
    ] = None,
) -> None:
    """Train models and certify them. What was interrupted goes on where it stopped when called again.

    One CASE is trained by itself. Several, or --all, or any of --workers, --attempts, --accept and --backend, train
    side by side: each case gets one seed after another until a model is good enough, and <out>/<case>/attempts.json
    lists them. The exit status is 1 if an error or a crash left a case without one.
    """
    from interpbench_hub.siit.recipe import settings

    ids = [case_id(text) for text in case_ids or ()]
    if bool(ids) == (all_ or tier is not None):
        raise typer.BadParameter("name one case or more, or give --all or --tier (but not both)")
    many = {"workers": workers, "attempts": attempts, "accept": accept, "backend": backend}
    given = {name: value for name, value in many.items() if value is not None}
    common: dict[str, Any] = {
        **settings(set_ or ()),
        "seed": seed,
        "recipe": recipe,
        "device": device,
        "threads": threads,
        **{name: value for name, value in (("max_steps", max_steps), ("goal", goal)) if value is not None},
    }
    if len(ids) == 1 and not given:
        _import(imports)
        _train_one(ids[0], out=out, restart=restart, start_from=start_from, **common)
        return
    if restart:
        raise typer.BadParameter("--restart is for one run; to train anew, delete the runs or choose another --out")
    if start_from is not None:
        raise typer.BadParameter("--start-from is for one run; name one case, and none of the options of many")
    _import(imports)
    _train_many(ids, tier, out=out or Path("runs"), imports=imports or (), **common, **given)


def _import(modules: list[str] | None) -> None:
    from interpbench_hub.siit.jobs import import_modules

    import_modules(modules or ())


def _train_one(case: str, **options: Any) -> None:
    from interpbench_hub.loader import load_certificate
    from interpbench_hub.siit import train as run

    with _resumable(), _interruptible(), _TrainingBar(case) as bar:
        folder = run(case, report=bar.report, **options)
    print_text(str(load_certificate(folder)))
    print_text(f"checkpoint in {folder}")


def _train_many(ids: list[str], tier: Tier | None, **options: Any) -> None:
    from interpbench_hub.cases import list_cases
    from interpbench_hub.siit import train_all

    with _resumable(), TrainingTable(errors) as table:
        cases = ids or list_cases(**({"tier": tier} if tier else {}))
        outcomes = train_all(cases, report=table.report, **options)
    for outcome in outcomes:
        if outcome.status == "short" and outcome.chosen is not None:
            n_tried = len(outcome.attempts)
            print_text(f"{outcome.case}: grade {outcome.chosen.grade} is the best of {n_tried} attempts")
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed:
        print_text(f"{outcome.case}: failed: {outcome.error}")
    print_text(f"{summary(table.progress.counts(), len(outcomes))}; runs and ledgers in {options['out']}")
    if failed:
        raise typer.Exit(1)


@app.command()
def certify(
    folder: Annotated[Path, typer.Argument(help="A checkpoint folder.", exists=True, file_okay=False)],
    seed: Seed = 0,
    device: Device = "cpu",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Measure and print, but write nothing.")] = False,
) -> None:
    """Measure a checkpoint's certificate from its weights and write it into the folder."""
    from interpbench_hub.siit import certify as measure
    from interpbench_hub.siit.runs import certify_folder

    with _bar() as bar:
        task = bar.add_task("single edges", total=None)
        certificate = (measure if dry_run else certify_folder)(
            folder, seed=seed, device=device, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    print_text(str(certificate))


@app.command()
def bundle(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Checkpoint folders.", exists=True, file_okay=False)
    ] = None,
    collection: Annotated[Path | None, typer.Option(help="The collection; the package's own if left out.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="The chosen model of every case in the folder of runs.")] = False,
    runs: Annotated[
        Path | None, typer.Option("--from", help="The folder of runs, runs if left out; means --all.")
    ] = None,
    least: Annotated[
        Grade, typer.Option(help="With --all: leave out models of a lower grade, but for comparison twins.")
    ] = "none",
) -> None:
    """Put certified checkpoints into the bundled collection and renew its manifest."""
    from interpbench_hub.collecting import bundle as put
    from interpbench_hub.collecting import bundle_all

    if bool(folders) == (all_ or runs is not None):
        raise typer.BadParameter("give checkpoint folders, or --all or --from for a folder of runs (but not both)")
    places = put(folders, collection) if folders else bundle_all(runs or Path("runs"), collection, least=least)
    for place in places:
        print_text(f"bundled {place}")


@contextmanager
def _resumable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        errors.print("interrupted; the same command goes on from the last saved state", highlight=False)
        raise typer.Exit(130) from None


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM both interrupt: shells let background jobs ignore the one, and schedulers send the other."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bar(*columns: TextColumn) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        *columns,
        TimeElapsedColumn(),
        console=errors,
    )


class _TrainingBar:
    """A live line for one run: step; losses of behaviour, circuit and outside; worst node, edge and complement."""

    def __init__(self, case: str) -> None:
        self._bar = _bar(TextColumn("{task.fields[losses]}"), TextColumn("{task.fields[worst]}"))
        self._task = self._bar.add_task(case, total=None, losses="", worst="")

    def __enter__(self) -> "_TrainingBar":
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.stop()

    def report(self, event: dict[str, Any]) -> None:
        step = event["step"]
        match event["event"]:
            case "start":
                # Not before: what is wrong with the call should not stand below an empty bar.
                self._bar.start()
                self._bar.update(self._task, total=event["max_steps"], completed=step)
            case "step":
                losses = " ".join(f"{loss:.4f}" for loss in event["losses"].values())
                self._bar.update(self._task, completed=step, losses=f"loss {losses}")
            case "check":
                self._bar.update(self._task, completed=step, worst=check_text(event))
            case "certificate":
                self._bar.console.print(f"step {step}: grade {event['grade']}", highlight=False)
                for failure in event["failures"]:
                    self._bar.console.print(f"  falls short: {json.dumps(failure)}", highlight=False)
            case "end":
                self._bar.update(self._task, completed=step, total=step)
