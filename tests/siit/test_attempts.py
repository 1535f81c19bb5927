"""Attempts and their ledger: what is read from a run's folder, what is written, and the lock on a folder."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from interpbench_hub.certificate import Ablation, Certificate, Entry
from interpbench_hub.checkpoint import Checkpoint, save_checkpoint, weights_digest
from interpbench_hub.constants import ATTEMPTS_FILE, CONFIG_FILE, TRAINING_LOG_FILE, TRAINING_STATE_FILE
from interpbench_hub.errors import BusyError, CheckpointError
from interpbench_hub.siit import train
from interpbench_hub.siit.attempts import Attempt, Ledger, is_finished, open_ledger, read_attempt, run_folder
from interpbench_hub.siit.lock import LOCK_FILE, folder_lock

FINISHED = Attempt(
    seed=2,
    status="finished",
    grade="edge",
    steps=700,
    training_cpu_seconds=12.5,
    certificate_cpu_seconds=4.25,
    wall_seconds=20.0,
    n_failures=1,
    worst=(("edge_interchange", "embed->m0", "resample", 0.75),),
)
CRASHED = Attempt(seed=1, status="crashed", error="its process was killed by SIGKILL")


# -- what lies in a run's folder ---------------------------------------------------------------------------------------


def leave_run(folder: Path, checkpoint: Checkpoint, certificate: Certificate, log: list[dict[str, Any]]) -> None:
    checkpoint = replace(
        checkpoint, certificate=replace(certificate, weights_sha256=weights_digest(checkpoint.weights))
    )
    save_checkpoint(checkpoint, folder)
    (folder / TRAINING_LOG_FILE).write_text("".join(json.dumps(event) + "\n" for event in log))


def test_a_finished_attempt_is_read_from_its_folder(tmp_path, checkpoint, make_certificate):
    failing = Entry("embed->m0", "resample", 1000, 750)
    end = {"event": "end", "step": 700, "cpu_seconds": 16.75, "certificate_cpu_seconds": 4.25, "wall_seconds": 20.0}
    leave_run(tmp_path, checkpoint, make_certificate(edge_interchange=(failing,)), [{"event": "step", "step": 10}, end])
    assert is_finished(tmp_path)
    assert read_attempt(tmp_path) == replace(FINISHED, seed=0)
    assert read_attempt(tmp_path).cpu_seconds == 16.75


@pytest.mark.parametrize("log", [[], [{"event": "step", "step": 90}], ["end"]])
def test_without_the_end_of_the_log_the_checkpoint_tells_the_times(log, tmp_path, checkpoint, make_certificate):
    leave_run(tmp_path, checkpoint, make_certificate(), log)
    attempt = read_attempt(tmp_path)
    assert (attempt.steps, attempt.training_cpu_seconds, attempt.wall_seconds) == (0, 1.25, 1.5)
    (tmp_path / TRAINING_LOG_FILE).unlink()
    assert read_attempt(tmp_path) == attempt


def test_of_the_entries_that_fall_short_the_worst_are_listed(tmp_path, checkpoint, make_certificate):
    rows = tuple(Entry(f"a0.h{head}", "zero", 100, 90 - head) for head in range(4))
    leave_run(tmp_path, checkpoint, make_certificate(node_strict=rows, edge_strict=rows), [])
    attempt = read_attempt(tmp_path)
    assert attempt.n_failures == 8 and attempt.grade == "node"
    assert [entry[3] for entry in attempt.worst] == [0.87, 0.87, 0.88, 0.88, 0.89]
    assert attempt.worst[0] == ("node_strict", "a0.h3", "zero", 0.87)


def test_a_run_with_a_training_state_or_without_a_certificate_is_not_finished(tmp_path, checkpoint, make_certificate):
    leave_run(tmp_path, checkpoint, make_certificate(), [])
    (tmp_path / TRAINING_STATE_FILE).touch()
    assert not is_finished(tmp_path)
    (tmp_path / TRAINING_STATE_FILE).unlink()
    (tmp_path / CONFIG_FILE).unlink()
    assert not is_finished(tmp_path) and not is_finished(tmp_path / "nowhere")


def test_a_run_is_trained_in_the_folder_that_the_ledger_looks_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with folder_lock_of(run_folder("runs", "case_3", "siit", 4)), pytest.raises(BusyError, match="case_3/siit_4 is in"):
        train("case_3", recipe="siit", seed=4)


# -- the ledger --------------------------------------------------------------------------------------------------------


def test_a_ledger_comes_back_as_it_was_saved(tmp_path):
    folder = tmp_path / "case_3"
    with open_ledger(folder, "case_3") as ledger:
        ledger.record("edge-siit", FINISHED)
        ledger.record("edge-siit", CRASHED)
        ledger.record("siit", replace(FINISHED, seed=0, worst=()))
        ledger.choose("edge-siit", 2)
    assert [path.name for path in folder.iterdir()] == [ATTEMPTS_FILE]
    found = Ledger.load(folder)
    assert found == ledger
    assert found.attempts("edge-siit") == [CRASHED, replace(FINISHED, chosen=True)]
    assert found.chosen("edge-siit") == replace(FINISHED, chosen=True)
    assert found.chosen("siit") is None and found.attempts("behaviour") == []


def test_whatever_replaces_in_a_certificate_can_be_entered(tmp_path):
    worst = tuple(("edge_strict", "embed->m0", ablation, 0.5) for ablation in (*get_args(Ablation), None))
    assert {"abc", "zero"} <= {ablation for _, _, ablation, _ in worst}
    with open_ledger(tmp_path, "ioi") as ledger:
        ledger.record("edge-siit", replace(FINISHED, worst=worst))
    assert Ledger.load(tmp_path) == ledger


def test_recipes_do_not_clash_and_a_seed_is_entered_once(tmp_path):
    with open_ledger(tmp_path, "case_3") as ledger:
        ledger.record("siit", CRASHED)
        ledger.record("edge-siit", CRASHED)
        ledger.record("edge-siit", replace(FINISHED, seed=1))
    with open_ledger(tmp_path, "case_3") as ledger:
        ledger.choose("edge-siit", 1)
    with open_ledger(tmp_path, "case_3") as ledger:
        ledger.forget("siit", 1)
        ledger.forget("siit", 7)
    assert Ledger.load(tmp_path).recipes == {"siit": {}, "edge-siit": {1: replace(FINISHED, seed=1, chosen=True)}}


def test_a_ledger_that_was_not_changed_to_the_end_is_left_as_it_was(tmp_path):
    with open_ledger(tmp_path, "case_3") as ledger:
        ledger.record("siit", CRASHED)
    with pytest.raises(RuntimeError), open_ledger(tmp_path, "case_3") as ledger:
        ledger.forget("siit", 1)
        raise RuntimeError
    assert Ledger.load(tmp_path).attempts("siit") == [CRASHED]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "0"}, r"at recipes\.siit\[0\]\.seed: .*the weights and all draws"),
        ({"grade": "good"}, r"at recipes\.siit\[0\]\.grade"),
        ({"status": "done"}, r"at recipes\.siit\[0\]\.status"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"worst": [["behaviour", "all", None]]}, r"at recipes\.siit\[0\]\.worst\[0\]"),
    ],
)
def test_a_ledger_that_breaks_the_format_is_refused(change, message, tmp_path):
    rows = [CRASHED.to_dict() | change]
    data = {"schema_version": 1, "case": "case_3", "recipes": {"siit": rows}}
    (tmp_path / ATTEMPTS_FILE).write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=rf"attempts\.json: .*{message}"):
        Ledger.load(tmp_path)


def test_at_most_one_attempt_of_a_recipe_is_chosen(tmp_path):
    rows = [replace(FINISHED, seed=seed, chosen=True).to_dict() for seed in (0, 1)]
    data = {"schema_version": 1, "case": "case_3", "recipes": {"siit": rows}}
    (tmp_path / ATTEMPTS_FILE).write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=r"at recipes\.siit"):
        Ledger.load(tmp_path)


def test_processes_that_write_one_ledger_lose_no_entry(tmp_path):
    def write(recipe: str) -> None:
        for seed in range(10):
            with open_ledger(tmp_path, "case_3") as ledger:
                ledger.record(recipe, replace(CRASHED, seed=seed))

    threads = [threading.Thread(target=write, args=(recipe,)) for recipe in ("siit", "edge-siit")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {recipe: len(found) for recipe, found in Ledger.load(tmp_path).recipes.items()} == {
        "siit": 10,
        "edge-siit": 10,
    }


# -- the lock ----------------------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from interpbench_hub.siit.lock import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def folder_lock_of(folder: Path) -> Any:
    folder.mkdir(parents=True)
    return folder_lock(folder)


@pytest.fixture
def holder(tmp_path) -> Callable[[], subprocess.Popen[str]]:
    """Starts a process that holds the lock of the test's folder until its input ends."""

    def hold() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(tmp_path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        return process

    return hold


def test_two_processes_never_train_in_one_folder(tmp_path, holder):
    with holder() as process:
        with pytest.raises(BusyError, match="is in use by another process"):
            train("case_3", out=tmp_path)
        process.kill()
    # A lock ends with its process, whatever it has left behind.
    with folder_lock(tmp_path):
        assert (tmp_path / LOCK_FILE).exists()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_can_be_waited_for(tmp_path, holder):
    with holder() as process:
        assert process.stdin is not None
        timer = threading.Timer(0.3, process.stdin.close)
        timer.start()
        with folder_lock(tmp_path, patience=20):
            pass
        timer.join()
        process.stdin = None
