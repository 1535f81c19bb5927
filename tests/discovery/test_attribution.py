"""Attribution patching: against hooks of TransformerLens, exact patching where it is exact, and path integrals."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interpbench_hub.circuit import EMBED, LOGITS, POS_EMBED, Circuit, Edge, Node
from interpbench_hub.discovery import gradients
from interpbench_hub.discovery.attribution import (
    AGGREGATIONS,
    eap,
    eap_ig_activations,
    eap_ig_inputs,
    node_attribution_patching,
)
from interpbench_hub.discovery.data import PairData
from interpbench_hub.discovery.exhaustive import ABLATIONS, exhaustive_patching
from interpbench_hub.discovery.gradients import METRICS, metric_of
from interpbench_hub.discovery.labels import labels_of
from interpbench_hub.discovery.metrics import auroc
from interpbench_hub.discovery.scores import EdgeScores
from interpbench_hub.errors import SettingError
from interpbench_hub.loader import load_circuit, load_model, to_hooked_transformer
from interpbench_hub.transformer import Transformer
from tests.discovery.test_exhaustive import SHAPE, random_data, random_model
from tests.hooked import Senders, input_hook, interchange, interchange_node, output_hook, senders_of

UNIVERSE = Circuit(2, 3, []).universe
HEADS = Circuit(2, 3, []).to_head_level().universe
NUMBERS = replace(SHAPE, d_vocab_out=1)
METHODS = (eap, eap_ig_inputs, eap_ig_activations)
Slopes = dict[str, Tensor]
"""Gradients under the names of hooks."""


# -- the same by hooks, one pair after another -------------------------------------------------------------------------


def hooked_of(model: Transformer):
    return to_hooked_transformer(model.config, model.state_dict())


def slow_metric(metric: str, logits: Tensor, clean: Tensor, corrupted: Tensor, categorical: bool) -> Tensor:
    """Of one pair's logits [pos, out], BOS at position 0, position by position; a corrupted output may be longer."""
    each = []
    for now, was, other in zip(logits[1:], clean[1:], corrupted[1:], strict=False):
        if not categorical:
            sign = float((other - was).sign())
            difference = {"kl": (now - was) ** 2, "loss": (now - was) ** 2, "kl_to_corrupted": -((now - other) ** 2)}
            moved = difference.get(metric, now * (1.0 if metric == "log_odds" and sign == 0 else sign))[0]
        elif metric in ("kl", "kl_to_corrupted"):
            to = (was if metric == "kl" else other).softmax(0)
            moved = (to * (to.log() - now.softmax(0).log())).sum() * (1 if metric == "kl" else -1)
        else:
            answer, wrong = int(was.argmax()), int(other.argmax())
            chance = now.softmax(0)[answer]
            moved = {
                "loss": -chance.log(),
                "log_odds": ((1 - chance) / chance).log(),
                "logit_difference": now[wrong] - now[answer],
            }[metric]
        each.append(moved)
    return torch.stack(each).mean()


class ByHooks:
    """One pair, unpadded, on a HookedTransformer: what senders write, and gradients where receivers read."""

    def __init__(self, hooked, data: PairData, row: int, metric: str) -> None:
        self.hooked = hooked
        self.tokens = data.clean[row : row + 1, : data.lengths[row]]
        source = data.corrupted[row : row + 1, : data.corrupted_lengths[row]]
        with torch.no_grad():
            self.clean, self.corrupted = senders_of(hooked, self.tokens), senders_of(hooked, source)
            own, other = hooked(self.tokens)[0], hooked(source)[0]
        width = self.tokens.shape[1]
        self.corrupted: Senders = {node: value[:, :width] for node, value in self.corrupted.items()}
        self.metric: Callable[[Tensor], Tensor] = lambda logits: slow_metric(
            metric, logits[0], own, other, data.categorical
        )

    def gradients(self, hooks: list[Any]) -> Slopes:
        """d(metric) by every activation that a receiver reads or a sender writes, under its hook's name."""
        seen: dict[str, Tensor] = {}

        def keep(activation: Tensor, hook: Any) -> None:
            activation.retain_grad()
            seen[hook.name] = activation

        names = {input_hook(self.hooked, edge.target, edge.slot) for edge in UNIVERSE}
        names |= {output_hook(edge.source) for edge in UNIVERSE}
        logits = self.hooked.run_with_hooks(self.tokens, fwd_hooks=[*hooks, *[(name, keep) for name in names]])
        self.metric(logits).backward()
        return {name: value.grad for name, value in seen.items() if value.grad is not None}

    def edge(self, edge: Edge, slopes: Slopes, delta: Tensor) -> float:
        return self._product(slopes[input_hook(self.hooked, edge.target, edge.slot)], edge.target, delta)

    def node(self, node: Node, slopes: Slopes, delta: Tensor) -> float:
        return self._product(slopes[output_hook(node)], node, delta)

    def _product(self, slope: Tensor, node: Node, delta: Tensor) -> float:
        return float(((slope[:, :, node.head] if slope.ndim == 4 else slope) * delta).sum())


def replaced(pair: ByHooks, ablation: str, means: Senders) -> Senders:
    if ablation == "resample":
        return pair.corrupted
    source = means if ablation == "mean" else {node: torch.zeros_like(value) for node, value in pair.clean.items()}
    return {node: source[node][:, : value.shape[1]] for node, value in pair.clean.items()}


def means_of(hooked, data: PairData) -> Senders:
    """Mean of what each sender writes at each position, over the inputs long enough to have it."""
    runs = []
    for tokens, lengths in ((data.clean, data.lengths), (data.corrupted, data.corrupted_lengths)):
        runs += [senders_of(hooked, row[None, :length]) for row, length in zip(tokens, lengths.tolist(), strict=True)]
    longest = max(run[EMBED].shape[1] for run in runs)
    return {
        node: torch.stack(
            [
                torch.stack([run[node][0, pos] for run in runs if run[node].shape[1] > pos]).mean(0)
                for pos in range(longest)
            ]
        )[None]
        for node in runs[0]
    }


def effects_by_hooks(hooked, data: PairData, items, metric: str, ablation: str = "resample") -> Tensor:
    """First-order effects at the clean input: [pair, item]."""
    with torch.no_grad():
        means = means_of(hooked, data)
    rows = []
    for row in range(len(data)):
        pair = ByHooks(hooked, data, row, metric)
        slopes = pair.gradients([])
        values = replaced(pair, ablation, means)
        delta = {node: values[node] - own for node, own in pair.clean.items()}
        found = []
        for item in items:
            if isinstance(item, Node):
                found.append(pair.node(item, slopes, delta[item]))
            else:
                slots = "qkv" if item.target.is_head and item.slot is None else [item.slot]
                edges = [replace(item, slot=slot) for slot in slots]  # type: ignore[arg-type]
                found.append(sum(pair.edge(edge, slopes, delta[edge.source]) for edge in edges))
        rows.append(found)
    return torch.tensor(rows)


def assert_same(scores: EdgeScores, expected: Tensor, *, rel: float = 1e-3) -> None:
    """Nearly the same, measured by the largest."""
    most = float(expected.max())
    assert most > 1e-3
    torch.testing.assert_close(torch.tensor(scores.array).float(), expected, rtol=rel, atol=rel * most)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [SHAPE, replace(NUMBERS, attention_dir="bidirectional")], ids=["classes", "numbers"])
def test_eap_has_the_effects_that_hooks_give_for_every_metric(shape, metric):
    model, data = random_model(shape), random_data(shape, longer=True)
    expected = effects_by_hooks(hooked_of(model), data, UNIVERSE, metric)
    if metric in ("kl", "loss") and not (metric == "loss" and data.categorical):
        # At its minimum: what is left is rounding.
        assert float(expected.abs().max()) < 1e-4 and eap(model, UNIVERSE, data, metric=metric).array.max() < 1e-4
        return
    assert_same(eap(model, UNIVERSE, data, metric=metric), expected.mean(0).abs())
    assert_same(eap(model, UNIVERSE, data, metric=metric, aggregation="absolute"), expected.abs().mean(0))


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("granularity", ["qkv-edge", "edge", "node"])
def test_eap_has_the_effects_that_hooks_give_under_every_ablation_and_granularity(granularity, ablation):
    shape = replace(SHAPE, attention_dir="bidirectional")
    model, data = random_model(shape), random_data(shape, longer=True)
    hooked = hooked_of(model)
    found = eap(hooked, UNIVERSE, data, ablation=ablation, granularity=granularity)
    assert_same(found, effects_by_hooks(hooked, data, list(found), "logit_difference", ablation).mean(0).abs())


def parts_of(hooked) -> list[tuple[str, list[Node]]]:
    """Hooks whose values are interpolated together, and the senders that write them."""
    parts = [("blocks.0.hook_resid_pre", [EMBED, POS_EMBED])]
    for layer in range(hooked.cfg.n_layers):
        heads = [Node.of_head(layer, head) for head in range(hooked.cfg.n_heads)]
        parts += [(f"blocks.{layer}.attn.hook_result", heads), (f"blocks.{layer}.hook_mlp_out", [Node.of_mlp(layer)])]
    return parts


def integrated_by_hooks(hooked, data: PairData, steps: int, ablation: str, *, by_part: bool) -> Tensor:
    """First-order effects with gradients averaged over a line, that of the inputs or one a part: [pair, edge]."""
    with torch.no_grad():
        means = means_of(hooked, data)
    rows = []
    for row in range(len(data)):
        pair = ByHooks(hooked, data, row, "logit_difference")
        values = replaced(pair, ablation, means)
        found = dict.fromkeys(UNIVERSE, 0.0)
        for name, senders in parts_of(hooked)[: None if by_part else 1]:
            together = (torch.stack([run[node] for node in senders], 2) for run in (pair.clean, values))
            own, other = (value if name.endswith("result") else value.sum(2) for value in together)
            for step in range(1, steps + 1):
                point = other + step / steps * (own - other)
                slopes = pair.gradients([(name, lambda activation, hook, point=point: point + 0 * activation)])
                for edge in UNIVERSE:
                    if edge.source in senders or not by_part:
                        delta = values[edge.source] - pair.clean[edge.source]
                        found[edge] += pair.edge(edge, slopes, delta) / steps
        rows.append(list(found.values()))
    return torch.tensor(rows)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("method", [eap_ig_inputs, eap_ig_activations])
def test_integrated_gradients_are_those_that_hooks_give(method, ablation):
    model, data = random_model(SHAPE), random_data(SHAPE, longer=True).rows(torch.tensor([1, 4]))
    hooked = hooked_of(model)
    expected = integrated_by_hooks(hooked, data, 3, ablation, by_part=method is eap_ig_activations)
    assert_same(method(model, UNIVERSE, data, ablation=ablation, steps=3), expected.mean(0).abs())


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_look_at_positions_that_count_alone(metric):
    generator = torch.Generator().manual_seed(5)
    data = random_data(SHAPE)
    last = torch.arange(SHAPE.n_ctx) == data.lengths[:, None] - 1
    logits, clean, corrupted = torch.randn((3, *data.clean.shape, SHAPE.d_vocab_out), generator=generator)
    found = metric_of(metric, logits, clean, corrupted, replace(data, counted=last))
    for row, length in enumerate(data.lengths.tolist()):
        # Two positions stand for BOS, which is skipped, and the last.
        ends = [part[row, [0, length - 1]] for part in (logits, clean, corrupted)]
        expected = slow_metric(metric, ends[0], ends[1], ends[2], True)
        assert float(found[row]) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_are_what_they_say(metric):
    generator = torch.Generator().manual_seed(3)
    for shape in (SHAPE, NUMBERS):
        data = random_data(shape, longer=True)
        size = (3, *data.clean.shape, shape.d_vocab_out)
        logits, clean, corrupted = torch.randn(size, generator=generator)
        corrupted[:2] = clean[:2]  # Answers that agree.
        logits[:, 0] = torch.nan  # Neither BOS nor padding counts.
        expected = [
            slow_metric(metric, logits[row, :length], clean[row, :length], corrupted[row, :length], data.categorical)
            for row, length in enumerate(data.lengths.tolist())
        ]
        found = metric_of(metric, logits, clean, corrupted, data)
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


# -- where estimates are exact -----------------------------------------------------------------------------------------


def linear_model() -> Transformer:
    """Attention that looks everywhere alike and MLPs that never cut off: the output is linear in every value."""
    model = random_model(replace(NUMBERS, act_fn="relu", normalization_type=None))
    parameters = model.parameters
    with torch.no_grad():
        model.flat.mul_(0.5)
    for name, parameter in parameters.items():
        if name.endswith(("_Q", "_K")):
            parameter.zero_()
        elif name.endswith("b_in"):
            # Taken back behind the MLP: large values would leave few digits for small effects.
            mlp = name.removesuffix("b_in")
            parameters[mlp + "b_out"].sub_((30 - parameter) @ parameters[mlp + "W_out"])
            parameter.fill_(30.0)
    return model


def test_on_a_linear_model_every_method_equals_exhaustive_patching():
    model = linear_model()
    # One position and one pair at a time: the mean of squares that patching measures is then one square.
    data = random_data(model.config).rows(slice(0, 1))
    for granularity in ("qkv-edge", "edge", "node"):
        exact = exhaustive_patching(model, UNIVERSE, data, granularity=granularity)
        for method in METHODS:
            found = method(model, UNIVERSE, data, granularity=granularity)
            assert_same(found, torch.tensor(exact.array).float().sqrt())


@torch.no_grad()
def test_on_a_linear_model_effects_add_up_over_pairs_and_positions():
    model = linear_model()
    hooked, data = hooked_of(model), random_data(model.config)
    moved = torch.zeros(len(data), len(UNIVERSE))
    for row in range(len(data)):
        pair = ByHooks(hooked, data, row, "logit_difference")
        at_rest = pair.metric(hooked(pair.tokens))
        for number, edge in enumerate(UNIVERSE):
            moved[row, number] = pair.metric(interchange(hooked, pair.tokens, [edge], pair.corrupted)) - at_rest
    for method in METHODS:
        assert_same(method(model, UNIVERSE, data), moved.mean(0).abs())
        assert_same(method(model, UNIVERSE, data, aggregation="absolute"), moved.abs().mean(0))


def edges_into_logits(scores: EdgeScores) -> Tensor:
    return torch.tensor([scores[edge] for edge in scores.edges if edge.target == LOGITS]).float()


@torch.no_grad()
def test_edges_into_the_logits_are_exact_without_layer_norm():
    model = random_model(replace(SHAPE, normalization_type=None))
    hooked, data = hooked_of(model), random_data(model.config)
    exact = torch.zeros(len(model.config.senders))
    for row in range(len(data)):
        pair = ByHooks(hooked, data, row, "logit_difference")
        for number, node in enumerate(model.config.senders):
            moved = pair.metric(interchange(hooked, pair.tokens, [Edge(node, LOGITS)], pair.corrupted))
            exact[number] += (moved - pair.metric(hooked(pair.tokens))) / len(data)
    torch.testing.assert_close(edges_into_logits(eap(model, UNIVERSE, data)), exact.abs(), rtol=1e-3, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(number=st.integers(0, len(UNIVERSE) - 1), row=st.integers(0, 4), metric=st.sampled_from(METRICS))
def test_an_effect_is_the_slope_of_the_metric_when_the_edge_is_replaced_by_degrees(number, row, metric):
    model = random_model(SHAPE)
    data = random_data(SHAPE).rows(slice(row, row + 1)).trimmed()
    edge = UNIVERSE[number]
    with torch.no_grad():
        clean, corrupted = model.run(data.clean), model.run(data.corrupted)
        mask = model.config.mask_of([edge])[None]

        def moved(share: float) -> float:
            replacement = clean.senders + share * (corrupted.senders - clean.senders)
            logits = model.interchange(clean.senders, replacement, mask)
            return float(metric_of(metric, logits, clean.logits, corrupted.logits, data))

        step = 1e-2
        slope = (moved(step) - moved(-step)) / (2 * step)
    assert eap(model, UNIVERSE, data, metric=metric)[edge] == pytest.approx(abs(slope), rel=2e-2, abs=2e-3)


def test_integrals_over_a_line_add_up_to_what_its_ends_differ_by():
    shape = replace(SHAPE, normalization_type=None)
    model, data = random_model(shape), random_data(shape)
    hooked = hooked_of(model)
    by_inputs = eap_ig_inputs(model, UNIVERSE, data, granularity="node", steps=200)
    by_parts = eap_ig_activations(model, UNIVERSE, data, granularity="node", steps=200)
    exact = {EMBED: 0.0, Node("m0"): 0.0, Node("m1"): 0.0}
    with torch.no_grad():
        for row in range(len(data)):
            pair = ByHooks(hooked, data, row, "logit_difference")
            for node in exact:
                logits = interchange_node(hooked, pair.tokens, node, pair.corrupted[node])
                exact[node] += float(pair.metric(logits) - pair.metric(hooked(pair.tokens))) / len(data)
    # An MLP is a part of its own, and so are the embeddings: positions are the same on both inputs.
    assert by_inputs[EMBED] == pytest.approx(abs(exact[EMBED]), rel=2e-2)
    for node, value in exact.items():
        assert by_parts[node] == pytest.approx(abs(value), rel=2e-2)
    assert min(map(abs, exact.values())) > 1e-2


# -- what they do and do not depend on ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("method", [eap_ig_inputs, eap_ig_activations])
def test_one_step_is_eap(method, ablation):
    model, data = random_model(SHAPE), random_data(SHAPE)
    expected = torch.tensor(eap(model, UNIVERSE, data, ablation=ablation).array).float()
    assert_same(method(model, UNIVERSE, data, ablation=ablation, steps=1), expected)


@pytest.mark.parametrize("method", [*METHODS, node_attribution_patching])
def test_no_gradient_is_left_on_the_model_and_none_is_lost(method):
    model, data = random_model(SHAPE), random_data(SHAPE)
    assert model.flat.grad is not None
    model.flat.grad.copy_(torch.arange(model.n_parameters))
    weights, slopes = model.flat.detach().clone(), model.flat.grad.clone()
    with torch.no_grad():  # Callers may well be in such a block.
        scores = method(model, UNIVERSE, data)
    assert torch.equal(model.flat.detach(), weights) and torch.equal(model.flat.grad, slopes)
    assert scores.array.max() > 0


@pytest.mark.parametrize("method", [*METHODS, node_attribution_patching])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_scores_do_not_depend_on_batches(method, ablation, monkeypatch):
    model, data = random_model(SHAPE), random_data(SHAPE, longer=True)
    at_once = torch.tensor(method(model, UNIVERSE, data, ablation=ablation).array).float()
    monkeypatch.setattr(gradients, "_FLOATS", 2 * 27 * SHAPE.n_ctx * SHAPE.d_model)
    assert_same(method(model, UNIVERSE, data, ablation=ablation), at_once)


@pytest.mark.parametrize("method", METHODS)
def test_the_size_of_a_mean_is_at_most_the_mean_of_sizes_which_is_that_over_pairs_alone(method):
    model, data = random_model(SHAPE), random_data(SHAPE)
    signed, absolute = (method(model, UNIVERSE, data, aggregation=way).array for way in AGGREGATIONS)
    alone = [method(model, UNIVERSE, data.rows(slice(row, row + 1))).array for row in range(len(data))]
    assert (signed <= absolute + 1e-6).all() and (signed < absolute - 1e-3).any()
    assert absolute == pytest.approx(sum(alone) / len(data), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_some_edges_have_the_scores_they_have_among_all(method):
    model, data = random_model(SHAPE), random_data(SHAPE)
    every = method(model, UNIVERSE, data)
    some = method(model, UNIVERSE[5::7], data)
    assert tuple(some) == UNIVERSE[5::7]
    assert list(some.array) == pytest.approx([every[edge] for edge in some])


def test_nodes_are_lifted_by_the_smaller_score_of_an_edges_ends():
    model, data = random_model(SHAPE), random_data(SHAPE)
    nodes = node_attribution_patching(model, UNIVERSE, data, granularity="node")
    assert_same(nodes, effects_by_hooks(hooked_of(model), data, list(nodes), "logit_difference").abs().mean(0))
    cases: list[tuple[Any, Any]] = [(UNIVERSE, None), (UNIVERSE, "edge"), (HEADS, None)]
    for universe, granularity in cases:
        edges = node_attribution_patching(model, universe, data, granularity=granularity)
        assert tuple(edges) == (HEADS if granularity == "edge" else universe)
        assert edges["a0.h1->m1"] == min(nodes["a0.h1"], nodes["m1"])
        assert edges["embed->m0"] == nodes["m0"] and edges["m1->logits"] == nodes["m1"]


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*METHODS, node_attribution_patching])
def test_they_refuse_what_cannot_be(method):
    model, data = random_model(SHAPE), random_data(SHAPE)
    with pytest.raises(SettingError, match="ablation 'noise' is not one of resample, zero, mean"):
        method(model, UNIVERSE, data, ablation="noise")
    with pytest.raises(SettingError, match="metric 'accuracy' is not one of logit_difference, log_odds, "):
        method(model, UNIVERSE, data, metric="accuracy")
    with pytest.raises(SettingError, match="aggregation 'median' is not one of signed, absolute"):
        method(model, UNIVERSE, data, aggregation="median")
    with pytest.raises(SettingError, match="which a model with 2 layers of 3 heads has not"):
        method(model, Circuit(3, 3, []), data)


@pytest.mark.parametrize("method", [eap_ig_inputs, eap_ig_activations])
@pytest.mark.parametrize("steps", [0, 2.5, True])
def test_steps_that_cannot_be_are_refused(method, steps):
    with pytest.raises(SettingError, match=rf"steps is {steps}; it is a whole number of at least 1"):
        method(random_model(SHAPE), UNIVERSE, random_data(SHAPE), steps=steps)


# -- on models whose circuit is known ----------------------------------------------------------------------------------


def auroc_of(method, name: str, **options) -> float:
    circuit, data = load_circuit(name), PairData.of(name, n_pairs=64)
    edges, is_positive = labels_of(circuit)
    scores = method(load_model(name), circuit.universe, data, **options)
    found = auroc([scores[edge] for edge in edges], is_positive)
    assert found is not None
    return found


@pytest.mark.parametrize("method", METHODS)
def test_circuits_are_found(method):
    for name in ("case_3", "case_8"):
        assert auroc_of(method, name) == 1


def test_integration_finds_what_gradients_at_the_clean_input_miss():
    # Attention of case 11 is saturated on clean inputs: edges into its q have next to no gradient there.
    assert auroc_of(eap, "case_11") < 0.97
    assert auroc_of(eap_ig_inputs, "case_11") > 0.99 and auroc_of(eap_ig_activations, "case_11") > 0.99


def test_a_metric_at_its_minimum_leaves_eap_nothing_and_integration_enough():
    name = "case_3"
    circuit, data, model = load_circuit(name), PairData.of(name, n_pairs=64), load_model(name)
    usual = eap(model, circuit.universe, data).array.max()
    assert eap(model, circuit.universe, data, metric="kl").array.max() < 1e-4 * usual
    assert not math.isclose(auroc_of(eap_ig_inputs, name, metric="kl"), 0.5)
    assert auroc_of(eap_ig_inputs, name, metric="kl") == auroc_of(eap_ig_activations, name, metric="kl") == 1
