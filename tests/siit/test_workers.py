"""Worker processes and Ray tasks: real commands are interrupted and killed, and leave what undisturbed ones leave."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from interpbench_hub.constants import ATTEMPTS_FILE, TRAINING_LOG_FILE, TRAINING_STATE_FILE, WEIGHTS_FILE
from interpbench_hub.errors import BusyError, SettingError
from interpbench_hub.siit import RECIPES, runs, workers
from interpbench_hub.siit.attempts import Ledger
from interpbench_hub.siit.ray_workers import Mailbox
from interpbench_hub.siit.workers import Ending, Task, get_backend, run_task

TASK = Task("case_3", 0, RECIPES["edge-siit"], "nowhere")
RECIPE = "tiny-edge-siit"
RUN = Path("tiny_swap") / f"{RECIPE}_0"


# -- one task ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (None, Ending("finished")),
        (KeyboardInterrupt(), Ending("stopped")),
        (SettingError("not so"), Ending("failed", "not so")),
    ],
)
def test_a_task_ends_with_what_training_ends_with(error, ending, monkeypatch):
    def train(case: object, **options: object) -> None:
        if error is not None:
            raise error

    monkeypatch.setattr(runs, "train", train)
    assert run_task(TASK, lambda _: None) == ending


def test_an_error_nobody_foresaw_is_told_with_its_place(monkeypatch):
    monkeypatch.setattr(runs, "train", lambda *_, **__: [][0])
    ending = run_task(TASK, lambda _: None)
    assert ending.how == "failed" and ending.error is not None
    assert ending.error.startswith("IndexError: list index out of range (test_workers.py:")


def test_a_folder_in_use_is_waited_for(monkeypatch):
    calls = []

    def train(case: object, **options: object) -> None:
        calls.append(case)
        if len(calls) < 3:
            raise BusyError("in use")

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    assert run_task(TASK, lambda _: None) == Ending("finished")
    assert len(calls) == 3
    calls.clear()
    monkeypatch.setattr(workers, "LOCK_PATIENCE", -1.0)
    assert run_task(TASK, lambda _: None) == Ending("busy", "in use")


def test_a_case_that_a_worker_does_not_know_must_be_imported():
    ending = run_task(Task("my_case", 0, RECIPES["edge-siit"], "nowhere"), lambda _: None)
    assert ending.how == "failed" and ending.error is not None
    assert "unknown case 'my_case'" in ending.error and "--import my_cases" in ending.error


# -- commands ----------------------------------------------------------------------------------------------------------


def command(out: Path, *cases: str, options: tuple[str, ...] = ()) -> list[str]:
    start = [sys.executable, "-c", "from interpbench_hub.cli import main; main()", "train", "--import", "tiny_cases"]
    return [*start, *cases, "--recipe", RECIPE, "--attempts", "1", "--out", str(out), *options]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def call(out: Path, *cases: str, options: tuple[str, ...] = ()) -> tuple[int, str]:
    """A command from start to end: its exit status and all that it prints."""
    done = subprocess.run(
        command(out, *cases, options=options),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout


@contextmanager
def started(out: Path, *cases: str) -> Iterator[subprocess.Popen[str]]:
    """A command that has trained a while, with a group of processes of its own as in a terminal."""
    process = subprocess.Popen(
        command(out, *cases),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        await_that(lambda: (out / RUN / TRAINING_STATE_FILE).exists())
        yield process
    finally:
        process.kill()
        process.communicate()


def await_that(holds: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(found) and not found.startswith("Z")


def weights(out: Path, case: str = "tiny_swap") -> bytes:
    return (out / case / f"{RECIPE}_0" / WEIGHTS_FILE).read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, int, str]:
    """A command that nothing disturbed: its folder, exit status and output."""
    out = tmp_path_factory.mktemp("whole")
    cases = ("tiny_swap", "tiny_other", "tiny_killed", "tiny_refused")
    return out, *call(out, *cases, options=("--workers", "2"))


@pytest.mark.slow
def test_one_command_trains_several_cases_and_tells_what_failed(whole):
    out, code, text = whole
    assert code == 1
    found = {folder.name: Ledger.load(folder).attempts(RECIPE)[0] for folder in out.iterdir()}
    assert {name: attempt.status for name, attempt in found.items()} == {
        "tiny_swap": "finished",
        "tiny_other": "finished",
        "tiny_killed": "crashed",
        "tiny_refused": "failed",
    }
    assert found["tiny_killed"].error == "its process was killed by SIGKILL"
    assert "no such luck" in (found["tiny_refused"].error or "")
    lines = text.splitlines()
    assert "tiny_killed seed 0: its process was killed by SIGKILL; it starts again" in lines
    assert any(line.startswith(f"tiny_swap {RECIPE} seed 0: grade path after ") for line in lines)
    assert "tiny_killed: failed: its process was killed by SIGKILL" in lines
    assert any(line.startswith("4 of 4 cases done: 2 path, 2 failed; runs") for line in lines)
    # A lock's file outlives a process that is killed, the lock does not.
    assert [path.parts[-3] for path in out.rglob(".lock")] == ["tiny_killed"] and not list(out.rglob("*.tmp"))


@pytest.mark.slow
def test_after_ctrl_c_the_same_command_goes_on(whole, tmp_path):
    with started(tmp_path, "tiny_swap") as process:
        os.killpg(process.pid, signal.SIGINT)
        text, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert text.splitlines() == [
        "stopping: 1 workers save their states",
        "interrupted; the same command goes on from the last saved state",
    ]
    assert (tmp_path / RUN / TRAINING_STATE_FILE).exists()
    assert not (tmp_path / "tiny_swap" / ATTEMPTS_FILE).exists()
    log = (tmp_path / RUN / TRAINING_LOG_FILE).read_text()
    code, _ = call(tmp_path, "tiny_swap")
    assert code == 0 and weights(tmp_path) == weights(whole[0])
    assert (tmp_path / RUN / TRAINING_LOG_FILE).read_text().startswith(log.rpartition("\n")[0])


@pytest.mark.slow
def test_a_worker_that_is_killed_is_started_again(whole, tmp_path):
    with started(tmp_path, "tiny_swap") as process:
        (worker,) = workers_of(process)
        os.kill(worker, signal.SIGKILL)
        text, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "tiny_swap seed 0: its process was killed by SIGKILL; it starts again" in text
    assert weights(tmp_path) == weights(whole[0])


@pytest.mark.slow
def test_workers_end_with_the_command_and_the_next_one_goes_on(whole, tmp_path):
    with started(tmp_path, "tiny_swap") as process:
        (worker,) = workers_of(process)
        process.kill()
        process.wait()
        # At once: the next command may find the folder still in use, and waits.
        code, text = call(tmp_path, "tiny_swap")
    assert not is_alive(worker)
    assert code == 0, text
    assert weights(tmp_path) == weights(whole[0])


# -- Ray ---------------------------------------------------------------------------------------------------------------


def test_a_mailbox_hands_events_on_and_says_when_to_stop():
    mailbox = Mailbox()
    assert mailbox.put(TASK, {"event": "step", "step": 10}) is False
    assert mailbox.take() == [(TASK, {"event": "step", "step": 10})]
    mailbox.stop()
    assert mailbox.put(TASK, {"event": "step", "step": 20}) is True
    assert len(mailbox.take()) == 1 and mailbox.take() == []


def test_without_ray_the_backend_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingError, match=r"needs Ray.*pip install 'interpbench-hub\[ray\]', or use the process"):
        get_backend("ray", 2, "cpu")


MACHINES = [
    {"Alive": True, "Resources": {"CPU": 5.0, "memory": 1e9}},
    {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 3.0}},
    {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
]


@pytest.mark.parametrize(
    ("device", "threads", "workers"), [("cpu", 1, 9), ("cpu", 2, 4), ("cpu", 5, 1), ("cuda", 1, 3), ("cuda", 2, 2)]
)
def test_there_are_as_many_ray_workers_as_have_room_on_machines_that_live(monkeypatch, device, threads, workers):
    monkeypatch.setitem(sys.modules, "ray", MagicMock(nodes=lambda: MACHINES))
    assert get_backend("ray", None, device, threads).workers == workers
    assert get_backend("ray", 7, device, threads).workers == 7


@pytest.mark.parametrize(
    ("device", "threads", "machines", "message"),
    [
        (
            "cpu",
            6,
            MACHINES,
            r"threads is 6, but no machine .* as many cores \(the largest has 5\); give fewer threads",
        ),
        ("cuda", 5, MACHINES, r"threads is 5, but no machine .* as many cores and a GPU \(the largest has 5\)"),
        ("cuda", 1, MACHINES[:1], r"device is 'cuda', but the Ray cluster has no GPU; give another device"),
    ],
)
def test_a_ray_cluster_without_room_for_a_task_is_refused(monkeypatch, device, threads, machines, message):
    ray = MagicMock(nodes=lambda: machines, is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(SettingError, match=message):
        get_backend("ray", None, device, threads)
    ray.shutdown.assert_called_once()


@pytest.mark.slow
def test_ray_trains_the_same_models(whole, tmp_path):
    pytest.importorskip("ray")
    code, text = call(tmp_path, "tiny_swap", "tiny_other", options=("--backend", "ray", "--workers", "2"))
    assert code == 0, text
    for case in ("tiny_swap", "tiny_other"):
        assert weights(tmp_path, case) == weights(whole[0], case)
        assert Ledger.load(tmp_path / case).chosen(RECIPE) is not None
