"""What is to be published: complete, checked, and refused with every fault named."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interpbench_hub import manifest
from interpbench_hub.errors import CheckpointError, UnknownNameError
from interpbench_hub.publishing import repositories
from interpbench_hub.publishing.repositories import (
    MAX_NOTE,
    card_faults,
    checked_namespace,
    chosen_models,
    circuits_repository,
    dataset_repository,
    makers,
    model_repository,
    results_repository,
)

CARD = b"---\nlicense: cc-by-4.0\ntags:\n- benchmark\n---\n\nText with ![a picture](circuit.png).\n"


@pytest.mark.slow
def test_every_bundled_model_can_be_published():
    for model in manifest.load_manifest()["models"]:
        repository = model_repository(model, "interpbench")
        assert {"README.md", "config.json", "model.safetensors", "circuit.json", "circuit.svg", "circuit.png"} <= set(
            repository.files
        )
        assert 0 < len(repository.note) <= MAX_NOTE


def test_the_circuits_can_be_published():
    repository = circuits_repository("interpbench")
    assert repository.id == "interpbench/circuits" and repository.kind == "dataset"


def test_the_results_can_be_published():
    repository = results_repository("interpbench")
    assert repository.id == "interpbench/results" and repository.kind == "dataset"
    assert {"README.md", "methods/train-00000-of-00001.parquet"} <= set(repository.files)


def test_a_dataset_is_built_where_it_is_missing(data: Path, monkeypatch):
    built = dataset_repository("case_3", "interpbench", data)
    assert sorted(built.files) == ["README.md", *(f"{split}-00000-of-00001.parquet" for split in sorted(SPLITS))]
    for path in (data / "case_3").iterdir():
        path.unlink()
    assert dataset_repository("case_3", "interpbench", data) == built


SPLITS = ("train", "validation", "test")


def test_a_case_stands_for_its_twins_and_a_full_name_for_a_model(collection: Path, monkeypatch):
    models = {name: {"files": {}} for name in ("case_3", "case_3_natural", "case_3_siit", "case_30")}
    monkeypatch.setattr(repositories, "load_manifest", lambda: {"models": models})
    assert chosen_models(None) == list(models)
    assert chosen_models(["case_3"]) == ["case_3", "case_3_natural", "case_3_siit"]
    assert chosen_models(["interpbench/case_30", "case_3_siit", "case_30"]) == ["case_30", "case_3_siit"]
    with pytest.raises(UnknownNameError, match=r"unknown model 'case_31'.*only bundled models are published"):
        chosen_models(["case_31"])


def test_each_case_has_one_dataset(collection: Path):
    made = makers(["case_3", "case_10"], namespace="x", data=Path("data"), with_tables=True)
    tables = ["dataset circuits", "dataset results"]
    assert list(made) == ["model case_3", "model case_10", "dataset case_3", "dataset case_10", *tables]


def test_a_file_that_the_manifest_does_not_know_so_is_refused(collection: Path):
    path = collection / "case_3" / "circuit.json"
    circuit = json.loads(path.read_text())
    circuit["nodes"][0]["meaning"] = "something else"
    path.write_text(json.dumps(circuit))
    with pytest.raises(
        CheckpointError, match=r"model x/case_3 cannot be published: circuit\.json is not the file that"
    ):
        model_repository("case_3", "x")


def test_a_model_without_a_certificate_is_refused(collection: Path):
    (collection / "case_3" / "certificate.json").unlink()
    manifest.write_manifest(collection)
    with pytest.raises(CheckpointError, match="no certificate"):
        model_repository("case_3", "x")


def test_every_fault_of_a_repository_is_named(data: Path):
    repository = dataset_repository("case_3", "x", data)
    table = io.BytesIO()
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), table)
    spoilt = {
        **repository.files,
        "weights.pkl": repositories.File(b"x"),
        "test-00000-of-00001.parquet": repositories.File(table.getvalue()),
        "train-00000-of-00001.parquet": repositories.File(b"no parquet"),
        "validation-00000-of-00001.parquet": repositories.File(b""),
    }
    with pytest.raises(CheckpointError) as refused:
        repositories._check(replace(repository, files=spoilt), [], repositories._DATASET_FILES)
    text = str(refused.value)
    for fault in (
        "weights.pkl is no file that a dataset repository may hold",
        "test-00000-of-00001.parquet has no rows",
        "train-00000-of-00001.parquet is no parquet file",
        "validation-00000-of-00001.parquet is empty",
    ):
        assert fault in text


def test_a_repository_without_a_card_is_refused(data: Path):
    repository = dataset_repository("case_3", "x", data)
    files = {name: file for name, file in repository.files.items() if name != "README.md"}
    with pytest.raises(CheckpointError, match=r"it has no README\.md"):
        repositories._check(replace(repository, files=files), [], repositories._DATASET_FILES)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (b"license: cc-by-4.0", b"license: [", "the metadata of README.md cannot be read"),
        (b"license: cc-by-4.0", b"license: mit", "the licence in README.md is 'mit' instead of 'cc-by-4.0'"),
        (b"tags:\n- benchmark", b"tags: benchmark", "the tags in README.md are 'benchmark' instead of a list of words"),
        (b"(circuit.png)", b"(circuit.svg)", "README.md links to circuit.svg, which is not there"),
        (
            b"---\n\n",
            b"configs:\n- config_name: a\n  data_files:\n  - split: b\n    path: c\n---\n",
            "data file c, which",
        ),
    ],
)
def test_faults_of_cards_are_found(old, new, fault):
    files = ["README.md", "circuit.png"]
    assert card_faults("model", CARD, files) == []
    (found,) = card_faults("model", CARD.replace(old, new, 1), files)
    assert fault in found


@pytest.mark.parametrize("namespace", ["interpbench", "a", "Open-AI", "a.b_c"])
def test_namespaces_that_can_be(namespace):
    assert checked_namespace(namespace) == namespace
