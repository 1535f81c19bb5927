"""What the command line shows while many cases train: one live table, or plain lines where there is no terminal."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from interpbench_hub.certificate import GRADES

N_FINISHED = 6
"""Attempts that ended last which the table shows; fewer where the terminal is low."""
N_WORST = 2
"""Failing entries a row names."""

Event = dict[str, Any]


@dataclass
class Running:
    """One attempt under way."""

    case: str
    seed: int
    attempt: int
    max_steps: int
    began: float
    step: int = 0
    grade: str = ""
    """Grade of the best certificate so far."""
    look: str = "starting"
    """What the last look at the model showed."""


@dataclass
class Progress:
    """Where a call of `train_all` stands, from its events."""

    cases: int = 0
    attempts: int = 0
    """Attempts a case may have."""
    running: dict[tuple[str, int], Running] = field(default_factory=dict)
    ended: list[tuple[float, Event]] = field(default_factory=list)
    """Attempts that ended, each with its seconds; the last one last."""
    outcomes: dict[str, Event] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    """Processor seconds of the attempts that ended in this call."""
    is_stopping: bool = False

    def take(self, event: Event, now: float) -> None:
        """Take in an event that came at `now`, in seconds."""
        key = (event.get("case", ""), event.get("seed", 0))
        match event["event"]:
            case "jobs":
                self.cases, self.attempts = len(event["cases"]), event["attempts"]
            case "begin":
                self.running[key] = Running(*key, event["attempt"], event["max_steps"], now)
            case "attempt":
                run = self.running.pop(key, None)
                self.ended.append((now - run.began if run else 0.0, event))
                self.cpu_seconds += (event["training_cpu_seconds"] or 0) + (event["certificate_cpu_seconds"] or 0)
            case "again" | "stopped":
                self.running.pop(key, None)
            case "outcome":
                self.running = {place: run for place, run in self.running.items() if place[0] != key[0]}
                self.outcomes[event["case"]] = event
            case "stopping":
                self.is_stopping = True
            case _ if key in self.running:
                self._take_training(self.running[key], event)

    @staticmethod
    def _take_training(run: Running, event: Event) -> None:
        run.step = event["step"]
        match event["event"]:
            case "start":
                run.max_steps = event["max_steps"]
                run.look = "training"
            case "step" if run.look.startswith(("training", "loss")):
                run.look = f"loss {sum(event['losses'].values()):.4f}"
            case "check":
                worst = f"  {event['weak'][0][0]} {event['weak'][0][1]:.3f}" if event["weak"] else ""
                run.look = check_text(event) + worst
            case "certificate":
                run.grade = min(event["grade"], run.grade or "none", key=GRADES.index)
                run.look = entries(event["failures"])

    def counts(self) -> dict[str, int]:
        """Cases by what has come of them so far."""
        done = Counter("failed" if event["status"] == "failed" else event["grade"] for event in self.outcomes.values())
        under_way = len({case for case, _ in self.running})
        return {
            "done": len(self.outcomes),
            **{grade: done[grade] for grade in GRADES if done[grade]},
            "failed": done["failed"],
            "running": under_way,
            "waiting": self.cases - len(self.outcomes) - under_way,
        }


def check_text(event: Event) -> str:
    """What a `check` event of a run found: the worst node, the worst edge, the worst of everything at once."""
    node = min(event["node_interchange"], event["node_strict"])
    edge = min(event["edge_interchange"], event["edge_strict"])
    return f"node {node:.3f} edge {edge:.3f} all {event['complement']:.3f}"


def entries(failures: list[Any], n: int = N_WORST) -> str:
    """The first few entries that fall short, as text: section, name, what replaced it, accuracy."""
    return ", ".join(
        f"{section} {name}{f' ({ablation})' if ablation else ''} {share:.3f}"
        for section, name, ablation, share in failures[:n]
    )


def duration(seconds: float) -> str:
    """Seconds as people read them.

    >>> duration(59), duration(3700)
    ('0:59', '1:01:40')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def summary(counts: Mapping[str, int], total: int) -> str:
    """The counts in one line."""
    words = [f"{value} {name}" for name, value in counts.items() if name != "done" and (value or name == "failed")]
    return f"{counts['done']} of {total} cases done: {', '.join(words)}"


def attempt_line(event: Event) -> str:
    """One attempt that ended, as a line of text."""
    name = f"{event['case']} {event['recipe']} seed {event['seed']}"
    if event["status"] != "finished":
        return f"{name}: {event['status']}: {event['error']}"
    worst = f"; worst {entries([*event['worst']])}" if event["worst"] else ""
    return (
        f"{name}: grade {event['grade']} after {event['steps']} steps, cpu {event['training_cpu_seconds']:.0f} s "
        f"training + {event['certificate_cpu_seconds']:.0f} s certificates, wall {event['wall_seconds']:.0f} s{worst}"
    )


class TrainingTable:
    """Reports the events of `train_all` on a console: live on a terminal, else a line for each attempt that ended."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.progress = Progress()
        self._began = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> "TrainingTable":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._live is not None:
            self._live.stop()

    def report(self, event: Event) -> None:
        if event["event"] == "jobs" and self._console.is_terminal:
            # Not before: what is wrong with the call should not stand below an empty table.
            self._live = Live(get_renderable=self.render, console=self._console, refresh_per_second=2)
            self._live.start()
        self.progress.take(event, time.monotonic())
        if not self._console.is_terminal:
            self._print(event)

    def _print(self, event: Event) -> None:
        match event["event"]:
            case "attempt":
                line = attempt_line(event)
            case "again":
                line = f"{event['case']} seed {event['seed']}: {event['error'] or 'stopped'}; it starts again"
            case "stopping":
                line = f"stopping: {event['running']} workers save their states"
            case _:
                return
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def render(self) -> RenderableType:
        """Table and counts as they are now."""
        now, progress = time.monotonic(), self.progress
        table = Table(box=None, header_style="bold", pad_edge=False, expand=True)
        for heading, justify, ratio in (
            ("case", "left", None),
            ("try", "right", None),
            ("step", "right", None),
            ("time", "right", None),
            ("grade", "left", None),
            ("worst", "left", 1),
        ):
            table.add_column(heading, justify=justify, ratio=ratio, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
        room = self._console.height - len(progress.running) - 4
        shown = progress.ended[-max(1, min(N_FINISHED, room)) :]
        for seconds, event in shown:
            name = event["grade"] or event["status"]
            steps = str(event["steps"]) if event["steps"] is not None else ""
            worst = event["error"] or entries([*event["worst"]])
            grade = Text(name, style=_STYLES.get(name, "red"))
            table.add_row(event["case"], f"s{event['seed']}", steps, duration(seconds), grade, Text(worst), style="dim")
        for run in progress.running.values():
            table.add_row(
                run.case,
                f"{run.attempt}/{progress.attempts} s{run.seed}",
                f"{run.step}/{run.max_steps}",
                duration(now - run.began),
                run.grade,
                Text(run.look),
            )
        line = summary(progress.counts(), progress.cases)
        line += f"; time {duration(now - self._began)}, cpu {duration(progress.cpu_seconds)}"
        if progress.is_stopping:
            line += "; stopping, workers save their states (Ctrl-C again ends them at once)"
        return Group(table, Text(line, style="bold"))


_STYLES = {"path": "green", "edge": "green", "node": "yellow"}
