"""Training: what a step's losses are, that runs repeat and resume bit by bit, and the folders they leave behind."""

import itertools
import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from interpbench_hub.cases import Case, get_case
from interpbench_hub.certificate import Entry
from interpbench_hub.checkpoint import load_checkpoint, load_config
from interpbench_hub.constants import (
    CERTIFICATE_FILE,
    CIRCUIT_FILE,
    CONFIG_FILE,
    TRAINING_LOG_FILE,
    TRAINING_STATE_FILE,
    WEIGHTS_FILE,
)
from interpbench_hub.errors import CheckpointError, SettingError, UnknownNameError
from interpbench_hub.siit import RECIPES, Recipe, certify, measure, runs, train
from interpbench_hub.siit import trainer as training
from interpbench_hub.siit.measure import QuickCheck
from interpbench_hub.siit.recipe import get_recipe
from interpbench_hub.siit.sizes import transformer_config
from interpbench_hub.siit.trainer import Trainer, better
from interpbench_hub.siit.training_state import TrainingLog, TrainingState
from interpbench_hub.transformer import Run, Transformer

EDGE_SIIT, SIIT, BEHAVIOUR = (RECIPES[name] for name in ("edge-siit", "siit", "behaviour"))
SHORT = EDGE_SIIT.changed(n_pairs=4, check_every=15, max_steps=40)


def run_steps(trainer: Trainer, n_steps: int) -> None:
    """So many steps with the last cool-down that every run ends with."""
    for _ in range(n_steps):
        trainer.step()
        if trainer.state.step == trainer.recipe.last_cooling:
            trainer.state.cooling_from = trainer.state.step


def trainer_of(case_id: str, recipe: Recipe = EDGE_SIIT, seed: int = 0) -> Trainer:
    case = get_case(case_id)
    return Trainer(case, transformer_config(case), recipe, seed=seed)


# -- one step ----------------------------------------------------------------------------------------------------------


def words(case: Case, codes: Tensor, lengths: Tensor) -> list[list[Any]]:
    return [[case.vocab[code] for code in row[:n]] for row, n in zip(codes.tolist(), lengths.tolist(), strict=True)]


def row_loss(case: Case, logits: Tensor, target: list[Any]) -> float:
    """Loss of one row [pos, out], BOS included: mean cross-entropy, or ten times the mean squared error."""
    if case.categorical:
        return float(F.cross_entropy(logits[1:], torch.tensor([case.classes.index(value) for value in target])))
    return 10 * float(F.mse_loss(logits[1:, 0], torch.tensor(target)))


def recorded(monkeypatch, trainer: Trainer, *names: str) -> dict[str, Tensor]:
    """What the trainer's draws of these names return, from now on."""
    drawn: dict[str, Tensor] = {}

    def recording(name: str, draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def wrapper(*arguments: Any) -> Tensor:
            drawn[name] = draw(*arguments)
            return drawn[name]

        return wrapper

    for name in names:
        monkeypatch.setattr(trainer.draw, name, recording(name, getattr(trainer.draw, name)))
    return drawn


@pytest.mark.parametrize("case_id", ["case_3", "case_13"])
@pytest.mark.parametrize(
    "recipe",
    [*(EDGE_SIIT.changed(ablations=(kind,)) for kind in ("resample", "zero", "mean")), SIIT],
    ids=["resample", "zero", "mean", "siit"],
)
@torch.no_grad()
def test_losses_of_a_step_are_those_computed_row_by_row(case_id, recipe, monkeypatch):
    trainer = trainer_of(case_id, recipe.changed(n_pairs=5, circuit_groups=2), seed=3)
    case, config, n = trainer.case, trainer.config, 5
    model = Transformer(config)
    model.load_state_dict(trainer.model.state_dict())
    drawn = recorded(monkeypatch, trainer, "circuit", "outside", "outside_node")
    pairs = trainer.sampler.draw(n, 0)
    with torch.enable_grad():
        losses = trainer.step()

    bases, sources = words(case, pairs.base, pairs.base_lengths), words(case, pairs.source, pairs.source_lengths)
    base_runs, source_runs = ([model.run(case.encode([row])) for row in rows] for rows in (bases, sources))
    behaviour = sum(
        row_loss(case, run.logits[0], case.program(row)) for run, row in zip(source_runs, sources, strict=True)
    )
    behaviour += sum(
        row_loss(case, run.logits[0], case.program(row)) for run, row in zip(base_runs, bases, strict=True)
    )
    assert losses.behaviour == pytest.approx(behaviour / n, rel=1e-4)

    def exchanged(row: int, edges: Tensor, replacement: Tensor) -> Tensor:
        """Logits [pos, out] of a pair's base, some edges carrying a replacement [sender, pos, d_model]."""
        mask = config.mask_of([config.edges[place] for place in edges.nonzero()[:, 0]])[None]
        width = base_runs[row].logits.shape[1]
        return model.interchange(base_runs[row].senders, replacement[:, None, :width], mask)[0]

    circuit = 0.0
    for row, edges in enumerate(drawn["circuit"]):
        pair = row % n
        values = case.high_level.run(pairs.source[pair : pair + 1], pairs.source_lengths[pair : pair + 1])
        inside = edges[trainer.space.circuit_places][None]
        base_codes = pairs.base[pair : pair + 1]
        codes = case.high_level.interchange(base_codes, pairs.base_lengths[pair : pair + 1], values, inside)
        outputs = [(*case.graph.output.values, None)[code] for code in codes[0, : len(bases[pair])]]
        circuit += row_loss(case, exchanged(pair, edges, source_runs[pair].senders[:, 0]), outputs)
    assert len(drawn["circuit"]) == 2 * n
    assert losses.circuit == pytest.approx(circuit / n, rel=1e-4)

    everything = [run.senders[:, 0] for run in (*base_runs, *source_runs)]
    means = torch.zeros(len(config.senders), config.n_ctx, config.d_model)
    for position in range(config.n_ctx):
        there = [senders[:, position] for senders in everything if senders.shape[1] > position]
        if there:
            means[:, position] = torch.stack(there).mean(0)
    outside = 0.0
    outside_edges = drawn["outside_node" if recipe is SIIT else "outside"]
    for row, edges in enumerate(outside_edges):
        source = source_runs[row % n].senders[:, 0]
        replacement = {"resample": source, "zero": torch.zeros_like(means), "mean": means}[recipe.ablations[0]]
        outside += row_loss(case, exchanged(row % n, edges, replacement), case.program(bases[row % n]))
    assert len(outside_edges) == n * recipe.outside_groups
    assert losses.outside == pytest.approx(outside / n, rel=1e-4)
    assert losses.total == pytest.approx(losses.behaviour + losses.circuit + losses.outside)


def test_plain_training_has_a_behaviour_loss_alone():
    trainer = trainer_of("case_3", BEHAVIOUR)
    first = trainer.step()
    assert (first.circuit, first.outside) == (0, 0) and first.behaviour > 0
    last = [trainer.step().behaviour for _ in range(60)][-1]
    assert last < 0.2 * first.behaviour


@pytest.mark.parametrize("groups", [(1, 0), (0, 1), (2, 3), (0, 0)])
def test_any_number_of_groups_can_be_trained(groups):
    circuit_groups, outside_groups = groups
    recipe = EDGE_SIIT.changed(n_pairs=3, circuit_groups=circuit_groups, outside_groups=outside_groups)
    losses = trainer_of("case_13", recipe).step()
    assert (losses.circuit > 0, losses.outside > 0) == (circuit_groups > 0, outside_groups > 0)


def test_rows_outside_are_replaced_by_sources_zeros_and_means(monkeypatch):
    trainer = trainer_of("case_3", EDGE_SIIT.changed(n_pairs=8))
    seen: list[tuple[Tensor, Tensor]] = []
    run_of, interchange = trainer.model.run, trainer.model.interchange
    plain: list[Run] = []

    def noting_run(*arguments: Any) -> Run:
        plain.append(run_of(*arguments))
        return plain[-1]

    def noting(base: Tensor, replacement: Tensor, *arguments: Any) -> Tensor:
        seen.append((plain[-1].senders.detach(), replacement.detach()))
        return interchange(base, replacement, *arguments)

    monkeypatch.setattr(trainer.model, "run", noting_run)
    monkeypatch.setattr(trainer.model, "interchange", noting)
    kinds: dict[str, int] = {"resample": 0, "zero": 0, "mean": 0}
    for _ in range(6):
        trainer.step()
        senders, replacement = seen[-1]
        sources = senders[:, :8]
        assert torch.equal(replacement[:, :8], sources)
        first = replacement[0, 8]
        for row in range(8, 24):
            value = replacement[:, row]
            if torch.equal(value, sources[:, row % 8]):
                kinds["resample"] += 1
            elif not bool(value.any()):
                kinds["zero"] += 1
            else:
                kinds["mean"] += 1
                torch.testing.assert_close(value[:, 0], senders[:, :, 0].mean(1))
        assert first.shape == (trainer.config.n_ctx, trainer.config.d_model)
    assert sum(kinds.values()) == 96 and min(kinds.values()) > 20


def test_the_running_loss_of_an_edge_follows_the_rows_that_exchange_it_alone(monkeypatch):
    trainer = trainer_of("case_13", EDGE_SIIT.changed(node_share=0.4, n_pairs=12))
    drawn = recorded(monkeypatch, trainer, "circuit")
    losses: list[Tensor] = []
    loss_of = trainer.reader.loss

    def noting(*arguments: Any) -> Tensor:
        losses.append(loss_of(*arguments))
        return losses[-1]

    monkeypatch.setattr(trainer.reader, "loss", noting)
    expected = torch.ones(len(trainer.space.interchange_edges))
    for _ in range(3):
        trainer.step()
        for edges, loss in zip(drawn["circuit"], losses[-1].detach(), strict=False):
            if int(edges.sum()) == 1:
                place = trainer.space.interchange_edges.tolist().index(int(edges.nonzero()))
                expected[place] = 0.9 * expected[place] + 0.1 * loss
        torch.testing.assert_close(trainer.state.edge_losses, expected)
    assert bool((expected != 1).all())


def test_edges_that_are_still_wrong_are_drawn_more_often(monkeypatch):
    trainer = trainer_of("case_13", EDGE_SIIT.changed(node_share=0.0, n_pairs=64))
    trainer.state.edge_losses[:] = 0
    trainer.state.edge_losses[1] = 1
    drawn = recorded(monkeypatch, trainer, "circuit")
    trainer.step()
    counts = drawn["circuit"].sum(0)[trainer.space.interchange_edges].tolist()
    assert counts[1] > 2 * max(counts[0], *counts[2:]) and min(counts) > 0


def test_an_update_is_that_of_adam_on_the_clipped_gradient():
    trainer = trainer_of("case_3", EDGE_SIIT.changed(gradient_norm=0.5))
    recipe, flat = trainer.recipe, trainer.model.flat
    parameter = torch.nn.Parameter(flat.detach().clone())
    adam = torch.optim.Adam([parameter], betas=recipe.betas, eps=1e-8)
    for step in range(8):
        trainer.step()
        assert flat.grad is not None
        # Clipped in place.
        assert float(flat.grad.norm()) <= 0.5 + 1e-5
        parameter.grad = flat.grad.clone()
        adam.param_groups[0]["lr"] = recipe.rate(step)
        adam.step()
        torch.testing.assert_close(flat.detach(), parameter.detach(), atol=1e-6, rtol=1e-5)
        with torch.no_grad():
            parameter.copy_(flat)
    assert trainer.state.step == 8


# -- chance ------------------------------------------------------------------------------------------------------------


def weights_after(steps: int, case_id: str = "case_3", **changes: Any) -> Tensor:
    seed = changes.pop("seed", 0)
    trainer = trainer_of(case_id, EDGE_SIIT.changed(n_pairs=4, **changes), seed)
    for _ in range(steps):
        trainer.step()
    return trainer.model.flat.detach().clone()


def test_a_seed_gives_the_same_weights_to_the_last_bit_and_another_seed_others():
    first = weights_after(30)
    torch.manual_seed(123)
    assert torch.equal(first, weights_after(30))
    assert not torch.equal(weights_after(2), weights_after(2, seed=1))
    assert not torch.equal(weights_after(2), weights_after(2, learning_rate=1e-3))


def test_cases_and_seeds_start_from_weights_of_their_own():
    assert not torch.equal(trainer_of("case_8").model.flat[:50], trainer_of("case_20").model.flat[:50])
    assert not torch.equal(trainer_of("case_3").model.flat, trainer_of("case_3", seed=1).model.flat)
    assert torch.equal(trainer_of("case_3").model.flat, trainer_of("case_3", SIIT).model.flat)


# -- runs: logs and interruptions --------------------------------------------------------------------------------------


def look_at_little(patch: pytest.MonkeyPatch) -> None:
    """Checks and certificates on so few pairs that short runs stay short."""
    patch.setattr(measure, "SINGLE_PAIRS", 8)
    patch.setattr(measure, "AGGREGATE_PAIRS", 16)
    patch.setattr(measure, "MAX_EXHAUSTIVE_PAIRS", 0)
    patch.setattr(measure, "ABLATIONS", ("resample",))
    patch.setattr(training, "QUICK_PAIRS_STRICT", 4)
    patch.setattr(runs, "QUICK_PAIRS", 8)
    patch.setattr(runs, "CLOSER_PAIRS", 8)


def certify_untrained(patch: pytest.MonkeyPatch) -> None:
    """Every check is clean, so that certificates are made on the way; the first counts as the best."""
    patch.setattr(Trainer, "check", lambda *_: quick_check_with())
    patch.setattr(runs, "better", lambda _, old: old is None)


def quick_check_with(**shares: float) -> QuickCheck:
    """A quick check in which all is right but for some shares."""
    names = [field.name for field in fields(QuickCheck) if field.name != "weak"]
    return QuickCheck(**(dict.fromkeys(names, 1.0) | shares))  # pyright: ignore[reportArgumentType]


@pytest.fixture
def quick_looks(monkeypatch) -> None:
    look_at_little(monkeypatch)


@pytest.fixture
def early_certificates(quick_looks, monkeypatch) -> None:
    certify_untrained(monkeypatch)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> Path:
    """A short run that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        look_at_little(patch)
        return train("case_3", out=tmp_path_factory.mktemp("whole"), recipe=SHORT)


@pytest.fixture(scope="module")
def certified_run(tmp_path_factory) -> Path:
    """The same, certified on the way."""
    with pytest.MonkeyPatch.context() as patch:
        look_at_little(patch)
        certify_untrained(patch)
        return train("case_3", out=tmp_path_factory.mktemp("certified"), recipe=SHORT)


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / TRAINING_LOG_FILE).read_text().splitlines()]


def content(folder: Path) -> dict[str, Any]:
    """All that a run leaves behind, but for the time it took."""
    config = json.loads((folder / CONFIG_FILE).read_text())
    log = log_of(folder)
    for record in (config["provenance"], *log):
        for key in [key for key in record if key.endswith("_seconds")]:
            del record[key]
    files = {name: (folder / name).read_bytes() for name in (WEIGHTS_FILE, CIRCUIT_FILE, CERTIFICATE_FILE)}
    return {"log": log, "config": config, **files}


def assert_left_the_same(folder: Path, other: Path) -> None:
    found, expected = content(folder), content(other)
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in other.iterdir())
    for name, value in expected.items():
        assert found[name] == value, name


class Killed(Exception):
    """Stands for whatever ends a process without warning."""


def kill() -> None:
    raise Killed


def interrupt() -> None:
    """What Ctrl-C does."""
    signal.raise_signal(signal.SIGINT)


def stop_at(event: str, step: int, how: Callable[[], None]) -> Callable[[dict[str, Any]], None]:
    def report(record: dict[str, Any]) -> None:
        if (record["event"], record["step"]) == (event, step):
            how()

    return report


def test_a_run_leaves_a_whole_checkpoint_and_a_log(whole_run):
    names = {CONFIG_FILE, WEIGHTS_FILE, CIRCUIT_FILE, CERTIFICATE_FILE, TRAINING_LOG_FILE}
    assert {path.name for path in whole_run.iterdir()} == names
    checkpoint = load_checkpoint(whole_run)
    provenance = checkpoint.config.provenance
    assert (provenance.recipe, provenance.seed, provenance.steps) == ("edge-siit", 0, 40)
    assert provenance.cpu_seconds > 0 and provenance.wall_seconds > 0
    assert checkpoint.certificate is not None and checkpoint.certificate.grade == "none"
    case = get_case("case_3")
    assert checkpoint.config.vocab.tokens == case.vocab
    assert (checkpoint.config.min_len, checkpoint.config.max_len) == (case.min_len, case.max_len)
    assert checkpoint.circuit.edges == case.circuit.edges
    shares = {effect.name: effect.share for effect in checkpoint.certificate.effect}
    assert {str(edge): edge.effect for edge in checkpoint.circuit if edge.kind == "varying"} == shares
    assert all(edge.effect is None for edge in checkpoint.circuit if edge.kind != "varying")


def test_the_weights_are_those_of_so_many_steps(whole_run):
    trainer = trainer_of("case_3", SHORT)
    run_steps(trainer, 40)
    saved = load_checkpoint(whole_run).weights
    assert all(torch.equal(saved[name], tensor) for name, tensor in trainer.model.state_dict().items())


def test_a_checkpoint_can_be_certified_again(whole_run, quick_looks):
    assert certify(whole_run) == load_checkpoint(whole_run).certificate


def test_the_log_holds_one_json_object_a_line_in_the_order_of_steps(whole_run, certified_run):
    for folder in (whole_run, certified_run):
        log = log_of(folder)
        steps = [event["step"] for event in log]
        assert steps == sorted(steps)
        assert [event["step"] for event in log if event["event"] == "step"] == [10, 20, 30, 40]
        assert [event["event"] for event in log].count("end") == 1 and log[-1]["event"] == "end"
        assert log[-1]["grade"] == "none" and log[-1]["cpu_seconds"] > 0
    checks = [event for event in log_of(whole_run) if event["event"] == "check"]
    assert [event["step"] for event in checks] == [15, 30, 40]
    assert all(0 <= event[name] <= 1 for event in checks for name in ("behaviour", "edge_strict", "complement"))
    losses = [event["losses"] for event in log_of(whole_run) if event["event"] == "step"]
    assert all(set(loss) == {"behaviour", "circuit", "outside"} for loss in losses)


def test_a_clean_check_is_followed_by_a_cool_down_and_a_certificate(certified_run):
    """15 steps, then 4 of cooling down; 30, which is long enough after, then 8."""
    looks = [(event["event"], event["step"]) for event in log_of(certified_run) if event["event"] != "step"]
    first, second = (("check", 15), ("check", 19), ("certificate", 19)), (("check", 30), ("check", 38))
    assert looks == [*first, *second, ("certificate", 38), ("end", 40)]
    rates = {event["step"]: event["rate"] for event in log_of(certified_run) if event["event"] == "check"}
    for start, end in ((15, 19), (30, 38)):
        assert rates[start] == SHORT.rate(start - 1)
        assert rates[end] == SHORT.rate(end - 1, start) < 0.3 * SHORT.rate(start)
    # The checkpoint is the best certificate's, here the first's.
    assert load_config(certified_run).provenance.steps == 19


def test_a_report_is_told_what_the_log_holds(tmp_path, quick_looks):
    told: list[dict[str, Any]] = []
    train("case_3", out=tmp_path, recipe=SHORT, report=told.append)
    assert told[0]["event"] == "start" and told[0]["max_steps"] == 40
    assert json.loads(json.dumps(told[1:])) == log_of(tmp_path)


@pytest.mark.parametrize(
    ("event", "step"), [("step", 10), ("certificate", 19), ("step", 30), ("certificate", 38), ("step", 40)]
)
def test_a_killed_run_resumes_as_if_nothing_had_happened(event, step, tmp_path, certified_run, early_certificates):
    with pytest.raises(Killed):
        train("case_3", out=tmp_path, recipe=SHORT, report=stop_at(event, step, kill))
    train("case_3", out=tmp_path, recipe=SHORT)
    assert_left_the_same(tmp_path, certified_run)


@pytest.mark.parametrize(
    ("event", "step"), [("step", 20), ("step", 30), ("check", 15), ("check", 19), ("certificate", 19)]
)
def test_an_interrupted_run_resumes_as_if_nothing_had_happened(
    event, step, tmp_path, certified_run, early_certificates
):
    with pytest.raises(KeyboardInterrupt):
        train("case_3", out=tmp_path, recipe=SHORT, report=stop_at(event, step, interrupt))
    train("case_3", out=tmp_path, recipe=SHORT)
    assert_left_the_same(tmp_path, certified_run)


@pytest.mark.parametrize("method", [(Trainer, "_update"), (Recipe, "rate")], ids=["before", "amid"])
def test_an_interruption_within_a_step_saves_the_state_between_two_steps(method, tmp_path, quick_looks, monkeypatch):
    """Before the update of the weights losses have been noted already, amid it moments have moved."""
    owner, name = method
    original, calls = getattr(owner, name), []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 9:
            interrupt()
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, name, interrupted)
        train("case_3", out=tmp_path, recipe=SHORT)
    state = TrainingState.load(tmp_path)
    trainer = trainer_of("case_3", SHORT)
    for _ in range(state.step if state is not None else 0):
        trainer.step()
    for tensor in ("weights", "first_moment", "second_moment", "edge_losses") if state is not None else ():
        assert torch.equal(getattr(state, tensor), getattr(trainer.state, tensor)), tensor


def test_a_run_can_be_interrupted_again_and_again(tmp_path, whole_run, quick_looks):
    for step in (10, 20, 40):
        with pytest.raises(KeyboardInterrupt):
            train("case_3", out=tmp_path, recipe=SHORT, report=stop_at("step", step, interrupt))
    train("case_3", out=tmp_path, recipe=SHORT)
    assert_left_the_same(tmp_path, whole_run)


def test_time_spent_before_an_interruption_counts(tmp_path, quick_looks):
    with pytest.raises(KeyboardInterrupt):
        train("case_3", out=tmp_path, recipe=SHORT, report=stop_at("step", 20, interrupt))
    state = TrainingState.load(tmp_path)
    assert state is not None and state.step in (19, 20) and state.cpu_seconds > 0
    state.cpu_seconds, state.wall_seconds = 1000.0, 2000.0
    state.save(tmp_path)
    train("case_3", out=tmp_path, recipe=SHORT)
    provenance = load_config(tmp_path).provenance
    assert 1000 < provenance.cpu_seconds < 1500 and 2000 < provenance.wall_seconds < 2500


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


def test_a_run_resumes_over_half_a_line_in_its_log(tmp_path, whole_run, quick_looks):
    with pytest.raises(Killed):
        train("case_3", out=tmp_path, recipe=SHORT, report=stop_at("step", 20, kill))
    with (tmp_path / TRAINING_LOG_FILE).open("a") as file:
        file.write('{"event": "check", "st')
    train("case_3", out=tmp_path, recipe=SHORT)
    assert_left_the_same(tmp_path, whole_run)


def test_a_state_comes_back_as_it_was_saved(tmp_path):
    trainer = trainer_of("case_13", SHORT)
    for _ in range(3):
        trainer.step()
    trainer.state.cooling_from, trainer.state.last_attempt = 2, 1
    trainer.state.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [TRAINING_STATE_FILE]
    found = TrainingState.load(tmp_path)
    assert found is not None
    for name, value in vars(trainer.state).items():
        if isinstance(value, Tensor):
            assert torch.equal(getattr(found, name), value)
        else:
            assert getattr(found, name) == value, name
    other = trainer_of("case_13", SHORT)
    other.take_up(found)
    trainer.step()
    other.step()
    assert torch.equal(trainer.model.flat, other.model.flat)


# -- runs: whose folder it is ------------------------------------------------------------------------------------------


def test_an_old_checkpoint_does_not_outlive_a_restart_that_was_interrupted(tmp_path, whole_run, early_certificates):
    """Not even if it is the better one."""
    folder = shutil.copytree(whole_run, tmp_path / "finished")
    with pytest.raises(KeyboardInterrupt):
        train("case_3", out=folder, recipe=SHORT, seed=2, restart=True, report=stop_at("step", 20, interrupt))
    train("case_3", out=folder, recipe=SHORT, seed=2)
    assert load_config(folder).provenance.seed == 2


@pytest.fixture
def interrupted_run(tmp_path, quick_looks) -> Path:
    with pytest.raises(KeyboardInterrupt):
        train("case_3", out=tmp_path, recipe=SHORT, report=stop_at("step", 10, interrupt))
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"case": "case_8"}, "another case: 'case_3' instead of 'case_8'"),
        ({"seed": 1}, "another seed: 0 instead of 1"),
        ({"recipe": SHORT.changed(n_pairs=5)}, "another recipe"),
        ({"learning_rate": 1e-3}, "another recipe"),
    ],
)
def test_a_folder_with_the_state_of_another_run_is_refused(changes, what, interrupted_run):
    before = {path.name: path.read_bytes() for path in interrupted_run.iterdir()}
    arguments: dict[str, Any] = {"case": "case_3", "recipe": SHORT, **changes}
    with pytest.raises(SettingError, match=f"holds a training state with {what}"):
        train(out=interrupted_run, **arguments)
    assert {path.name: path.read_bytes() for path in interrupted_run.iterdir()} == before


def test_a_restart_forgets_the_state(interrupted_run):
    train("case_3", out=interrupted_run, recipe=SHORT, seed=1, max_steps=12, restart=True)
    assert load_config(interrupted_run).provenance.seed == 1
    trainer = trainer_of("case_3", SHORT.changed(max_steps=12), seed=1)
    run_steps(trainer, 12)
    saved = load_checkpoint(interrupted_run).weights
    assert all(torch.equal(saved[name], tensor) for name, tensor in trainer.model.state_dict().items())
    assert [event["step"] for event in log_of(interrupted_run)] == [10, 12, 12, 12]


def test_a_damaged_state_is_refused_and_can_be_started_over(interrupted_run):
    path = interrupted_run / TRAINING_STATE_FILE
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="is no training state"):
        train("case_3", out=interrupted_run, recipe=SHORT)
    train("case_3", out=interrupted_run, recipe=SHORT.changed(max_steps=3), restart=True)
    assert load_config(interrupted_run).provenance.steps == 3


def test_a_finished_run_is_left_as_it_is(tmp_path, whole_run, quick_looks):
    folder = shutil.copytree(whole_run, tmp_path / "finished")
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    told: list[Any] = []
    assert train("case_3", out=folder, recipe=SHORT, report=told.append) == folder
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    assert not told


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"case": "case_8", "recipe": SHORT}, "not of case_8"),
        ({"case": "case_3", "recipe": SHORT, "seed": 1}, "edge-siit, seed 1"),
        ({"case": "case_3", "recipe": "siit"}, "siit, seed 0"),
    ],
)
def test_a_folder_with_another_finished_run_is_refused(arguments, what, whole_run):
    with pytest.raises(SettingError, match=f"holds a finished run of case_3 .*{what}"):
        train(out=whole_run, **arguments)


def test_a_restart_replaces_a_finished_run(tmp_path, whole_run, quick_looks):
    folder = shutil.copytree(whole_run, tmp_path / "finished")
    train("case_3", out=folder, recipe=SHORT.changed(max_steps=5), seed=2, restart=True)
    provenance = load_config(folder).provenance
    assert (provenance.seed, provenance.steps) == (2, 5)
    assert [event["event"] for event in log_of(folder)] == ["check", "certificate", "end"]


def test_a_run_has_a_folder_of_its_own_by_default(tmp_path, quick_looks, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = train("case_3", seed=4, recipe=SHORT, max_steps=1)
    assert folder == Path("runs") / "case_3" / "edge-siit_4"
    assert load_config(tmp_path / folder).provenance.steps == 1


def test_what_cannot_be_trained_is_refused_before_a_folder_is_made(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(SettingError, match="device 'abacus'"):
        train("case_3", out=out, device="abacus")
    with pytest.raises(SettingError, match="max_steps is 0"):
        train("case_3", out=out, max_steps=0)
    with pytest.raises(UnknownNameError, match="unknown recipe 'edge-siti'; nearest: edge-siit"):
        train("case_3", out=out, recipe="edge-siti")
    with pytest.raises(UnknownNameError, match="unknown case 'case_300'"):
        train("case_300", out=out)
    assert not out.exists()


def test_training_leaves_the_number_of_threads_alone(tmp_path, quick_looks):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        seen: list[int] = []
        train("case_3", out=tmp_path, recipe=SHORT, max_steps=1, report=lambda _: seen.append(torch.get_num_threads()))
        assert torch.get_num_threads() == 2 and set(seen) == {1}
    finally:
        torch.set_num_threads(threads)


# -- recipes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_pairs", 0),
        ("max_steps", -1),
        ("check_every", 0),
        ("steady_steps", 0),
        ("circuit_groups", -1),
        ("warm_up", -5),
        ("cool_down", -0.1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("goal", "glory"),
        ("outside_level", "head"),
    ],
)
def test_a_recipe_that_cannot_be_names_field_and_value(field, value):
    with pytest.raises(SettingError, match=f"recipe edge-siit: {field} is {value!r}"):
        EDGE_SIIT.changed(**{field: value})


@pytest.mark.parametrize("ablations", [(), ("noise",), ("zero", "median")])
def test_a_recipe_replaces_by_known_ablations_only(ablations):
    with pytest.raises(SettingError, match="ablations are"):
        EDGE_SIIT.changed(ablations=ablations)


def test_a_recipe_is_found_by_its_name():
    assert get_recipe("siit") is SIIT and get_recipe(SHORT) is SHORT
    for name in ("adam", None, 3):
        with pytest.raises(UnknownNameError, match="unknown recipe"):
            get_recipe(name)  # pyright: ignore[reportArgumentType]


def test_a_change_leaves_the_other_fields_and_what_is_none():
    changed = EDGE_SIIT.changed(n_pairs=3, max_steps=None)
    assert changed.to_dict() == {**EDGE_SIIT.to_dict(), "n_pairs": 3}
    assert EDGE_SIIT.n_pairs == 16


def test_a_field_that_recipes_do_not_have_is_refused():
    with pytest.raises(UnknownNameError, match="unknown recipe field 'max_step'; nearest: max_steps"):
        EDGE_SIIT.changed(max_step=3)


def test_the_rate_rises_stays_and_falls_with_the_root_of_the_step():
    recipe = EDGE_SIIT.changed(warm_up=20, steady_steps=100, learning_rate=0.01)
    assert [recipe.rate(step) for step in range(20)] == pytest.approx([0.0005 * step for step in range(1, 21)])
    assert {recipe.rate(step) for step in range(20, 100)} == {0.01}
    assert [recipe.rate(step - 1) for step in (400, 900, 10_000)] == pytest.approx([0.005, 0.01 / 3, 0.001])
    assert EDGE_SIIT.changed(warm_up=0).rate(0) == EDGE_SIIT.learning_rate


def test_a_cool_down_takes_the_rate_down_to_nearly_nothing():
    recipe = EDGE_SIIT.changed(cool_down=0.25, max_steps=1000)
    assert [recipe.cooling_steps(step) for step in (1, 100, 250, 400)] == [1, 25, 62, 100]
    rates = [recipe.rate(step, 400) for step in range(400, 501)]
    assert rates[0] == recipe.rate(400) and 0 < rates[-1] <= 0.01 * rates[0]
    drops = [before - after for before, after in itertools.pairwise(rates[:-1])]
    assert drops == pytest.approx([rates[0] / 100] * len(drops))


@pytest.mark.parametrize(("max_steps", "cool_down"), [(1000, 0.25), (12_000, 0.25), (77, 0.5), (40, 0.0), (1, 0.25)])
def test_a_cool_down_ends_with_the_run_at_the_latest(max_steps, cool_down):
    recipe = EDGE_SIIT.changed(max_steps=max_steps, cool_down=cool_down)
    for start in range(1, max_steps):
        assert start + recipe.cooling_steps(start) <= max_steps
    # The last one that need not be cut short.
    last = recipe.last_cooling
    assert last <= max_steps <= (1 + cool_down) * last < max_steps + 1 + cool_down


@pytest.mark.parametrize(
    ("recipe", "demands"),
    [
        (BEHAVIOUR, {"behaviour"}),
        (SIIT, {"behaviour", "node_interchange", "node_strict_resample"}),
        (EDGE_SIIT, {"behaviour", "node_interchange", "edge_interchange", "node_strict", "edge_strict", "complement"}),
    ],
    ids=["behaviour", "siit", "edge-siit"],
)
def test_a_goal_says_what_a_check_must_show(recipe, demands):
    assert recipe.reaches_goal(quick_check_with(), 1.0)
    # What falls short under resampling falls short in the worst of all ablations, too.
    for share in (field.name for field in fields(QuickCheck) if field.name not in ("weak", "node_strict_resample")):
        assert recipe.reaches_goal(quick_check_with(**{share: 0.99}), 1.0) == (share not in demands), share
        assert recipe.reaches_goal(quick_check_with(**{share: 0.99}), 0.98), share
    by_resampling = quick_check_with(node_strict=0.99, node_strict_resample=0.99)
    assert recipe.reaches_goal(by_resampling, 1.0) == (recipe is BEHAVIOUR)


def test_a_goal_says_what_a_certificate_must_show(make_certificate):
    fails = Entry("m0", "resample", 1000, 900)
    perfect, edge = make_certificate(), make_certificate(edge_interchange=(fails,))
    node, nothing = make_certificate(edge_strict=(fails,)), make_certificate(node_interchange=(fails,))
    wrong = make_certificate(behaviour=(Entry("all", None, 1000, 900),))
    assert [c.grade for c in (perfect, edge, node, nothing, wrong)] == ["path", "edge", "node", "none", "none"]
    assert [EDGE_SIIT.is_done(c) for c in (perfect, edge, node, nothing, wrong)] == [True] + 4 * [False]
    assert [SIIT.is_done(c) for c in (perfect, edge, node, nothing, wrong)] == [True, True, True, False, False]
    assert [BEHAVIOUR.is_done(c) for c in (perfect, edge, node, nothing, wrong)] == [True, True, True, True, False]


def test_the_better_certificate_has_the_better_grade_then_fewer_failures_then_the_better_worst(make_certificate):
    def strict(*correct: int) -> Any:
        entries = tuple(Entry(f"m{place}", "resample", 1000, right) for place, right in enumerate(correct))
        return make_certificate(edge_strict=entries)

    order = [
        strict(0, 0, 0),
        strict(0, 990, 1000),
        strict(980, 980, 1000),
        strict(0, 1000, 1000),
        strict(990, 1000, 1000),
    ]
    order += [make_certificate(edge_interchange=(Entry("m0", "resample", 1000, 0),)), make_certificate()]
    for place, certificate in enumerate(order):
        assert better(certificate, None)
        assert not better(certificate, certificate)
        assert all(better(certificate, worse) for worse in order[:place])
        assert not any(better(worse, certificate) for worse in order[:place])


# -- training to the end -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_case_3_is_trained_to_grade_path(tmp_path):
    checkpoint = load_checkpoint(train("case_3", out=tmp_path, seed=0))
    assert checkpoint.certificate is not None
    assert checkpoint.certificate.grade == "path", str(checkpoint.certificate)
    assert checkpoint.certificate.is_exhaustive
    for edge in checkpoint.circuit.of_kind("varying"):
        assert edge.effect is not None and edge.effect > 0.5


@pytest.mark.slow
def test_training_by_node_does_not_make_the_edges_right(tmp_path):
    certificate = load_checkpoint(train("case_3", out=tmp_path, seed=0, recipe="siit", max_steps=2000)).certificate
    assert certificate is not None
    assert certificate.grade in ("node", "none")
    worst = certificate.worst("edge_strict", "resample")
    assert worst is not None and worst.accuracy < 0.9


@pytest.mark.slow
def test_plain_training_reaches_the_behaviour_alone(tmp_path):
    certificate = load_checkpoint(train("case_3", out=tmp_path, seed=0, recipe="behaviour")).certificate
    assert certificate is not None
    assert certificate.behaviour[0].passes
    assert certificate.grade == "none"
