"""Processes that work off jobs side by side and report as they go; what one of them does not survive costs one call.

Unlike the processes that train (`siit.workers`, a fresh one for each run of minutes), these live on from job to job: a
call of a method takes seconds, as much as importing torch.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any

from interpbench_hub.siit.workers import _no_ctrl_c

_LAST_WORD = 5.0
"""Seconds a process has to end when there is nothing left to do."""

Work = Callable[[Any], Iterator[Any]]
"""What is done with a job: yields messages. A function of a module; job and messages can be pickled."""


@dataclass(frozen=True)
class Died:
    """The process that had a job is gone."""

    exit_code: int | None


class _Done:
    """A job has come to its end."""


def run_jobs(work: Work, jobs: Iterable[Any], workers: int) -> Generator[tuple[Any, Any], list[Any] | None, None]:
    """Do `work` with every job and yield (job, message) as messages come, (job, `Died`) where a process dies.

    Jobs sent to the generator are done as well, before those that wait. With one worker everything happens in this very
    process. Closing the generator, as an exception or Ctrl-C does, ends all processes at once.
    """
    waiting = deque(jobs)
    if workers == 1:
        while waiting:
            job = waiting.popleft()
            for message in work(job):
                waiting.extendleft((yield job, message) or ())
        return
    running: list[_Worker] = []
    try:
        while waiting or any(worker.job is not None for worker in running):
            while waiting:
                idle = next((worker for worker in running if worker.job is None), None)
                if idle is None and len(running) < workers:
                    idle = _Worker(work)
                    running.append(idle)
                if idle is None:
                    break
                idle.begin(waiting.popleft())
            busy = [worker for worker in running if worker.job is not None]
            ready = connection.wait([worker.wire for worker in busy])
            for worker in [worker for worker in busy if worker.wire in ready]:
                job = worker.job
                message = worker.read()
                if isinstance(message, Died):
                    running.remove(worker)
                if not isinstance(message, _Done):
                    waiting.extendleft((yield job, message) or ())
    finally:
        for worker in running:
            worker.end(at_once=worker.job is not None)


class _Worker:
    """One process, as its parent sees it."""

    def __init__(self, work: Work) -> None:
        context = get_context("spawn")
        self.wire, other_end = context.Pipe()
        self.job: Any = None
        self._process = context.Process(target=_serve, args=(work, other_end), daemon=True)
        with _no_ctrl_c():
            self._process.start()
        # With the process the only one to hold it, its end is the end of the wire.
        other_end.close()

    def begin(self, job: Any) -> None:
        self.job = job
        try:
            self.wire.send(job)
        except OSError:  # it has died meanwhile, which the next read says
            return

    def read(self) -> Any:
        try:
            message = self.wire.recv()
        except (EOFError, OSError):
            message = Died(self.end(at_once=False))
        if isinstance(message, _Done | Died):
            self.job = None
        return message

    def end(self, *, at_once: bool) -> int | None:
        self.wire.close()
        if at_once:
            self._process.kill()
        self._process.join(_LAST_WORD)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        code = self._process.exitcode
        self._process.close()
        return code


def _serve(work: Work, wire: Connection) -> None:
    """The main function of a process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job = wire.recv()
            for message in work(job):
                wire.send(message)
            wire.send(_Done())
        except (EOFError, OSError):
            return


def _end_with_parent() -> None:
    """Even in the middle of a long call, so that a command that was killed leaves nothing behind."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
