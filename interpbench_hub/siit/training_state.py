"""What a training run needs to go on after an interruption, and the files it keeps it in.

The draws of a block of steps follow from the seed, its number, and the edge weights and replayed pairs kept here, so no
random state needs saving.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interpbench_hub.constants import ENDED_STATE_FILE, TRAINING_LOG_FILE, TRAINING_STATE_FILE
from interpbench_hub.errors import CheckpointError
from interpbench_hub.siit.adam import Adam
from interpbench_hub.siit.draws import StepDraw


@dataclass
class TrainingState:
    """Parameters with Adam's moments, and the counters of a run after `step` steps."""

    identity: dict[str, Any]
    """Case, recipe, seed and sizes: a state is taken up only by a run with the same."""
    step: int
    next_check: int
    """Step after which the model is looked at next."""
    model: Adam
    probes: Adam
    averages: Tensor
    bases: Tensor
    """Of the `Eigenbasis` in which the model's Adam runs."""
    average: Tensor
    """Running average of the model's parameters, which is what checks look at."""
    kind_losses: Tensor
    """Running loss of each kind of intervened row: circuit edges and nodes exchanged, shapes outside by ablation,
    single edges outside."""
    kind_weights: Tensor
    """Chances of these kinds in the block of steps that is under way."""
    pair_losses: Tensor
    """Worst loss of each pair [step of the block, pair]."""
    replayed: StepDraw | None
    """Pairs of the last block that are drawn again in this one."""
    suspects: list[list[int]]
    """What close looks and certificates found at fault: place among the space's outside sets, place of the ablation
    among the recipe's; within the circuit, place among the space's exchanges and `draws.EXCHANGED`."""
    drawn_suspects: list[list[int]]
    """`suspects` as they stood when the block of steps that is under way was drawn."""
    cooling_from: int | None = None
    """Step after which the current cool-down began; None outside of one."""
    last_cooled: int = 0
    """Step at which the last cool-down ended."""
    started_from: str | None = None
    """SHA-256 of the weights of another run with which this one began; None if it began with random ones."""
    started_from_case: str | None = None
    """Id of that run's case, if it is another one."""
    started: int = 0
    """Steps that those weights had behind them; `step` counts on from there."""
    earlier_ends: list[int] = field(default_factory=list)
    """Values of `max_steps` at which the run ended short of its goal and was given more."""
    cpu_seconds: float = 0.0
    certificate_cpu_seconds: float = 0.0
    """The certificates' part of `cpu_seconds`."""
    wall_seconds: float = 0.0

    def save(self, folder: Path) -> None:
        """Write the state to `folder`, replacing the last one in a single step."""
        from safetensors.torch import save_file

        held = (*_TENSORS, *_OPTIMISED, "replayed")
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in held}
        tensors = {name: getattr(self, name) for name in _TENSORS}
        for name in _OPTIMISED:
            tensors |= {f"{name}.{part.name}": getattr(getattr(self, name), part.name) for part in fields(Adam)}
        if self.replayed is not None:
            tensors |= {f"replayed.{name}": part for name, part in self.replayed._asdict().items()}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        temporary = folder / f"{TRAINING_STATE_FILE}.{os.getpid()}.tmp"
        save_file(tensors, temporary, metadata={"state": json.dumps(plain)})
        temporary.replace(folder / TRAINING_STATE_FILE)

    def copy(self) -> "TrainingState":
        """The state as it is now, whatever becomes of this one."""
        copies: dict[str, Any] = {name: getattr(self, name).clone() for name in _TENSORS}
        return replace(self, **copies, **{name: getattr(self, name).copy() for name in _OPTIMISED})

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "TrainingState | None":
        """The state saved in `folder`, of a run under way or else of one that has ended; None if there is none."""
        paths = (folder / TRAINING_STATE_FILE, folder / ENDED_STATE_FILE)
        path = next((path for path in paths if path.exists()), None)
        if path is None:
            return None
        with _opened(path, device) as (file, plain):
            # Draws are made on the CPU, wherever the model is.
            parts: dict[str, Any] = {name: file.get_tensor(name).cpu() for name in _TENSORS}
            parts |= {name: parts[name].to(device) for name in ("average", "averages", "bases")}
            for name in _OPTIMISED:
                parts[name] = Adam(*(file.get_tensor(f"{name}.{part.name}") for part in fields(Adam)))
            is_replaying = any(name.startswith("replayed.") for name in file.keys())  # noqa: SIM118
            replayed = [file.get_tensor(f"replayed.{name}").cpu() for name in StepDraw._fields if is_replaying]
            parts["replayed"] = StepDraw(*replayed) if is_replaying else None
            return cls(**plain, **parts)


_TENSORS = ("averages", "bases", "average", "kind_losses", "kind_weights", "pair_losses")
_OPTIMISED = ("model", "probes")


def ended_after(folder: Path) -> int | None:
    """Steps after which the run in `folder` ended short of its goal; None if it did not.

    Raises `CheckpointError` for a damaged state.
    """
    path = folder / ENDED_STATE_FILE
    if not path.exists():
        return None
    with _opened(path, "cpu") as (_, plain):
        return plain["step"]


@contextmanager
def _opened(path: Path, device: torch.device | str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A file of a state, and all of the state that is no tensor."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            yield file, json.loads(file.metadata()["state"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no training state ({error}); delete it to train from the start") from error


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
