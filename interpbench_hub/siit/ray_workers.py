"""The backend that trains on the machines of a Ray cluster, or on a local Ray instance.

Results are files, so the folder of runs must be one that all machines share; the package, and modules that register
cases, must be installed on all of them. `RAY_ADDRESS` names the cluster; without it a local instance is started.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from interpbench_hub.errors import SettingError
from interpbench_hub.siit.workers import Ending, Event, Message, Task, default_workers, run_task

_EXTRA = "interpbench-hub[ray]"


class Mailbox:
    """An actor between tasks and the backend: events go in, and the word to stop comes back."""

    def __init__(self) -> None:
        self._events: list[tuple[Task, Event]] = []
        self._is_stopping = False

    def put(self, task: Task, event: Event) -> bool:
        """Take in an event; returns whether the task is to stop."""
        self._events.append((task, event))
        return self._is_stopping

    def take(self) -> list[tuple[Task, Event]]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """Let every task stop at its next event."""
        self._is_stopping = True


def work(task: Task, mailbox: Any) -> Ending:
    """One Ray task: train, and report to the mailbox."""
    import ray

    def report(event: Event) -> None:
        if ray.get(mailbox.put.remote(task, event)):
            raise KeyboardInterrupt

    return run_task(task, report)


class RayBackend:
    """A Ray task, with cores for its threads or a GPU and a process of its own, for each task."""

    def __init__(self, workers: int | None, device: str, threads: int) -> None:
        # Neither reports about use nor a page to look at: a command that ends needs none.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise SettingError(
                f"the ray backend needs Ray, which is not installed ({error}); pip install '{_EXTRA}', or use the "
                "process backend"
            ) from error
        self._ray = ray
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
            if not os.environ.get("RAY_ADDRESS"):
                cores = (workers or default_workers(threads)) * threads
                quiet |= {"num_cpus": cores, "include_dashboard": False}
            ray.init(**quiet)
        needs_gpu = device.startswith("cuda")
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cores, gpus = ([int(machine.get(kind, 0)) for machine in machines] for kind in ("CPU", "GPU"))
        # A task lives on one machine, and Ray would wait for ever for one that is large enough.
        room = [of_cpu // threads for of_cpu in cores]
        if needs_gpu:
            room = [min(pair) for pair in zip(room, gpus, strict=True)]
        if not any(room):
            self.close()
            if needs_gpu and not any(gpus):
                raise SettingError(f"device is {device!r}, but the Ray cluster has no GPU; give another device")
            raise SettingError(
                f"threads is {threads}, but no machine of the Ray cluster has as many cores{' and a GPU' * needs_gpu} "
                f"(the largest has {max(cores, default=0)}); give fewer threads"
            )
        self.workers = workers or sum(room)
        self._mailbox: Any = ray.remote(num_cpus=0)(Mailbox).remote()
        self._work: Callable[..., Any] = ray.remote(
            num_cpus=threads,
            num_gpus=int(needs_gpu),
            # A task that is lost is started again by us, as often as we say; its process serves no other.
            max_retries=0,
            max_calls=1,
        )(work).remote
        self._running: dict[Any, Task] = {}

    def start(self, task: Task) -> None:
        self._running[self._work(task, self._mailbox)] = task

    def wait(self, seconds: float) -> list[tuple[Task, Message]]:
        done, _ = self._ray.wait(list(self._running), timeout=seconds)
        # A task's events are here before it ends.
        messages: list[tuple[Task, Message]] = list(self._ray.get(self._mailbox.take.remote()))
        return messages + [(self._running.pop(ended), self._ending(ended)) for ended in done]

    def _ending(self, ended: Any) -> Ending:
        from ray.exceptions import RayError, TaskCancelledError

        try:
            return self._ray.get(ended)
        except TaskCancelledError:
            return Ending("stopped")
        except RayError as error:
            return Ending("crashed", f"its Ray worker was lost: {str(error).splitlines()[0]}")

    def stop(self) -> None:
        self._mailbox.stop.remote()
        self._cancel(force=False)

    def kill(self) -> None:
        self._cancel(force=True)

    def _cancel(self, *, force: bool) -> None:
        from ray.exceptions import RayError

        for ended in self._running:
            with suppress(ValueError, RayError):
                self._ray.cancel(ended, force=force)

    def close(self) -> None:
        if self._is_ours:
            # Whatever still runs is killed with it.
            self._ray.shutdown()
