"""The results dataset: its tables against the checked-in rows and brute force; merging, files, loading, command."""

import io
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from dataset_builders import results
from dataset_builders.__main__ import app
from dataset_builders.results import (
    CONFIGS,
    MEDIANS,
    TIERS,
    commit_of_rows,
    leaderboard,
    load_rows,
    merged,
    part,
    results_files,
    save_rows,
    short_leaderboard,
    table_file,
)
from interpbench_hub.discovery.results import COLUMNS
from interpbench_hub.errors import SettingError
from interpbench_hub.manifest import load_manifest

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return results_files()


def read(content: bytes) -> Rows:
    return pq.read_table(io.BytesIO(content)).to_pylist()


def test_the_tables_hold_every_checked_in_row_once(files: dict[str, bytes]) -> None:
    rows = load_rows()
    tables = {config: read(files[table_file(config)]) for config in CONFIGS if table_file(config) in files}
    assert {"methods", "leaderboard"} <= set(tables)
    board = tables.pop("leaderboard")
    found = [row for table in tables.values() for row in table]
    assert sorted(map(str, found)) == sorted(map(str, rows))
    assert all(list(row) == list(COLUMNS) for row in found)
    assert {row["recipe"] for row in tables["methods"]} == {"edge-siit"}
    assert {row["options"] for row in tables["methods"]} == {"{}"}
    assert all(row["n_models"] for row in board)


def test_rows_are_about_the_bundled_weights_and_the_settings_of_the_study() -> None:
    models = load_manifest()["models"]
    for row in load_rows():
        assert row["weights_sha256"] == models[row["model"]]["files"]["model.safetensors"]
        assert (row["granularity"], row["ablation"], row["n_pairs"], row["seed"]) == ("qkv-edge", "resample", 256, 0)
        assert row["grade"] in ("edge", "path") or row["recipe"] != "edge-siit"


def test_the_leaderboard_is_the_median_of_the_rows(files: dict[str, bytes]) -> None:
    main = part(load_rows(), "methods")
    board = read(files[table_file("leaderboard")])
    assert len(board) == sum(
        any(row["method"] == method and tier in ("all", row["tier"]) for row in main)
        for method in {row["method"] for row in main}
        for tier in TIERS
    )
    for line in board:
        own = [row for row in main if row["method"] == line["method"] and line["tier"] in ("all", row["tier"])]
        for column in MEDIANS:
            values = [row[column] for row in own if row[column] is not None]
            assert line[column] == (statistics.median(values) if values else None)
            if len(values) > 1:
                assert min(values) <= line[f"{column}_low"] <= line[column] <= line[f"{column}_high"] <= max(values)
            else:
                assert line[f"{column}_low"] is None


def test_the_short_leaderboard_never_rounds_up() -> None:
    row = {**load_rows()[0], "method": "eap", "tier": "deep", "cpu_seconds": 0.123}
    cells = short_leaderboard([{**row, "edge_auroc": 0.99996, "best_f1": 0.5, "agreement_at_size": None}])
    assert cells == [("`eap`", "–", "–", "–", "0.999", "0.999", "0.999", "0 of 1", "0.500", "–", "0.12")]


def test_merging_takes_the_last_row_and_leaves_out_what_is_not_of_the_study() -> None:
    first, second, *_ = part(load_rows(), "methods")
    newer = {**first, "edge_auroc": 0.25, "settings": "other code"}
    strange = [
        {**second, "weights_sha256": "0" * 64},
        {**second, "n_pairs": 17},
        {**second, "granularity": "node"},
        {**second, "method": "my_pkg:mine"},
        {**second, "model": "elsewhere/case_3"},
    ]
    assert merged([first], [newer], strange) == [newer]
    other = {**first, "options": '{"metric": "kl"}'}
    assert merged([other, second, first]) == merged([first, second], [other])
    assert len(merged([other, second, first])) == 3


def test_saved_rows_come_back_in_an_order_of_their_own(tmp_path: Path) -> None:
    rows = load_rows()
    save_rows(reversed(rows), tmp_path / "a.parquet", commit="abc")
    save_rows(rows, tmp_path / "b.parquet", commit="abc")
    assert load_rows(tmp_path / "a.parquet") == rows
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert commit_of_rows(tmp_path / "a.parquet") == "abc"


def test_the_card_names_configs_counts_and_provenance(files: dict[str, bytes]) -> None:
    card, rows = files["README.md"].decode(), load_rows()
    for config in CONFIGS:
        if table_file(config) in files:
            assert f"| `{config}` | {len(read(files[table_file(config)])):,} |" in card
            assert f"path: {table_file(config)}" in card
    assert f"Edge AUROC of {len({row['model'] for row in part(rows, 'methods')})} certified models" in card
    for name in COLUMNS:
        assert f"| `{name}` |" in card
    assert f"| commit | {commit_of_rows() or 'not known'} |" in card
    assert rows[0]["torch_version"] in card
    assert "other/circuits" in results_files(namespace="other")["README.md"].decode()


def test_without_results_the_error_says_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"none\.parquet is not there; python benchmarks/discovery/study\.py"):
        results_files(tmp_path / "none.parquet")


def test_the_command_writes_the_files_and_leaves_what_others_wrote_alone(
    files: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "results"
    for _ in range(2):
        done = CliRunner().invoke(app, ["results", "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()} == files
    (tmp_path / "README.md").write_text("# Mine")
    done = CliRunner().invoke(app, ["results", "--out", str(tmp_path)])
    assert done.exit_code == 1 and "was not written by a build of results" in done.stderr


def test_an_interrupted_write_leaves_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = results.write_results(tmp_path / "results")

    def failing(path: Path, content: str | bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "write_whole", failing)
    with pytest.raises(KeyboardInterrupt):
        results.write_results(folder)
    assert not (folder / "README.md").exists()


_LOAD = """
import json, socket, sys
def refuse(*args): raise AssertionError("went online")
socket.socket.connect = refuse
from datasets import get_dataset_config_names, load_dataset
folder, names = sys.argv[1], sys.argv[2:]
assert get_dataset_config_names(folder) == names
found = {name: load_dataset(folder, name, split="train") for name in names}
assert load_dataset(folder, split="train").to_list() == found["methods"].to_list()
assert list(load_dataset(folder, "leaderboard", split="train", streaming=True)) == found["leaderboard"].to_list()
json.dump({name: len(rows) for name, rows in found.items()}, sys.stdout)
"""


@pytest.mark.slow
def test_load_dataset_reads_each_config_offline(files: dict[str, bytes], tmp_path: Path) -> None:
    folder = results.write_results(tmp_path / "results")
    names = [config for config in CONFIGS if table_file(config) in files]
    environment = {
        **os.environ,
        "USE_TORCH": "0",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-c", _LOAD, str(folder), *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: len(read(files[table_file(name)])) for name in names}


def test_no_models_no_leaderboard() -> None:
    assert leaderboard([]) == [] and short_leaderboard([]) == []
