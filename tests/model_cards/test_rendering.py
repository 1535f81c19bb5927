"""Pieces of Markdown against a Markdown parser."""

import card_markdown as markdown
import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_cards.rendering import code, code_block, listing, plain, render, table

# Bars, ticks, backslashes and marks far more often than among all characters.
TEXT = st.text(st.sampled_from("a |`\\*_<>[]()&~$!#\"'{}%;ü…") | st.characters(categories=["L", "N", "P"]), min_size=1)
LINE = TEXT.map(lambda text: "x" + text + "x")
"""Markdown takes spaces at the ends of a line for layout."""


@settings(deadline=None, derandomize=True)
@given(LINE)
def test_a_code_span_shows_the_text_as_it_is(text: str) -> None:
    assert markdown.inline(code(text)) == text


@settings(deadline=None, derandomize=True)
@given(LINE)
def test_plain_text_is_shown_as_it_is(text: str) -> None:
    assert markdown.inline(plain(text)) == text


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(LINE, LINE), min_size=1, max_size=3))
def test_tables_keep_their_cells_whatever_is_in_them(cells: list[tuple[str, str]]) -> None:
    text = table(["one", "two"], [(code(left), plain(right)) for left, right in cells])
    assert markdown.tables(text) == [[["one", "two"], *map(list, cells)]]
    assert all(len(row) == 2 for row in markdown.raw_rows(text)[0])


def test_line_breaks_do_not_end_a_row() -> None:
    text = table(["one", "two"], [("first\nsecond", code("third\r\nfourth"))])
    assert markdown.tables(text)[0][1] == ["first second", "third fourth"]


@settings(deadline=None, derandomize=True)
@given(TEXT)
def test_a_code_block_ends_after_its_text(text: str) -> None:
    blocks = markdown.code_blocks(code_block(text + "\n```\nmore", "sh") + "\n\nafter", "sh")
    assert blocks == [text + "\n```\nmore\n"]


def test_listings_say_how_many_more_there_are() -> None:
    assert listing([1, 2, 3], 3) == "1, 2, 3"
    assert listing([1, 2, 3, 4], 3) == "1, 2, 3, … and 1 more"


def test_a_value_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="is undefined"):
        render("model_card.md.jinja", provenance={"recipe": "siit"})
