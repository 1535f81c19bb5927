"""Training many cases: the order of attempts, when a case is done, and what is recorded; workers are played here."""

import json
import shutil
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interpbench_hub.cases import Case, get_case, register_case, unregister_case
from interpbench_hub.certificate import Entry
from interpbench_hub.checkpoint import Checkpoint, save_checkpoint, weights_digest
from interpbench_hub.circuit import Circuit
from interpbench_hub.constants import ATTEMPTS_FILE, TRAINING_LOG_FILE
from interpbench_hub.errors import CaseError, SettingError, UnknownNameError
from interpbench_hub.rasp import Map, tokens
from interpbench_hub.siit import RECIPES, jobs, train_all
from interpbench_hub.siit.attempts import Ledger
from interpbench_hub.siit.jobs import Job, Schedule
from interpbench_hub.siit.sizes import cost_of
from interpbench_hub.siit.workers import Ending, Message, Task

TO_EDGE = RECIPES["edge-siit"].changed(goal="edge")
FAILING = {
    "path": {},
    "edge": {"edge_interchange": (Entry("embed->m0", "resample", 2000, 1900),)},
    "node": {"complement": (Entry("all", "zero", 2000, 1900),)},
    "none": {"behaviour": (Entry("all", None, 2000, 1900),)},
}
"""What must fail for each grade."""


class PlayedBackend:
    """Does at once what a script says of each case and seed: a grade to finish with, or how else an attempt ends.

    A script's values are lists with an item for each start.
    """

    def __init__(self, script: dict[tuple[str, int], list[str]], finish: Callable[[Task, str], None], workers: int):
        self.workers = workers
        self.script, self._finish = {key: deque(items) for key, items in script.items()}, finish
        self.started: list[tuple[str, int]] = []
        self.most_running = 0
        self.log: list[str] = []
        self._running: list[Task] = []

    def start(self, task: Task) -> None:
        self._running.append(task)
        self.started.append((task.case, task.seed))
        self.most_running = max(self.most_running, len(self._running))

    def wait(self, seconds: float) -> list[tuple[Task, Message]]:
        task = self._running.pop(0)
        how = self.script.get((task.case, task.seed), deque(["path"])).popleft()
        if how == "ctrl-c":
            signal.raise_signal(signal.SIGINT)
            self._running.append(task)
            self.script.setdefault((task.case, task.seed), deque()).appendleft("stopped")
            return []
        if how in FAILING:
            self._finish(task, how)
            return [(task, {"event": "step", "step": 10}), (task, Ending("finished"))]
        return [(task, Ending(how, f"{how} it was"))]  # type: ignore[arg-type]

    def stop(self) -> None:
        self.log.append("stop")

    def kill(self) -> None:
        self.log.append("kill")

    def close(self) -> None:
        self.log.append("close")


@pytest.fixture
def finish(make_checkpoint, make_certificate) -> Callable[[Task, str], None]:
    """Leaves the folder of a finished attempt of this grade."""

    def leave(task: Task, grade: str) -> None:
        made: Checkpoint = make_checkpoint(seed=task.seed)
        provenance = replace(made.config.provenance, recipe=task.recipe.name, seed=task.seed)
        config = replace(made.config, case=task.case, provenance=provenance)
        circuit = Circuit(made.circuit.n_layers, made.circuit.n_heads, made.circuit.edges, {}, case=task.case)
        certificate = make_certificate(case=task.case, weights_sha256=weights_digest(made.weights), **FAILING[grade])
        save_checkpoint(Checkpoint(config, made.weights, circuit, certificate), Path(task.folder))
        end = {"event": "end", "step": 500, "cpu_seconds": 9.0, "certificate_cpu_seconds": 2.0, "wall_seconds": 10.0}
        (Path(task.folder) / TRAINING_LOG_FILE).write_text(json.dumps(end) + "\n")

    return leave


@pytest.fixture
def play(monkeypatch, finish, tmp_path) -> Callable[..., Any]:
    """Calls `train_all` with played workers; returns outcomes by case, the backend and the events."""

    def call(
        cases: list[Any], script: dict[tuple[str, int], list[str]], *, workers: int = 1, **options: Any
    ) -> tuple[dict[str, Any], PlayedBackend, list[dict[str, Any]]]:
        backend = PlayedBackend(script, finish, workers)
        monkeypatch.setattr(jobs, "get_backend", lambda *_: backend)
        call.backend, call.events = backend, []  # type: ignore[attr-defined]
        options = {"out": tmp_path, "report": call.events.append, **options}  # type: ignore[attr-defined]
        outcomes = train_all(cases, **options)
        return {outcome.case: outcome for outcome in outcomes}, backend, call.events  # type: ignore[attr-defined]

    return call


def ledger(folder: Path) -> list[dict[str, Any]]:
    """The attempts of edge-SIIT as the file lists them."""
    return json.loads((folder / ATTEMPTS_FILE).read_text())["recipes"]["edge-siit"]


# -- which attempt comes next ------------------------------------------------------------------------------------------


def test_long_cases_start_first_and_equals_in_the_order_given():
    costs = {"short": 1.0, "long": 9.0, "middle": 5.0, "as long": 9.0}
    schedule = Schedule(Job(name, RECIPES["edge-siit"], Path("runs"), (0,), cost=cost) for name, cost in costs.items())
    assert [schedule.take().case for _ in range(len(schedule))] == ["long", "as long", "middle", "short"]


def test_deep_and_wide_cases_count_as_long():
    order = sorted(("case_8", "case_13", "case_113", "case_81"), key=lambda name: cost_of(get_case(name)))
    assert order == ["case_8", "case_13", "case_113", "case_81"]


def test_a_case_gets_seeds_until_one_is_accepted(play):
    script = {("case_13", 5): ["none"], ("case_13", 6): ["edge"], ("case_8", 5): ["node"]}
    outcomes, backend, _ = play(["case_8", "case_13"], script, seed=5)
    # The longer case comes first, and so does its second attempt.
    assert backend.started == [("case_13", 5), ("case_13", 6), ("case_8", 5), ("case_8", 6)]
    assert [(outcome.status, outcome.chosen.seed) for outcome in outcomes.values()] == [("accepted", 6)] * 2
    assert list(outcomes) == ["case_8", "case_13"]


def test_the_limit_of_attempts_holds_and_the_best_counts(play, tmp_path):
    script = {("case_3", 0): ["node"], ("case_3", 1): ["edge"], ("case_3", 2): ["none"], ("case_3", 3): ["path"]}
    outcomes, backend, _ = play(["case_3"], script, accept="path")
    assert backend.started == [("case_3", 0), ("case_3", 1), ("case_3", 2)]
    outcome = outcomes["case_3"]
    assert (outcome.status, outcome.chosen.grade, outcome.error) == ("short", "edge", None)
    assert outcome.folder == tmp_path / "case_3" / "edge-siit_1"
    assert [attempt.grade for attempt in outcome.attempts] == ["node", "edge", "none"]
    assert [(row["seed"], row["grade"], row["chosen"]) for row in ledger(tmp_path / "case_3")] == [
        (0, "node", False),
        (1, "edge", True),
        (2, "none", False),
    ]


@pytest.mark.parametrize(
    ("recipe", "accept", "grades", "n"),
    [
        ("edge-siit", "edge", ["edge"], 1),
        ("edge-siit", "path", ["edge", "path"], 2),
        ("edge-siit", "edge", ["node", "node", "node"], 3),
        # The goals of these are their own, whatever is accepted of edge-level training.
        (TO_EDGE, "path", ["node", "edge"], 2),
        ("siit", "path", ["node"], 1),
        ("siit", "edge", ["none", "edge"], 2),
        ("behaviour", "path", ["none", "node"], 2),
    ],
)
def test_what_is_accepted_depends_on_the_recipe(recipe, accept, grades, n, play):
    script = {("case_3", seed): [grade] for seed, grade in enumerate(grades)}
    outcomes, backend, _ = play(["case_3"], script, recipe=recipe, accept=accept)
    assert len(backend.started) == n
    assert outcomes["case_3"].chosen.grade == grades[-1 if outcomes["case_3"].status == "accepted" else 0]


def test_no_more_attempts_run_at_a_time_than_there_are_workers(play):
    _, backend, events = play(["case_3", "case_8", "case_14", "case_10"], {}, workers=2)
    assert backend.most_running == 2 and len(backend.started) == 4 and backend.log == ["close"]
    assert events[0] == {
        "event": "jobs",
        "cases": ["case_3", "case_8", "case_14", "case_10"],
        "attempts": 3,
        "workers": 2,
    }


def test_a_case_given_twice_is_trained_once(play):
    _, backend, _ = play(["case_3", get_case("case_3")], {})
    assert backend.started == [("case_3", 0)]


# -- what is recorded --------------------------------------------------------------------------------------------------


def test_the_ledger_holds_steps_times_and_the_worst_entries(play, tmp_path):
    play(["case_3"], {("case_3", 0): ["edge"]})
    assert ledger(tmp_path / "case_3") == [
        {
            "seed": 0,
            "status": "finished",
            "chosen": True,
            "grade": "edge",
            "steps": 500,
            "training_cpu_seconds": 7.0,
            "certificate_cpu_seconds": 2.0,
            "wall_seconds": 10.0,
            "n_failures": 1,
            "worst": [["edge_interchange", "embed->m0", "resample", 0.95]],
            "error": None,
        }
    ]


def test_every_event_says_whose_it_is(play):
    _, _, events = play(["case_3"], {("case_3", 0): ["none"]}, attempts=2, max_steps=77)
    assert [event["event"] for event in events] == ["jobs", *["begin", "step", "attempt"] * 2, "outcome"]
    assert events[1] == {"event": "begin", "case": "case_3", "seed": 0, "attempt": 1, "max_steps": 77}
    assert events[2] == {"event": "step", "step": 10, "case": "case_3", "seed": 0}
    assert events[-1] == {
        "event": "outcome",
        "case": "case_3",
        "status": "accepted",
        "grade": "path",
        "seed": 1,
        "error": None,
    }


def test_finished_attempts_are_kept_and_need_no_worker(play, tmp_path):
    play(["case_3"], {("case_3", 0): ["none"], ("case_3", 1): ["edge"]})
    before = (tmp_path / "case_3" / ATTEMPTS_FILE).read_text()
    outcomes, backend, events = play(["case_3"], {})
    assert backend.started == [] and outcomes["case_3"].status == "accepted"
    assert [event["event"] for event in events] == ["jobs", "outcome"]
    assert (tmp_path / "case_3" / ATTEMPTS_FILE).read_text() == before
    # More is asked for now: the two stay, a third is made.
    outcomes, backend, _ = play(["case_3"], {}, accept="path")
    assert backend.started == [("case_3", 2)] and outcomes["case_3"].chosen.seed == 2


def test_attempts_that_ended_short_go_on_if_they_are_given_more_steps(play, tmp_path, monkeypatch):
    play(["case_3"], {("case_3", 0): ["none"], ("case_3", 1): ["node"]}, attempts=2)
    # Of two that could go on the first will do, for it is accepted then.
    monkeypatch.setattr(jobs, "can_go_on", lambda folder, max_steps: max_steps > 12_000)
    outcomes, backend, _ = play(["case_3"], {}, attempts=2)
    assert backend.started == [] and outcomes["case_3"].status == "short"
    script = {("case_3", 0): ["edge"]}
    outcomes, backend, _ = play(["case_3"], script, attempts=2, max_steps=20_000)
    assert backend.started == [("case_3", 0)] and outcomes["case_3"].status == "accepted"
    assert (outcomes["case_3"].chosen.seed, outcomes["case_3"].chosen.grade) == (0, "edge")
    # What is accepted need not go on.
    _, backend, _ = play(["case_3"], {}, attempts=2, max_steps=20_000)
    assert backend.started == []
    assert [attempt["grade"] for attempt in ledger(tmp_path / "case_3")] == ["edge", "node"]


def test_the_folders_are_true_whatever_the_ledger_says(play, tmp_path):
    play(["case_3"], {("case_3", 0): ["none"], ("case_3", 1): ["edge"]})
    before = ledger(tmp_path / "case_3")
    (tmp_path / "case_3" / ATTEMPTS_FILE).unlink()
    play(["case_3"], {})
    assert ledger(tmp_path / "case_3") == before
    shutil.rmtree(tmp_path / "case_3" / "edge-siit_1")
    outcomes, backend, _ = play(["case_3"], {})
    assert backend.started == [("case_3", 1)] and outcomes["case_3"].chosen.grade == "path"


def test_recipes_share_a_ledger_and_other_seeds_stay_in_it(play, tmp_path):
    play(["case_3"], {("case_3", 7): ["edge"]}, seed=7)
    play(["case_3"], {}, recipe="siit")
    outcomes, backend, _ = play(["case_3"], {("case_3", 0): ["node"]}, attempts=1)
    assert backend.started == [("case_3", 0)]
    found = Ledger.load(tmp_path / "case_3")
    assert {recipe: sorted(attempts) for recipe, attempts in found.recipes.items()} == {
        "edge-siit": [0, 7],
        "siit": [0],
    }
    # The best of all counts, also one of another call.
    assert outcomes["case_3"].chosen.seed == 7 and outcomes["case_3"].status == "short"


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_an_attempt_whose_process_dies_is_started_once_more(play, tmp_path):
    outcomes, backend, events = play(["case_3"], {("case_3", 0): ["crashed", "path"]})
    assert backend.started == [("case_3", 0), ("case_3", 0)]
    assert outcomes["case_3"].status == "accepted"
    assert {"event": "again", "case": "case_3", "seed": 0, "error": "crashed it was"} in events


def test_then_it_is_recorded_as_crashed_and_the_next_seed_follows(play, tmp_path):
    script = {("case_3", 0): ["crashed", "crashed"], ("case_3", 1): ["crashed", "none"], ("case_3", 2): ["node"]}
    outcomes, backend, _ = play(["case_3"], script)
    assert [seed for _, seed in backend.started] == [0, 0, 1, 1, 2]
    rows = ledger(tmp_path / "case_3")
    assert [row["status"] for row in rows] == ["crashed", "finished", "finished"]
    assert rows[0]["error"] == "crashed it was" and rows[0]["grade"] is None
    assert (outcomes["case_3"].status, outcomes["case_3"].chosen.seed) == ("failed", 2)
    # Another call tries the crashed one again.
    _, backend, _ = play(["case_3"], {("case_3", 0): ["node"]})
    assert backend.started == [("case_3", 0)]


def test_an_error_ends_its_case_and_no_other(play, tmp_path):
    outcomes, backend, _ = play(["case_3", "case_8"], {("case_3", 0): ["failed"]})
    assert backend.started == [("case_3", 0), ("case_8", 0)]
    assert (outcomes["case_3"].status, outcomes["case_3"].error) == ("failed", "failed it was")
    assert outcomes["case_3"].chosen is None and outcomes["case_3"].folder is None
    assert outcomes["case_8"].status == "accepted" and outcomes["case_8"].error is None
    assert ledger(tmp_path / "case_3")[0]["status"] == "failed"


def test_a_folder_that_is_in_use_is_left_to_its_user(play, tmp_path):
    outcomes, _, _ = play(["case_3"], {("case_3", 0): ["busy"]})
    assert (outcomes["case_3"].status, outcomes["case_3"].error) == ("failed", "busy it was")
    assert not (tmp_path / "case_3" / ATTEMPTS_FILE).exists()


@pytest.mark.parametrize("file", [ATTEMPTS_FILE, "edge-siit_0/certificate.json"])
def test_a_broken_file_ends_its_case_alone(file, play, tmp_path):
    play(["case_3"], {})
    (tmp_path / "case_3" / file).write_text("{")
    outcomes, backend, _ = play(["case_3", "case_8"], {})
    assert backend.started == [("case_8", 0)]
    assert outcomes["case_3"].status == "failed" and f"{Path(file).name}: not JSON" in outcomes["case_3"].error
    assert outcomes["case_8"].status == "accepted"


def test_ctrl_c_lets_workers_stop_and_is_raised_at_the_end(play, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        play(["case_3", "case_8", "case_14"], {("case_8", 0): ["ctrl-c"]}, workers=3)
    assert signal.getsignal(signal.SIGINT) is before
    assert play.backend.log == ["stop", "close"]
    names = [(event["event"], event.get("case")) for event in play.events]
    assert ("stopping", None) in names and ("stopped", "case_8") in names
    # Who finished meanwhile is recorded, nobody is called crashed.
    assert not (tmp_path / "case_8" / ATTEMPTS_FILE).exists()
    _, backend, _ = play(["case_3", "case_8", "case_14"], {})
    assert ("case_3", 0) not in backend.started and ("case_8", 0) in backend.started


def test_a_second_ctrl_c_ends_the_workers_at_once(play):
    with pytest.raises(KeyboardInterrupt):
        play(["case_3", "case_8"], {("case_3", 0): ["ctrl-c", "ctrl-c"], ("case_8", 0): ["ctrl-c"]}, workers=2)
    assert "kill" in play.backend.log and play.backend.log[-1] == "close"


def test_an_error_of_the_report_closes_the_backend(play):
    def report(event: dict[str, Any]) -> None:
        if event["event"] == "attempt":
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        play(["case_3"], {}, report=report)
    assert play.backend.log == ["close"]


# -- what cannot be asked ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cases": ["case_300"]}, UnknownNameError, "unknown case 'case_300'"),
        ({"recipe": "best"}, UnknownNameError, "unknown recipe 'best'"),
        ({"attempts": 0}, SettingError, "attempts is 0; it is at least 1"),
        ({"workers": 0}, SettingError, "workers is 0; it is at least 1"),
        ({"accept": "node"}, SettingError, "accept is 'node'; it is edge or path"),
        ({"backend": "cloud"}, UnknownNameError, "unknown backend 'cloud'; known: process, ray"),
        ({"device": "gpu"}, SettingError, "gpu"),
        ({"imports": ["my_own_cases"]}, SettingError, "module 'my_own_cases' cannot be imported"),
        ({"max_steps": 0}, SettingError, "max_steps is 0"),
    ],
)
def test_arguments_that_cannot_be_are_refused(options, error, message, tmp_path):
    with pytest.raises(error, match=message):
        train_all(**{"cases": ["case_3"], "out": tmp_path, **options})
    assert list(tmp_path.iterdir()) == []


def test_a_case_must_be_registered_for_workers_to_find_it(play):
    case = Case("my_case", "Says the token.", Map(str, tokens), ("a", "b"))
    with pytest.raises(CaseError, match=r"case 'my_case' is not registered .*name that module in imports"):
        train_all([case])
    register_case(case)
    try:
        _, backend, _ = play([case], {})
        assert backend.started == [("my_case", 0)]
        with pytest.raises(CaseError, match="or another one under its id"):
            train_all([Case("my_case", "Says the token.", Map(str, tokens), ("a", "b"))])
    finally:
        unregister_case("my_case")


def test_nothing_to_train_is_no_error(play):
    outcomes, backend, _ = play([], {})
    assert outcomes == {} and backend.started == []
