"""Attempts to train a model of a case, one seed each, and the ledger `attempts.json` that lists them."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from interpbench_hub.certificate import Certificate, Grade
from interpbench_hub.checkpoint import format_json, load_certificate_file, load_config
from interpbench_hub.constants import (
    ATTEMPTS_FILE,
    CERTIFICATE_FILE,
    CONFIG_FILE,
    SCHEMA_VERSION,
    TRAINING_LOG_FILE,
    TRAINING_STATE_FILE,
)
from interpbench_hub.siit.lock import folder_lock
from interpbench_hub.siit.training_state import ended_after
from interpbench_hub.validation import read_json

N_WORST = 5
"""Failing entries of a certificate that an attempt lists."""
LEDGER_PATIENCE = 30.0
"""Seconds to wait for another process that writes the same ledger, which takes milliseconds."""

Status = Literal["finished", "failed", "crashed"]


def run_folder(out: str | Path, case_id: str, recipe: str, seed: int) -> Path:
    """Where a folder of runs keeps the run of one recipe and seed.

    >>> run_folder("runs", "case_3", "edge-siit", 0).as_posix()
    'runs/case_3/edge-siit_0'
    """
    return Path(out) / case_id / f"{recipe}_{seed}"


@dataclass(frozen=True)
class Attempt:
    """One seed of one recipe and what came of it; the numbers are None unless it finished."""

    seed: int
    status: Status
    chosen: bool = False
    """Whether it is the attempt that counts, the best one."""
    grade: Grade | None = None
    steps: int | None = None
    """Steps trained; the checkpoint may be of fewer, for the best certificate counts."""
    training_cpu_seconds: float | None = None
    certificate_cpu_seconds: float | None = None
    wall_seconds: float | None = None
    n_failures: int | None = None
    """Entries of the certificate that fall short."""
    worst: tuple[tuple[str, str, str | None, float], ...] = ()
    """The worst of them: section, name, ablation, accuracy."""
    error: str | None = None
    """What ended it, unless it finished."""

    @property
    def cpu_seconds(self) -> float | None:
        """Processor seconds in all."""
        if self.training_cpu_seconds is None or self.certificate_cpu_seconds is None:
            return None
        return round(self.training_cpu_seconds + self.certificate_cpu_seconds, 2)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"worst": [list(entry) for entry in self.worst]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Attempt":
        return cls(**{**data, "worst": tuple(tuple(entry) for entry in data["worst"])})


def is_finished(folder: Path) -> bool:
    """Whether a run's folder holds a certified checkpoint and nothing is left to train."""
    has_files = all((folder / file).exists() for file in (CONFIG_FILE, CERTIFICATE_FILE))
    return has_files and not (folder / TRAINING_STATE_FILE).exists()


def can_go_on(folder: Path, max_steps: int) -> bool:
    """Whether a finished run, having ended short of its goal, has steps left if it is given so many in all.

    Raises `CheckpointError` for a damaged state.
    """
    ended = ended_after(folder)
    return ended is not None and ended < max_steps


def read_attempt(folder: Path, certificate: Certificate | None = None) -> Attempt:
    """The finished attempt that lies in a run's folder, read from its checkpoint and the end of its log.

    `certificate` is that of the folder, if it has been read already.

    Raises `CheckpointError` for files that break their format.
    """
    provenance = load_config(folder).provenance
    certificate = certificate or load_certificate_file(folder)
    end = _last_event(folder / TRAINING_LOG_FILE)
    if end.get("event") != "end":
        # The log is lost; the checkpoint knows how it was made up to its certificate.
        end = {"step": provenance.steps, "cpu_seconds": provenance.cpu_seconds, "wall_seconds": provenance.wall_seconds}
    certifying = end.get("certificate_cpu_seconds", 0.0)
    failures = certificate.failures()
    return Attempt(
        seed=provenance.seed,
        status="finished",
        grade=certificate.grade,
        steps=end["step"],
        training_cpu_seconds=round(max(end["cpu_seconds"] - certifying, 0.0), 2),
        certificate_cpu_seconds=certifying,
        wall_seconds=end["wall_seconds"],
        n_failures=len(failures),
        worst=tuple((s, e.name, e.ablation, round(e.accuracy, 5)) for s, e in failures[:N_WORST]),
    )


def _last_event(log: Path) -> dict[str, Any]:
    """The last line of a log; empty if there is none or it is no event."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 65_536))
            event = json.loads(file.read().splitlines()[-1])
    except (OSError, IndexError, ValueError):
        return {}
    return event if isinstance(event, dict) else {}


@dataclass
class Ledger:
    """All attempts to train models of one case: `attempts.json` next to their folders."""

    case: str
    recipes: dict[str, dict[int, Attempt]] = field(default_factory=dict)
    """Attempts by the recipe's name and the seed."""

    @classmethod
    def load(cls, folder: Path) -> "Ledger":
        """The ledger in a case's folder of runs; an empty one if there is none.

        Raises `CheckpointError` for a file that breaks the format.
        """
        path = folder / ATTEMPTS_FILE
        if not path.exists():
            return cls(folder.name)
        data = read_json(path, "attempts")
        attempts = {recipe: map(Attempt.from_dict, rows) for recipe, rows in data["recipes"].items()}
        return cls(data["case"], {recipe: {one.seed: one for one in some} for recipe, some in attempts.items()})

    def save(self, folder: Path) -> None:
        """Write the ledger into a case's folder of runs, replacing the last one in a single step."""
        rows = {
            recipe: [attempts[seed].to_dict() for seed in sorted(attempts)] for recipe, attempts in self.recipes.items()
        }
        data = {"schema_version": SCHEMA_VERSION, "case": self.case, "recipes": rows}
        temporary = folder / f".{ATTEMPTS_FILE}.{os.getpid()}.tmp"
        temporary.write_text(format_json(data), encoding="utf-8")
        temporary.replace(folder / ATTEMPTS_FILE)

    def attempts(self, recipe: str) -> list[Attempt]:
        """The attempts of a recipe, by seed."""
        found = self.recipes.get(recipe, {})
        return [found[seed] for seed in sorted(found)]

    def chosen(self, recipe: str) -> Attempt | None:
        """The attempt of a recipe that counts; None while none has finished."""
        return next((attempt for attempt in self.attempts(recipe) if attempt.chosen), None)

    def record(self, recipe: str, attempt: Attempt) -> None:
        """Enter an attempt, in place of an earlier one of the same seed."""
        self.recipes.setdefault(recipe, {})[attempt.seed] = attempt

    def forget(self, recipe: str, seed: int) -> None:
        """Strike an attempt whose folder is gone."""
        self.recipes.get(recipe, {}).pop(seed, None)

    def choose(self, recipe: str, seed: int | None) -> None:
        """Let the attempt of this seed, or none, be the one that counts."""
        attempts = self.recipes.get(recipe, {})
        for attempt in attempts.values():
            attempts[attempt.seed] = replace(attempt, chosen=attempt.seed == seed)


@contextmanager
def open_ledger(folder: Path, case_id: str) -> Iterator[Ledger]:
    """The ledger of a case for changing: locked, and saved at the end.

    Raises `CheckpointError` if the ledger there breaks the format.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder, patience=LEDGER_PATIENCE):
        ledger = Ledger.load(folder)
        ledger.case = case_id
        yield ledger
        ledger.save(folder)
