"""Runs: the folders they leave behind, and that they resume bit by bit wherever they were stopped."""

import json
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from interpbench_hub.cases import get_case
from interpbench_hub.checkpoint import load_checkpoint, load_config, weights_digest, weights_sha256
from interpbench_hub.constants import (
    CERTIFICATE_FILE,
    CIRCUIT_FILE,
    CONFIG_FILE,
    ENDED_STATE_FILE,
    MODEL_FILES,
    TRAINING_LOG_FILE,
    TRAINING_STATE_FILE,
    WEIGHTS_FILE,
)
from interpbench_hub.errors import CheckpointError, SettingError, UnknownNameError
from interpbench_hub.hub import resolve
from interpbench_hub.siit import RECIPES, Recipe, certify, measure, runs, train
from interpbench_hub.siit import trainer as training
from interpbench_hub.siit.adam import Adam
from interpbench_hub.siit.measure import Measurement
from interpbench_hub.siit.quick_check import QuickCheck
from interpbench_hub.siit.recipe import recipe_for
from interpbench_hub.siit.sizes import transformer_config
from interpbench_hub.siit.trainer import Trainer
from interpbench_hub.siit.training_state import TrainingState
from tests.small_ioi import small_config

CLEAN = QuickCheck(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
SHORT = RECIPES["edge-siit"].changed(n_pairs=4, check_every=15, max_steps=40)


def trainer_after(n_steps: int, recipe: Recipe, seed: int = 0) -> Trainer:
    """A trainer of case_3 after so many steps, with the last cool-down that every run ends with."""
    case = get_case("case_3")
    trainer = Trainer(case, transformer_config(case), recipe, seed=seed)
    for _ in range(n_steps):
        trainer.step()
        if trainer.state.step == recipe.last_cooling:
            trainer.state.cooling_from = trainer.state.step
    return trainer


def assert_saved(folder: Path, trainer: Trainer) -> None:
    """The folder holds the trainer's averaged weights."""
    saved = load_checkpoint(folder).weights
    assert all(torch.equal(saved[name], tensor) for name, tensor in trainer.averaged().state_dict().items())


# -- logs and interruptions --------------------------------------------------------------------------------------


def look_at_little(patch: pytest.MonkeyPatch) -> None:
    """Checks and certificates on so few pairs that short runs stay short."""
    patch.setattr(measure, "SINGLE_PAIRS", 8)
    patch.setattr(measure, "AGGREGATE_PAIRS", 16)
    patch.setattr(measure, "MAX_EXHAUSTIVE_PAIRS", 0)
    patch.setattr(measure, "ABLATIONS", ("resample",))
    for name in ("QUICK_PAIRS", "QUICK_EDGE_ROWS", "CLOSE_PAIRS", "CLOSE_EDGE_ROWS"):
        patch.setattr(training, name, 8)


def certify_untrained(patch: pytest.MonkeyPatch) -> None:
    """Every check is clean, so that certificates are made on the way; the first counts as the best."""
    patch.setattr(Trainer, "check", lambda *_, **__: CLEAN)
    patch.setattr(runs, "better", lambda _, old: old is None)


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
    names = {CONFIG_FILE, WEIGHTS_FILE, CIRCUIT_FILE, CERTIFICATE_FILE, TRAINING_LOG_FILE, ENDED_STATE_FILE}
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


def test_the_weights_are_the_average_after_so_many_steps(whole_run):
    assert_saved(whole_run, trainer_after(40, SHORT))


def test_what_is_loaded_is_what_was_certified_in_half_precision(whole_run, quick_looks):
    checkpoint = load_checkpoint(whole_run)
    assert checkpoint.certificate is not None
    assert {tensor.dtype for tensor in checkpoint.weights.values()} == {torch.float32}
    assert {tensor.dtype for tensor in load_file(whole_run / WEIGHTS_FILE).values()} == {torch.float16}
    assert weights_digest(checkpoint.weights) == weights_sha256(whole_run) == checkpoint.certificate.weights_sha256
    assert certify(whole_run) == checkpoint.certificate


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


def test_a_clean_check_is_followed_by_a_close_one_a_certificate_and_a_cool_down(certified_run):
    """15 steps, then 4 of cooling down; at 34 it is too late for another one before the last, from 32 to 40."""
    log = log_of(certified_run)
    looks = [(event["event"], event["step"], event.get("is_close")) for event in log if event["event"] != "step"]
    expected = []
    for step in (15, 19, 34, 40):
        expected += [("check", step, False), ("check", step, True), ("certificate", step, None)]
    assert looks == [*expected, ("end", 40, None)]
    rates = {event["step"]: event["rate"] for event in log if event["event"] == "check"}
    assert rates == {
        15: SHORT.rate(14),
        19: SHORT.rate(18, 15),
        34: SHORT.rate(33, 32),
        40: SHORT.rate(39, 32),
    }
    assert rates[19] < 0.4 * rates[15] and rates[40] < 0.2 * rates[34]
    # The checkpoint is the best certificate's, here the first's.
    assert load_config(certified_run).provenance.steps == 15


def test_a_cool_down_that_ends_too_early_is_followed_by_a_last_one(tmp_path, early_certificates):
    """30 steps, then 8 of cooling down; training at the full rate for the 2 that are left would end on noise."""
    train("case_3", out=tmp_path, recipe=SHORT, check_every=30)
    rates = {event["step"]: event["rate"] for event in log_of(tmp_path) if event["event"] == "check"}
    assert rates == {30: SHORT.rate(29), 38: SHORT.rate(37, 30), 40: SHORT.rate(39, 38)}


@pytest.mark.parametrize("is_better", [True, False])
def test_the_last_model_is_certified_even_if_an_earlier_one_was(is_better, tmp_path, quick_looks, monkeypatch):
    """Its quick checks may have missed by a hair what a certificate grants."""
    monkeypatch.setattr(
        Trainer, "check", lambda trainer, **_: CLEAN if trainer.state.step == 15 else replace(CLEAN, behaviour=0.5)
    )
    monkeypatch.setattr(runs, "better", lambda _, old: old is None or is_better)
    train("case_3", out=tmp_path, recipe=SHORT)
    assert [event["step"] for event in log_of(tmp_path) if event["event"] == "certificate"] == [15, 40]
    assert load_config(tmp_path).provenance.steps == (40 if is_better else 15)
    # So it is if it goes on.
    train("case_3", out=tmp_path, recipe=SHORT, max_steps=50)
    assert [event["step"] for event in log_of(tmp_path) if event["event"] == "certificate"] == [15, 40, 50]
    assert load_config(tmp_path).provenance.steps == (50 if is_better else 15)


def test_a_report_is_told_what_the_log_holds(tmp_path, quick_looks):
    told: list[dict[str, Any]] = []
    train("case_3", out=tmp_path, recipe=SHORT, report=told.append)
    assert told[0]["event"] == "start" and told[0]["max_steps"] == 40
    assert json.loads(json.dumps(told[1:])) == log_of(tmp_path)


@pytest.mark.parametrize(("event", "step"), [("step", 10), ("certificate", 19), ("certificate", 34), ("step", 40)])
def test_a_killed_run_resumes_as_if_nothing_had_happened(event, step, tmp_path, certified_run, early_certificates):
    with pytest.raises(Killed):
        train("case_3", out=tmp_path, recipe=SHORT, report=stop_at(event, step, kill))
    train("case_3", out=tmp_path, recipe=SHORT)
    assert_left_the_same(tmp_path, certified_run)


@pytest.mark.parametrize(("event", "step"), [("step", 20), ("check", 15), ("check", 19), ("certificate", 19)])
def test_an_interrupted_run_resumes_as_if_nothing_had_happened(
    event, step, tmp_path, certified_run, early_certificates
):
    with pytest.raises(KeyboardInterrupt):
        train("case_3", out=tmp_path, recipe=SHORT, report=stop_at(event, step, interrupt))
    train("case_3", out=tmp_path, recipe=SHORT)
    assert_left_the_same(tmp_path, certified_run)


@pytest.mark.parametrize(
    ("owner", "name", "call"), [(Trainer, "_update", 9), (Adam, "step", 18)], ids=["before the update", "amid it"]
)
def test_an_interruption_within_a_step_saves_the_state_between_two_steps(
    owner, name, call, tmp_path, quick_looks, monkeypatch
):
    """Before the update of the weights losses have been noted already, amid it the model has moved, the probes not."""
    original, calls = getattr(owner, name), []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == call:
            interrupt()
        return original(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, name, interrupted)
        train("case_3", out=tmp_path, recipe=SHORT)
    state = TrainingState.load(tmp_path)
    assert state is not None and state.step == 8
    expected = trainer_after(8, SHORT).state
    for name in ("average", "kind_losses", "kind_weights", "pair_losses"):
        assert torch.equal(getattr(state, name), getattr(expected, name)), name
    for found, adam in ((state.model, expected.model), (state.probes, expected.probes)):
        assert all(torch.equal(getattr(found, name), tensor) for name, tensor in vars(adam).items())


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
    state.cpu_seconds, state.certificate_cpu_seconds, state.wall_seconds = 1000.0, 500.0, 2000.0
    state.save(tmp_path)
    train("case_3", out=tmp_path, recipe=SHORT)
    provenance = load_config(tmp_path).provenance
    assert 1000 < provenance.cpu_seconds < 1500 and 2000 < provenance.wall_seconds < 2500
    assert 500 < log_of(tmp_path)[-1]["certificate_cpu_seconds"] < 600


def test_a_run_resumes_over_half_a_line_in_its_log(tmp_path, whole_run, quick_looks):
    with pytest.raises(Killed):
        train("case_3", out=tmp_path, recipe=SHORT, report=stop_at("step", 20, kill))
    with (tmp_path / TRAINING_LOG_FILE).open("a") as file:
        file.write('{"event": "check", "st')
    train("case_3", out=tmp_path, recipe=SHORT)
    assert_left_the_same(tmp_path, whole_run)


# -- more steps --------------------------------------------------------------------------------------------------------


def test_a_run_that_ended_short_of_its_goal_goes_on_if_given_more_steps(tmp_path, whole_run, quick_looks):
    whole, stopped = (shutil.copytree(whole_run, tmp_path / name) for name in ("whole", "stopped"))
    train("case_3", out=whole, recipe=SHORT, max_steps=60)
    trainer = trainer_after(40, SHORT)
    trainer.recipe, trainer.state.cooling_from = SHORT.changed(max_steps=60), None
    for step in range(40, 60):
        if step == 48:
            trainer.state.cooling_from = step
        trainer.step()
    # The best of both ends counts.
    provenance = load_config(whole).provenance
    assert (provenance.steps, provenance.earlier_ends) in [(60, (40,)), (40, ())]
    state = TrainingState.load(whole)
    assert state is not None and (state.step, state.earlier_ends) == (60, [40])
    assert torch.equal(state.average, trainer.state.average)
    ends = [(event["event"], event["step"]) for event in log_of(whole) if event["event"] == "end"]
    assert ends == [("end", 40), ("end", 60)]

    for event, step in (("step", 50), ("check", 60)):
        with pytest.raises(KeyboardInterrupt):
            train("case_3", out=stopped, recipe=SHORT, max_steps=60, report=stop_at(event, step, interrupt))
        assert (stopped / TRAINING_STATE_FILE).exists() and not (stopped / ENDED_STATE_FILE).exists()
    train("case_3", out=stopped, recipe=SHORT, max_steps=60)
    assert_left_the_same(stopped, whole)


def test_the_checkpoint_says_when_its_run_was_given_more_steps(tmp_path, whole_run, quick_looks, monkeypatch):
    folder = shutil.copytree(whole_run, tmp_path / "run")
    monkeypatch.setattr(runs, "better", lambda *_: True)
    monkeypatch.setattr(Trainer, "check", lambda *_, **__: CLEAN)
    for steps in (50, 60):
        train("case_3", out=folder, recipe=SHORT, max_steps=steps)
    provenance = load_config(folder).provenance
    assert (provenance.steps, provenance.earlier_ends) == (60, (40, 50))


def test_a_run_starts_from_the_weights_of_another(tmp_path, whole_run, quick_looks):
    origin = load_checkpoint(whole_run)
    folder = train("case_3", out=tmp_path / "run", recipe=SHORT, max_steps=60, start_from=whole_run)
    state = TrainingState.load(folder)
    provenance, before = load_config(folder).provenance, origin.config.provenance
    assert state is not None and (state.step, state.started) == (60, 40)
    assert (provenance.steps, provenance.earlier_ends) == (60, (40,))
    assert provenance.started_from == state.started_from == weights_sha256(whole_run)
    assert provenance.cpu_seconds > before.cpu_seconds and provenance.wall_seconds > before.wall_seconds

    stopped = tmp_path / "stopped"
    for event, step in (("step", 50), ("check", 60)):
        with pytest.raises(KeyboardInterrupt):
            changes = {"max_steps": 60, "start_from": whole_run, "report": stop_at(event, step, interrupt)}
            train("case_3", out=stopped, recipe=SHORT, **changes)
    # A state of its own needs no other model any more.
    train("case_3", out=stopped, recipe=SHORT, max_steps=60)
    assert_left_the_same(stopped, folder)


def test_a_run_starts_from_the_weights_of_another_case(tmp_path, quick_looks):
    origin = load_checkpoint(resolve("case_7", files=MODEL_FILES))
    before = origin.config.provenance
    max_steps = before.steps + 5
    folder = train("case_25", out=tmp_path / "run", recipe=SHORT, max_steps=max_steps, start_from="case_7")
    state, provenance = TrainingState.load(folder), load_config(folder).provenance
    assert state is not None and (state.step, state.started) == (max_steps, before.steps)
    assert (provenance.earlier_ends, provenance.started_from_case) == ((*before.earlier_ends, before.steps), "case_7")
    assert provenance.started_from == weights_digest(origin.weights)
    # Five steps at a rate that has hardly risen change little of what was taken over.
    after = load_checkpoint(folder).weights
    assert (after["embed.W_E"] - origin.weights["embed.W_E"]).abs().max() < 0.01
    # What was wrong with the other model says nothing about this one.
    assert not state.suspects


def test_the_first_steps_from_other_weights_are_small_ones_and_draw_what_is_next(whole_run):
    origin, recipe = load_checkpoint(whole_run), SHORT.changed(max_steps=60)
    trainer, fresh = (trainer_after(0, recipe) for _ in range(2))
    trainer.start_from(origin)
    assert trainer.model.state_dict().keys() == origin.weights.keys()
    assert all(torch.equal(origin.weights[name], now) for name, now in trainer.model.state_dict().items())
    assert torch.equal(trainer.state.average, trainer.model.flat.data)
    fresh.state.step = 40
    assert all(torch.equal(mine, other) for mine, other in zip(trainer._draw(), fresh._draw(), strict=True))
    before, rate = trainer.model.flat.detach().clone(), trainer.rate
    assert rate == pytest.approx(recipe.learning_rate / recipe.warm_up)
    # What the certificate found short is drawn more often from the next block on; there is such in so short a run.
    assert origin.certificate is not None
    fresh.suspect(origin.certificate.failures())
    assert trainer.state.suspects and trainer.state.suspects == fresh.state.suspects
    assert not trainer.state.drawn_suspects
    trainer.step()
    moved = (trainer.model.flat - before).norm() / trainer.rate_factors.norm()
    # Adam's first update is the sign of the gradient, with a basis or without.
    assert 0.5 * rate < moved < 1.01 * rate
    assert trainer.rate == pytest.approx(2 * rate)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"case": "case_4"}, "another tokens"),
        ({"case": "case_14", "start_from": "case_7"}, "case_7 is a model of case_7, .* no variable that case_14 has"),
        ({"recipe": "siit"}, "another recipe: 'edge-siit' instead of 'siit'"),
        ({"max_steps": 40}, "40 steps behind it, and max_steps is 40; .* give more"),
        ({"start_from": "case_0"}, "unknown model .case_0"),
    ],
)
def test_a_model_that_no_run_can_start_from_is_refused_before_a_folder_is_made(arguments, what, tmp_path, whole_run):
    given = {"case": "case_3", "max_steps": 60, "start_from": whole_run, "out": tmp_path / "run"} | arguments
    with pytest.raises((SettingError, UnknownNameError), match=what):
        train(**given)
    assert not (tmp_path / "run").exists()


def test_a_model_of_another_size_is_refused(tmp_path, whole_run, monkeypatch):
    config = transformer_config(get_case("case_3"))
    monkeypatch.setattr(runs, "transformer_config", lambda _: replace(config, d_mlp=config.d_mlp + 1))
    with pytest.raises(SettingError, match=f"another size: {{'d_mlp': {config.d_mlp}}} instead of"):
        train("case_3", out=tmp_path / "run", max_steps=60, start_from=whole_run)


@pytest.mark.parametrize("changes", [{"max_steps": 40}, {"max_steps": 20}, {}])
def test_no_more_steps_leave_it_as_it_is(changes, tmp_path, whole_run, quick_looks):
    folder = shutil.copytree(whole_run, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    train("case_3", out=folder, recipe=SHORT, **changes)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_only_the_number_of_steps_may_change(tmp_path, whole_run, quick_looks):
    folder = shutil.copytree(whole_run, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(SettingError, match=r"another recipe: \{'n_pairs': 4\} instead of \{'n_pairs': 5\}"):
        train("case_3", out=folder, recipe=SHORT, max_steps=60, n_pairs=5)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    # A run under way ends first as it was to.
    (folder / ENDED_STATE_FILE).unlink()
    with pytest.raises(KeyboardInterrupt):
        train("case_3", out=folder, recipe=SHORT, restart=True, report=stop_at("step", 10, interrupt))
    with pytest.raises(SettingError, match=r"another recipe: \{'max_steps': 40\} instead of \{'max_steps': 60\}"):
        train("case_3", out=folder, recipe=SHORT, max_steps=60)


def test_a_run_that_reached_its_goal_keeps_no_state(tmp_path, quick_looks, monkeypatch):
    monkeypatch.setattr(Recipe, "is_done", lambda *_: True)
    train("case_3", out=tmp_path, recipe=SHORT)
    assert not (tmp_path / ENDED_STATE_FILE).exists() and not (tmp_path / TRAINING_STATE_FILE).exists()
    before = log_of(tmp_path)
    train("case_3", out=tmp_path, recipe=SHORT, max_steps=60)
    assert log_of(tmp_path) == before


def test_a_restart_forgets_the_end(tmp_path, whole_run, quick_looks):
    folder = shutil.copytree(whole_run, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train("case_3", out=folder, recipe=SHORT, restart=True, report=stop_at("start", 0, interrupt))
    assert not (folder / ENDED_STATE_FILE).exists()


# -- sentences ---------------------------------------------------------------------------------------------------------


def test_a_case_asks_for_fields_of_edge_siit_that_nobody_has_changed():
    case, edge_siit = get_case("ioi"), RECIPES["edge-siit"]
    assert case.edge_siit
    assert recipe_for(case, "edge-siit").to_dict() == {**edge_siit.to_dict(), **case.edge_siit}
    own = edge_siit.changed(isolated_steps=7, n_pairs=3)
    assert recipe_for(case, own).to_dict() == {
        **edge_siit.to_dict(),
        **case.edge_siit,
        "isolated_steps": 7,
        "n_pairs": 3,
    }
    for name in ("siit", "behaviour"):
        assert recipe_for(case, name) is RECIPES[name]
    assert recipe_for(get_case("case_3"), "edge-siit") == edge_siit


@pytest.fixture
def small_ioi(quick_looks, monkeypatch) -> Recipe:
    """Models of IOI of hardly any width, whose certificates look at three edges outside."""
    monkeypatch.setattr(runs, "transformer_config", lambda case: small_config(case.id))
    edge_strict = Measurement.edge_strict

    def few(self: Measurement, batches: Any, *_: Any, **__: Any) -> None:
        names = [str(self.space.edges[place]) for place in self.space.negatives.tolist()[:3]]
        edge_strict(self, batches, only={("edge_strict", name, kind) for name in names for kind in self.ablations})

    monkeypatch.setattr(Measurement, "edge_strict", few)
    return RECIPES["edge-siit"].changed(n_pairs=2, check_every=15, max_steps=36, isolated_steps=18)


@pytest.mark.slow
@pytest.mark.parametrize("case_id", ["ioi", "ioi_full"])
def test_sentences_are_trained_and_go_on_where_they_were_interrupted(case_id, tmp_path, small_ioi):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(case_id, out=whole, recipe=small_ioi)
    for event, step in (("step", 10), ("check", 30)):
        with pytest.raises(KeyboardInterrupt):
            train(case_id, out=stopped, recipe=small_ioi, report=stop_at(event, step, interrupt))
    train(case_id, out=stopped, recipe=small_ioi)
    assert_left_the_same(stopped, whole)
    checkpoint = load_checkpoint(whole)
    assert checkpoint.config.is_language and checkpoint.config.provenance.steps == 36
    assert checkpoint.certificate is not None
    kinds = {entry.ablation for entry in checkpoint.certificate.edge_interchange}
    assert kinds == set(get_case(case_id).counterfactuals)
    assert certify(whole) == checkpoint.certificate


# -- whose folder it is ------------------------------------------------------------------------------------------------


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
        ({"recipe": SHORT.changed(n_pairs=5)}, "another recipe: {'n_pairs': 4} instead of {'n_pairs': 5}"),
        (
            {"learning_rate": 1e-3, "ablations": ("zero",)},
            "another recipe: {'ablations': ['resample', 'zero', 'mean'], 'learning_rate': 0.003} instead of "
            "{'ablations': ['zero'], 'learning_rate': 0.001}",
        ),
    ],
)
def test_a_folder_with_the_state_of_another_run_is_refused(changes, what, interrupted_run):
    before = {path.name: path.read_bytes() for path in interrupted_run.iterdir()}
    arguments: dict[str, Any] = {"case": "case_3", "recipe": SHORT, **changes}
    with pytest.raises(SettingError, match=re.escape(f"holds a training state with {what}")):
        train(out=interrupted_run, **arguments)
    assert {path.name: path.read_bytes() for path in interrupted_run.iterdir()} == before


def test_a_restart_forgets_the_state(interrupted_run):
    train("case_3", out=interrupted_run, recipe=SHORT, seed=1, max_steps=12, restart=True)
    assert load_config(interrupted_run).provenance.seed == 1
    assert_saved(interrupted_run, trainer_after(12, SHORT.changed(max_steps=12), seed=1))
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
