"""Edge-SIIT: training a transformer so that every edge of its circuit, and no other, carries the program.

One stacked pass a step. Its rows: the sources and bases of a batch of pairs (behaviour); bases with one circuit node
or edge interchanged (target: the high-level model under the same interchange); bases with a set of nodes or edges
outside the circuit replaced by their source's values, zeros or means (target: the base's output). What replaces is
taken from the same pass, so nothing is run twice and gradients flow through both ends of an interchange.

Strict interchange intervention training is due to Gupta et al. 2024 (arXiv:2407.14494), interchange intervention
training to Geiger et al. 2022 (arXiv:2112.00826); doing it edge by edge is this project's.
"""

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interpbench_hub.cases.case import Case
from interpbench_hub.cases.pairs import Pairs, PairSampler, seeded
from interpbench_hub.certificate import GRADES, Certificate
from interpbench_hub.siit.interventions import EdgeSpace, InterventionDraw
from interpbench_hub.siit.measure import QuickCheck, quick_check
from interpbench_hub.siit.pair_run import OutputReader, PairRun
from interpbench_hub.siit.recipe import Recipe
from interpbench_hub.siit.training_state import TrainingState
from interpbench_hub.transformer import Transformer, TransformerConfig

QUICK_PAIRS = 256
QUICK_PAIRS_STRICT = 64


@dataclass
class StepLosses:
    """Mean losses of one step's groups of rows."""

    behaviour: float
    circuit: float
    outside: float

    @property
    def total(self) -> float:
        return self.behaviour + self.circuit + self.outside


class Trainer:
    """One model of one case in training; `step()` by `step()`."""

    def __init__(
        self, case: Case, config: TransformerConfig, recipe: Recipe, *, seed: int, device: torch.device | str = "cpu"
    ) -> None:
        self.case, self.config, self.recipe, self.seed = case, config, recipe, seed
        self.device = torch.device(device)
        self.model = Transformer(config, seed=seeded("weights", case.id, seed), device=self.device)
        self.high_level = case.high_level if self.device.type == "cpu" else case.high_level.to(self.device)
        self.space = EdgeSpace(case, config)
        self.draw = InterventionDraw(self.space)
        self.reader = OutputReader(case, self.device)
        self.sampler = PairSampler(case, seed=f"train {seed}", split="train", related=recipe.related_share)
        self.state = TrainingState(
            identity={
                "case": case.id,
                "program": str(case.program),
                "seed": seed,
                "recipe": {name: _plain(value) for name, value in recipe.to_dict().items()},
                "transformer": config.to_dict(),
            },
            step=0,
            weights=self.model.flat.data,
            first_moment=torch.zeros_like(self.model.flat.data),
            second_moment=torch.zeros_like(self.model.flat.data),
            edge_losses=torch.ones(len(self.space.interchange_edges)),
        )

    def take_up(self, state: TrainingState) -> None:
        """Go on from a saved state of the same run."""
        self.model.flat.data.copy_(state.weights)
        state.weights = self.model.flat.data
        self.state = state

    def step(self) -> StepLosses:
        """One step: draw, forward, backward, update."""
        recipe, state = self.recipe, self.state
        pairs = self.sampler.draw(recipe.n_pairs, state.step)
        pairs = Pairs(*(part.to(self.device) for part in pairs))
        generator = torch.Generator().manual_seed(seeded("step", self.seed, state.step))
        run = PairRun(self.case, self.high_level, self.model, pairs)
        # Mean over sources plus mean over bases.
        behaviour = self.reader.loss(run.run.logits, run.codes, run.there).sum() / recipe.n_pairs
        circuit = outside = torch.zeros((), device=self.device)
        circuit_edges = self._circuit_edges(generator)
        groups = recipe.circuit_groups + recipe.outside_groups
        if groups:
            outside_edges = self._outside_edges(generator)
            edges = torch.cat([circuit_edges, outside_edges]).to(self.device)
            replacement = torch.cat([self._sources(run), self._outside_values(run, generator)], dim=1)
            logits = self.model.interchange(
                run.base.senders[:2].repeat(1, groups, 1, 1),
                replacement,
                self.space.to_mask(edges),
                run.base_lengths.repeat(groups),
            )
            losses = self.reader.loss(logits, self._targets(run, circuit_edges), run.base_there.repeat(groups, 1))
            split = len(circuit_edges)
            circuit, outside = losses[:split].sum() / recipe.n_pairs, losses[split:].sum() / recipe.n_pairs
            self._note_losses(circuit_edges, losses[:split].detach().cpu())
        self._update(behaviour + circuit + outside)
        return StepLosses(*(float(loss.detach()) for loss in (behaviour, circuit, outside)))

    # -- what the rows of a step replace -----------------------------------------------------------------------------

    def _circuit_edges(self, generator: torch.Generator) -> Tensor:
        rows = self.recipe.n_pairs * self.recipe.circuit_groups
        # Edges that are still wrong are drawn more often, none is forgotten.
        weights = self.state.edge_losses / self.state.edge_losses.mean().clamp(min=1e-12) + 0.3
        return self.draw.circuit(rows, weights, self.recipe.node_share, generator)

    def _outside_edges(self, generator: torch.Generator) -> Tensor:
        rows = self.recipe.n_pairs * self.recipe.outside_groups
        if self.recipe.outside_level == "node":
            return self.draw.outside_node(rows, generator)
        return self.draw.outside(rows, generator)

    def _sources(self, run: PairRun) -> Tensor:
        return run.source.senders.repeat(1, self.recipe.circuit_groups, 1, 1)

    def _outside_values(self, run: PairRun, generator: torch.Generator) -> Tensor:
        """What replaces outside the circuit: [sender, row, pos, d_model], a kind of ablation a row."""
        groups, ablations = self.recipe.outside_groups, self.recipe.ablations
        values = run.source.senders.repeat(1, groups, 1, 1)
        if ablations == ("resample",):
            return values
        kinds = torch.randint(len(ablations), (groups * run.n_pairs,), generator=generator).to(self.device)
        for place, ablation in enumerate(ablations):
            chosen = (kinds == place)[None, :, None, None]
            if ablation == "zero":
                values = values.masked_fill(chosen, 0.0)
            elif ablation == "mean":
                values = torch.where(chosen, run.means, values)
        return values

    def _targets(self, run: PairRun, circuit_edges: Tensor) -> Tensor:
        base = run.base_codes.repeat(self.recipe.outside_groups, 1)
        if not self.recipe.circuit_groups:
            return base
        return torch.cat([run.interchange_codes(self.space.to_circuit(circuit_edges).to(self.device)), base])

    def _note_losses(self, circuit_edges: Tensor, losses: Tensor) -> None:
        """Update the running loss of every edge that some row exchanged alone."""
        chosen = circuit_edges[:, self.space.interchange_edges]
        alone = circuit_edges.sum(1) == 1
        for place, loss in zip(chosen[alone].float().argmax(1).tolist(), losses[alone].tolist(), strict=True):
            self.state.edge_losses[place] = 0.9 * self.state.edge_losses[place] + 0.1 * loss

    # -- Adam (Kingma and Ba 2015) on all parameters at once -----------------------------------------------------------

    def _update(self, loss: Tensor) -> None:
        state, recipe, flat = self.state, self.recipe, self.model.flat
        gradient = flat.grad
        assert gradient is not None
        gradient.zero_()
        loss.backward()
        with torch.no_grad():
            gradient.mul_((recipe.gradient_norm / gradient.norm().clamp(min=1e-12)).clamp(max=1.0))
            first, second = recipe.betas
            state.first_moment.lerp_(gradient, 1 - first)
            state.second_moment.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            done = state.step + 1
            rate = recipe.rate(state.step, state.cooling_from)
            scale = (state.second_moment / (1 - second**done)).sqrt_().add_(1e-8)
            flat.data.addcdiv_(state.first_moment, scale, value=-rate / (1 - first**done))
        state.step = done

    def check(self, n_pairs: int = QUICK_PAIRS) -> QuickCheck:
        """A quick look at how far training is."""
        return quick_check(
            self.case, self.model, n_pairs=n_pairs, n_pairs_strict=QUICK_PAIRS_STRICT, seed=self.state.step
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


Report = Callable[[dict[str, Any]], None]
"""Receives every event of a run: `step`, `check`, `certificate`, `end`."""


def better(new: Certificate, old: Certificate | None) -> bool:
    """Whether a certificate beats another: by grade, then by the number of entries that fail, then by the worst."""
    if old is None:
        return True

    def rank(certificate: Certificate) -> tuple[int, int, float]:
        failures = certificate.failures()
        worst = failures[0][1].accuracy if failures else 1.0
        return (-GRADES.index(certificate.grade), -len(failures), worst)

    return rank(new) > rank(old)


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: small matrices gain nothing from more, and sums come out the same every time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
