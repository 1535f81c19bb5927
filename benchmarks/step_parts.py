"""Where the processor seconds of a training step go.

python benchmarks/step_parts.py [case_3 case_21]

The parts of `Trainer.step` are timed one by one, by wrapping the methods that do them; what is left is the step's own.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from interpbench_hub.cases import get_case
from interpbench_hub.siit.machine import torch_threads
from interpbench_hub.siit.recipe import EDGE_SIIT
from interpbench_hub.siit.sizes import transformer_config
from interpbench_hub.siit.trainer import Trainer

WARM_UP, STEPS = 16, 320


def timed(spent: dict[str, float], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[name] += time.process_time() - start

    return wrapper


@contextmanager
def timed_backward(spent: dict[str, float]) -> Iterator[None]:
    original = torch.Tensor.backward
    torch.Tensor.backward = timed(spent, "backward", original)
    try:
        yield
    finally:
        torch.Tensor.backward = original


def parts(case_id: str) -> dict[str, float]:
    """Milliseconds a step, by part."""
    case = get_case(case_id)
    trainer = Trainer(case, transformer_config(case), EDGE_SIIT, seed=0)
    for _ in range(WARM_UP):
        trainer.step()
    spent: dict[str, float] = defaultdict(float)
    model = trainer.model
    trainer._draw = timed(spent, "draws and targets", trainer._draw)
    model.run = timed(spent, "plain forward", model.run)
    trainer._replacement = timed(spent, "what replaces", trainer._replacement)
    model.interchange_run = timed(spent, "forward with exchanges", model.interchange_run)
    trainer.reader.loss = timed(spent, "losses", trainer.reader.loss)
    trainer._help = timed(spent, "what only helps", trainer._help)
    trainer._update = timed(spent, "update", trainer._update)
    start = time.process_time()
    with timed_backward(spent):
        for _ in range(STEPS):
            trainer.step()
    total = time.process_time() - start
    # The update calls the backward pass.
    spent["update"] -= spent["backward"]
    spent["the rest"] = total - sum(spent.values())
    return {name: 1000 * seconds / STEPS for name, seconds in spent.items()}


def main() -> None:
    cases = sys.argv[1:] or ["case_3", "case_21"]
    with torch_threads(1):
        columns = {case: parts(case) for case in cases}
    print("| part | " + " | ".join(f"{case}, ms | %" for case in cases) + " |")
    print("|---|" + "---|---|" * len(cases))
    for name in columns[cases[0]]:
        cells = [f"{column[name]:.2f} | {100 * column[name] / sum(column.values()):.0f}" for column in columns.values()]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print("| all | " + " | ".join(f"{sum(column.values()):.2f} | 100" for column in columns.values()) + " |")


if __name__ == "__main__":
    main()
