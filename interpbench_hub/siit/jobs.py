"""Training many cases: which attempt comes next, until every case has a model that is good enough.

A case gets one attempt after another, each with the next seed, until one is accepted or the limit is reached; then the
best one counts. The folders of the runs are what is true; the ledger of each case (`attempts.json`) says so in short.
"""

import heapq
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from interpbench_hub.cases import Case, get_case
from interpbench_hub.certificate import Certificate, Grade, is_at_least
from interpbench_hub.checkpoint import load_certificate_file
from interpbench_hub.errors import CaseError, InterpBenchError, SettingError, UnknownNameError
from interpbench_hub.loader import checked_device
from interpbench_hub.siit.attempts import (
    Attempt,
    Ledger,
    can_go_on,
    is_finished,
    open_ledger,
    read_attempt,
    run_folder,
)
from interpbench_hub.siit.recipe import Recipe, get_recipe, recipe_for
from interpbench_hub.siit.sizes import cost_of
from interpbench_hub.siit.trainer import Report, better
from interpbench_hub.siit.workers import Backend, Ending, Task, ctrl_c, get_backend

STARTS = 2
"""How often an attempt is started whose process dies before it is recorded as crashed."""
STOP_PATIENCE = 120.0
"""Seconds that workers get to save their state after Ctrl-C; a second Ctrl-C cuts it short."""
_TICK = 0.2


@dataclass(frozen=True)
class Outcome:
    """What came of one case."""

    case: str
    recipe: str
    status: Literal["accepted", "short", "failed"]
    """`accepted`: an attempt is good enough; `short`: none of them is; `failed`: an error or a crash ended it."""
    chosen: Attempt | None
    """The best attempt; None if none finished."""
    folder: Path | None
    """Its folder, a checkpoint."""
    attempts: tuple[Attempt, ...]
    """All attempts of this call, by seed."""
    error: str | None = None


@dataclass
class Job:
    """One case, its seeds and the attempts made so far."""

    case: str
    recipe: Recipe
    out: Path
    seeds: tuple[int, ...]
    accept: Grade = "edge"
    cost: float = 0.0
    """How long a step takes, in no unit: longer cases start first."""
    attempts: dict[int, Attempt] = field(default_factory=dict)
    certificates: dict[int, Certificate] = field(default_factory=dict)
    """Those of finished attempts, by seed, each read once."""
    accepted: bool = False
    starts: int = 0
    """Starts of the current attempt."""
    error: str | None = None
    """Why no further attempt makes sense."""

    @property
    def folder(self) -> Path:
        return self.out / self.case

    def run_folder(self, seed: int) -> Path:
        return run_folder(self.out, self.case, self.recipe.name, seed)

    @property
    def next_seed(self) -> int | None:
        """Seed of the next attempt; None if there is nothing left to do."""
        if self.accepted or self.error is not None:
            return None
        return next((seed for seed in self.seeds if seed not in self.attempts), None)

    def accepts(self, certificate: Certificate) -> bool:
        """Whether an attempt is good enough: by its grade if training aims at `path`, else by the recipe's own goal."""
        if self.recipe.goal == "path":
            return is_at_least(certificate.grade, self.accept)
        return self.recipe.is_done(certificate)

    def look(self) -> None:
        """Take up what earlier calls have left in the folders and bring the ledger up to date."""
        name = self.recipe.name
        if not self.folder.exists():
            return
        with open_ledger(self.folder, self.case) as ledger:
            for attempt in ledger.attempts(name):
                # Crashed and failed attempts are made again: what was wrong may be mended.
                if not is_finished(self.run_folder(attempt.seed)):
                    ledger.forget(name, attempt.seed)
            for seed in self.seeds:
                folder = self.run_folder(seed)
                if not is_finished(folder):
                    continue
                if self.accepts(self._certificate(seed)) or not can_go_on(folder, self.recipe.max_steps):
                    self._enter(ledger, self.read(seed))
            self._choose(ledger)

    def read(self, seed: int) -> Attempt:
        """The finished attempt that lies in a seed's folder."""
        return read_attempt(self.run_folder(seed), self._certificate(seed))

    def _certificate(self, seed: int) -> Certificate:
        if seed not in self.certificates:
            self.certificates[seed] = load_certificate_file(self.run_folder(seed))
        return self.certificates[seed]

    def record(self, attempt: Attempt) -> Attempt:
        """Enter an attempt into the ledger; returns it as it stands there."""
        with open_ledger(self.folder, self.case) as ledger:
            self._enter(ledger, attempt)
            self._choose(ledger)
            return self.attempts[attempt.seed]

    def _enter(self, ledger: Ledger, attempt: Attempt) -> None:
        ledger.record(self.recipe.name, attempt)
        self.attempts[attempt.seed] = attempt
        self.starts = 0
        if attempt.status == "finished":
            self.accepted |= self.accepts(self._certificate(attempt.seed))

    def _choose(self, ledger: Ledger) -> None:
        """Of all finished attempts of the recipe the best counts; of equals the first."""
        name, best, rank = self.recipe.name, None, None
        for attempt in ledger.attempts(name):
            if attempt.status != "finished" or not is_finished(self.run_folder(attempt.seed)):
                continue
            certificate = self._certificate(attempt.seed)
            accepted = self.accepts(certificate)
            if rank is None or (accepted > rank[0]) or (accepted == rank[0] and better(certificate, rank[1])):
                best, rank = attempt.seed, (accepted, certificate)
        ledger.choose(name, best)
        for seed in self.attempts:
            self.attempts[seed] = ledger.recipes[name][seed]

    def outcome(self) -> Outcome:
        """What has come of the case so far."""
        try:
            chosen = Ledger.load(self.folder).chosen(self.recipe.name)
        except InterpBenchError:
            chosen = None
        attempts = tuple(self.attempts[seed] for seed in sorted(self.attempts))
        error = self.error or next((attempt.error for attempt in reversed(attempts) if attempt.error), None)
        status = "accepted" if self.accepted else "failed" if error is not None else "short"
        folder = self.run_folder(chosen.seed) if chosen is not None else None
        error = None if self.accepted else error
        return Outcome(self.case, self.recipe.name, status, chosen, folder, attempts, error)


class Schedule:
    """The jobs that wait for a worker, the longest first, so that no long one is left over at the end."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._waiting: list[tuple[float, int, Job]] = []
        self._count = 0
        for job in jobs:
            self.add(job)

    def add(self, job: Job) -> None:
        heapq.heappush(self._waiting, (-job.cost, self._count, job))
        self._count += 1

    def take(self) -> Job:
        return heapq.heappop(self._waiting)[2]

    def __len__(self) -> int:
        return len(self._waiting)


def train_all(
    cases: Iterable[str | Case],
    *,
    out: str | Path = "runs",
    workers: int | None = None,
    attempts: int = 3,
    seed: int = 0,
    recipe: str | Recipe = "edge-siit",
    backend: str = "process",
    device: str = "cpu",
    threads: int = 1,
    accept: Grade = "edge",
    imports: Iterable[str] = (),
    report: Report | None = None,
    **changes: Any,
) -> list[Outcome]:
    """Train models of many cases side by side, several seeds each until one is good enough; returns what came of each.

    Each attempt runs in a process of its own with its own torch threads and has its own folder,
    `<out>/<case>/<recipe>_<seed>`; `<out>/<case>/attempts.json` lists them. A call that was interrupted, by Ctrl-C or
    by the death of any of its processes, goes on when it is made again: finished attempts are kept, started ones
    resume, and those that ended short of their goal go on if they are given more `max_steps`. An error in one case
    stops no other. A script that calls this guards its main part by `if __name__ == "__main__":`, as always with
    processes.

    Args:
        cases: ids, or cases that are registered.
        out: the folder of runs; with the Ray backend one that all its machines share.
        workers: attempts at the same time; by default as many as have a core for each of their threads.
        attempts: seeds a case gets at most.
        seed: the first; attempt i has `seed + i`.
        recipe: `edge-siit`, `siit` (per node) or `behaviour`, or a `Recipe`.
        backend: `process` (on this machine) or `ray` (on all machines of a Ray cluster).
        device: where to train; several workers share a GPU.
        threads: torch threads of each attempt, as for `train`.
        accept: least grade, `edge` or `path`, with which a case needs no further attempt. Recipes whose goal is not
            `path` accept what reaches it.
        imports: modules that workers import first, those that register your own cases.
        report: called with every event, a dictionary: `jobs` once; for each attempt `begin`, the events of `train` with
            `case` and `seed` added, and `attempt` (or `again` where its process died and it starts anew); for each
            case `outcome`; after Ctrl-C `stopping`, and `stopped` for each attempt.
        **changes: fields of the recipe to change, such as `max_steps=2000`.

    Raises:
        SettingError, UnknownNameError, CaseError: the arguments cannot be.
        KeyboardInterrupt: Ctrl-C was pressed; the workers have saved their states.

    >>> train_all(["case_3", "case_4"], workers=2, attempts=5)  # doctest: +SKIP
    """
    imports = tuple(imports)
    import_modules(imports)
    chosen = get_recipe(recipe).changed(**changes)
    for name, value in (("attempts", attempts), ("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise SettingError(f"{name} is {value!r}; it is at least 1")
    if accept not in ("edge", "path"):
        raise SettingError(f"accept is {accept!r}; it is edge or path")
    if backend == "process":
        checked_device(device)
    seeds = tuple(range(seed, seed + attempts))
    # An id given twice is trained once.
    wanted = {case.id: case for case in map(_registered, cases)}
    jobs = [
        Job(id_, recipe_for(case, chosen), Path(out).absolute(), seeds, accept, _cost(case))
        for id_, case in wanted.items()
    ]
    training = _Training(jobs, device, threads, imports, report)
    return training.run(lambda: get_backend(backend, workers, device, threads))


def _registered(case: str | Case) -> Case:
    if isinstance(case, str):
        return get_case(case)
    try:
        if get_case(case.id) is case:
            return case
    except UnknownNameError:
        pass
    raise CaseError(
        f"case {case.id!r} is not registered (or another one under its id); workers find cases by their ids, so call "
        "register_case in a module and name that module in imports"
    )


def import_modules(modules: Iterable[str]) -> None:
    """Import modules that register cases, by their names; raises `SettingError` for one that cannot be."""
    for module in modules:
        try:
            import_module(module)
        except ImportError as error:
            raise SettingError(
                f"module {module!r} cannot be imported ({error}); it is found if it is installed or its folder is in "
                "PYTHONPATH"
            ) from error


def _cost(case: Case) -> float:
    try:
        return cost_of(case)
    except Exception:
        # A case that cannot be compiled fails in its worker, where it stops no other.
        return 0.0


class _Training:
    """The loop around jobs and a backend: starts attempts, passes events on, records what ends."""

    def __init__(
        self, jobs: list[Job], device: str, threads: int, imports: tuple[str, ...], report: Report | None
    ) -> None:
        self.jobs, self.device, self.threads, self.imports, self._report = jobs, device, threads, imports, report
        self.running: dict[Task, Job] = {}
        self.schedule = Schedule(())

    def run(self, make_backend: Callable[[], Backend]) -> list[Outcome]:
        for job in self.jobs:
            with self._survived(job):
                job.look()
        waiting = [job for job in self.jobs if job.next_seed is not None]
        with ctrl_c() as presses:
            # Nothing to do needs no backend.
            backend = make_backend() if waiting else None
            self._event(
                "jobs",
                cases=[job.case for job in self.jobs],
                attempts=len(self.jobs[0].seeds) if self.jobs else 0,
                workers=backend.workers if backend else 0,
            )
            for job in self.jobs:
                self._settle(job)
            if backend is not None:
                try:
                    self._loop(backend, presses)
                finally:
                    backend.close()
            if presses:
                raise KeyboardInterrupt
        return [job.outcome() for job in self.jobs]

    def _loop(self, backend: Backend, presses: list[float]) -> None:
        asked_at: float | None = None
        while self.running or (len(self.schedule) and not presses):
            while not presses and len(self.schedule) and len(self.running) < backend.workers:
                self._start(backend, self.schedule.take())
            if presses and asked_at is None:
                asked_at = time.monotonic()
                self._event("stopping", running=len(self.running))
                backend.stop()
            if asked_at is not None and (len(presses) > 1 or time.monotonic() > asked_at + STOP_PATIENCE):
                backend.kill()
            for task, message in backend.wait(_TICK):
                job = self.running[task]
                if not isinstance(message, Ending):
                    self._event(**{**message, "case": task.case, "seed": task.seed})
                    continue
                del self.running[task]
                with self._survived(job):
                    self._end(job, task, message, is_stopping=bool(presses))
                if not presses:
                    self._settle(job)

    def _start(self, backend: Backend, job: Job) -> None:
        seed = job.next_seed
        assert seed is not None
        task = Task(job.case, seed, job.recipe, str(job.run_folder(seed)), self.device, self.threads, self.imports)
        job.starts += 1
        self.running[task] = job
        self._event(
            "begin", case=job.case, seed=seed, attempt=job.seeds.index(seed) + 1, max_steps=job.recipe.max_steps
        )
        backend.start(task)

    def _end(self, job: Job, task: Task, ending: Ending, *, is_stopping: bool) -> None:
        """Record what has come of an attempt, unless it is to be started again."""
        match ending.how:
            case "finished":
                # Of an attempt that has gone on, the certificate of its first end is known.
                job.certificates.pop(task.seed, None)
                attempt = job.read(task.seed)
            case "failed":
                job.error = ending.error
                attempt = Attempt(task.seed, "failed", error=ending.error)
            case "busy":
                # Whoever trains there records it.
                job.error = ending.error
                return
            case "crashed" | "stopped":
                if is_stopping or job.starts < STARTS:
                    # It resumes from its last saved state, now or when the call is made again.
                    event = "stopped" if is_stopping else "again"
                    self._event(event, case=task.case, seed=task.seed, error=ending.error)
                    return
                attempt = Attempt(task.seed, "crashed", error=ending.error or "its process was told to stop")
        attempt = job.record(attempt)
        self._event("attempt", **{**attempt.to_dict(), "case": job.case, "recipe": job.recipe.name})

    def _settle(self, job: Job) -> None:
        """Put a job back in the queue, or report its outcome."""
        if job.next_seed is not None:
            self.schedule.add(job)
            return
        outcome = job.outcome()
        grade, seed = (outcome.chosen.grade, outcome.chosen.seed) if outcome.chosen else (None, None)
        self._event("outcome", case=job.case, status=outcome.status, grade=grade, seed=seed, error=outcome.error)

    @contextmanager
    def _survived(self, job: Job) -> Iterator[None]:
        """An error about one case's files ends that case alone."""
        try:
            yield
        except (InterpBenchError, OSError) as error:
            job.error = str(error)

    def _event(self, event: str, **content: Any) -> None:
        if self._report:
            self._report({"event": event, **content})
