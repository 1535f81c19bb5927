"""What all commands share: the application they belong to, where they print, options that several have."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from interpbench_hub.constants import NAMESPACE

app = typer.Typer(
    help="Small transformers with known circuits, certified edge by edge.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()
errors = Console(stderr=True)

Tier = Literal["elementwise", "single-head", "multi-head", "deep"]

Seed = Annotated[int, typer.Option(help="What all random draws start from.")]
Device = Annotated[str, typer.Option(help="Where to run: cpu, cuda, ...")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub; then nothing bundled is used.")]
CacheDir = Annotated[Path | None, typer.Option(help="Where downloads are kept; the Hub's own cache if left out.")]


def case_id(text: str) -> str:
    """Models are published as interpbench/<case>; whoever types that means the case."""
    return text.removeprefix(f"{NAMESPACE}/")


def print_text(text: str) -> None:
    """Text as it is: no markup, no colours, no wrapping of its own."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def print_error(text: str) -> None:
    """The text of an error, as it is, on standard error."""
    # Not as markup: what users typed may have brackets in it.
    errors.print(Text.assemble(("error:", "red"), f" {text}"), highlight=False, soft_wrap=True)


def named_models(names: list[str] | None, all_: bool) -> list[str]:
    """The models a command is about: those named, each once, or all bundled ones."""
    from interpbench_hub.hub import list_models

    if bool(names) == all_:
        raise typer.BadParameter("name one model or more, or give --all (but not both)")
    return list(dict.fromkeys(names or list_models()))
