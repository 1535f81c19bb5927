"""The circuits dataset: against the JSON files of the collection, read without the package; files, loading, command."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dataset_builders import circuits
from dataset_builders.__main__ import app
from dataset_builders.bundled import ids_of_case
from dataset_builders.circuits import circuits_files, write_circuits
from dataset_builders.landing import CONFIGS
from interpbench_hub import load_circuit
from interpbench_hub.cases import get_case
from interpbench_hub.errors import CheckpointError, SettingError
from interpbench_hub.manifest import COLLECTION
from tests.certificate_files import entries_of

Rows = list[dict[str, Any]]

MODELS: dict[str, dict[str, Any]] = json.loads((COLLECTION / "manifest.json").read_text())["models"]


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return circuits_files()


@pytest.fixture(scope="module")
def tables(files: dict[str, bytes]) -> dict[str, Rows]:
    return {config: read(files[f"{config}/train-00000-of-00001.parquet"]) for config in CONFIGS}


@pytest.fixture
def small_collection(tmp_path: Path) -> Path:
    """A small collection: one model twice, the second time without a certificate and a count of attempts."""
    folder = tmp_path / "collection"
    shutil.copytree(COLLECTION / "case_3", folder / "case_3")
    shutil.copytree(COLLECTION / "case_3", folder / "case_3_siit", ignore=shutil.ignore_patterns("certificate.json"))
    entry = MODELS["case_3"]
    left = {name: sha256 for name, sha256 in entry["files"].items() if name != "certificate.json"}
    config = folder / "case_3_siit" / "config.json"
    config.write_text(config.read_text().replace('"edge-siit"', '"siit"'))
    models = {"case_3": entry, "case_3_siit": {"grade": "none", "files": left}}
    manifest = {"schema_version": 1, "package_version": "0", "models": models}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def read(content: bytes) -> Rows:
    return pq.read_table(io.BytesIO(content)).to_pylist()


@cache
def raw(model: str, file: str) -> dict[str, Any]:
    return json.loads((COLLECTION / model / f"{file}.json").read_text())


def of_model(rows: Rows, model: str) -> Rows:
    return [{key: value for key, value in row.items() if key != "model"} for row in rows if row["model"] == model]


# -- content -----------------------------------------------------------------------------------------------------------


def test_every_bundled_model_is_in_every_table(tables: dict[str, Rows]) -> None:
    for config, rows in tables.items():
        assert list(dict.fromkeys(row["model"] for row in rows)) == list(MODELS), config
    assert [row["model"] for row in tables["models"]] == list(MODELS)


def test_edges_and_nodes_are_those_of_the_json_files(tables: dict[str, Rows]) -> None:
    edges, nodes = [], []
    for model in MODELS:
        circuit, certificate = raw(model, "circuit"), raw(model, "certificate")
        names = {"model": model, "case": raw(model, "config")["case"]}
        predicted = {name: predicted / count for name, count, _, predicted in certificate["effect"]["rows"]}
        for edge in circuit["edges"]:
            slot = f"<{edge['slot']}>" if edge["slot"] else ""
            name = f"{edge['source']}->{edge['target']}{slot}"
            share = pytest.approx(predicted[name], abs=1e-6) if name in predicted else None
            assert (edge["effect"] is None) == (share is None)
            edges.append({**names, **edge, "edge": name, "predicted_effect": share})
        for node in circuit["nodes"]:
            nodes.append({**names, "node": node["name"], "variables": node["variables"], "meaning": node["meaning"]})
    assert tables["edges"] == edges
    assert tables["nodes"] == nodes


def test_edges_and_negatives_are_all_edges_of_the_transformer(tables: dict[str, Rows]) -> None:
    inside, outside = ({model: set() for model in MODELS} for _ in range(2))
    for rows, found in ((tables["edges"], inside), (tables["negatives"], outside)):
        for row in rows:
            slot = f"<{row['slot']}>" if row["slot"] else ""
            assert row["edge"] == f"{row['source']}->{row['target']}{slot}"
            found[row["model"]].add(row["edge"])
        assert sum(map(len, found.values())) == len(rows)
    for model in MODELS:
        layers, heads = (raw(model, "circuit")[key] for key in ("n_layers", "n_heads"))
        # A layer's heads read from all that came before in three slots each, its MLP and the logits from all.
        senders = [2 + layer * (heads + 1) for layer in range(layers)]
        total = sum(3 * heads * n + n + heads for n in senders) + 2 + layers * (heads + 1)
        assert not inside[model] & outside[model]
        assert len(inside[model]) + len(outside[model]) == total


def test_counts_are_those_of_the_circuit(tables: dict[str, Rows]) -> None:
    counts = {config: Counter(row["model"] for row in tables[config]) for config in ("edges", "nodes", "negatives")}
    for row in tables["models"]:
        model = row["model"]
        kinds = Counter(edge["kind"] for edge in raw(model, "circuit")["edges"])
        assert (row["n_varying"], row["n_constant"], row["n_inert"]) == (
            kinds["varying"],
            kinds["constant"],
            kinds["inert"],
        )
        circuit = load_circuit(f"interpbench/{model}")
        assert row["n_edges"] == counts["edges"][model] == len(circuit) == sum(kinds.values())
        assert row["n_negatives"] == counts["negatives"][model] == len(circuit.negatives)
        assert counts["nodes"][model] == len(circuit.roles)


def test_models_are_what_their_json_files_say(tables: dict[str, Rows]) -> None:
    for row in tables["models"]:
        config, entry = raw(row["model"], "config"), MODELS[row["model"]]
        certificate = raw(row["model"], "certificate")
        shape, made = config["transformer"], config["provenance"]
        (attempt,) = [attempt for attempt in entry["attempts"] if attempt["chosen"]] or [{}]
        classes = config["output"].get("classes")
        expected = {
            **{key: shape[key] for key in ("n_layers", "n_heads", "d_model", "d_head", "d_mlp")},
            **{key: made[key] for key in ("recipe", "seed", "steps")},
            **{key: config[key] for key in ("case", "min_len", "max_len")},
            **{key: attempt.get(key) for key in ("training_cpu_seconds", "certificate_cpu_seconds")},
            **{key: certificate[key] for key in ("n_pairs", "n_pairs_single", "is_exhaustive", "is_held_out")},
            "grade": entry["grade"],
            "output": str(len(classes)) if classes else "regression",
            "weights_sha256": entry["files"]["model.safetensors"],
        }
        assert {key: row[key] for key in expected} == expected
        case = get_case(config["case"])
        assert (row["description"], row["tier"], row["published_2024"]) == (
            case.description,
            case.tier,
            case.was_published_2024,
        )


def test_worst_entries_are_the_least_shares_of_correct_pairs(tables: dict[str, Rows]) -> None:
    parts = ("behaviour", "node_interchange", "edge_interchange", "node_strict", "edge_strict", "complement")
    for row in tables["models"]:
        certificate = raw(row["model"], "certificate")
        shares = {
            f"{part} {name}" + (f" ({ablation})" if ablation else ""): correct / count
            for part in parts
            for name, ablation, count, correct in entries_of(certificate[part])
        }
        for part in parts:
            of_part = [share for name, share in shares.items() if name.split()[0] == part]
            assert row[f"worst_{part}"] == min(of_part, default=None)
        assert row["worst_accuracy"] == min(shares.values())
        if row["worst_entry"] is None:
            assert row["worst_accuracy"] == 1
        else:
            assert shares[row["worst_entry"]] == row["worst_accuracy"] < 1


def test_parameters_are_as_many_as_the_weights_file_has(tables: dict[str, Rows]) -> None:
    for row in tables["models"]:
        content = (COLLECTION / row["model"] / "model.safetensors").read_bytes()
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        n_bytes = {"F16": 2, "F32": 4}
        sizes = [
            (end - start) // n_bytes[tensor["dtype"]]
            for name, tensor in header.items()
            if name != "__metadata__"
            for start, end in [tensor["data_offsets"]]
        ]
        assert row["n_parameters"] == sum(sizes)


def test_a_model_without_certificate_or_attempts_has_nulls(small_collection: Path) -> None:
    content = circuits_files(small_collection)
    rows = {config: read(content[f"{config}/train-00000-of-00001.parquet"]) for config in CONFIGS}
    first, second = rows["models"]
    assert (second["grade"], second["recipe"], second["case"]) == ("none", "siit", "case_3")
    for key in ("training_cpu_seconds", "n_pairs", "is_held_out", "worst_behaviour", "worst_accuracy", "worst_entry"):
        assert second[key] is None
    assert first["n_edges"] == second["n_edges"]
    predicted = [row["predicted_effect"] for row in of_model(rows["edges"], "case_3_siit")]
    assert predicted == [None] * first["n_edges"]
    assert of_model(rows["nodes"], "case_3") == of_model(rows["nodes"], "case_3_siit")
    card = content["README.md"].decode()
    assert "Ids that end in `_siit` are models of the same case" in card
    assert "/case_3_siit) | as case_3, trained by the recipe `siit` | single-head | `none` |" in card
    assert ids_of_case("case_3", small_collection) == ["case_3", "case_3_siit"]


def test_ids_of_a_case_are_not_those_of_a_case_that_begins_alike() -> None:
    assert ids_of_case("case_1") == [model for model in MODELS if raw(model, "config")["case"] == "case_1"]
    assert ids_of_case("case") == []


def test_a_collection_that_does_not_fit_together_or_is_empty_is_refused(small_collection: Path, tmp_path: Path) -> None:
    manifest = json.loads((small_collection / "manifest.json").read_text())
    manifest["models"]["case_3"]["files"]["model.safetensors"] = "0" * 64
    (small_collection / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"the collection's manifest names 000000000000\.\.\."):
        circuits_files(small_collection)
    with pytest.raises(SettingError, match="there is no model in the collection"):
        circuits_files(tmp_path)


# -- files -------------------------------------------------------------------------------------------------------------


def test_the_same_collection_gives_the_same_bytes(files: dict[str, bytes]) -> None:
    assert circuits_files() == files
    assert sorted(files) == sorted(["README.md", *(f"{config}/train-00000-of-00001.parquet" for config in CONFIGS)])


def test_the_command_writes_the_files_and_writes_them_anew(files: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "circuits"
    for _ in range(2):
        done = CliRunner().invoke(app, ["circuits", "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert f"wrote {out}" in done.output.replace("\n", "")
        written = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert written == files
        stale = out / "edges" / ".train-00000-of-00001.parquet.1.partial"
        stale.write_bytes(b"of a process that was killed")
        os.utime(stale, (0, 0))


def test_the_command_leaves_what_others_wrote_alone(small_collection: Path, tmp_path: Path) -> None:
    for card in ("# Mine", "<!-- Written by dataset_builders; a build writes it anew. -->"):
        (tmp_path / "README.md").write_text(card)
        done = CliRunner().invoke(app, ["circuits", "--out", str(tmp_path)])
        assert done.exit_code == 1
        assert "was not written by a build of circuits" in done.stderr
        assert (tmp_path / "README.md").read_text() == card
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=r"out '.*file' is a file; give a folder to write circuits to"):
        write_circuits(tmp_path / "file", small_collection)
    # Nor does a build of datasets overwrite circuits.
    folder = write_circuits(tmp_path / "circuits", small_collection)
    done = CliRunner().invoke(app, ["build", "case_8", "--out", str(folder), "--rows", "4", "4", "4"])
    assert done.exit_code == 1
    assert "was not written by a build of datasets" in done.stderr


def test_writing_that_is_interrupted_leaves_no_card_and_is_taken_up_again(
    small_collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write_circuits(tmp_path / "circuits", small_collection)
    write = circuits.write_whole

    def failing(path: Path, content: str | bytes) -> None:
        if path.parent.name == "negatives":
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(circuits, "write_whole", failing)
        with pytest.raises(KeyboardInterrupt):
            write_circuits(whole, small_collection)
    assert not (whole / "README.md").exists()
    assert not list(whole.rglob("*.partial"))
    write_circuits(whole, small_collection)
    assert (whole / "README.md").read_bytes() == circuits_files(small_collection)["README.md"]


_LOAD = """
import json, socket, sys
def refuse(*args): raise AssertionError("went online")
socket.socket.connect = refuse
import datasets
from datasets import load_dataset
found = {}
for config in ("edges", "nodes", "negatives", "models"):
    rows = load_dataset(sys.argv[1], config, split="train")
    streamed = load_dataset(sys.argv[1], config, split="train", streaming=True)
    assert list(streamed) == rows.to_list()
    found[config] = rows.to_list()
assert load_dataset(sys.argv[1], split="train").to_list() == found["edges"]
assert load_dataset(sys.argv[1], "nodes").keys() == {"train"}
assert datasets.get_dataset_config_names(sys.argv[1]) == ["edges", "nodes", "negatives", "models"]
json.dump(found, sys.stdout)
"""


def test_load_dataset_reads_each_config_offline_also_when_streaming(tables: dict[str, Rows], tmp_path: Path) -> None:
    environment = {
        **os.environ,
        # Datasets would import it before streaming, which takes longer than the rest.
        "USE_TORCH": "0",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    folder = write_circuits(tmp_path / "circuits")
    command = [sys.executable, "-c", _LOAD, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == tables
