"""What a training run needs to go on after an interruption, and the files it keeps it in.

The draws of a step depend on the seed and the step's number alone, so no random state needs saving.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interpbench_hub.constants import TRAINING_LOG_FILE, TRAINING_STATE_FILE
from interpbench_hub.errors import CheckpointError


@dataclass
class TrainingState:
    """Parameters, Adam's moments and the counters of a run after `step` steps."""

    identity: dict[str, Any]
    """Case, recipe, seed and sizes: a state is taken up only by a run with the same."""
    step: int
    weights: Tensor
    first_moment: Tensor
    second_moment: Tensor
    edge_losses: Tensor
    """Running loss of each circuit edge's interchange, by which edges are drawn."""
    cooling_from: int | None = None
    """Step after which the current cool-down began; None outside of one."""
    last_attempt: int = 0
    """Step of the last certificate that fell short."""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0

    def save(self, folder: Path) -> None:
        """Write the state to `folder`, replacing the last one in a single step."""
        from safetensors.torch import save_file

        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _TENSORS}
        tensors = {name: getattr(self, name).detach().cpu().contiguous() for name in _TENSORS}
        temporary = folder / f"{TRAINING_STATE_FILE}.{os.getpid()}.tmp"
        save_file(tensors, temporary, metadata={"state": json.dumps(plain)})
        temporary.replace(folder / TRAINING_STATE_FILE)

    def copy(self) -> "TrainingState":
        """The state as it is now, whatever becomes of this one."""
        return replace(self, **{name: getattr(self, name).clone() for name in _TENSORS})

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "TrainingState | None":
        """The state saved in `folder`; None if there is none."""
        from safetensors import SafetensorError, safe_open

        path = folder / TRAINING_STATE_FILE
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                plain = json.loads(file.metadata()["state"])
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
            # Edges are drawn on the CPU, wherever the model is.
            tensors["edge_losses"] = tensors["edge_losses"].cpu()
            return cls(**plain, **tensors)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is no training state ({error}); delete it to train from the start"
            ) from error


_TENSORS = ("weights", "first_moment", "second_moment", "edge_losses")


class TrainingLog:
    """`training_log.jsonl`: one JSON object a line, each with its event and step."""

    def __init__(self, folder: Path, step: int) -> None:
        """Open the log of a run that stands at `step`; what a killed run logged after that is dropped."""
        self.path = folder / TRAINING_LOG_FILE
        kept = [event for event in self._read() if event["step"] <= step] if step else []
        temporary = self.path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text("".join(json.dumps(event) + "\n" for event in kept), encoding="utf-8")
        temporary.replace(self.path)

    def _read(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                event = json.loads(line)
            except json.JSONDecodeError:
                # A killed run can leave half a line at the end.
                continue
            if isinstance(event, dict) and "step" in event:
                yield event

    def write(self, event: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
