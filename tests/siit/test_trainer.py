"""One step of training against a slow step made by hooks, and what a trainer keeps from step to step."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from interpbench_hub.cases import Case, get_case
from interpbench_hub.cases.pairs import seeded
from interpbench_hub.certificate import Entry
from interpbench_hub.circuit import POS_EMBED, Node
from interpbench_hub.errors import SettingError
from interpbench_hub.rasp import Map, tokens
from interpbench_hub.siit import RECIPES, Recipe
from interpbench_hub.siit.draws import BLOCK_STEPS, EXCHANGED, StepDraw
from interpbench_hub.siit.sizes import transformer_config
from interpbench_hub.siit.trainer import MAX_SUSPECTS, Trainer, better, next_token_loss
from interpbench_hub.siit.training_state import TrainingState
from interpbench_hub.transformer import Attention, Run
from tests.hooked import Senders, make_hooked_transformer, run_by_row, senders_of
from tests.slow_model import AMBIGUOUS, SlowModel
from tests.small_ioi import small_config

EDGE_SIIT, SIIT, BEHAVIOUR = (RECIPES[name] for name in ("edge-siit", "siit", "behaviour"))
RECIPES_OF_THREE = pytest.mark.parametrize(
    "recipe",
    [recipe.changed(n_pairs=3, replayed_share=0.4) for recipe in (EDGE_SIIT, SIIT, BEHAVIOUR)],
    ids=["edge-siit", "siit", "behaviour"],
)


def trainer_of(case_id: str, recipe: Recipe = EDGE_SIIT, seed: int = 0) -> Trainer:
    case = get_case(case_id)
    return Trainer(case, transformer_config(case), recipe, seed=seed)


def run_steps(trainer: Trainer, n_steps: int) -> Trainer:
    for _ in range(n_steps):
        trainer.step()
    return trainer


def noted_draws(monkeypatch, trainer: Trainer) -> list[StepDraw]:
    """The rows of each step, as the trainer draws them."""
    drawn: list[StepDraw] = []
    draw = trainer._draw

    def noting() -> StepDraw:
        drawn.append(draw())
        return drawn[-1]

    monkeypatch.setattr(trainer, "_draw", noting)
    return drawn


def vectors_padded(vectors: Tensor, width: int) -> Tensor:
    """[1, pos, head, d_head] -> [head, 1, width, d_head]."""
    return F.pad(vectors.permute(2, 0, 1, 3), (0, 0, 0, width - vectors.shape[1]))


def scores_padded(scores: Tensor, width: int) -> Tensor:
    """[1, head, query, key] -> [1, head, width, width], key before query."""
    missing = width - scores.shape[-1]
    scores = F.pad(scores, (0, missing), value=-torch.inf)
    return F.pad(scores, (0, 0, 0, missing)).transpose(2, 3)


def noted_row_losses(monkeypatch, trainer: Trainer) -> list[Tensor]:
    """The losses of all plain rows of a step, then those of its intervened rows, and so on."""
    losses: list[Tensor] = []
    loss = trainer.reader.loss

    def noting(*arguments: Tensor) -> Tensor:
        losses.append(loss(*arguments))
        return losses[-1]

    monkeypatch.setattr(trainer.reader, "loss", noting)
    return losses


# -- one step ----------------------------------------------------------------------------------------------------------


class SlowStep:
    """The losses of a step, row by row: TransformerLens' model on unpadded inputs, targets by definition."""

    def __init__(self, trainer: Trainer, draw: StepDraw) -> None:
        self.trainer, self.case, self.draw, self.n = trainer, trainer.case, draw, trainer.recipe.n_pairs
        self.hooked = make_hooked_transformer(trainer.config.to_dict(), trainer.model.state_dict())
        self.seen: dict[str, list[list[Tensor]]] = {"q": [], "k": [], "attn_scores": []}
        """Queries and keys [1, pos, head, d_head] and attention scores [1, head, query, key] of every run of a row by
        layer: sources, bases, intervened rows."""
        for kind, seen in self.seen.items():
            for layer in range(trainer.config.n_layers):
                note = partial(self._note, seen)
                self.hooked.add_hook(f"blocks.{layer}.attn.hook_{kind}", note, is_permanent=True)
        # Sources, then bases.
        self.words = [
            [self.case.vocab[token] for token in ids[1:length].tolist()]
            for ids, length in zip(draw.ids, draw.lengths.tolist(), strict=True)
        ]
        self.written = [senders_of(self.hooked, self.case.encode([words])) for words in self.words]
        self.exchanged: list[Senders] = []
        self.slow_model = SlowModel.of(self.case)

    def _note(self, seen: list[list[Tensor]], tensor: Tensor, *, hook: Any) -> None:
        if hook.layer() == 0:
            seen.append([])
        seen[-1].append(tensor)

    def losses(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of behaviour, of circuit rows and of outside rows, each summed over groups and averaged over pairs."""
        plain = sum(
            self.row_loss(self.hooked(self.case.encode([words]))[0], self.case.program(words)) for words in self.words
        )
        split = self.trainer.recipe.circuit_groups * self.n
        rows = [self.intervened(row) for row in range(len(self.draw.masks))]
        circuit, outside = (sum(part, torch.zeros(())) for part in (rows[:split], rows[split:]))
        return torch.as_tensor(plain) / self.n, circuit / self.n, outside / self.n

    def intervened(self, row: int) -> Tensor:
        """The loss of an intervened row; `exchanged` gets what senders write in it."""
        pair = row % self.n
        source, base = self.words[pair], self.words[self.n + pair]
        mask, kind = self.draw.masks[row], int(self.draw.ablations[row])
        config = self.trainer.config
        edges = [edge for edge, place in config.edge_places.items() if mask[place]]
        replacement: Senders = {}
        for node in config.senders:
            match "resample" if kind < 0 else self.trainer.recipe.ablations[kind]:
                case "resample":
                    replacement[node] = self.written[pair][node][:, : len(base) + 1]
                case "zero":
                    replacement[node] = torch.zeros(1, len(base) + 1, config.d_model)
                case "mean":
                    replacement[node] = self.mean(node, len(base) + 1)
        (logits,), written = run_by_row(self.hooked, self.case.encode([base]), [edges], replacement)
        self.exchanged.append(written)
        if kind >= 0:
            return self.row_loss(logits, self.case.program(base))
        return self.row_loss(logits, self.slow_model.output(base, source, [str(edge) for edge in edges]))

    def mean(self, node: Node, width: int) -> Tensor:
        """What a node writes on average over all inputs of the step that reach so far: [1, pos, d_model]."""
        positions = []
        for position in range(width):
            there = [written[node][0, position] for written in self.written if written[node].shape[1] > position]
            positions.append(sum(there, torch.zeros(())) / len(there))
        return torch.stack(positions)[None]

    def row_loss(self, logits: Tensor, target: list[Any]) -> Tensor:
        """Mean cross-entropy or ten times the mean squared error over positions [1 + pos, out] that have a target."""
        losses = []
        for position, value in zip(logits[1:], target, strict=True):
            if value is AMBIGUOUS:
                continue
            if self.case.categorical:
                losses.append(F.cross_entropy(position, torch.tensor(self.case.classes.index(value))))
            else:
                losses.append(10 * (position[0] - value) ** 2)
        return sum(losses, torch.zeros(())) / max(len(losses), 1)

    def help_loss(self) -> Tensor:
        """Losses of probes and attention (see their tests) on what hooks see in all rows; `losses` comes first."""
        recipe = self.trainer.recipe
        helped = self.probe_loss() + recipe.attention_weight * self.attention_loss()
        return helped + recipe.crossed_weight * self.mixed_loss()

    def mixed_loss(self) -> Tensor:
        """The probes' loss on what MLPs write that read some nodes in the row before."""
        draw, width, circuit = self.draw, self.trainer.config.n_ctx, list(self.case.high_level.circuit)
        total, column, place = torch.zeros(()), 0, 0
        for mlp in self.trainer.mixing.mlps:
            node, written, there = Node.of_mlp(mlp.layer), [], draw.there & draw.there.roll(1, 0)
            for row, words in enumerate(self.words):
                mixed = draw.mixed[row, column : column + len(mlp.edges)].tolist()
                edges = [circuit[edge] for edge, is_mixed in zip(mlp.edges, mixed, strict=True) if is_mixed]
                before = {
                    sender: F.pad(value, (0, 0, 0, width))[:, : len(words) + 1]
                    for sender, value in self.written[row - 1].items()
                }
                _, senders = run_by_row(self.hooked, self.case.encode([words]), [edges], before)
                written.append(F.pad(senders[node], (0, 0, 0, width - len(words) - 1)))
            codes = draw.mixed_codes[:, place : place + len(mlp.variables)]
            total = total + self.trainer.probes.loss_of(mlp.variables, torch.cat(written), codes, there)
            column += len(mlp.edges)
            place += len(mlp.variables)
        return total

    def attention_loss(self) -> Tensor:
        draw, config, attention = self.draw, self.trainer.config, self.trainer.attention
        width = config.n_ctx
        if attention is None:
            return torch.zeros(())

        # `losses` runs the plain rows once more, mixed rows come after all others.
        n_seen = 4 * self.n + len(draw.masks)
        rows = {kind: (seen[: 2 * self.n], seen[4 * self.n : n_seen]) for kind, seen in self.seen.items()}
        n_groups = len(draw.masks) // self.n
        plain, intervened = slice(2 * self.n), slice(2 * self.n, None)
        total = torch.zeros(())
        for side, of_side in enumerate((plain, intervened)):
            if not len(draw.selected[of_side]):
                continue
            seen = {kind: of_kind[side] for kind, of_kind in rows.items()}
            there = draw.there[self.n :].repeat(n_groups, 1) if side else draw.there
            assert len(there) == len(seen["q"])
            layers = [
                Attention(
                    torch.cat([vectors_padded(row[layer], width) for row in seen["q"]], 1) / config.d_head**0.5,
                    torch.cat([vectors_padded(row[layer], width) for row in seen["k"]], 1),
                    torch.cat([scores_padded(row[layer], width) for row in seen["attn_scores"]], 0).transpose(0, 1),
                )
                for layer in range(config.n_layers)
            ]
            total = total + attention.loss(layers, draw.selected[of_side], there)
            ends = [row[0].shape[1] for row in seen["k"]]
            bias = torch.zeros(len(ends), width, width)
            for row, end in enumerate(ends):
                bias[row, end:] = -torch.inf
            if self.case.causal:
                bias = bias + torch.full((width, width), -torch.inf).tril(-1)
            crossed = attention.crossed_loss(layers, draw.crossed[of_side], draw.moved[of_side], bias, there)
            total = total + self.trainer.recipe.crossed_weight * crossed
        return total

    def probe_loss(self) -> Tensor:
        """The probes' own loss (see its tests) on what hooks see in plain rows and, after `losses`, in all others."""
        draw, width = self.draw, self.trainer.config.n_ctx

        def padded(written: Senders) -> Tensor:
            return torch.cat([F.pad(value, (0, 0, 0, width - value.shape[1])) for value in written.values()])

        def loss(rows: list[Senders], codes: Tensor, there: Tensor) -> Tensor:
            return self.trainer.probes.loss(torch.stack([padded(row) for row in rows], dim=1), codes, there)

        assert len(self.exchanged) == len(draw.masks)
        bases = draw.there[self.n :].repeat(len(draw.masks) // self.n, 1)
        weight = self.trainer.recipe.intervened_probe_weight
        intervened = weight * loss(self.exchanged, draw.target_variables, bases) if self.exchanged else 0.0
        return loss(self.written, draw.variables, draw.there) + intervened

    def gradient(self, loss: Tensor) -> Tensor:
        loss.backward()
        of = {name: parameter.grad for name, parameter in self.hooked.named_parameters()}
        self.trainer.probes.flat.grad = None
        return torch.cat(
            [torch.zeros(p.numel()) if (g := of[name]) is None else g.flatten() for name, p in self.named()]
        )

    def named(self) -> list[tuple[str, Tensor]]:
        return list(self.trainer.model.parameters.items())


@pytest.mark.parametrize("case_id", ["case_3", "case_13", "case_18"])
@RECIPES_OF_THREE
def test_losses_and_gradient_of_a_step_are_those_of_a_slow_step_row_by_row(case_id, recipe, monkeypatch):
    # Nothing is clipped, so that the gradient can be seen.
    trainer = run_steps(trainer_of(case_id, recipe.changed(gradient_norm=1e9), seed=3), BLOCK_STEPS + 2)
    assert trainer.state.replayed is not None
    drawn = noted_draws(monkeypatch, trainer)
    slow = SlowStep(trainer, trainer._draw())
    expected = slow.losses()
    total, weight = torch.stack(expected).sum(), recipe.probe_weight_at(trainer.state.step)
    if weight:
        total = total + weight * slow.help_loss()
    gradient = slow.gradient(total)

    losses = trainer.step()
    assert all(torch.equal(one, other) for one, other in zip(*drawn, strict=True))
    found = (losses.behaviour, losses.circuit, losses.outside)
    assert found == pytest.approx([float(loss.detach()) for loss in expected], rel=1e-4, abs=1e-6)
    assert (losses.circuit > 0, losses.outside > 0) == (recipe.circuit_groups > 0, recipe.outside_groups > 0)
    assert losses.total == pytest.approx(sum(found))
    assert trainer.model.flat.grad is not None and bool(gradient.any())
    torch.testing.assert_close(trainer.model.flat.grad, gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


def test_isolated_steps_train_the_circuit_alone_and_no_plain_behaviour(monkeypatch):
    recipe = EDGE_SIIT.changed(n_pairs=3, gradient_norm=1e9, isolated_steps=2 * BLOCK_STEPS)
    trainer = run_steps(trainer_of("case_13", recipe, seed=3), BLOCK_STEPS + 2)
    slow = SlowStep(trainer, trainer._draw())
    _, circuit, outside = slow.losses()
    weight = recipe.probe_weight_at(trainer.state.step)
    gradient = slow.gradient(circuit + outside + weight * slow.help_loss())
    losses = trainer.step()
    found = (losses.behaviour, losses.circuit, losses.outside)
    assert found == pytest.approx((0.0, float(circuit.detach()), float(outside.detach())), rel=1e-4)
    assert trainer.model.flat.grad is not None and losses.circuit > 0
    torch.testing.assert_close(trainer.model.flat.grad, gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))
    # Afterwards a step is like any other.
    run_steps(trainer, 2 * BLOCK_STEPS - trainer.state.step)
    slow = SlowStep(trainer, trainer._draw())
    expected = [float(loss.detach()) for loss in slow.losses()]
    losses = trainer.step()
    assert [losses.behaviour, losses.circuit, losses.outside] == pytest.approx(expected, rel=1e-4)
    assert losses.behaviour > 0


# -- sentences ---------------------------------------------------------------------------------------------------------


def ioi_trainer(recipe: Recipe) -> Trainer:
    return Trainer(get_case("ioi"), small_config(), recipe, seed=1)


def slow_next_token_loss(logits: Tensor, ids: Tensor, lengths: Tensor) -> Tensor:
    """Word by word."""
    losses = [
        -logits[row, at - 1].log_softmax(-1)[ids[row, at]]
        for row, length in enumerate(lengths.tolist())
        for at in range(1, length)
    ]
    return torch.stack(losses).mean()


def test_the_loss_of_next_tokens_is_that_of_a_loop_over_words():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 7, 11, generator=generator, requires_grad=True)
    ids, lengths = torch.randint(11, (4, 7), generator=generator), torch.tensor([7, 2, 5, 3])
    # PAD, in any model, is an id that no logit stands for.
    padded = torch.where(torch.arange(7) < lengths[:, None], ids, 12)
    found, expected = next_token_loss(logits, padded, lengths), slow_next_token_loss(logits, ids, lengths)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("weight", "isolated_steps"), [(0.1, 0), (2.0, 0), (0.0, 0), (0.1, 16)])
def test_sentences_are_learnt_besides_their_answers(weight, isolated_steps):
    recipe = BEHAVIOUR.changed(
        n_pairs=3, gradient_norm=1e9, language_weight=weight, isolated_steps=isolated_steps, replayed_share=0.0
    )
    trainer = ioi_trainer(recipe)
    draw, case = trainer._draw(), trainer.case
    hooked = make_hooked_transformer(trainer.config.to_dict(), trainer.model.state_dict())
    answers, words = [], []
    for ids, length in zip(draw.ids, draw.lengths.tolist(), strict=True):
        sentence = [case.vocab[token] for token in ids[1:length].tolist()]
        logits = hooked(case.encode([sentence]))[0]
        answers.append(F.cross_entropy(logits[-1], torch.tensor(case.token_ids[case.program(sentence)[-1]])))
        words += [F.cross_entropy(logits[at], ids[at + 1]) for at in range(length - 1)]
    # The answer is worth as much as a pair's two rows; the language is a mean over all words of the step.
    expected = (torch.stack(answers).sum() / 3) * (not isolated_steps) + weight * torch.stack(words).mean()
    expected.backward()
    of = dict(hooked.named_parameters())
    gradient = torch.cat(
        [
            torch.zeros(parameter.numel()) if (grad := of[name].grad) is None else grad.flatten()
            for name, parameter in trainer.model.parameters.items()
        ]
    )
    losses = trainer.step()
    assert losses.behaviour == pytest.approx(float(expected.detach()), rel=1e-4)
    assert trainer.model.flat.grad is not None and bool(gradient.any())
    torch.testing.assert_close(trainer.model.flat.grad, gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()))


def test_a_kind_of_counterfactual_that_falls_short_is_suspected_as_resampling(make_certificate):
    trainer = ioi_trainer(EDGE_SIIT)
    space, ablations = trainer.space, trainer.recipe.ablations
    places = space.negatives.tolist()[:3]
    names = [str(space.edges[place]) for place in places]
    edges = (
        Entry(names[0], "abc", 100, 10),
        Entry(names[1], "zero", 100, 20),
        # The same edge by two kinds is one suspect; training draws all kinds alike.
        Entry(names[0], "name_swap", 100, 30),
        Entry(names[2], "s2_to_io", 100, 100),
    )
    outside = (Entry("all", "resample", 100, 40),)
    trainer.suspect(make_certificate(edge_strict=edges, complement=outside).failures())
    resample, zero = ablations.index("resample"), ablations.index("zero")
    found = [
        suspect for place, suspect in enumerate(trainer.state.suspects) if suspect not in trainer.state.suspects[:place]
    ]
    assert found == [[places[0], resample], [places[1], zero], [len(space.outside_sets) - 1, resample]]


def test_what_falls_short_within_the_circuit_is_suspect_as_an_exchange(monkeypatch, make_certificate):
    trainer = trainer_of("case_3")
    space = trainer.space
    place = int(space.interchange_edges[-1])
    node = space.circuit_nodes[1]
    # What the position carries never differs, so that no row exchanges it.
    of_position = next(edge for edge in trainer.case.high_level.circuit if edge.source == POS_EMBED)
    edges = (Entry(str(space.edges[place]), "resample", 100, 20), Entry(str(of_position), "resample", 100, 30))
    nodes = (Entry(node.name, "resample", 100, 10),)
    trainer.suspect(make_certificate(edge_interchange=edges, node_interchange=nodes).failures())
    n_edges = len(space.interchange_edges)
    assert trainer.state.suspects == [[n_edges + 1, EXCHANGED], [n_edges - 1, EXCHANGED]]
    exchanged = [space.exchange_sets[suspect].nonzero()[:, 0].tolist() for suspect, _ in trainer.state.suspects]
    assert exchanged == [space.out_of(node).nonzero()[:, 0].tolist(), [place]]
    # A closer look at single edges outside has nothing to do with them.
    looked_at = []
    monkeypatch.setattr(
        "interpbench_hub.siit.trainer.quick_check", lambda *_, suspects, **__: looked_at.append(suspects)
    )
    trainer.check(is_close=True)
    assert looked_at == [[]]


def test_heads_behind_layer_norm_cannot_be_told_by_single_edges():
    case = get_case("ioi")
    with pytest.raises(SettingError, match=r"pairwise_weight is 2\.0 and ioi has LayerNorm.*set it to 0"):
        Trainer(case, transformer_config(case), EDGE_SIIT.changed(pairwise_weight=2.0), seed=0)


def test_a_tenth_of_the_probes_is_left_at_the_end_of_a_cool_down(monkeypatch):
    recipe = EDGE_SIIT.changed(n_pairs=4, gradient_norm=1e9)
    gradients = []
    for cooling_from in (None, 4):
        trainer = run_steps(trainer_of("case_13", recipe), 5)
        trainer.state.cooling_from = cooling_from
        monkeypatch.setattr(trainer.state.probes, "step", lambda gradient, *_: gradients.append(gradient.clone()))
        trainer.step()
    assert gradients[0].any()
    torch.testing.assert_close(gradients[1], 0.1 * gradients[0])


def test_probes_without_weight_are_not_asked(monkeypatch):
    trainer = trainer_of("case_13", EDGE_SIIT.changed(n_pairs=4, probe_weight=0.0))
    probes = trainer.state.probes.copy()
    monkeypatch.setattr(trainer.probes, "loss", None)
    trainer.step()
    for name, tensor in vars(probes).items():
        assert torch.equal(getattr(trainer.state.probes, name), tensor)


@pytest.mark.parametrize("groups", [(1, 0), (0, 1), (2, 3), (0, 0)])
def test_any_number_of_groups_can_be_trained(groups):
    circuit_groups, outside_groups = groups
    recipe = EDGE_SIIT.changed(n_pairs=3, circuit_groups=circuit_groups, outside_groups=outside_groups)
    losses = trainer_of("case_13", recipe).step()
    assert (losses.circuit > 0, losses.outside > 0) == (circuit_groups > 0, outside_groups > 0)


def test_plain_training_learns_the_behaviour():
    trainer = trainer_of("case_3", BEHAVIOUR)
    first = trainer.step().behaviour
    assert run_steps(trainer, 60).step().behaviour < 0.2 * first


@pytest.mark.parametrize("program", [tokens, Map(lambda x: x * 7 % 139, tokens)], ids=["copy", "many classes"])
def test_a_case_without_probes_is_trained(program):
    vocab = ("a", "b") if program is tokens else tuple(range(139))
    case = Case("unprobed", "Has no variable to probe.", program, vocab, min_len=3, max_len=4)
    trainer = Trainer(case, transformer_config(case), EDGE_SIIT.changed(n_pairs=4), seed=0)
    assert not trainer.probes.variables
    first = trainer.step().behaviour
    assert run_steps(trainer, 40).step().behaviour < first


def test_means_are_those_of_each_position_over_the_rows_that_reach_it():
    trainer = run_steps(trainer_of("case_13", EDGE_SIIT.changed(n_pairs=7)), 1)
    draw = trainer._draw()
    run = trainer.model.run(draw.ids, draw.lengths)
    spoilt = run.senders.detach().clone()
    for row, length in enumerate(draw.lengths.tolist()):
        spoilt[:, row, length:] = 1e6
    found = trainer._means(draw, Run(spoilt, run.logits))
    assert found.shape == (len(trainer.config.senders), trainer.config.n_ctx, trainer.config.d_model)
    # No row may reach the last position.
    longest = int(draw.lengths.max())
    assert not bool(found[:, longest:].any())
    for position in range(longest):
        there = [row for row, length in enumerate(draw.lengths.tolist()) if length > position]
        expected = torch.stack([run.senders[:, row, position].detach() for row in there]).mean(0)
        torch.testing.assert_close(found[:, position], expected, rtol=1e-4, atol=1e-6)


def test_an_update_is_that_of_adam_on_the_clipped_gradient_for_model_and_probes_by_themselves(monkeypatch):
    trainer = trainer_of("case_3", EDGE_SIIT.changed(gradient_norm=0.5, warm_up=3, steady_steps=4, attention_rate=2.5))
    recipe, flat = trainer.recipe, trainer.model.flat
    of_attention = torch.cat(
        [
            torch.full((parameter.numel(),), name.split(".")[-2] in ("embed", "pos_embed", "attn"))
            for name, parameter in trainer.model.parameters.items()
        ]
    )
    assert 0.2 < float(of_attention.float().mean()) < 0.8
    given = []
    monkeypatch.setattr(trainer.state.probes, "step", lambda gradient, *rest: given.append((gradient.clone(), rest)))
    sides = (~of_attention, of_attention)
    parameters = [torch.nn.Parameter(flat.detach()[side]) for side in sides]
    adam = torch.optim.Adam([{"params": [parameter]} for parameter in parameters], betas=recipe.betas, eps=1e-8)
    for step in range(8):
        trainer.step()
        assert flat.grad is not None
        # Clipped in place.
        assert float(flat.grad.norm()) <= 0.5 + 1e-5
        for parameter, side, group, factor in zip(parameters, sides, adam.param_groups, (1.0, 2.5), strict=True):
            parameter.grad = flat.grad[side]
            group["lr"] = factor * recipe.rate(step)
        adam.step()
        for parameter, side in zip(parameters, sides, strict=True):
            torch.testing.assert_close(flat.detach()[side], parameter.detach(), atol=1e-6, rtol=1e-5)
            with torch.no_grad():
                parameter.copy_(flat[side])
        gradient, rest = given[step]
        assert rest == (recipe.rate(step), step + 1, recipe.betas, 0.5)
        assert gradient.shape == trainer.probes.flat.shape and bool(gradient.any())
    assert trainer.state.step == 8


# -- what is kept from step to step ------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [EDGE_SIIT.changed(node_share=0.4, n_pairs=6), BEHAVIOUR.changed(n_pairs=6)])
def test_losses_are_noted_by_pair_and_by_kind_of_row(recipe, monkeypatch):
    trainer = trainer_of("case_13", recipe)
    drawn, losses = noted_draws(monkeypatch, trainer), noted_row_losses(monkeypatch, trainer)
    space = trainer.space
    n_kinds = len(space.interchange_edges) + len(space.circuit_nodes) + 5 * len(recipe.ablations)
    # After the kinds, single edges: nothing is held against them yet.
    running = torch.cat([torch.ones(n_kinds), torch.zeros(space.n_edges)])
    of_pairs = torch.zeros(BLOCK_STEPS, 6)
    for step in range(BLOCK_STEPS + 3):
        losses.clear()
        trainer.step()
        rows = torch.cat(losses).detach()
        for row, place in enumerate(drawn[-1].kinds.tolist()):
            running[place] = 0.9 * running[place] + 0.1 * rows[12 + row]
            if (edge := int(drawn[-1].edge_kinds[row])) >= 0:
                running[edge] = 0.9 * running[edge] + 0.1 * rows[12 + row]
        of_pairs[step % BLOCK_STEPS] = torch.stack([rows[pair::6].max() for pair in range(6)])
        torch.testing.assert_close(trainer.state.kind_losses, running)
        torch.testing.assert_close(trainer.state.pair_losses, of_pairs)
    assert bool((running[:n_kinds] != 1).all()) == (recipe.name == "edge-siit") == bool(running[n_kinds:].any())


def test_a_block_is_drawn_by_the_losses_of_the_one_before(monkeypatch):
    trainer = trainer_of("case_13", EDGE_SIIT.changed(n_pairs=4))
    calls: list[tuple[Any, ...]] = []
    block_of = trainer.draws.block

    def noting(*arguments: Any) -> StepDraw:
        drawn = block_of(*arguments)
        calls.append((drawn, *arguments))
        return drawn

    monkeypatch.setattr(trainer.draws, "block", noting)
    for number in range(3):
        state = trainer.state
        losses, worst = state.kind_losses.clone(), None
        if number:
            worst = trainer.draws.worst(calls[-1][0], state.pair_losses.clone())
        state.suspects = [[int(trainer.space.negatives[number]), 0]]
        run_steps(trainer, BLOCK_STEPS - 1)
        state.suspects = []
        run_steps(trainer, 1)
        assert len(calls) == number + 1
        _, found_number, weights, replayed, suspects = calls[-1]
        assert found_number == number
        # What is still wrong is drawn more often, nothing is forgotten.
        n_circuit, n_kinds = trainer.space.n_exchanges, sum(trainer.draws.kind_counts[:2])
        for part in (slice(None, n_circuit), slice(n_circuit, n_kinds), slice(n_kinds, None)):
            torch.testing.assert_close(weights[part], losses[part] / losses[part].mean().clamp(min=1e-12) + 0.3)
        assert suspects == [[int(trainer.space.negatives[number]), 0]]
        if worst is None:
            assert replayed is None
        else:
            assert all(torch.equal(one, other) for one, other in zip(replayed, worst, strict=True))


def test_no_pairs_are_replayed_if_the_recipe_says_so():
    trainer = run_steps(trainer_of("case_3", EDGE_SIIT.changed(n_pairs=2, replayed_share=0.0)), BLOCK_STEPS + 1)
    assert trainer.state.replayed is None


def test_the_average_follows_about_the_last_tenth_of_the_steps_and_is_looked_at_in_half_precision():
    trainer = trainer_of("case_3", EDGE_SIIT.changed(n_pairs=2, averaged_share=0.25))
    expected = trainer.model.flat.detach().clone()
    for step in range(1, 12):
        trainer.step()
        share = 1 / (1 + 0.25 * step)
        expected = (1 - share) * expected + share * trainer.model.flat.detach()
        torch.testing.assert_close(trainer.state.average, expected)
    model = trainer.averaged()
    assert model.flat.dtype == torch.float32
    assert torch.equal(model.flat, trainer.state.average.to(torch.float16).to(torch.float32))
    assert not torch.equal(model.flat, trainer.state.average)
    assert not torch.equal(model.flat, trainer.model.flat)


def test_a_check_looks_at_the_average_and_closely_at_suspects(monkeypatch):
    trainer = trainer_of("case_13", EDGE_SIIT.changed(n_pairs=2))
    trainer.state.suspects = [[int(trainer.space.negatives[2]), 1]]
    looks: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "interpbench_hub.siit.trainer.quick_check", lambda _, model, **how: looks.append(how | {"m": model})
    )
    for is_close in (False, True):
        trainer.check(is_close=is_close)
    quick, close = looks
    assert torch.equal(quick["m"].flat, trainer.averaged().flat)
    assert quick["n_pairs"] < close["n_pairs"] and quick["n_edge_rows"] < close["n_edge_rows"]
    assert quick["suspects"] is None and close["suspects"] == [(int(trainer.space.negatives[2]), "zero")]


def test_what_falls_short_outside_the_circuit_becomes_suspect(make_certificate):
    trainer = trainer_of("case_13", EDGE_SIIT.changed(ablations=("mean", "resample")))
    space = trainer.space
    places, nodes = space.negatives.tolist(), [node.name for node in space.outside_nodes]
    names = [str(space.edges[place]) for place in places]

    def suspected(**sections: tuple[Entry, ...]) -> list[list[int]]:
        trainer.suspect(make_certificate(**sections).failures())
        return trainer.state.suspects

    # The worst first; ablations that are not trained and what passes are left out.
    edges = (
        Entry(names[0], "resample", 100, 90),
        Entry(names[1], "mean", 100, 10),
        Entry(names[2], "zero", 100, 0),
        Entry(names[3], "mean", 2000, 2000),
    )
    first = suspected(
        edge_strict=edges,
        node_strict=(Entry(nodes[1], "resample", 100, 50),),
        complement=(Entry("all", "mean", 100, 5),),
    )
    assert first == [[len(space.outside_sets) - 1, 0], [places[1], 0], [space.n_edges + 1, 1], [places[0], 1]]
    # Earlier ones come after the latest, each once.
    later = suspected(edge_strict=(Entry(names[4], "mean", 100, 50), Entry(names[0], "resample", 100, 60)))
    assert later == [[places[4], 0], [places[0], 1], *first[:3]]
    assert len(first) == 4, "what a drawn block knows as its suspects has changed"
    many = suspected(edge_strict=tuple(Entry(name, "mean", 1000, place) for place, name in enumerate(names[5:])))
    assert len(many) == MAX_SUSPECTS < len(names) and many[0] == [places[5], 0] and first[0] not in many


# -- chance ------------------------------------------------------------------------------------------------------------


def weights_after(steps: int, case_id: str = "case_3", **changes: Any) -> Tensor:
    seed = changes.pop("seed", 0)
    trainer = run_steps(trainer_of(case_id, EDGE_SIIT.changed(n_pairs=4, **changes), seed), steps)
    return trainer.model.flat.detach().clone()


def test_a_seed_gives_the_same_weights_to_the_last_bit_and_another_seed_others():
    first = weights_after(20)
    torch.manual_seed(123)
    assert torch.equal(first, weights_after(20))
    assert not torch.equal(weights_after(2), weights_after(2, seed=1))
    assert not torch.equal(weights_after(2), weights_after(2, learning_rate=1e-3))


def test_cases_and_seeds_start_from_weights_of_their_own():
    assert not torch.equal(trainer_of("case_8").model.flat[:50], trainer_of("case_20").model.flat[:50])
    assert not torch.equal(trainer_of("case_3").model.flat, trainer_of("case_3", seed=1).model.flat)
    assert torch.equal(trainer_of("case_3").model.flat, trainer_of("case_3", SIIT).model.flat)
    assert not torch.equal(trainer_of("case_3").probes.flat, trainer_of("case_3", seed=1).probes.flat)


# -- going on from a saved state ---------------------------------------------------------------------------------------

STOPS = (0, 9, BLOCK_STEPS - 1, BLOCK_STEPS, BLOCK_STEPS + 1, 2 * BLOCK_STEPS)
LAST_STEP = 2 * BLOCK_STEPS + 6


def go_on(trainer: Trainer, at_stop: Callable[[TrainingState], None] = lambda _: None) -> Trainer:
    """Up to the last step, with a cool-down and suspects on the way that depend on the step alone."""
    state = trainer.state
    while state.step < LAST_STEP:
        if state.step in STOPS:
            at_stop(state)
        trainer.step()
        if state.step == BLOCK_STEPS - 2:
            state.suspects = [[int(trainer.space.negatives[0]), 0]]
        elif state.step == BLOCK_STEPS + 8:
            state.suspects = [[int(trainer.space.negatives[3]), 0], [int(trainer.space.negatives[1]), 0]]
        elif state.step == LAST_STEP - 8:
            state.cooling_from = state.step
    return trainer


def assert_same_state(found: TrainingState, expected: TrainingState) -> None:
    for name, value in vars(expected).items():
        if isinstance(value, Tensor):
            assert torch.equal(getattr(found, name), value), name
        elif name in ("model", "probes"):
            for part, tensor in vars(value).items():
                assert torch.equal(getattr(getattr(found, name), part), tensor), (name, part)
        elif name == "replayed":
            assert (found.replayed is None) == (value is None)
            assert all(torch.equal(*parts) for parts in zip(found.replayed or (), value or (), strict=True))
        else:
            assert getattr(found, name) == value, name


@RECIPES_OF_THREE
def test_a_run_goes_on_from_any_saved_state_as_if_nothing_had_happened(recipe, tmp_path):
    case_id = "case_13" if recipe.name == "edge-siit" else "case_3"
    kept: dict[int, TrainingState] = {}

    def keep(state: TrainingState) -> None:
        (tmp_path / str(state.step)).mkdir()
        state.save(tmp_path / str(state.step))
        kept[state.step] = state.copy()

    whole = go_on(trainer_of(case_id, recipe), keep)
    assert set(kept) == set(STOPS)
    for stop in STOPS:
        state = TrainingState.load(tmp_path / str(stop))
        assert state is not None
        assert_same_state(state, kept[stop])
        trainer = trainer_of(case_id, recipe)
        trainer.take_up(state)
        assert_same_state(go_on(trainer).state, whole.state)
        for resumed, undisturbed in (
            (trainer.model.flat, whole.model.flat),
            (trainer.probes.flat, whole.probes.flat),
            (trainer.averaged().flat, whole.averaged().flat),
        ):
            assert torch.equal(resumed, undisturbed)


def test_a_state_taken_up_is_the_trainers_own():
    """What is updated from there on are the parameters that the model computes with."""
    trainer, other = run_steps(trainer_of("case_3"), 2), trainer_of("case_3")
    other.take_up(replace(trainer.state.copy()))
    assert other.state.model.parameters.data_ptr() == other.model.flat.data_ptr()
    assert other.state.probes.parameters.data_ptr() == other.probes.flat.data_ptr()
    before = trainer.model.flat.detach().clone()
    run_steps(other, 1)
    assert torch.equal(trainer.model.flat, before)


# -- certificates ------------------------------------------------------------------------------------------------------


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


def test_interchanged_values_count_by_their_weight(monkeypatch):
    case = get_case("case_21")
    losses: list[float] = []
    monkeypatch.setattr(Trainer, "_update", lambda _, loss, with_probes: losses.append(float(loss.detach())))
    for weight in (0.0, 1.0, 2.0):
        trainer = Trainer(case, transformer_config(case), EDGE_SIIT.changed(interchanged_weight=weight), seed=0)
        trainer.step()
    draw, seen = trainer._draw(), []
    run = trainer.model.run(draw.ids, draw.lengths, attention=seen)
    assert trainer.attention is not None
    loss = trainer.attention.interchanged_loss(
        trainer.model,
        run.senders,
        seen,
        draw.compared[: len(draw.ids)],
        draw.there.sum(1),
        torch.Generator().manual_seed(seeded("interchanged", 0, 0)),
    )
    expected = float(loss.detach())
    assert expected > 0.1
    assert losses[1] - losses[0] == pytest.approx(expected, rel=1e-3)
    assert losses[2] - losses[0] == pytest.approx(2 * expected, rel=1e-3)
