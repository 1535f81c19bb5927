"""Commands that show what there is."""

import json
import sys
from types import ModuleType
from typing import Any

import pytest

from interpbench_hub.cases import list_cases
from interpbench_hub.constants import LIBRARY_NAME
from interpbench_hub.errors import CheckpointError, DownloadError, UnknownNameError
from interpbench_hub.manifest import load_manifest
from tests.commands import call, main


def listed(*options: object) -> list[dict[str, Any]]:
    code, text = call("list", "--json", *options)
    assert code == 0
    return json.loads(text)


def ids(*options: object) -> list[str]:
    return [row["id"] for row in listed(*options)]


# -- list --------------------------------------------------------------------------------------------------------------


def test_list_shows_every_case_and_filters_by_tier():
    code, everything = call("list")
    assert code == 0
    assert "case_3 " in everything
    assert "case_131" in everything
    code, some = call("list", "--tier", "elementwise")
    assert code == 0
    assert "case_8 " in some
    assert "multi-head" not in some


def test_list_bundled_shows_only_what_comes_along():
    code, text = call("list", "--bundled")
    assert code == 0
    # A long task goes on in the next line, without an id at its head.
    shown = {line.split()[0] for line in text.splitlines()[1:] if line and not line.startswith(" ")}
    assert shown == {case.id for case in list_cases()} & set(load_manifest()["models"])
    assert ids("--bundled") == [case.id for case in list_cases() if case.id in load_manifest()["models"]]


def test_the_json_of_the_list_says_all_that_the_table_says():
    models = load_manifest()["models"]
    rows = listed()
    assert [row["id"] for row in rows] == [case.id for case in list_cases()]
    for row, case in zip(rows, list_cases(), strict=True):
        assert row == {
            "id": case.id,
            "case": case.id,
            "task": case.description,
            "tier": case.tier,
            "heads": case.n_attention_heads,
            "edges": len(case.high_level.circuit),
            "grade": models[case.id]["grade"] if case.id in models else None,
        }


def test_circuits_are_chosen_by_their_edges():
    sizes = {case.id: len(case.high_level.circuit) for case in list_cases()}
    assert ids("--min-edges", 12) == [name for name, size in sizes.items() if size >= 12]
    assert ids("--max-edges", 5) == [name for name, size in sizes.items() if size <= 5]
    assert ids("--min-edges", 6, "--max-edges", 6, "--tier", "single-head") == [
        case.id for case in list_cases(tier="single-head") if sizes[case.id] == 6
    ]
    code, text = call("list", "--min-edges", 7, "--max-edges", 6)
    assert code == 2 and "no circuit has at least 7 and at most 6 edges" in text
    assert call("list", "--min-edges", 10_000) == (0, "no case is like that; leave an option out\n")


def test_models_are_chosen_by_the_least_grade_they_have(monkeypatch):
    grades = {"case_1": "path", "case_3": "edge", "case_8": "node", "case_13": "none"}
    models = {name: {"grade": grade, "files": {}} for name, grade in grades.items()}
    monkeypatch.setattr("interpbench_hub.manifest.load_manifest", lambda: {"models": models})
    for n_kept, grade in enumerate(("path", "edge", "node", "none"), start=1):
        assert set(ids("--grade", grade)) == set(list(grades)[:n_kept])
    assert ids("--grade", "node", "--tier", "elementwise") == ["case_8"]


def test_what_the_hub_holds_is_listed(hub_of_the_library, collection):
    names = ["case_30", "case_3", "case_3_siit", "from_the_future"]
    hub_of_the_library.listed = [{"id": f"interpbench/{name}", "tags": [LIBRARY_NAME]} for name in names]
    hub_of_the_library.listed.append({"id": "interpbench/other", "tags": []})
    rows = listed("--hub")
    # case_30 is one of the two models of the collection.
    assert [(row["id"], row["case"], row["grade"]) for row in rows] == [
        ("interpbench/case_3", "case_3", None),
        ("interpbench/case_3_siit", "case_3", None),
        ("interpbench/case_30", "case_30", "path"),
        ("interpbench/from_the_future", None, None),
    ]
    assert rows[0]["edges"] == 6 and rows[3]["task"] is None
    assert ids("--hub", "--tier", "single-head") == ["interpbench/case_3", "interpbench/case_3_siit"]
    assert ids("--hub", "--max-edges", 2) == ids("--hub", "--bundled") == ["interpbench/case_30"]
    code, text = call("list", "--hub")
    assert code == 0 and "interpbench/from_the_future" in text


def test_a_hub_that_fails_is_one_line(hub_of_the_library, monkeypatch, capsys):
    hub_of_the_library.failure = (503, {})
    code, out, error = main(monkeypatch, capsys, "list", "--hub")
    assert (code, out) == (1, "")
    assert error == "error: models of interpbench on the Hub: the Hub has trouble (HTTP 503); try again later\n"


# -- show --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["case_3", "interpbench/case_3"])
def test_show_prints_program_circuit_certificate_and_provenance(name):
    code, text = call("show", name)
    assert code == 0
    for part in (
        "frac",
        "embed->m0",
        "varying",
        "grade path",
        "trained on 20",
        "edge-siit, seed 0",
        "collection/case_3",
    ):
        assert part in text


@pytest.mark.parametrize("name", ["count_of_counts", "interpbench/count_of_counts"])
def test_show_prints_a_case_without_a_model(name, collection):
    code, text = call("show", name)
    assert code == 0
    assert "varying" in text and "grade" not in text and "trained on" not in text


def test_show_takes_folders_and_repositories(certified_folder, hub_of_the_library, tmp_path):
    outputs = []
    for arguments in ([certified_folder], ["someone/model", "--revision", "v1", "--cache-dir", tmp_path / "cache"]):
        code, text = call("show", *arguments)
        assert code == 0
        outputs.append(text[: text.index("files in")])
    assert outputs[0] == outputs[1] and "grade path" in outputs[0] and "on a test" in outputs[0]
    (certified_folder / "certificate.json").unlink()
    assert "no certificate: the model has not been measured" in call("show", certified_folder)[1]


def test_show_takes_ids_of_models_that_are_no_cases(certified_folder, monkeypatch, tmp_path):
    from interpbench_hub import manifest

    certified_folder.rename(tmp_path / "case_3_siit")
    manifest.write_manifest(tmp_path)
    monkeypatch.setattr(manifest, "COLLECTION", tmp_path)
    code, text = call("show", "case_3_siit")
    assert code == 0 and text.startswith("case_3  ") and f"files in {tmp_path / 'case_3_siit'}" in text


def test_show_says_what_it_does_not_know(hub_of_the_library):
    with pytest.raises(UnknownNameError, match="unknown case or model 'case_300'; nearest: case_30,"):
        call("show", "case_300")
    with pytest.raises(UnknownNameError, match="is neither a folder nor the name of a model"):
        call("show", "no/such/folder")
    with pytest.raises(DownloadError, match="nobody/model: the Hub has no such model"):
        call("show", "nobody/model")


# -- card --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cards(monkeypatch) -> list[tuple[Any, ...]]:
    """What the module of cards is asked for."""
    asked = []

    def model_card(model_id, folder=None, *, namespace="interpbench"):
        asked.append((model_id, folder, namespace))
        return f"# {namespace}/{model_id} [not markup]\n"

    module = ModuleType("model_cards.model_card")
    module.model_card = model_card  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "model_cards", ModuleType("model_cards"))
    monkeypatch.setitem(sys.modules, "model_cards.model_card", module)
    return asked


def test_the_card_of_a_model_is_printed(cards, collection, certified_folder, hub_of_the_library, tmp_path):
    assert call("card", "case_30") == (0, "# interpbench/case_30 [not markup]\n")
    call("card", "interpbench/case_4")
    call("card", certified_folder)
    assert call("card", "someone/model", "--cache-dir", tmp_path)[1] == "# someone/model [not markup]\n"
    assert cards[:2] == [
        ("case_30", collection / "case_30", "interpbench"),
        ("case_4", collection / "case_4", "interpbench"),
    ]
    # The recipe of the tests' checkpoints is called none.
    assert cards[2] == ("case_3_none", certified_folder, "interpbench")
    assert cards[3][0] == "model" and cards[3][2] == "someone" and (cards[3][1] / "config.json").is_file()


def test_where_there_are_no_cards_that_is_said(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "model_cards.model_card", None)
    code, out, error = main(monkeypatch, capsys, "card", "case_3")
    assert (code, out) == (1, "")
    assert error.startswith("error: cards cannot be made here (") and "need the folder model_cards" in error


def test_a_broken_model_has_no_card(cards, collection):
    (collection / "case_30" / "circuit.json").unlink()
    with pytest.raises(CheckpointError, match=r"circuit\.json: the file is missing"):
        call("card", "case_30")
    assert cards == []


# -- demo --------------------------------------------------------------------------------------------------------------


def test_demo_runs_on_the_bundled_model():
    code, text = call("demo")
    assert code == 0
    for part in ("interpbench/case_3", "model", "program", "a1.h0->logits", "grade path", "Verified just now"):
        assert part in text
