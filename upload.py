"""Publish the bundled collection on the Hugging Face Hub: `python upload.py --all --dry-run`.

A thin command over `interpbench_hub.publish`; docs/publishing.md has the steps around it.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from huggingface_hub.utils import disable_progress_bars
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from interpbench_hub.cli.common import console, errors, print_error
from interpbench_hub.constants import NAMESPACE
from interpbench_hub.errors import InterpBenchError
from interpbench_hub.publishing import Outcome, publish

_STEPS = {"gather": "building and checking", "compare": "comparing with the Hub", "publish": "publishing"}


app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def upload(
    models: Annotated[
        list[str] | None, typer.Argument(metavar="MODEL", help="Ids of bundled models, such as case_3.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every bundled model.")] = False,
    namespace: Annotated[str, typer.Option(help="User or organisation on the Hub.")] = NAMESPACE,
    data: Annotated[Path, typer.Option(help="Folder of the datasets; missing ones are built there.")] = Path("data"),
    private: Annotated[bool, typer.Option("--private", help="Make new repositories private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")] = False,
    move_tag: Annotated[
        bool, typer.Option("--move-tag", help="Let this version's tag follow what has changed since it was set.")
    ] = False,
) -> None:
    """Publish models, datasets, circuits, results and their Collection; what is up to date on the Hub is left alone.

    The access token is the one of HF_TOKEN or `hf auth login`. Interrupt it however you like: the same command goes on.
    The exit status is 1 if anything failed.
    """
    if bool(models) == all_:
        raise typer.BadParameter("name one model or more, or give --all (but not both)")
    # Those of the library, two a repository, would run across ours.
    disable_progress_bars()
    with _Bar() as bar:
        outcomes = publish(
            models or None,
            namespace=namespace,
            data=data,
            private=private,
            dry_run=dry_run,
            move_tag=move_tag,
            report=bar.report,
        )
    _print(outcomes, dry_run)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(1)


class _Bar:
    """One line for each step: gathering, comparing, publishing."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, TextColumn("{task.fields[what]}"), console=errors)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error: object) -> None:
        # Stopped before it has started, it prints an empty line.
        if self._tasks:
            self._progress.stop()

    def report(self, event: dict[str, Any]) -> None:
        step = event["event"]
        # Not before: what is wrong with the call should not stand below an empty bar.
        self._progress.start()
        if step not in self._tasks:
            for task in self._tasks.values():
                self._progress.update(task, completed=self._progress.tasks[task].total, what="")
            self._tasks[step] = self._progress.add_task(_STEPS[step], total=event["total"], what="")
        self._progress.update(self._tasks[step], completed=event["done"], total=event["total"], what=event["what"])


def _print(outcomes: list[Outcome], dry_run: bool) -> None:
    """A table of what is new or different, and a line of counts."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading, justify in (("what", "left"), ("status", "left"), ("files", "right"), ("bytes", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    table.add_column("difference", overflow="fold")
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[outcome.status] = counts.get(outcome.status, 0) + 1
        if outcome.status != "unchanged":
            cells = (outcome.what, outcome.status, str(outcome.n_files), f"{outcome.n_bytes:,}", outcome.detail)
            table.add_row(*cells)
    if table.row_count:
        console.print(table, highlight=False, markup=False)
    text = ", ".join(f"{count} {status}" for status, count in counts.items())
    console.print(f"{'dry run, nothing was sent: ' if dry_run else ''}{text}", highlight=False)


def main() -> None:
    try:
        app()
    except InterpBenchError as error:
        print_error(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
