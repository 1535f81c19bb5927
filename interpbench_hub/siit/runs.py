"""Training runs and certificates from the outside: folders in, folders out."""

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Unpack

import torch

from interpbench_hub.cases import Case, get_case
from interpbench_hub.certificate import THRESHOLD, Certificate
from interpbench_hub.checkpoint import (
    Checkpoint,
    CheckpointConfig,
    Output,
    Provenance,
    Vocab,
    load_certificate_file,
    load_checkpoint,
    load_config,
    save_checkpoint,
    weights_digest,
)
from interpbench_hub.circuit import Circuit
from interpbench_hub.constants import (
    CERTIFICATE_FILE,
    CONFIG_FILE,
    ENDED_STATE_FILE,
    MODEL_FILES,
    TRAINING_STATE_FILE,
)
from interpbench_hub.errors import SettingError
from interpbench_hub.hub import HubOptions, resolve
from interpbench_hub.loader import checked_device
from interpbench_hub.siit.attempts import can_go_on, run_folder
from interpbench_hub.siit.lock import folder_lock
from interpbench_hub.siit.machine import Clock, hardware, torch_threads
from interpbench_hub.siit.measure import Progress, measure
from interpbench_hub.siit.quick_check import QuickCheck
from interpbench_hub.siit.recipe import Recipe, recipe_for
from interpbench_hub.siit.sizes import transformer_config
from interpbench_hub.siit.trainer import Report, Trainer, better
from interpbench_hub.siit.training_state import TrainingLog, TrainingState
from interpbench_hub.siit.transfer import MAY_DIFFER, counterparts
from interpbench_hub.transformer import Transformer, TransformerConfig

STEP_EVENTS_EVERY = 10


def train(
    case: str | Case,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    recipe: str | Recipe = "edge-siit",
    device: str = "cpu",
    threads: int = 1,
    restart: bool = False,
    start_from: str | Path | None = None,
    report: Report | None = None,
    **changes: Any,
) -> Path:
    """Train a model of a case, certify it and write its checkpoint; returns the checkpoint's folder.

    Args:
        case: a case or its id.
        out: folder for checkpoint, log and training state; `runs/<case>/<recipe>_<seed>` by default. A run that was
            interrupted there goes on from its last saved state, and one that ended short of its goal if it is given
            more `max_steps`; any other finished one is left as it is.
        seed: what the weights and all draws start from; same seed, machine and threads, same model.
        recipe: `edge-siit`, `siit` (per node) or `behaviour`, or a `Recipe`.
        device: where to train.
        threads: torch threads. With 2, models of 64 dimensions and more take two thirds of the time; others gain
            nothing.
        restart: forget what is in `out` and start anew.
        start_from: folder or id, as `load_model` takes, of a model to begin with instead of random weights: one of
            this case, or one of the same tokens and widths whose circuit has variables of this case's in the same
            layers (`siit.transfer`). Its steps count, so `max_steps` must be more. Of no account once the run has a
            state of its own.
        report: called with every event of the run (a dictionary with `event` and `step`).
        **changes: fields of the recipe to change, such as `max_steps=2000`.

    Raises:
        SettingError: the folder holds another run, a recipe's field, the device or the model to start from cannot be
            as given.
        BusyError: another process is training in the folder.

    >>> train("case_3", out="runs/case_3", seed=0)  # doctest: +SKIP
    """
    case = get_case(case) if isinstance(case, str) else case
    chosen = recipe_for(case, recipe).changed(**changes)
    checked_device(device)
    start = None if start_from is None else _start(start_from, case, chosen)
    folder = Path(out) if out is not None else run_folder("runs", case.id, chosen.name, seed)
    folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder), torch_threads(threads):
        trainer = Trainer(case, transformer_config(case), chosen, seed=seed, device=device)
        if restart:
            # The configuration goes first: without it a folder is no checkpoint, so nothing half-deleted loads.
            for file in (*MODEL_FILES, CERTIFICATE_FILE, TRAINING_STATE_FILE, ENDED_STATE_FILE):
                (folder / file).unlink(missing_ok=True)
        elif _is_finished(folder, trainer):
            return folder
        else:
            _take_up(folder, trainer)
        if start is not None and trainer.state.step == 0:
            trainer.start_from(start)
        return _Run(trainer, folder, report).finish()


def certify(
    name_or_path: str | Path,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
    **hub: Unpack[HubOptions],
) -> Certificate:
    """Measure a model's certificate anew from its weights; nothing is written.

    Args:
        name_or_path: a checkpoint folder, or an id as `load_model` takes.
        seed: which pairs to draw.
        device: where to run.
        progress: called with the work done and the work in all.
        **hub: `revision`, `cache_dir`, `token`, `local_files_only` as in `load_model`.
    """
    checked_device(device)
    return _measured(load_checkpoint(resolve(name_or_path, files=MODEL_FILES, **hub)), seed, device, progress)


def certify_folder(
    folder: str | Path, *, seed: int = 0, device: str = "cpu", progress: Progress | None = None
) -> Certificate:
    """Measure a checkpoint folder's certificate and write it, and the circuit's measured effects, into the folder."""
    checked_device(device)
    checkpoint = load_checkpoint(folder)
    certificate = _measured(checkpoint, seed, device, progress)
    circuit = measured_circuit(get_case(checkpoint.config.case), certificate)
    save_checkpoint(Checkpoint(checkpoint.config, checkpoint.weights, circuit, certificate), folder)
    return certificate


def _measured(checkpoint: Checkpoint, seed: int, device: str, progress: Progress | None) -> Certificate:
    case = get_case(checkpoint.config.case)
    with torch_threads(1):
        model = Transformer(checkpoint.config.transformer, device=device)
        model.load_state_dict(checkpoint.weights)
        return measure(case, model, weights_sha256=weights_digest(checkpoint.weights), seed=seed, progress=progress)


def measured_circuit(case: Case, certificate: Certificate) -> Circuit:
    """The case's circuit with the effects a certificate measured."""
    effects = {effect.name: effect.share for effect in certificate.effect}
    return case.circuit.with_effects({edge: effects[str(edge)] for edge in case.circuit if str(edge) in effects})


def _is_finished(folder: Path, trainer: Trainer) -> bool:
    """Whether the folder holds this very run's checkpoint and no steps are left; another run's is an error."""
    if not (folder / CONFIG_FILE).exists() or (folder / TRAINING_STATE_FILE).exists():
        return False
    config = load_config(folder)
    found = (config.case, config.provenance.recipe, config.provenance.seed)
    wanted = (trainer.case.id, trainer.recipe.name, trainer.seed)
    if found != wanted:
        raise SettingError(
            f"{folder} holds a finished run of {found[0]} ({found[1]}, seed {found[2]}), not of {wanted[0]} "
            f"({wanted[1]}, seed {wanted[2]}); choose another folder, or restart to replace it"
        )
    return not can_go_on(folder, trainer.recipe.max_steps)


def _take_up(folder: Path, trainer: Trainer) -> None:
    state = TrainingState.load(folder, trainer.device)
    if state is None:
        return
    wanted = trainer.state.identity
    limit = state.identity["recipe"]["max_steps"]
    if state.step == limit < trainer.recipe.max_steps:
        # It ended just as it was to, and is given more steps.
        state.earlier_ends.append(limit)
        state.identity["recipe"]["max_steps"] = trainer.recipe.max_steps
    advice = "choose another folder, or restart to replace it"
    _refuse_another(f"{folder} holds a training state with", state.identity, wanted, advice)
    trainer.take_up(state)
    if not (folder / TRAINING_STATE_FILE).exists():
        (folder / ENDED_STATE_FILE).replace(folder / TRAINING_STATE_FILE)


def _start(name_or_path: str | Path, case: Case, recipe: Recipe) -> Checkpoint:
    """The model a run starts from; if nothing of it can be taken over, or no steps are left, it is an error."""
    checkpoint = load_checkpoint(resolve(name_or_path, files=MODEL_FILES, optional=(CERTIFICATE_FILE,)))
    origin = checkpoint.config.provenance
    found: dict[str, Any] = {
        "recipe": origin.recipe,
        "tokens": checkpoint.config.vocab.tokens,
        "size": _widths(checkpoint.config.transformer),
    }
    wanted = {"recipe": recipe.name, "tokens": case.vocab, "size": _widths(transformer_config(case))}
    advice = "training starts from a model of the same recipe, tokens and widths"
    _refuse_another(f"{name_or_path} has", found, wanted, advice)
    if not any(node in case.circuit.roles for node in counterparts(checkpoint.circuit, case.circuit)):
        raise SettingError(
            f"{name_or_path} is a model of {checkpoint.config.case}, whose heads and MLPs hold no variable that "
            f"{case.id} has in the same layer; nothing would be gained by starting from it"
        )
    if origin.steps >= recipe.max_steps:
        raise SettingError(
            f"{name_or_path} has {origin.steps} steps behind it, and max_steps is {recipe.max_steps}; these count, "
            "so give more"
        )
    return checkpoint


def _widths(config: TransformerConfig) -> dict[str, Any]:
    """What models must agree in for one to start from the other."""
    return {name: value for name, value in config.to_dict().items() if name not in MAY_DIFFER}


def _refuse_another(holder: str, found: Mapping[str, Any], wanted: Mapping[str, Any], advice: str) -> None:
    """Raise `SettingError` for the first thing wanted that is found to be another."""
    for key in wanted:
        if found.get(key) != wanted[key]:
            other, asked = _differing(found.get(key), wanted[key])
            raise SettingError(f"{holder} another {key}: {other!r} instead of {asked!r}; {advice}")


def _differing(found: Any, wanted: Any) -> tuple[Any, Any]:
    """Of two dictionaries only the entries that differ, of anything else all."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return found, wanted
    names = [name for name in found | wanted if found.get(name) != wanted.get(name)]
    return {name: found.get(name) for name in names}, {name: wanted.get(name) for name in names}


class _Run:
    """The loop around a trainer: schedule of checks and certificates, log, saved states."""

    def __init__(self, trainer: Trainer, folder: Path, report: Report | None) -> None:
        self.trainer, self.folder, self._report = trainer, folder, report
        state = trainer.state
        self.clock = Clock(state.cpu_seconds, state.wall_seconds)
        # Of the code that runs, whatever the tree holds by the time a checkpoint is saved.
        source_commit()
        self.log = TrainingLog(folder, state.step)
        # A run that was interrupted may have certified a state already; only a better one replaces it.
        has_best = state.step > 0 and (folder / CONFIG_FILE).exists()
        self.best: Certificate | None = load_certificate_file(folder) if has_best else None
        self.certificate_cpu_seconds = state.certificate_cpu_seconds
        self._certified_at: int | None = None

    def finish(self) -> Path:
        trainer, recipe, state = self.trainer, self.trainer.recipe, self.trainer.state
        self._event("start", max_steps=recipe.max_steps, case=trainer.case.id, recipe=recipe.name, seed=trainer.seed)
        done, settled = False, state.copy()
        try:
            while not done and state.step < recipe.max_steps:
                # An interruption can come anywhere within a step or a check; what is saved lies between two steps.
                settled = state.copy()
                losses = trainer.step()
                if state.step % STEP_EVENTS_EVERY == 0:
                    rates = {"behaviour": losses.behaviour, "circuit": losses.circuit, "outside": losses.outside}
                    self._event("step", losses={name: round(loss, 6) for name, loss in rates.items()})
                cooled = state.cooling_from is not None and state.step >= self._cooled_at(state.cooling_from)
                is_due = cooled or state.step >= state.next_check or state.step == recipe.max_steps
                if is_due:
                    state.next_check = recipe.check_after(state.step)
                    done = self._check(cooled)
                if state.cooling_from is None and recipe.last_cooling <= state.step < recipe.max_steps:
                    state.cooling_from = state.step
                if is_due:
                    self._save(state)
        except KeyboardInterrupt:
            self._save(settled)
            raise
        if not done and self._certified_at != state.step:
            # What earlier certificates said was of an earlier model.
            self._certify()
        assert self.best is not None
        if recipe.is_done(self.best):
            (self.folder / TRAINING_STATE_FILE).unlink(missing_ok=True)
        else:
            (self.folder / TRAINING_STATE_FILE).replace(self.folder / ENDED_STATE_FILE)
        self._event("end", grade=self.best.grade, **self._seconds())
        return self.folder

    def _cooled_at(self, start: int) -> int:
        return start + self.trainer.recipe.cooling_steps(start)

    def _check(self, cooled: bool) -> bool:
        """Look at the model: certify it if it looks right, start a cool-down if it nearly does.

        Returns whether the recipe's goal is reached.
        """
        recipe, state = self.trainer.recipe, self.trainer.state
        # After a cool-down that did not suffice, training gets time to mend what it showed.
        has_waited = state.step >= 1.25 * state.last_cooled
        look = self._look(is_close=False)
        if recipe.reaches_goal(look, THRESHOLD):
            # The closer look saves most of the certificates, which cost far more, that would fall short.
            look = self._look(is_close=True)
            if recipe.reaches_goal(look, THRESHOLD):
                certificate = self._certify()
                if recipe.is_done(certificate):
                    return True
                self.trainer.suspect(certificate.failures())
            else:
                self.trainer.suspect(look.failures)
        if cooled:
            state.cooling_from, state.last_cooled = None, state.step
        elif state.cooling_from is None and has_waited and recipe.reaches_goal(look, recipe.good_enough):
            state.cooling_from = state.step
        return False

    def _look(self, *, is_close: bool) -> QuickCheck:
        state = self.trainer.state
        check = self.trainer.check(is_close=is_close)
        self._event(
            "check",
            is_close=is_close,
            rate=self.trainer.recipe.rate(state.step - 1, state.cooling_from, state.started),
            behaviour=check.behaviour,
            node_interchange=check.node_interchange,
            edge_interchange=check.edge_interchange,
            node_strict=check.node_strict,
            edge_strict=check.edge_strict,
            complement=check.complement,
            weak=[[entry.name, round(entry.accuracy, 5)] for _, entry in check.failures[:5]],
        )
        return check

    def _certify(self) -> Certificate:
        trainer = self.trainer
        clock = Clock()
        self._certified_at = trainer.state.step
        model = trainer.averaged()
        weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
        certificate = measure(trainer.case, model, weights_sha256=weights_digest(weights))
        self.certificate_cpu_seconds += clock.cpu_seconds
        self._event(
            "certificate",
            grade=certificate.grade,
            failures=[[s, e.name, e.ablation, round(e.accuracy, 5)] for s, e in certificate.failures()[:10]],
        )
        if better(certificate, self.best):
            self.best = certificate
            config = checkpoint_config(trainer, self.clock)
            circuit = measured_circuit(trainer.case, certificate)
            save_checkpoint(Checkpoint(config, weights, circuit, certificate), self.folder)
        return certificate

    def _save(self, state: TrainingState) -> None:
        state.cpu_seconds, state.wall_seconds = self.clock.cpu_seconds, self.clock.wall_seconds
        state.certificate_cpu_seconds = self.certificate_cpu_seconds
        state.save(self.folder)

    def _seconds(self) -> dict[str, float]:
        seconds = {
            "cpu_seconds": self.clock.cpu_seconds,
            "certificate_cpu_seconds": self.certificate_cpu_seconds,
            "wall_seconds": self.clock.wall_seconds,
        }
        return {name: round(value, 2) for name, value in seconds.items()}

    def _event(self, event: str, **content: Any) -> None:
        record = {"event": event, "step": self.trainer.state.step, **content}
        if event != "start":
            self.log.write(record)
        if self._report:
            self._report(record)


def checkpoint_config(trainer: Trainer, clock: Clock) -> CheckpointConfig:
    """The configuration file of what a trainer has made."""
    from interpbench_hub import __version__

    case = trainer.case
    return CheckpointConfig(
        case=case.id,
        transformer=trainer.config,
        vocab=Vocab(case.vocab, case.bos_id, case.pad_id),
        output=Output("categorical", case.classes) if case.categorical else Output("regression"),
        min_len=case.min_len,
        max_len=case.max_len,
        provenance=Provenance(
            recipe=trainer.recipe.name,
            seed=trainer.seed,
            steps=trainer.state.step,
            package_version=__version__,
            commit=source_commit(),
            wall_seconds=round(clock.wall_seconds, 2),
            cpu_seconds=round(clock.cpu_seconds, 2),
            hardware=_processor() if trainer.device.type == "cpu" else torch.cuda.get_device_name(),
            torch_version=torch.__version__,
            python_version=platform.python_version(),
            created=datetime.now(UTC).date().isoformat(),
            earlier_ends=tuple(trainer.state.earlier_ends),
            started_from=trainer.state.started_from,
            started_from_case=trainer.state.started_from_case,
        ),
    )


def _processor() -> str:
    count = torch.get_num_threads()
    return f"{hardware()}, {count} thread{'s' if count > 1 else ''}"


@cache
def source_commit() -> str | None:
    """Commit of the source tree the package runs from, as it was first asked for; None if it was installed without."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
