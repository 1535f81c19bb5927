"""Filling in the card templates of `templates/`, and the pieces of Markdown that any card is made of.

What goes into a template is up to the modules of each card.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"

_SPECIAL = re.compile(r"[\\`*\[\]<>~$&]|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown (or the Hub's formulas) could take for more than text; an underscore within a word is safe."""


def render(template: str, **values: object) -> str:
    """The text of a template (a file name in `templates/`) with its values; a value that is missing is an error."""
    return _environment().get_template(template).render(values).rstrip("\n") + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in Markdown; in a cell a `|` is escaped and a line break becomes a space."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def code(text: object) -> str:
    """A code span that shows the text as it is, backticks and all.

    >>> code("m0->a1.h0<v>"), code("a`b")
    ('`m0->a1.h0<v>`', '``a`b``')
    """
    content = _one_line(text)
    ticks = "`" * (_longest_run(content) + 1)
    # Markdown takes one space off each side where there is one on both.
    space = " " if content.startswith(("`", " ")) or content.endswith(("`", " ")) else ""
    return f"{ticks}{space}{content}{space}{ticks}"


def code_block(text: str, language: str = "") -> str:
    """A fenced block whose fence is longer than any in the text."""
    fence = "`" * max(3, _longest_run(text) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def plain(text: str) -> str:
    """Text that Markdown shows as it is.

    >>> plain("is_x, as in 0<2")
    'is_x, as in 0\\\\<2'
    """
    return _SPECIAL.sub(lambda match: "\\" + match[0], _one_line(text))


def listing(items: Sequence[object], most: int) -> str:
    """The items with commas between, and after `most` of them how many more there are.

    >>> listing("abc", 3), listing("abcd", 2)
    ('a, b, c', 'a, b, … and 2 more')
    """
    if len(items) <= most:
        return ", ".join(map(str, items))
    return ", ".join(map(str, items[:most])) + f", … and {len(items) - most} more"


def _cell(content: object) -> str:
    return _one_line(content).replace("|", "\\|")


def _one_line(text: object) -> str:
    return re.sub(r"\s*[\n\r]\s*", " ", str(text))


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    environment.filters["table"] = lambda rows, header: table(header, rows)
    environment.filters |= {"code": code, "code_block": code_block, "plain": plain}
    return environment
