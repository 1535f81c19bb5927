"""What a call of a method costs: seconds, passes through the model, memory."""

import ctypes
import gc
import math
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from interpbench_hub.transformer import Transformer

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): writing 5 to clear_refs sets the peak of the resident memory to what is resident now


@dataclass
class Usage:
    """The cost of a call. A pass that several threads or processes of the method's own make is not counted."""

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Processor seconds of this process, all threads."""
    forward_rows: int = 0
    """Inputs for which logits were computed, whether a pass began at the embeddings or was resumed half-way."""
    backward_rows: int = 0
    """Inputs whose logits a gradient was taken through."""
    peak_memory_mb: float | None = None
    """Most resident memory of the process during the call beyond what it held before, in MiB; None where the system
    does not say (other than Linux)."""

    def count(self, logits: Tensor) -> None:
        """Count the rows of logits [row, pos, out], and of gradients that are taken through them later on."""
        rows = math.prod(logits.shape[:-2])
        self.forward_rows += rows
        if logits.requires_grad:

            def counting(_: Tensor) -> None:
                self.backward_rows += rows

            logits.register_hook(counting)


@contextmanager
def measured(model: "HookedTransformer | Transformer") -> Iterator[Usage]:
    """Measures what is done within: `with measured(model) as usage`; the seconds and the memory are there at its end.

    Logits of the package's own transformers and of this HookedTransformer count, passes that stop before the logits do
    not. Not for use in several threads at a time.
    """
    usage = Usage()
    original = Transformer.unembed

    def unembed(self: Transformer, resid: Tensor) -> Tensor:
        logits = original(self, resid)
        usage.count(logits)
        return logits

    def hook(_: Any, __: Any, logits: Tensor) -> None:
        usage.count(logits)

    Transformer.unembed = unembed
    handle = None if isinstance(model, Transformer) else model.unembed.register_forward_hook(hook)
    before = _reset_peak()
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        yield usage
    finally:
        usage.wall_seconds, usage.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
        peak = _resident("VmHWM")
        if before is not None and peak is not None:
            usage.peak_memory_mb = max(0.0, peak - before)
        Transformer.unembed = original
        if handle is not None:
            handle.remove()


def _reset_peak() -> float | None:
    """Let go of what is free, forget the peak so far; returns the resident memory in MiB, None if it is not known."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        # Memory that was freed earlier and kept (machine.torch_threads) would hide what the call takes.
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return None
    return _resident("VmRSS")


def _resident(name: str) -> float | None:
    """A line of the process's status in MiB."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), None)
