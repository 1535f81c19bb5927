"""Methods in model cards: the checked-in JSON against the study's rows, and which cards show them."""

import json
import math
from typing import Any

import card_markdown as markdown
import pytest

from dataset_builders.results import load_rows, part
from interpbench_hub.manifest import load_manifest
from model_cards import methods
from model_cards.methods import METHODS_HEADER, method_rows, methods_json
from model_cards.model_card import model_card

COLUMNS = ("edge_auroc", "edge_auroc_no_embedding", "best_f1", "node_auroc", "agreement_at_size")


def rows_of(model: str) -> list[dict[str, Any]]:
    return [row for row in part(load_rows(), "methods") if row["model"] == model]


STUDIED = next(row["model"] for row in load_rows() if row["recipe"] == "edge-siit")


def test_the_file_is_that_of_the_checked_in_rows() -> None:
    assert methods.METHODS_FILE.read_text(encoding="utf-8") == methods_json(part(load_rows(), "methods"))


def test_a_card_shows_every_method_with_figures_cut_off() -> None:
    shown = markdown.table(markdown.body(model_card(STUDIED)), *METHODS_HEADER[:2])
    rows = rows_of(STUDIED)
    assert [cells[0] for cells in shown] == [row["method"] for row in rows]
    for cells, row in zip(shown, rows, strict=True):
        for cell, column in zip(cells[1:6], COLUMNS, strict=True):
            if row[column] is None:
                assert cell == "–"
            else:
                assert 0 <= row[column] - float(cell) < 0.001 + 1e-9
        assert math.isclose(float(cells[6]), row["cpu_seconds"], rel_tol=0.06)


def test_other_weights_and_twins_have_no_such_section() -> None:
    sha256 = rows_of(STUDIED)[0]["weights_sha256"]
    assert method_rows(STUDIED, sha256)
    assert method_rows(STUDIED, "0" * 64) == method_rows("none", sha256) == []
    for model in ("case_3_siit", "case_3_natural"):
        assert model in load_manifest()["models"]
        assert "## Methods on this model" not in model_card(model)


def test_rows_with_an_error_are_left_out_and_what_is_undefined_is_null() -> None:
    row = {**rows_of(STUDIED)[0], "edge_auroc": None, "best_f1": 0.99999, "cpu_seconds": 0.01234}
    model = json.loads(methods_json([row, {**row, "method": "eap", "error": "it broke"}]))[STUDIED]
    assert list(model["methods"]) == [row["method"]]
    figures = model["methods"][row["method"]]
    assert (figures[0], figures[2], figures[-1]) == (None, 0.999, 0.012)


def test_without_the_file_there_are_no_rows(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    methods._models.cache_clear()
    monkeypatch.setattr(methods, "METHODS_FILE", tmp_path / "none.json")
    assert method_rows(STUDIED, rows_of(STUDIED)[0]["weights_sha256"]) == []
    methods._models.cache_clear()
