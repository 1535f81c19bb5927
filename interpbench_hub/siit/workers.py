"""Processes that train: what one of them does, and the backend that runs several on this machine.

A backend starts tasks, hands back what they report, and can ask them to stop, upon which they save their state. Each
task runs in a process of its own, so that nothing one case does, a crash included, reaches another.
"""

import _thread
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import connection, get_context, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, Protocol

from interpbench_hub.errors import BusyError, InterpBenchError, UnknownNameError, unknown_name
from interpbench_hub.siit.recipe import Recipe

BACKENDS = ("process", "ray")
LOCK_PATIENCE = 20.0
"""Seconds a task waits for its folder: workers of a command that was killed need a moment to notice and save."""
_LAST_WORD = 10.0
"""Seconds a process has to end after its task has."""


@dataclass(frozen=True)
class Task:
    """One attempt to train: all that a worker needs to know."""

    case: str
    """The case's id: programs hold functions, which cannot be sent to another process."""
    seed: int
    recipe: Recipe
    folder: str
    device: str = "cpu"
    threads: int = 1
    imports: tuple[str, ...] = ()
    """Modules to import first, those that register the user's cases."""


@dataclass(frozen=True)
class Ending:
    """How a task ended."""

    how: Literal["finished", "failed", "busy", "crashed", "stopped"]
    error: str | None = None
    """What went wrong, as one line."""


Event = dict[str, Any]
Message = Event | Ending


class Backend(Protocol):
    """Where tasks run."""

    workers: int
    """Tasks that run at the same time."""

    def start(self, task: Task) -> None:
        """Start a task."""
        ...

    def wait(self, seconds: float) -> list[tuple[Task, Message]]:
        """What tasks have reported since the last call, after at most so many seconds; a task's last is its ending."""
        ...

    def stop(self) -> None:
        """Ask all tasks to save their state and end."""
        ...

    def kill(self) -> None:
        """End all tasks at once."""
        ...

    def close(self) -> None:
        """Let go of everything; whatever still runs is asked to stop and then ended."""
        ...


# -- within a worker ---------------------------------------------------------------------------------------------------


def run_task(task: Task, report: Callable[[Event], None]) -> Ending:
    """Train as a task says; `KeyboardInterrupt` makes it save its state and end."""
    try:
        for module in task.imports:
            import_module(module)
        from interpbench_hub.cases import get_case

        try:
            case = get_case(task.case)
        except UnknownNameError as error:
            raise UnknownNameError(
                f"{error}. If a module of yours registers it, workers must import that module: "
                "imports=['my_cases'], or --import my_cases"
            ) from None
        _train(task, case, report)
    except KeyboardInterrupt:
        return Ending("stopped")
    except BusyError as error:
        return Ending("busy", str(error))
    except InterpBenchError as error:
        return Ending("failed", str(error))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Ending("failed", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})")
    return Ending("finished")


def _train(task: Task, case: Any, report: Callable[[Event], None]) -> None:
    from interpbench_hub.siit.runs import train

    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            train(
                case,
                out=task.folder,
                seed=task.seed,
                recipe=task.recipe,
                device=task.device,
                threads=task.threads,
                report=report,
            )
            return
        except BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


class _Wire:
    """A worker's connection to its parent: reports go out; a request to stop, or the parent's end, comes in.

    Either becomes a `KeyboardInterrupt` in the main thread, upon which training saves its state.
    """

    def __init__(self, news: Connection, orders: Connection) -> None:
        self._news, self._orders = news, orders
        self._stopping = self._sending = False

    def listen(self) -> None:
        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), self._interrupt)
        threading.Thread(target=self._await_orders, daemon=True).start()

    def _await_orders(self) -> None:
        # The parent's end closes when it dies, however it dies.
        with suppress(EOFError, OSError):
            self._orders.recv()
        _thread.interrupt_main(signal.SIGTERM)

    def _interrupt(self, *_: Any) -> None:
        if self._stopping:
            return
        self._stopping = True
        # Half a message would leave the parent waiting for its rest.
        if not self._sending:
            raise KeyboardInterrupt

    def send(self, message: Message) -> None:
        self._sending = True
        try:
            self._news.send(message)
        except OSError:
            # The parent is gone.
            self._stopping = True
        finally:
            self._sending = False

    def report(self, event: Event) -> None:
        self.send(event)
        if self._stopping:
            raise KeyboardInterrupt


def _work(task: Task, news: Connection, orders: Connection) -> None:
    """The main function of a worker process."""
    wire = _Wire(news, orders)
    try:
        wire.listen()
        ending = run_task(task, wire.report)
    except KeyboardInterrupt:
        ending = Ending("stopped")
    wire.send(ending)


# -- within the parent -------------------------------------------------------------------------------------------------


@dataclass
class _Worker:
    task: Task
    process: Any
    news: Connection
    orders: Connection


class ProcessBackend:
    """A fresh process for each task on this machine."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._context = get_context("spawn")
        self._running: list[_Worker] = []

    def start(self, task: Task) -> None:
        news, news_end = self._context.Pipe(duplex=False)
        orders_end, orders = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_work, args=(task, news_end, orders_end), name=f"{task.case} {task.seed}", daemon=True
        )
        with _no_ctrl_c():
            process.start()
        # With the worker the only one to hold them, their end is its end.
        news_end.close()
        orders_end.close()
        self._running.append(_Worker(task, process, news, orders))

    def wait(self, seconds: float) -> list[tuple[Task, Message]]:
        ready = connection.wait([worker.news for worker in self._running], seconds)
        messages: list[tuple[Task, Message]] = []
        for worker in [worker for worker in self._running if worker.news in ready]:
            for message in self._read(worker):
                messages.append((worker.task, message))
                if isinstance(message, Ending):
                    self._running.remove(worker)
        return messages

    def _read(self, worker: _Worker) -> Iterator[Message]:
        try:
            while worker.news.poll():
                message = worker.news.recv()
                if isinstance(message, Ending):
                    self._bury(worker)
                    yield message
                    return
                yield message
        except (EOFError, OSError):
            code = self._bury(worker)
            yield Ending("crashed", f"its process {_words(code)}")

    @staticmethod
    def _bury(worker: _Worker) -> int | None:
        """Wait for a worker's process to end; returns its exit code."""
        worker.process.join(_LAST_WORD)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        code = worker.process.exitcode
        worker.process.close()
        worker.news.close()
        worker.orders.close()
        return code

    def stop(self) -> None:
        for worker in self._running:
            with suppress(OSError):
                worker.orders.send("stop")

    def kill(self) -> None:
        for worker in self._running:
            worker.process.kill()

    def close(self) -> None:
        self.stop()
        deadline = time.monotonic() + _LAST_WORD
        while self._running and time.monotonic() < deadline:
            self.wait(0.1)
        self.kill()
        while self._running:
            self.wait(1.0)


def _words(code: int | None) -> str:
    """What became of a process, from its exit code."""
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code} and no word"


@contextmanager
def ctrl_c() -> Iterator[list[float]]:
    """Collects the times at which Ctrl-C is pressed, instead of stopping whatever happens to run."""
    presses: list[float] = []
    if threading.current_thread() is not threading.main_thread():
        # Python handles signals in the main thread alone.
        yield presses
        return
    before = signal.signal(signal.SIGINT, lambda *_: presses.append(time.monotonic()))
    try:
        yield presses
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _no_ctrl_c() -> Iterator[None]:
    """What is started herein never sees Ctrl-C, which a terminal sends to a whole group of processes.

    The parent alone does, and then says when to stop.
    """
    if sys.platform == "win32":
        yield
        return
    # Else it is started together with the first process and unblocks the signal, which that process would inherit.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def default_workers(threads: int = 1) -> int:
    """As many workers as have a core for each of their threads, of the cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)


def get_backend(name: str, workers: int | None, device: str, threads: int = 1) -> Backend:
    """A backend by name; raises `SettingError` for one whose package is not installed."""
    if name == "process":
        return ProcessBackend(workers or default_workers(threads))
    if name == "ray":
        from interpbench_hub.siit.ray_workers import RayBackend

        return RayBackend(workers, device, threads)
    raise unknown_name("backend", name, BACKENDS)
