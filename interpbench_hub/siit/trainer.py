"""Edge-SIIT: training a transformer so that every edge of its circuit, and no other, carries the program.

One stacked pass a step. Its rows: the sources and bases of a batch of pairs (behaviour); bases with one circuit node
or edge interchanged (target: the high-level model under the same interchange); bases with a set of nodes or edges
outside the circuit replaced by their source's values, zeros or means (target: the base's output). What replaces is
taken from the same pass, so nothing is run twice and gradients flow through both ends of an interchange.

Strict interchange intervention training is due to Gupta et al. 2024 (arXiv:2407.14494), interchange intervention
training to Geiger et al. 2022 (arXiv:2112.00826); doing it edge by edge is this project's.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interpbench_hub.cases.case import Case
from interpbench_hub.cases.pairs import seeded
from interpbench_hub.certificate import GRADES, Ablation, Certificate, Entry, Section
from interpbench_hub.checkpoint import Checkpoint, weights_digest
from interpbench_hub.errors import SettingError
from interpbench_hub.exchange import Replacement
from interpbench_hub.siit.adam import Adam
from interpbench_hub.siit.attention import AttentionTargets
from interpbench_hub.siit.draws import BLOCK_STEPS, EXCHANGED, Draws, StepDraw
from interpbench_hub.siit.eigenbasis import Eigenbasis
from interpbench_hub.siit.interventions import EdgeSpace
from interpbench_hub.siit.mixing import Mixing
from interpbench_hub.siit.pair_run import OutputReader
from interpbench_hub.siit.probes import Probes
from interpbench_hub.siit.quick_check import QuickCheck, quick_check
from interpbench_hub.siit.recipe import Recipe
from interpbench_hub.siit.training_state import TrainingState
from interpbench_hub.siit.transfer import transferred
from interpbench_hub.transformer import Attention, Run, Transformer, TransformerConfig

QUICK_PAIRS, QUICK_EDGE_ROWS = 256, 1_024
MAX_SUSPECTS = 64
CLOSE_PAIRS, CLOSE_EDGE_ROWS = 2_048, 8_192


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
        self.probes = Probes(case, config, seed=seeded("probes", case.id, seed), device=self.device)
        is_told = recipe.probe_weight * recipe.attention_weight > 0
        self.attention = AttentionTargets(case) if is_told else None
        if recipe.pairwise_weight and config.normalization_type is not None:
            raise SettingError(
                f"recipe {recipe.name}: pairwise_weight is {recipe.pairwise_weight!r} and {case.id} has LayerNorm, "
                "behind which no part of q or k is a single edge's; set it to 0"
            )
        self.basis = Eigenbasis(config.parameter_shapes, self.device)
        self.rate_factors = torch.cat(
            [
                torch.full((math.prod(shape),), recipe.attention_rate if _is_of_attention(name) else 1.0)
                for name, shape in config.parameter_shapes.items()
            ]
        ).to(self.device)
        self.space = EdgeSpace(case, config)
        self.reader = OutputReader(case, self.device)
        variables = tuple(variable.name for variable in self.probes.variables) if recipe.probe_weight else ()
        self.mixing = Mixing(case, config, variables if recipe.crossed_weight else ())
        self.draws = Draws(case, self.space, recipe, seed, variables, self.attention, self.mixing, self.device)
        self._block: tuple[int, StepDraw] | None = None
        self.state = TrainingState(
            identity={
                "case": case.id,
                "program": str(case.program),
                "seed": seed,
                "recipe": {name: _plain(value) for name, value in recipe.to_dict().items()},
                "transformer": config.to_dict(),
            },
            step=0,
            next_check=recipe.check_after(0),
            model=Adam.of(self.model.flat.data),
            probes=Adam.of(self.probes.flat.data),
            averages=self.basis.averages,
            bases=self.basis.bases,
            average=self.model.flat.data.clone(),
            kind_losses=self.draws.first_losses(),
            kind_weights=torch.ones(sum(self.draws.kind_counts)),
            pair_losses=torch.zeros(BLOCK_STEPS, recipe.n_pairs),
            replayed=None,
            suspects=[],
            drawn_suspects=[],
        )

    def take_up(self, state: TrainingState) -> None:
        """Go on from a saved state of the same run."""
        for mine, saved in ((self.model.flat, state.model), (self.probes.flat, state.probes)):
            mine.data.copy_(saved.parameters)
            saved.parameters = mine.data
        self.basis.averages, self.basis.bases = state.averages, state.bases
        self.state = state
        # The block under way is drawn again: a state between two blocks still has the losses its worst are chosen by.
        self._block = self._drawn((state.step - 1) // BLOCK_STEPS) if state.step else None

    def start_from(self, checkpoint: Checkpoint) -> None:
        """Begin with the weights of an earlier run, counting its steps and seconds, as if it were given more.

        From another circuit's model come those of the nodes that both have (`transferred`). What that run had besides,
        Adam's moments, probes and its worst pairs, begins anew, and the rate rises again. What its certificate found
        short is suspect from the start.
        """
        origin, state, circuit = checkpoint.config.provenance, self.state, self.case.circuit
        classes = self.case.classes if self.case.categorical else ()
        self.model.load_state_dict(transferred(self.model.state_dict(), circuit, classes, checkpoint))
        state.average = self.model.flat.data.clone()
        state.started_from, state.earlier_ends = (
            weights_digest(checkpoint.weights),
            [*origin.earlier_ends, origin.steps],
        )
        state.step = state.started = state.last_cooled = origin.steps
        state.next_check = self.recipe.check_after(state.step)
        state.cpu_seconds, state.wall_seconds = origin.cpu_seconds, origin.wall_seconds
        if checkpoint.config.case != self.case.id:
            state.started_from_case = checkpoint.config.case
        if checkpoint.certificate is not None and checkpoint.circuit.has_edges_of(circuit):
            self.suspect(checkpoint.certificate.failures())

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.recipe.rate(self.state.step, self.state.cooling_from, self.state.started)

    def _drawn(self, number: int) -> tuple[int, StepDraw]:
        """A block as its state says, with its number."""
        state = self.state
        return number, self.draws.block(number, state.kind_weights, state.replayed, state.drawn_suspects)

    def step(self) -> StepLosses:
        """One step: forward, backward, update."""
        recipe, state, n_pairs = self.recipe, self.state, self.recipe.n_pairs
        draw = self._draw()
        plain_attention: list[Attention] = []
        run = self.model.run(draw.ids, draw.lengths, attention=plain_attention)
        plain = self.reader.loss(run.logits, draw.codes, draw.there)
        # Mean over sources plus mean over bases.
        behaviour = plain.sum() / n_pairs * (state.step >= recipe.isolated_steps)
        if self.case.is_language and recipe.language_weight:
            behaviour = behaviour + recipe.language_weight * next_token_loss(run.logits, draw.ids, draw.lengths)
        circuit = outside = torch.zeros((), device=self.device)
        written: dict[int, Tensor] = {}
        attention: list[Attention] = []
        groups = recipe.circuit_groups + recipe.outside_groups
        if groups:
            logits, written = self.model.interchange_run(
                run.senders[:2, n_pairs:].repeat(1, groups, 1, 1),
                self._replacement(draw, run),
                draw.masks,
                draw.lengths[n_pairs:].repeat(groups),
                attention=attention,
            )
            losses = self.reader.loss(logits, draw.targets, draw.there[n_pairs:].repeat(groups, 1))
            split = recipe.circuit_groups * n_pairs
            circuit, outside = losses[:split].sum() / n_pairs, losses[split:].sum() / n_pairs
            self._note_losses(draw, torch.cat([plain, losses]).detach().cpu())
        else:
            self._note_losses(draw, plain.detach().cpu())
        loss = behaviour + circuit + outside
        probe_weight = recipe.probe_weight_at(state.step, state.cooling_from)
        if probe_weight:
            loss = loss + probe_weight * self._help(draw, run, plain_attention, written, attention)
        self._update(loss, with_probes=probe_weight > 0 and bool(self.probes.variables))
        return StepLosses(*(float(loss.detach()) for loss in (behaviour, circuit, outside)))

    def _help(
        self,
        draw: StepDraw,
        run: Run,
        plain_attention: list[Attention],
        written: dict[int, Tensor],
        attention: list[Attention],
    ) -> Tensor:
        """The losses that only help training, in plain rows and in intervened ones: of probes and of attention."""
        recipe, n_pairs = self.recipe, self.recipe.n_pairs
        n_groups = recipe.circuit_groups + recipe.outside_groups
        there = draw.there[n_pairs:].repeat(n_groups, 1)
        total = self.probes.loss(run.senders, draw.variables, draw.there)
        if written and recipe.intervened_probe_weight:
            probed = self.probes.loss(written, draw.target_variables, there)
            total = total + recipe.intervened_probe_weight * probed
        if self.mixing.mlps:
            mixed = self.mixing.loss(self.model, self.probes, run, draw.mixed, draw.mixed_codes, draw.there)
            total = total + recipe.crossed_weight * mixed
        if self.attention:
            rows = [(plain_attention, slice(2 * n_pairs), draw.lengths, draw.there)]
            if attention:
                rows.append((attention, slice(2 * n_pairs, None), draw.lengths[n_pairs:].repeat(n_groups), there))
            attended = torch.zeros((), device=self.device)
            for seen, place, lengths, real in rows:
                attended = attended + self.attention.loss(seen, draw.selected[place], real)
                if recipe.crossed_weight and self.attention.comparing:
                    bias = self.model.attention_bias(draw.ids.shape[1], lengths)
                    assert bias is not None
                    crossed = self.attention.crossed_loss(seen, draw.crossed[place], draw.moved[place], bias, real)
                    attended = attended + recipe.crossed_weight * crossed
            held = draw.compared[: 2 * n_pairs]
            if recipe.interchanged_weight:
                generator = torch.Generator().manual_seed(seeded("interchanged", self.seed, self.state.step))
                interchanged = self.attention.interchanged_loss(
                    self.model, run.senders, plain_attention, held, draw.lengths - 1, generator
                )
                attended = attended + recipe.interchanged_weight * interchanged
            if recipe.pairwise_weight:
                carried = self.attention.carried(self.model, run.senders)
                pairwise = self.attention.pairwise_loss(plain_attention, carried, held, draw.there)
                attended = attended + recipe.pairwise_weight * pairwise
            if recipe.spread_weight:
                spread = self.attention.spread_loss(self.model, run.senders, held, draw.there)
                total = total + recipe.spread_weight * spread
            total = total + recipe.attention_weight_at(self.state.step, self.state.cooling_from) * attended
        return total

    # -- what the rows of a step hold ----------------------------------------------------------------------------------

    def _draw(self) -> StepDraw:
        state = self.state
        number, place = divmod(state.step, BLOCK_STEPS)
        if self._block is None or self._block[0] != number:
            if place == 0:
                state.kind_weights = self.draws.weights(state.kind_losses, state.suspects)
                state.drawn_suspects = state.suspects
                if self._block is not None and self.draws.n_replayed:
                    state.replayed = self.draws.worst(self._block[1], state.pair_losses)
            self._block = self._drawn(number)
        return StepDraw(*(part[place] for part in self._block[1]))

    def _replacement(self, draw: StepDraw, run: Run) -> Replacement:
        """What replaces in the intervened rows: the sources' values, outside the circuit an ablation a row."""
        ablations = self.recipe.ablations
        # -1, in circuit rows, is the last of these.
        kept = torch.tensor([*(ablation == "resample" for ablation in ablations), True]).to(run.senders)
        averaged = torch.tensor([*(ablation == "mean" for ablation in ablations), False]).to(run.senders)
        return Replacement(
            run.senders[:, : self.recipe.n_pairs],
            kept=kept[draw.ablations],
            means=self._means(draw, run) if "mean" in ablations else None,
            averaged=averaged[draw.ablations] if "mean" in ablations else None,
        )

    def _means(self, draw: StepDraw, run: Run) -> Tensor:
        """Mean of what each sender writes at each position, over the step's real positions: [sender, pos, d]."""
        real = F.pad(draw.there, (1, 0), value=True).to(run.senders.dtype)
        return torch.einsum("srpd,rp->spd", run.senders, real / real.sum(0).clamp(min=1))

    def _note_losses(self, draw: StepDraw, losses: Tensor) -> None:
        """Keep each pair's worst loss over its rows, and the running loss of every kind of row."""
        state, n_pairs = self.state, self.recipe.n_pairs
        state.pair_losses[state.step % BLOCK_STEPS] = losses.unflatten(0, (-1, n_pairs)).amax(0)
        kept, intervened = state.kind_losses, losses[2 * n_pairs :].tolist()
        for kinds in (draw.kinds, draw.edge_kinds):
            for place, loss in zip(kinds.tolist(), intervened, strict=True):
                if place >= 0:
                    kept[place] = 0.9 * kept[place] + 0.1 * loss

    def _update(self, loss: Tensor, *, with_probes: bool) -> None:
        state, recipe = self.state, self.recipe
        gradient = self.model.flat.grad
        assert gradient is not None
        gradient.zero_()
        loss.backward()
        number, rate = state.step + 1 - state.started, self.rate
        state.model.step(gradient, rate, number, recipe.betas, recipe.gradient_norm, self.basis, self.rate_factors)
        if with_probes:
            assert self.probes.flat.grad is not None
            state.probes.step(self.probes.flat.grad, rate, number, recipe.betas, recipe.gradient_norm)
            self.probes.flat.grad = None
        # About the last tenth of all steps so far: the noise of the learning rate goes, what was learnt stays.
        state.average.lerp_(self.model.flat.data, 1 / (1 + recipe.averaged_share * number))
        state.step += 1

    def averaged(self) -> Transformer:
        """The model with the averaged parameters in half precision, as it is checked, certified and saved.

        Half precision halves the files; rounding before the certificate makes them hold exactly what was certified.
        """
        model = Transformer(self.config, device=self.device)
        model.flat.data.copy_(self.state.average.half())
        return model

    def check(self, *, is_close: bool) -> QuickCheck:
        """A look at how far training is: a quick one, or one close enough to spare a certificate that would fail."""
        n_pairs, n_edge_rows = (CLOSE_PAIRS, CLOSE_EDGE_ROWS) if is_close else (QUICK_PAIRS, QUICK_EDGE_ROWS)
        ablations = self.recipe.ablations
        n_edges = self.space.n_edges
        suspects: list[tuple[int, Ablation]] = [
            (place, ablations[kind]) for place, kind in self.state.suspects if kind != EXCHANGED and place < n_edges
        ]
        return quick_check(
            self.case,
            self.averaged(),
            n_pairs=n_pairs,
            n_edge_rows=n_edge_rows,
            seed=self.state.step,
            suspects=suspects if is_close else None,
        )

    def suspect(self, failures: Iterable[tuple[Section, Entry]]) -> None:
        """Give what fell short a share of the rows from now on; failures come worst first."""
        ablations = self.recipe.ablations
        found: list[list[int]] = []
        for section, entry in failures:
            # Training draws all counterfactuals alike, as its way to resample.
            ablation = "resample" if entry.ablation in self.case.counterfactuals else entry.ablation
            if section in ("node_strict", "edge_strict", "complement") and ablation in ablations:
                found.append([self.space.outside_set(section, entry.name), ablations.index(ablation)])
            elif (
                section in ("node_interchange", "edge_interchange")
                and (place := self.space.exchange(section, entry.name)) is not None
            ):
                found.append([place, EXCHANGED])
        # An edge may fall short by several kinds, which training draws alike.
        found = [suspect for place, suspect in enumerate(found) if suspect not in found[:place]]
        # Earlier ones stay, so that they do not come back.
        kept = [suspect for suspect in self.state.suspects if suspect not in found]
        self.state.suspects = [*found, *kept][:MAX_SUSPECTS]


def _is_of_attention(name: str) -> bool:
    """Whether a parameter is part of a head or an embedding."""
    return ".attn." in name or name.startswith(("embed.", "pos_embed."))


def next_token_loss(logits: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
    """Mean cross-entropy of every token but BOS given those before it, in nats: a scalar.

    `logits` [row, pos, out] and token `ids` [row, pos] begin with BOS; `lengths` [row] counts real positions.
    """
    there = torch.arange(1, ids.shape[1], device=ids.device) < lengths[:, None]
    return F.cross_entropy(logits[:, :-1][there], ids[:, 1:][there])


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
