"""A Markdown parser's view of a card, for the tests of this folder."""

import re
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token


@cache
def parser() -> MarkdownIt:
    return MarkdownIt("commonmark").enable("table")


def body(card: str) -> str:
    """A card without its metadata."""
    return card.split("\n---\n", 1)[1]


def raw_rows(text: str) -> list[list[list[str]]]:
    """Tables as they are written: the cells of every line, outside code blocks."""
    tables: list[list[list[str]]] = []
    inside, previous = False, ""
    for line in text.splitlines():
        if line.startswith("```"):
            inside = not inside
        if not inside and line.startswith("|"):
            if not previous.startswith("|"):
                tables.append([])
            # A backslash before a bar escapes it, whatever stands before the backslash.
            tables[-1].append(re.split(r"(?<!\\)\|", line)[1:-1])
        previous = "" if inside else line
    return tables


def tables(text: str) -> list[list[list[str]]]:
    """Tables as a parser shows them: the plain text of every cell."""
    found: list[list[list[str]]] = []
    tokens = parser().parse(text)
    for place, token in enumerate(tokens):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("td_open", "th_open"):
            found[-1][-1].append(shown(tokens[place + 1]))
    return found


def table(text: str, *header: str) -> list[list[str]]:
    """The rows of the table whose header begins with these cells."""
    return next(rows[1:] for rows in tables(text) if rows[0][: len(header)] == list(header))


def shown(token: Token) -> str:
    """The text of an inline token, marks taken off."""
    return "".join(child.content for child in token.children or [] if child.type in ("text", "code_inline"))


def inline(text: str) -> str:
    """What a reader sees of a line."""
    return shown(parser().parseInline(text)[0])


def links(text: str) -> list[str]:
    """Targets of all links and pictures."""
    found = []
    for token in parser().parse(text):
        for child in token.children or []:
            found += [str(child.attrs[name]) for name in ("href", "src") if name in child.attrs]
    return found


def code_blocks(text: str, language: str) -> list[str]:
    return [token.content for token in parser().parse(text) if token.type == "fence" and token.info == language]


def headings(text: str) -> list[str]:
    tokens = parser().parse(text)
    return [shown(tokens[place + 1]) for place, token in enumerate(tokens) if token.type == "heading_open"]
