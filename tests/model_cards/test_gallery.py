"""The checked-in cards."""

from functools import cache
from pathlib import Path

import card_markdown as markdown
import pytest

from interpbench_hub.hub import list_models
from model_cards import gallery
from model_cards.gallery import CARDS, FOLDER


@cache
def files() -> dict[Path, str]:
    return gallery.gallery()


def test_every_bundled_model_has_a_card_and_a_drawing_and_nothing_else_is_there() -> None:
    cards = {CARDS / f"{model}.{kind}" for model in list_models() for kind in ("md", "svg")}
    assert set(files()) == {FOLDER / "README.md", *cards}


def test_links_of_all_cards_lead_to_files_of_the_working_tree() -> None:
    for path, text in files().items():
        if path.suffix != ".md":
            continue
        for link in markdown.links(text):
            if not link.startswith(("https://", "#")):
                target = (path.parent / link).resolve()
                assert target in files() or target.is_file(), f"{path.name}: {link}"


def test_the_index_has_a_row_for_every_model() -> None:
    rows = markdown.table(files()[FOLDER / "README.md"], "model", "task")
    assert [row[0] for row in rows] == list_models()
    assert ["case_3", "single-head", "edge-siit", "path", "6 of 137"] in [[row[0], *row[2:]] for row in rows]


def test_cards_of_models_that_are_gone_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gallery, "CARDS", tmp_path)
    for name in ("case_3.md", "gone.md"):
        (tmp_path / name).write_text("")
    assert gallery.superfluous({tmp_path / "case_3.md": ""}) == [tmp_path / "gone.md"]
