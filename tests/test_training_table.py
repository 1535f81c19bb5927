"""What is shown while many cases train: the live table on a terminal, plain lines elsewhere."""

import io
from typing import Any

import pytest
from rich.console import Console

from interpbench_hub.training_table import Progress, TrainingTable, summary

CHECK = {
    "event": "check",
    "step": 250,
    "case": "case_5",
    "seed": 1,
    "behaviour": 1.0,
    "node_interchange": 0.9,
    "node_strict": 0.8,
    "edge_interchange": 0.7,
    "edge_strict": 1.0,
    "complement": 0.6,
    "weak": [["m1->a3.h0<v>", 0.875], ["m1", 0.9]],
}


def attempt(case: str, grade: str | None, **changes: Any) -> dict[str, Any]:
    """An attempt that ended; without a grade it crashed."""
    numbers: dict[str, Any]
    numbers = {"steps": 3000, "training_cpu_seconds": 100.4, "certificate_cpu_seconds": 20, "wall_seconds": 300}
    if grade is None:
        numbers = dict.fromkeys(numbers)
    return {
        "event": "attempt",
        "case": case,
        "recipe": "edge-siit",
        "seed": 0,
        "status": "finished" if grade else "crashed",
        "grade": grade,
        "worst": [],
        "error": None if grade else "its process was killed by SIGKILL",
        **numbers,
        **changes,
    }


def outcome(case: str, grade: str | None, status: str = "accepted") -> dict[str, Any]:
    return {"event": "outcome", "case": case, "status": status, "grade": grade, "seed": 0, "error": None}


WORST = [["edge_interchange", "m0->a1.h0<v>", "resample", 0.98], ["behaviour", "all", None, 0.99], ["x", "y", None, 1]]
EVENTS: list[dict[str, Any]] = [
    {"event": "jobs", "cases": [f"case_{number}" for number in range(153)], "attempts": 3, "workers": 2},
    {"event": "begin", "case": "case_3", "seed": 0, "attempt": 1, "max_steps": 12000},
    {"event": "begin", "case": "case_5", "seed": 1, "attempt": 2, "max_steps": 12000},
    {"event": "start", "case": "case_5", "seed": 1, "step": 0, "max_steps": 9000},
    {"event": "step", "case": "case_5", "seed": 1, "step": 10, "losses": {"behaviour": 0.5, "outside": 0.25}},
]


def rendered(*events: dict[str, Any], height: int = 24, width: int = 110) -> str:
    table = TrainingTable(Console(file=io.StringIO(), width=width, height=height))
    for event in events:
        table.report(event)
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(table.render())
    return console.export_text()


def words(*events: dict[str, Any]) -> str:
    """What is rendered, however it is spaced and wrapped."""
    return " ".join(rendered(*events).split())


def test_a_row_tells_attempt_step_grade_and_the_worst_of_the_last_look():
    first = words(*EVENTS)
    assert "case_3 1/3 s0" in first and "0/12000" in first and "starting" in first
    assert "case_5 2/3 s1 10/9000" in first and "loss 0.7500" in first
    assert "node 0.800 edge 0.700 all 0.600 m1->a3.h0<v> 0.875" in words(*EVENTS, CHECK)
    certificate = {"event": "certificate", "step": 500, "case": "case_5", "seed": 1, "grade": "edge", "failures": WORST}
    worse = certificate | {"step": 600, "grade": "node"}
    last = words(*EVENTS, CHECK, certificate, worse)
    assert "600/9000" in last and "edge" in last and "edge_interchange m0->a1.h0<v> (resample) 0.980" in last


def test_the_last_line_counts_the_cases():
    events = [*EVENTS, attempt("case_3", "edge"), outcome("case_3", "edge"), outcome("case_7", None, "failed")]
    text = words(*events, outcome("case_8", "path"), {"event": "stopping", "running": 1})
    assert "3 of 153 cases done: 1 path, 1 edge, 1 failed, 1 running, 149 waiting; time 0:00, cpu 2:00" in text
    assert "stopping, workers save their states" in text


def test_running_attempts_and_the_last_that_ended_fit_a_small_screen():
    ended = [attempt(f"case_{number}", "path", worst=WORST) for number in range(40, 60)]
    tall, low = rendered(*EVENTS, *ended), rendered(*EVENTS, *ended, height=8, width=60)
    assert [number for number in range(40, 60) if f"case_{number}" in tall] == list(range(54, 60))
    assert "case_59" in low and "case_57" not in low and "case_3" in low and "case_5" in low
    assert len(low.splitlines()) <= 8


def test_an_attempt_that_stops_or_starts_again_leaves_its_row():
    again = {"event": "again", "case": "case_5", "seed": 1, "error": "its process was killed by SIGKILL"}
    assert "case_5" not in rendered(*EVENTS, again)
    assert "case_5" not in rendered(*EVENTS, again | {"event": "stopped"})
    assert "case_5" in rendered(*EVENTS, again, EVENTS[2])
    # What still arrives from it counts for nothing.
    assert "case_5" not in rendered(*EVENTS, again, CHECK)


def test_a_case_whose_folder_is_in_use_leaves_no_row():
    assert "case_5" not in rendered(*EVENTS, outcome("case_5", None, "failed"))


def test_the_time_of_an_attempt_is_that_since_it_began():
    progress = Progress()
    for event, now in zip([*EVENTS, attempt("case_3", "path")], (0, 10, 20, 30, 40, 95), strict=True):
        progress.take(event, now)
    assert [(seconds, event["case"]) for seconds, event in progress.ended] == [(85, "case_3")]
    assert summary(progress.counts(), progress.cases) == "0 of 153 cases done: 0 failed, 1 running, 152 waiting"


def printed(*events: dict[str, Any]) -> list[str]:
    file = io.StringIO()
    with TrainingTable(Console(file=file, width=60)) as table:
        for event in events:
            table.report(event)
    return file.getvalue().splitlines()


def test_without_a_terminal_each_attempt_that_ended_is_one_line():
    lines = printed(
        *EVENTS, CHECK, attempt("case_3", "edge", worst=WORST), attempt("case_5", None), outcome("case_3", "")
    )
    assert lines == [
        "case_3 edge-siit seed 0: grade edge after 3000 steps, cpu 100 s training + 20 s certificates, wall 300 s; "
        "worst edge_interchange m0->a1.h0<v> (resample) 0.980, behaviour all 0.990",
        "case_5 edge-siit seed 0: crashed: its process was killed by SIGKILL",
    ]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            {"event": "again", "case": "case_3", "seed": 2, "error": "its process was killed by SIGKILL"},
            "case_3 seed 2: its process was killed by SIGKILL; it starts again",
        ),
        ({"event": "stopping", "running": 2}, "stopping: 2 workers save their states"),
    ],
)
def test_interruptions_are_lines_too(event, line):
    assert printed(event) == [line]


def test_on_a_terminal_the_table_is_live():
    file = io.StringIO()
    console = Console(file=file, width=110, height=24, force_terminal=True, _environ={})
    with TrainingTable(console) as table:
        assert file.getvalue() == ""
        for event in EVENTS:
            table.report(event)
    text = file.getvalue()
    assert "\x1b[" in text and "case_5" in text and "153 cases" in text
