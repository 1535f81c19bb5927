"""The command line: `python -m dataset_builders build case_3 --out DIR`; `circuits` and `results` are made likewise."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from dataset_builders.circuits import write_circuits
from dataset_builders.folders import build_datasets
from dataset_builders.settings import DEFAULT_ROWS
from interpbench_hub.errors import InterpBenchError, SettingError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Datasets of the cases as parquet files, with counterfactuals to patch with."""


@app.command()
def build(
    cases: Annotated[list[str] | None, typer.Argument(help="Ids of cases, such as case_3.")] = None,
    out: Annotated[Path, typer.Option(help="Folder to write to; one folder a case.")] = Path("datasets"),
    every: Annotated[bool, typer.Option("--all", help="Build every registered case.")] = False,
    workers: Annotated[int, typer.Option(help="Processes to build in.")] = 1,
    rows: Annotated[tuple[int, int, int], typer.Option(help="Rows of train, validation and test.")] = DEFAULT_ROWS,
    seed: Annotated[int, typer.Option(help="Another seed makes another dataset.")] = 0,
) -> None:
    """Build the datasets of some cases, or of all; what is finished is skipped."""
    console = Console()
    with _errors_explained():
        ids = _ids(cases or [], every)
        built = _with_progress(console, ids, out, workers, rows, seed)
    skipped = len(ids) - built
    console.print(f"built {built}, skipped {skipped} that were finished: {escape(str(out))}", soft_wrap=True)


@app.command()
def circuits(
    out: Annotated[Path, typer.Option(help="Folder to write the tables and their card to.")] = Path("circuits"),
) -> None:
    """Write the circuits of the bundled models as tables, with the card that introduces the collection."""
    with _errors_explained():
        folder = write_circuits(out)
    Console().print(f"wrote {escape(str(folder))}", soft_wrap=True)


@app.command()
def results(
    out: Annotated[Path, typer.Option(help="Folder to write the tables and their card to.")] = Path("results"),
) -> None:
    """Write how discovery methods do on the bundled models as tables, with their card."""
    from dataset_builders.results import write_results

    with _errors_explained():
        folder = write_results(out)
    Console().print(f"wrote {escape(str(folder))}", soft_wrap=True)


@contextmanager
def _errors_explained() -> Iterator[None]:
    """Ends the command with the message of an error of ours, without a traceback."""
    try:
        yield
    except InterpBenchError as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True, highlight=False)
        raise typer.Exit(1) from error


def _ids(cases: list[str], every: bool) -> list[str]:
    if every == bool(cases):
        raise SettingError("give the ids of cases to build, or --all for every case, and not both")
    if not every:
        return list(dict.fromkeys(cases))
    from interpbench_hub.cases import list_cases

    return [case.id for case in list_cases()]


def _with_progress(
    console: Console, ids: list[str], out: Path, workers: int, rows: tuple[int, int, int], seed: int
) -> int:
    """Builds the cases behind a progress bar; how many were built, the others being finished."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    built = 0
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("building", total=len(ids))
        for case_id, is_new in build_datasets(ids, out, seed=seed, rows=rows, workers=workers):
            built += is_new
            progress.update(task, advance=1, description=f"{case_id} done")
    return built


if __name__ == "__main__":
    app()
