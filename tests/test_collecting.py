"""Filling a collection: what is bundled from a folder of runs, and the attempts that its manifest lists."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interpbench_hub.certificate import SECTIONS, Entry
from interpbench_hub.checkpoint import Checkpoint, load_config, save_checkpoint, weights_digest
from interpbench_hub.collecting import bundle, bundle_all
from interpbench_hub.errors import CheckpointError
from interpbench_hub.manifest import load_manifest, write_manifest
from interpbench_hub.siit.attempts import Attempt, open_ledger, read_attempt, run_folder

FAILS = {"path": {}, "node": {"complement": (Entry("all", "zero", 2000, 1900),)}}


@pytest.fixture
def leave(tmp_path, make_checkpoint, make_certificate) -> Callable[..., Path]:
    """Leaves a finished run of case_3 in `runs` and in its ledger; returns its folder."""

    def make(seed: int, grade: str = "path", *, recipe: str = "edge-siit", is_chosen: bool = False) -> Path:
        made: Checkpoint = make_checkpoint(seed=seed)
        provenance = replace(made.config.provenance, recipe=recipe, seed=seed, steps=100 + seed)
        certificate = make_certificate(weights_sha256=weights_digest(made.weights), **FAILS[grade])
        folder = run_folder(tmp_path / "runs", "case_3", recipe, seed)
        config = replace(made.config, provenance=provenance)
        save_checkpoint(Checkpoint(config, made.weights, made.circuit, certificate), folder)
        with open_ledger(folder.parent, "case_3") as ledger:
            ledger.record(recipe, read_attempt(folder))
            if is_chosen:
                ledger.choose(recipe, seed)
        return folder

    return make


def listed(seed: int, grade: str, *, chosen: bool) -> dict[str, Any]:
    return {
        "seed": seed,
        "steps": 100 + seed,
        "grade": grade,
        "training_cpu_seconds": 1.25,
        "certificate_cpu_seconds": 0.0,
        "chosen": chosen,
    }


def attempts(collection: Path, model: str = "case_3") -> list[dict[str, Any]]:
    return load_manifest(collection)["models"][model]["attempts"]


def test_the_chosen_attempt_of_every_case_and_recipe_is_bundled(leave, tmp_path):
    leave(0, "node")
    leave(1, "path", is_chosen=True)
    leave(0, "node", recipe="siit", is_chosen=True)
    with open_ledger(tmp_path / "runs" / "case_3", "case_3") as ledger:
        ledger.record("edge-siit", Attempt(2, "crashed", error="its process was killed by SIGKILL"))
        ledger.record("behaviour", Attempt(0, "failed", error="no such luck"))
    collection = tmp_path / "collection"
    places = bundle_all(tmp_path / "runs", collection)
    assert [place.name for place in places] == ["case_3", "case_3_siit"]
    assert [load_config(place).provenance.seed for place in places] == [1, 0]
    assert attempts(collection) == [listed(0, "node", chosen=False), listed(1, "path", chosen=True)]
    assert attempts(collection, "case_3_siit") == [listed(0, "node", chosen=True)]


def test_models_of_a_lower_grade_can_be_left_out_but_for_comparison_twins(leave, tmp_path):
    leave(0, "node", is_chosen=True)
    leave(0, "node", recipe="siit", is_chosen=True)
    collection = tmp_path / "collection"
    assert [place.name for place in bundle_all(tmp_path / "runs", collection, least="edge")] == ["case_3_siit"]
    assert list(load_manifest(collection)["models"]) == ["case_3_siit"]
    leave(1, "path", is_chosen=True)
    places = bundle_all(tmp_path / "runs", collection, least="edge")
    assert [place.name for place in places] == ["case_3", "case_3_siit"]


def test_a_folder_without_ledgers_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no attempts\.json; give the folder of runs"):
        bundle_all(tmp_path, tmp_path / "collection")


def test_where_nothing_is_chosen_nothing_is_bundled(leave, tmp_path):
    leave(0)
    assert bundle_all(tmp_path / "runs", tmp_path / "collection") == []
    assert not (tmp_path / "collection").exists()


def test_one_run_is_bundled_with_the_attempts_next_to_it(leave, tmp_path):
    leave(0, "path", is_chosen=True)
    folder = leave(1, "node")
    bundle([folder], tmp_path / "collection")
    # What is bundled is what counts here, whatever the ledger prefers.
    assert attempts(tmp_path / "collection") == [listed(0, "path", chosen=False), listed(1, "node", chosen=True)]


def test_a_run_that_no_ledger_knows_has_no_attempts(leave, tmp_path):
    collection = tmp_path / "collection"
    bundle([leave(0)], collection)
    assert len(attempts(collection)) == 1
    # Those in the manifest belong to the model that was there before.
    bundle([leave(1).rename(tmp_path / "elsewhere")], collection)
    assert load_config(collection / "case_3").provenance.seed == 1
    assert attempts(collection) == []


def test_folders_are_all_looked_at_before_any_is_saved(leave, tmp_path):
    collection = tmp_path / "collection"
    one, other = leave(0), leave(1)
    with pytest.raises(CheckpointError, match=r"edge-siit_1 and .*edge-siit_0 are both of model case_3; bundle one"):
        bundle([one, other], collection)
    (other / "certificate.json").unlink()
    with pytest.raises(CheckpointError, match=r"edge-siit_1 has no certificate"):
        bundle([one, other], collection)
    assert not collection.exists()
    assert bundle([], collection) == [] and not collection.exists()


def test_what_is_in_the_collection_is_saved_anew_and_keeps_its_attempts(leave, tmp_path):
    (place,) = bundle([leave(4)], tmp_path / "collection")
    files = {path.name: path.read_bytes() for path in place.iterdir()}
    before = (tmp_path / "collection" / "manifest.json").read_text()
    # As versions before wrote it: every row with all its numbers.
    path = place / "certificate.json"
    data = json.loads(path.read_text())
    for section in SECTIONS:
        table = data[section]
        count, width = table.pop("count", None), len(table["columns"]) - 1
        table["rows"] = [row if row[1:] else [*row, *[count] * width] for row in table["rows"]]
    path.write_text(json.dumps(data))
    write_manifest(tmp_path / "collection")
    assert (tmp_path / "collection" / "manifest.json").read_text() != before
    assert bundle([place], tmp_path / "collection") == [place]
    assert {path.name: path.read_bytes() for path in place.iterdir()} == files
    assert (tmp_path / "collection" / "manifest.json").read_text() == before


def test_a_manifest_written_anew_keeps_the_attempts(leave, tmp_path):
    collection = tmp_path / "collection"
    bundle([leave(4)], collection)
    before = (collection / "manifest.json").read_text()
    write_manifest(collection)
    assert (collection / "manifest.json").read_text() == before
    write_manifest(collection, {"case_3": []})
    assert attempts(collection) == []


def test_a_manifest_from_before_there_were_attempts_is_read(leave, tmp_path):
    collection = tmp_path / "collection"
    bundle([leave(4)], collection)
    data = json.loads((collection / "manifest.json").read_text())
    del data["models"]["case_3"]["attempts"]
    (collection / "manifest.json").write_text(json.dumps(data))
    assert attempts(collection) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"seed": 0}],
            r"attempts\[0\]: missing keys 'steps', 'grade', 'training_cpu_seconds', 'certificate_cpu_s",
        ),
        ([listed(0, "good", chosen=True)], r"attempts\[0\]\.grade"),
        ([listed(0, "path", chosen=True), listed(1, "path", chosen=True)], "attempts"),
    ],
)
def test_a_manifest_with_broken_attempts_is_refused(rows, message, leave, tmp_path):
    collection = tmp_path / "collection"
    bundle([leave(4)], collection)
    data = json.loads((collection / "manifest.json").read_text())
    data["models"]["case_3"]["attempts"] = rows
    (collection / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=rf"manifest\.json: at models\.case_3\.{message}"):
        load_manifest(collection)
