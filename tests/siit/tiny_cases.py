"""Cases and a recipe so small that a whole run with its certificate takes a second.

For commands in processes of their own, which import this module (`--import tiny_cases`): it also cuts down the number
of pairs that checks and certificates look at, which no test process wants.
"""

import multiprocessing
import os
import signal
import time

from interpbench_hub.cases import Case, register_case
from interpbench_hub.rasp import Map, tokens
from interpbench_hub.siit import RECIPES, measure, trainer


def swapped(token: object) -> str:
    return {"a": "b", "b": "a"}[str(token)]


def killed(token: object) -> str:
    """Ends a worker as the kernel does when memory runs out."""
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return swapped(token)


def refused(token: object) -> str:
    if multiprocessing.parent_process() is not None:
        raise RuntimeError("no such luck")
    return swapped(token)


for name, function, max_len in (
    ("tiny_swap", swapped, 3),
    ("tiny_other", swapped, 4),
    ("tiny_killed", killed, 3),
    ("tiny_refused", refused, 3),
):
    register_case(Case(name, "Swaps a and b.", Map(function, tokens), ("a", "b"), min_len=2, max_len=max_len))

for recipe in ("edge-siit", "behaviour"):
    RECIPES[f"tiny-{recipe}"] = RECIPES[recipe].changed(
        name=f"tiny-{recipe}", n_pairs=2, check_every=30, max_steps=150, cool_down=0.1, good_enough=1.0
    )

measure.SINGLE_PAIRS, measure.AGGREGATE_PAIRS, measure.MAX_EXHAUSTIVE_PAIRS, measure.MEAN_INPUTS = 16, 32, 0, 1024
trainer.QUICK_PAIRS = trainer.CLOSE_PAIRS = 8
trainer.QUICK_EDGE_ROWS = trainer.CLOSE_EDGE_ROWS = 32

_step = trainer.Trainer.step


def _slow_step(self: trainer.Trainer) -> trainer.StepLosses:
    """Leaves tests the time to interrupt a run, and other processes the processor."""
    time.sleep(0.02)
    return _step(self)


trainer.Trainer.step = _slow_step
