"""The command line: what it prints, where it stops, what it leaves behind."""

import json
import sys

import pytest
from typer.testing import CliRunner

from interpbench_hub import cli
from interpbench_hub.checkpoint import load_checkpoint
from interpbench_hub.collecting import bundle
from interpbench_hub.errors import CheckpointError
from interpbench_hub.hub import COLLECTION, load_manifest
from interpbench_hub.siit import measure

runner = CliRunner()


@pytest.fixture
def small_certificates(monkeypatch):
    """Certificates on a few pairs: enough for a command, not for a claim."""
    monkeypatch.setattr(measure, "SINGLE_PAIRS", 16)
    monkeypatch.setattr(measure, "AGGREGATE_PAIRS", 16)
    monkeypatch.setattr(measure, "MAX_EXHAUSTIVE_PAIRS", 0)


def call(*arguments: object) -> tuple[int, str]:
    result = runner.invoke(cli.app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def main(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """The entry point itself, which turns our errors into one line and an exit code."""
    monkeypatch.setattr(sys, "argv", ["interpbench", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capsys.readouterr()
    return int(stop.value.code or 0), printed.out, printed.err


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
    assert sum(line.startswith("case_") for line in text.splitlines()) == len(
        [model for model in load_manifest()["models"] if model.count("_") == 1]
    )


@pytest.mark.parametrize("name", ["case_3", "interpbench/case_3"])
def test_show_prints_program_circuit_and_certificate(name):
    code, text = call("show", name)
    assert code == 0
    for part in ("frac", "embed->m0", "varying", "grade path"):
        assert part in text


def test_errors_are_one_line_with_exit_code_1(monkeypatch, capsys):
    code, out, error = main(monkeypatch, capsys, "train", "case_300")
    assert (code, out) == (1, "")
    assert "unknown case 'case_300'; nearest:" in error
    assert "Traceback" not in error


def test_train_certify_and_bundle(tmp_path, monkeypatch, small_certificates):
    run, collection = tmp_path / "run", tmp_path / "collection"
    code, text = call("train", "case_3", "--out", run, "--max-steps", 20)
    assert code == 0, text
    assert "grade none" in text
    events = [json.loads(line) for line in (run / "training_log.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "end"
    before = load_checkpoint(run)
    assert before.certificate is not None
    assert before.certificate.seed == 0

    code, text = call("certify", run, "--seed", 5, "--dry-run")
    assert code == 0
    assert load_checkpoint(run).certificate == before.certificate
    code, text = call("certify", run, "--seed", 5)
    assert code == 0
    after = load_checkpoint(run).certificate
    assert after is not None
    assert after.seed == 5

    code, text = call("bundle", run, "--collection", collection)
    assert code == 0
    manifest = json.loads((collection / "manifest.json").read_text())
    assert manifest["models"]["case_3"]["grade"] == "none"
    assert load_checkpoint(collection / "case_3").certificate == after


def test_a_finished_run_is_left_as_it_is(tmp_path, small_certificates):
    call("train", "case_3", "--out", tmp_path, "--max-steps", 10)
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns
    code, _ = call("train", "case_3", "--out", tmp_path, "--max-steps", 10)
    assert code == 0
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == before


def test_bundling_needs_a_certificate(tmp_path, small_certificates):
    run = tmp_path / "run"
    call("train", "case_3", "--out", run, "--max-steps", 10)
    (run / "certificate.json").unlink()
    with pytest.raises(CheckpointError, match="has no certificate; run `interpbench certify"):
        bundle(run, tmp_path / "collection")
    assert not (tmp_path / "collection").exists()


def test_the_node_level_recipe_is_bundled_under_its_own_id(tmp_path, small_certificates):
    call("train", "case_3", "--out", tmp_path / "run", "--recipe", "siit", "--max-steps", 10)
    assert bundle(tmp_path / "run", tmp_path / "collection").name == "case_3_siit"


def test_demo_runs_on_the_bundled_model():
    code, text = call("demo")
    assert code == 0
    for part in ("interpbench/case_3", "model", "program", "a1.h0->logits", "grade path", "Verified just now"):
        assert part in text


def test_the_collection_is_the_packages_own():
    assert COLLECTION.joinpath("manifest.json").is_file()
