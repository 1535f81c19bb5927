"""The command line, above all its commands that train, certify and bundle."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_args

import pytest

from interpbench_hub import cli, siit
from interpbench_hub.cases import list_cases
from interpbench_hub.cases.case import Tier
from interpbench_hub.checkpoint import load_checkpoint
from interpbench_hub.collecting import bundle
from interpbench_hub.errors import CheckpointError
from interpbench_hub.siit import measure
from interpbench_hub.siit.attempts import Attempt, open_ledger, read_attempt
from interpbench_hub.siit.jobs import Outcome
from interpbench_hub.siit.training_state import TrainingState
from tests.commands import call, main


@pytest.fixture
def small_certificates(monkeypatch):
    """Certificates on a few pairs: enough for a command, not for a claim."""
    monkeypatch.setattr(measure, "SINGLE_PAIRS", 16)
    monkeypatch.setattr(measure, "AGGREGATE_PAIRS", 16)
    monkeypatch.setattr(measure, "MAX_EXHAUSTIVE_PAIRS", 0)


def test_errors_are_one_line_with_exit_code_1(monkeypatch, capsys):
    code, out, error = main(monkeypatch, capsys, "train", "case_300")
    assert (code, out) == (1, "")
    assert "unknown case 'case_300'; nearest:" in error
    assert "Traceback" not in error


def test_what_users_typed_is_printed_as_it_is(monkeypatch, capsys):
    # Not as markup of the console's own, which a closing tag without an opening one would break.
    for name in ("[/red]", "[bold]x", "a\nb"):
        code, out, error = main(monkeypatch, capsys, "show", name)
        assert (code, out) == (1, "")
        assert error.startswith("error: ") and error.count("\n") == 1
        assert name.replace("\n", "\\n") in error


def test_help_names_every_command_and_comes_at_once():
    code = "import sys; from interpbench_hub.cli import main; sys.argv = ['interpbench', '--help']; main()"
    times = []
    for _ in range(3):
        start = time.perf_counter()
        text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        times.append(time.perf_counter() - start)
        for command in ("list", "show", "card", "demo", "download", "verify", "train", "certify", "bundle"):
            assert f" {command} " in text
    assert min(times) < 1
    heavy = "print({'torch', 'scipy', 'numpy', 'huggingface_hub', 'transformer_lens'} & set(sys.modules))"
    code = f"import sys, interpbench_hub.cli; {heavy}"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_run_in_the_background_is_interrupted_and_kept(number, tmp_path):
    code = f"from interpbench_hub.cli import app; app(['train', 'case_3', '--out', {str(tmp_path)!r}])"
    # As a shell starts a job with `&`, deaf to SIGINT.
    run = subprocess.Popen(
        ["sh", "-c", 'trap \'\' INT; exec "$0" -c "$1"', sys.executable, code], stderr=subprocess.PIPE
    )
    log = tmp_path / "training_log.jsonl"
    while run.poll() is None and not (log.exists() and '"step", "step": 20' in log.read_text(encoding="utf-8")):
        time.sleep(0.05)
    run.send_signal(number)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130 and b"interrupted; the same command goes on" in errors
    state = TrainingState.load(tmp_path)
    assert state is not None and state.step >= 20
    assert not (tmp_path / "model.safetensors").exists()


@pytest.fixture
def trained(monkeypatch) -> list[tuple[list[Any], dict[str, Any]]]:
    """What `train_all` is called with; it has one case of each outcome."""
    calls: list[tuple[list[Any], dict[str, Any]]] = []
    attempt = Attempt(1, "finished", chosen=True, grade="node", steps=10)

    def train_all(cases: Any, *, report: Any, **options: Any) -> list[Outcome]:
        calls.append((list(cases), options))
        report({"event": "jobs", "cases": ["case_3", "case_8"], "attempts": 3, "workers": 2})
        outcomes = [
            Outcome("case_3", "edge-siit", "short", attempt, Path("runs/case_3/edge-siit_1"), (attempt, attempt)),
            Outcome("case_8", "edge-siit", "failed", None, None, (), "no such luck"),
        ]
        for outcome in outcomes:
            grade = outcome.chosen.grade if outcome.chosen else None
            report({"event": "outcome", "case": outcome.case, "status": outcome.status, "grade": grade})
        return outcomes

    monkeypatch.setattr(siit, "train_all", train_all)
    return calls


def test_several_cases_are_trained_together_and_what_fell_short_is_told(trained, tmp_path):
    options = ("--workers", 2, "--attempts", 5, "--accept", "path", "--max-steps", 9, "--seed", 4, "--out", tmp_path)
    options += ("--threads", 2, "--goal", "edge", "--set", "crossed_rows=4", "--set", "lasting_attention=true")
    code, text = call("train", "interpbench/case_3", "case_8", "--recipe", "siit", "--device", "cuda", *options)
    assert code == 1
    assert text.splitlines() == [
        "case_3: grade node is the best of 2 attempts",
        "case_8: failed: no such luck",
        f"2 of 2 cases done: 1 node, 1 failed; runs and ledgers in {tmp_path}",
    ]
    ((cases, given),) = trained
    assert cases == ["case_3", "case_8"]
    assert given == {
        "out": tmp_path,
        "workers": 2,
        "attempts": 5,
        "threads": 2,
        "goal": "edge",
        "crossed_rows": 4,
        "lasting_attention": True,
        "accept": "path",
        "max_steps": 9,
        "seed": 4,
        "recipe": "siit",
        "device": "cuda",
        "imports": (),
    }


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        (["--all"], [case.id for case in list_cases()]),
        (["--tier", "single-head"], [case.id for case in list_cases(tier="single-head")]),
        (["--all", "--tier", "elementwise", "--backend", "ray"], [case.id for case in list_cases(tier="elementwise")]),
        (["case_8", "--attempts", "1"], ["case_8"]),
    ],
)
def test_which_cases_are_trained(arguments, ids, trained):
    call("train", *arguments)
    ((cases, given),) = trained
    assert [getattr(case, "id", case) for case in cases] == ids
    # What is not said is left to train_all.
    assert given["out"] == Path("runs") and "workers" not in given and "accept" not in given


@pytest.mark.parametrize("arguments", [[], ["case_3", "--all"], ["case_3", "--tier", "single-head"]])
def test_cases_are_either_named_or_all(arguments, trained):
    code, text = call("train", *arguments)
    assert code == 2 and "name one case or more, or give --all or --tier" in text and not trained


def test_a_setting_that_recipes_do_not_have_is_refused(trained, monkeypatch, capsys):
    code, _, error = main(monkeypatch, capsys, "train", "case_3", "case_4", "--set", "crossed=4")
    assert code == 1 and "unknown recipe field 'crossed'; nearest: crossed_rows" in error and not trained


def test_several_runs_start_from_no_model(trained):
    code, text = call("train", "case_3", "case_4", "--start-from", "case_3")
    assert code == 2 and "--start-from is for one run" in text and not trained


def test_several_runs_are_not_restarted(trained):
    code, text = call("train", "--all", "--restart")
    assert code == 2 and "--restart is for one run" in text and not trained


@pytest.mark.parametrize("cases", [["case_3"], ["case_3", "case_8"]])
def test_ctrl_c_says_how_to_go_on(cases, monkeypatch):
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(siit, "train", interrupted)
    monkeypatch.setattr(siit, "train_all", interrupted)
    code, text = call("train", *cases)
    assert (code, text.strip()) == (130, "interrupted; the same command goes on from the last saved state")


@pytest.mark.parametrize("arguments", [["case_3"], ["--all"]])
def test_a_module_that_cannot_be_imported_is_an_error(arguments, monkeypatch, capsys):
    code, _, error = main(monkeypatch, capsys, "train", *arguments, "--import", "my_cases")
    assert code == 1
    assert "module 'my_cases' cannot be imported" in error


def test_the_tiers_are_those_of_the_cases():
    assert get_args(cli.Tier) == get_args(Tier)


def test_bundle_takes_all_of_a_folder_of_runs(tmp_path, monkeypatch, small_certificates):
    monkeypatch.chdir(tmp_path)
    call("train", "case_3", "--max-steps", 10)
    attempt = read_attempt(tmp_path / "runs" / "case_3" / "edge-siit_0")
    with open_ledger(tmp_path / "runs" / "case_3", "case_3") as ledger:
        ledger.record("edge-siit", attempt)
        ledger.choose("edge-siit", 0)
    code, text = call("bundle", "--all", "--collection", tmp_path / "one")
    assert (code, text) == (0, f"bundled {tmp_path / 'one' / 'case_3'}\n")
    code, _ = call("bundle", "--from", tmp_path / "runs", "--collection", tmp_path / "two")
    assert code == 0
    manifests = [(tmp_path / name / "manifest.json").read_text() for name in ("one", "two")]
    assert manifests[0] == manifests[1] and json.loads(manifests[0])["models"]["case_3"]["attempts"][0]["seed"] == 0
    assert call("bundle", "--all", "--least", "edge", "--collection", tmp_path / "three") == (0, "")


@pytest.mark.parametrize("arguments", [[], ["--all", "."]])
def test_bundle_takes_folders_or_all(arguments):
    code, text = call("bundle", *arguments)
    assert code == 2 and "give checkpoint folders, or --all or --from" in text


def test_bundling_needs_a_certificate(tmp_path, small_certificates):
    run = tmp_path / "run"
    call("train", "case_3", "--out", run, "--max-steps", 10)
    (run / "certificate.json").unlink()
    with pytest.raises(CheckpointError, match="has no certificate; run `interpbench certify"):
        bundle([run], tmp_path / "collection")
    assert not (tmp_path / "collection").exists()


def test_the_node_level_recipe_is_bundled_under_its_own_id(tmp_path, small_certificates):
    call("train", "case_3", "--out", tmp_path / "run", "--recipe", "siit", "--max-steps", 10)
    assert [place.name for place in bundle([tmp_path / "run"], tmp_path / "collection")] == ["case_3_siit"]
