"""Training states and logs: files that come back as they were, or say what is wrong with them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from interpbench_hub.cases import get_case
from interpbench_hub.constants import ENDED_STATE_FILE, TRAINING_LOG_FILE, TRAINING_STATE_FILE
from interpbench_hub.errors import CheckpointError
from interpbench_hub.siit import RECIPES, Recipe
from interpbench_hub.siit.draws import BLOCK_STEPS
from interpbench_hub.siit.sizes import transformer_config
from interpbench_hub.siit.trainer import Trainer
from interpbench_hub.siit.training_state import TrainingLog, TrainingState, ended_after

RECIPE = RECIPES["edge-siit"].changed(n_pairs=4)


def state_after(n_steps: int, recipe: Recipe = RECIPE) -> tuple[Trainer, TrainingState]:
    case = get_case("case_13")
    trainer = Trainer(case, transformer_config(case), recipe, seed=0)
    for _ in range(n_steps):
        trainer.step()
    return trainer, trainer.state


def tensors_of(state: TrainingState) -> dict[str, Tensor]:
    found = {name: value for name, value in vars(state).items() if isinstance(value, Tensor)}
    for name in ("model", "probes"):
        found |= {f"{name} {part}": tensor for part, tensor in vars(getattr(state, name)).items()}
    replayed = {} if state.replayed is None else state.replayed._asdict()
    return found | {f"replayed {name}": part for name, part in replayed.items()}


def assert_same(found: TrainingState, expected: TrainingState) -> None:
    tensors = tensors_of(found)
    assert tensors.keys() == tensors_of(expected).keys()
    for name, tensor in tensors_of(expected).items():
        assert tensors[name].dtype == tensor.dtype and torch.equal(tensors[name], tensor), name
    held = ("model", "probes", "replayed")
    for name, value in vars(expected).items():
        if name not in held and not isinstance(value, Tensor):
            assert getattr(found, name) == value, name


@pytest.mark.parametrize("n_steps", [0, 3, BLOCK_STEPS + 1])
@pytest.mark.parametrize("changes", [{}, {"probe_weight": 0.0, "replayed_share": 0.0}], ids=["all", "plain"])
def test_a_state_comes_back_as_it_was_saved(n_steps, changes, tmp_path):
    trainer, state = state_after(n_steps, RECIPE.changed(**changes))
    assert (state.replayed is not None) == (n_steps > BLOCK_STEPS and not changes)
    state.cooling_from, state.last_cooled, state.cpu_seconds, state.wall_seconds = 2, 1, 1.5, 2.25
    state.suspects, state.drawn_suspects, state.earlier_ends = [[3, 0], [7, 2]], [[3, 0]], [2]
    for _ in range(2):
        # The second replaces the first.
        state.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [TRAINING_STATE_FILE]
    found = TrainingState.load(tmp_path)
    assert found is not None
    assert_same(found, state)
    # JSON has lists alone: an identity must not tell them from tuples.
    assert found.identity == state.identity == trainer.state.identity


def test_a_copy_stays_as_it_is():
    trainer, state = state_after(BLOCK_STEPS - 1)
    copy, before = state.copy(), {name: tensor.clone() for name, tensor in tensors_of(state).items()}
    state.suspects = [[1, 0]]
    # As many as the basis needs to turn.
    for _ in range(8):
        trainer.step()
    state.cooling_from = 5
    assert copy.step == BLOCK_STEPS - 1 and copy.replayed is None and copy.cooling_from is None
    assert copy.suspects == copy.drawn_suspects == []
    assert before.keys() == tensors_of(copy).keys()
    for name, tensor in tensors_of(copy).items():
        assert torch.equal(tensor, before[name]), name
        assert not torch.equal(tensors_of(state)[name], before[name]), name


def test_where_none_was_saved_there_is_none(tmp_path):
    assert TrainingState.load(tmp_path) is None


def rewrite(path: Path, tensors: Callable[[dict[str, Tensor]], Any], plain: Callable[[dict[str, Any]], Any]) -> None:
    """Save a state's file with some of its content changed."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        data = json.loads(file.metadata()["state"])
    tensors(held)
    plain(data)
    save_file(held, path, metadata={"state": json.dumps(data)})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-10]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x80\x04 a pickle"),
        lambda path: save_file({"average": torch.zeros(1)}, path),
        lambda path: save_file({"average": torch.zeros(1)}, path, metadata={"state": "{"}),
        lambda path: rewrite(path, lambda held: held.pop("average"), lambda _: None),
        lambda path: rewrite(path, lambda held: held.pop("probes.first_moment"), lambda _: None),
        lambda path: rewrite(path, lambda held: held.pop("replayed.kinds"), lambda _: None),
        lambda path: rewrite(path, lambda _: None, lambda data: data.pop("next_check")),
        lambda path: rewrite(path, lambda _: None, lambda data: data.update(last_attempt=3)),
    ],
    ids=[
        "cut off",
        "empty",
        "a pickle",
        "no metadata",
        "no JSON",
        "no average",
        "no moment",
        "part of a draw",
        "no counter",
        "a counter of another version",
    ],
)
def test_a_file_that_is_no_state_says_so_and_what_to_do(spoil, tmp_path):
    state_after(BLOCK_STEPS + 1)[1].save(tmp_path)
    path = tmp_path / TRAINING_STATE_FILE
    spoil(path)
    with pytest.raises(CheckpointError, match=rf"{TRAINING_STATE_FILE} is no training state .*delete it to train from"):
        TrainingState.load(tmp_path)


def test_the_state_of_a_run_that_has_ended_tells_its_steps_and_gives_way_to_one_under_way(tmp_path):
    assert ended_after(tmp_path) is None
    ended, under_way = state_after(3)[1], state_after(5)[1]
    ended.save(tmp_path)
    assert ended_after(tmp_path) is None
    (tmp_path / TRAINING_STATE_FILE).rename(tmp_path / ENDED_STATE_FILE)
    assert ended_after(tmp_path) == 3
    found = TrainingState.load(tmp_path)
    assert found is not None
    assert_same(found, ended)
    under_way.save(tmp_path)
    found = TrainingState.load(tmp_path)
    assert found is not None and found.step == 5
    (tmp_path / ENDED_STATE_FILE).write_bytes(b"spoilt")
    with pytest.raises(CheckpointError, match=f"{ENDED_STATE_FILE} is no training state"):
        ended_after(tmp_path)


# -- logs --------------------------------------------------------------------------------------------------------------


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / TRAINING_LOG_FILE).read_text().splitlines()]


@pytest.mark.parametrize("rest", ['{"event": "st', "\n", '{"event": "step", "step": 30}\n{"ev', "[1]\n"])
def test_what_a_kill_leaves_at_the_end_of_a_log_is_dropped(rest, tmp_path):
    log = TrainingLog(tmp_path, 0)
    log.write({"event": "step", "step": 10})
    log.write({"event": "step", "step": 20})
    with log.path.open("a") as file:
        file.write(rest)
    TrainingLog(tmp_path, 20).write({"event": "end", "step": 25})
    assert [(event["event"], event["step"]) for event in log_of(tmp_path)] == [("step", 10), ("step", 20), ("end", 25)]
    assert [path.name for path in tmp_path.iterdir()] == [TRAINING_LOG_FILE]
    TrainingLog(tmp_path, 0)
    assert log_of(tmp_path) == []
