"""The machine a run is made on: its threads, memory, clock and name."""

import ctypes
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from interpbench_hub.errors import SettingError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

# On some processors the sums of torch's matrix library (MKL) depend on where in memory a tensor happens to lie, so that
# a run taken up again would not end where it would have. This costs nothing measurable; it must be said before the
# first product of a process.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many torch threads within; small matrices gain nothing from more than one.

    Sums come out the same every time with the same number of threads, not with another.
    """
    if count < 1:
        raise SettingError(f"threads is {count!r}; it is at least 1")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    _keep_freed_memory()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _keep_freed_memory() -> None:
    """Tell glibc to keep what is freed for the next tensor.

    By default it hands blocks of a few MB back to the system, which fills the next ones with zeros page by page: a
    sixth of the time of a training step. Elsewhere than on glibc nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 29)
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 25)


def hardware() -> str:
    """The processor a run was made on, in words."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    return name


class Clock:
    """Seconds of processor and wall time since the start, on top of those of earlier parts of a run."""

    def __init__(self, cpu_seconds: float = 0.0, wall_seconds: float = 0.0) -> None:
        self._cpu, self._wall = time.process_time() - cpu_seconds, time.perf_counter() - wall_seconds

    @property
    def cpu_seconds(self) -> float:
        return time.process_time() - self._cpu

    @property
    def wall_seconds(self) -> float:
        return time.perf_counter() - self._wall
