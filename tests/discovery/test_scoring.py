"""From scores to metrics: ablated models against TransformerLens' hooks, metrics against slow counts, costs."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interpbench_hub.circuit import Circuit, Edge, Node
from interpbench_hub.discovery.behaviour import AblatedModel
from interpbench_hub.discovery.data import PairData
from interpbench_hub.discovery.exhaustive import ABLATIONS, exhaustive_patching
from interpbench_hub.discovery.faithfulness import MIB_FRACTIONS
from interpbench_hub.discovery.labels import labels_of
from interpbench_hub.discovery.metrics import structural_hamming_distance
from interpbench_hub.discovery.model import to_transformer
from interpbench_hub.discovery.scores import EdgeScores
from interpbench_hub.discovery.scoring import METRICS, at_granularity, faithfulness_metrics, ranking_metrics
from interpbench_hub.discovery.usage import measured
from interpbench_hub.errors import SettingError
from interpbench_hub.loader import load_circuit, load_model, to_hooked_transformer
from interpbench_hub.transformer import Transformer, TransformerConfig
from tests.discovery.test_exhaustive import SHAPE, random_data, random_model
from tests.hooked import interchange, senders_of

UNIVERSE = Circuit(2, 3, []).universe
TRUE = Circuit(
    2,
    3,
    [
        Edge(Node("embed"), Node("m0"), kind="varying"),
        Edge(Node("m0"), Node("a1.h1"), "v", kind="varying"),
        Edge(Node("embed"), Node("a1.h1"), "q", kind="inert"),
        Edge(Node("pos_embed"), Node("a1.h1"), "k", kind="constant"),
        Edge(Node("a1.h1"), Node("logits"), kind="varying"),
    ],
)


# -- ablated models ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def by_hooks(model: Transformer, data: PairData, kept: set[Edge], ablation: str) -> tuple[float, float]:
    """Difference and agreement by hooks of TransformerLens, pair by pair: nothing is padded."""
    hooked = to_hooked_transformer(model.config, model.state_dict())
    runs = []
    for row, (length, other) in enumerate(zip(data.lengths.tolist(), data.corrupted_lengths.tolist(), strict=True)):
        clean = data.clean[row : row + 1, :length]
        source = senders_of(hooked, data.corrupted[row : row + 1, :other])
        runs.append((clean, senders_of(hooked, clean), source))
    differences, agreements = [], []
    for clean, own, source in runs:
        replacement = {}
        for node, value in own.items():
            written = [run[place][node][0] for run in runs for place in (1, 2)]
            means = [
                torch.stack([values[pos] for values in written if pos < len(values)]).mean(0)
                for pos in range(clean.shape[1])
            ]
            replacement[node] = {
                "resample": source[node][:, : clean.shape[1]],
                "zero": torch.zeros_like(value),
                "mean": torch.stack(means)[None],
            }[ablation]
        found = interchange(hooked, clean, [edge for edge in UNIVERSE if edge not in kept], replacement)[0, 1:]
        expected = hooked(clean)[0, 1:]
        if data.categorical:
            p, q = expected.log_softmax(-1), found.log_softmax(-1)
            differences.append(float((p.exp() * (p - q)).sum(-1).mean()))
            agreements.append(float((expected.argmax(-1) == found.argmax(-1)).double().mean()))
        else:
            differences.append(float(((expected - found)[:, 0] ** 2).mean()))
            agreements.append(float(((expected - found)[:, 0].abs() < 0.05).double().mean()))
    return float(np.mean(differences)), float(np.mean(agreements))


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("n_outputs", [1, 4])
def test_an_ablated_model_does_what_hooks_make_of_it(ablation, n_outputs):
    shape = TransformerConfig(**(SHAPE.to_dict() | {"d_vocab_out": n_outputs, "attention_dir": "bidirectional"}))
    model, data = random_model(shape), random_data(shape, longer=True)
    draws = random.Random(0)
    kept = [set(draws.sample(UNIVERSE, size)) for size in (0, 10, 60, len(UNIVERSE) - 5)]
    found = AblatedModel(model, data, ablation=ablation).behaviour(kept)
    for place, edges in enumerate(kept):
        difference, agreement = by_hooks(model, data, edges, ablation)
        assert found.difference[place] == pytest.approx(difference, rel=1e-3, abs=1e-6)
        assert found.agreement[place] == pytest.approx(agreement)
    assert found.difference[0] > 1e-2 and found.agreement[0] < 1


def test_keeping_all_is_the_model_and_keeping_none_is_the_corrupted_input():
    model, data = random_model(SHAPE), random_data(SHAPE)
    ablated = AblatedModel(model, data)
    found = ablated.behaviour([UNIVERSE, []])
    assert found.difference[0] == pytest.approx(0, abs=1e-6) and found.agreement[0] == 1
    corrupted = data.difference(model(data.corrupted, data.corrupted_lengths), model(data.clean, data.lengths))
    assert found.difference[1] == pytest.approx(float(corrupted.detach().mean()), rel=1e-4)
    by_difference, by_agreement = ablated.faithfulness([UNIVERSE, []])
    assert by_difference is not None and by_agreement is not None
    assert by_difference.tolist() == pytest.approx([1, 0]) and by_agreement.tolist() == pytest.approx([1, 0])


def test_an_edge_into_a_head_as_a_whole_keeps_its_slots():
    ablated = AblatedModel(random_model(SHAPE), random_data(SHAPE))
    some = random.Random(1).sample(Circuit(2, 3, []).to_head_level().universe, 30)
    slots = [edge for whole in some for edge in UNIVERSE if (edge.source, edge.target) == (whole.source, whole.target)]
    found = ablated.behaviour([some, slots, set(UNIVERSE) - set(slots)])
    assert found.difference[0] == found.difference[1] != found.difference[2]


def test_an_ablated_model_refuses_what_cannot_be():
    model, data = random_model(SHAPE), random_data(SHAPE)
    with pytest.raises(SettingError, match="ablation 'noise' is not one of resample, zero, mean"):
        AblatedModel(model, data, ablation="noise")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"edge m0->m2 does not exist in a model with 2 layers"):
        AblatedModel(model, data).behaviour([[Edge.parse("m0->m2")]])


def test_a_model_that_the_ablation_leaves_as_it_is_has_no_faithfulness():
    model, data = random_model(SHAPE), random_data(SHAPE)
    same = PairData(data.clean, data.clean, data.lengths, data.lengths, data.categorical)
    ablated = AblatedModel(model, same)
    assert ablated.faithfulness([UNIVERSE])[1] is None
    found = faithfulness_metrics(EdgeScores(UNIVERSE, range(len(UNIVERSE))), TRUE, ablated)
    assert found["cpr_agreement"] is found["completeness"] is found["sparsity"] is None


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_a_perfect_ranking_has_perfect_metrics():
    scores = EdgeScores.of(UNIVERSE, {edge: 1.0 for edge in TRUE.of_kind("varying")}, missing=0)
    found = ranking_metrics(scores, TRUE)
    assert found.pop("hamming_at_size") == 0
    assert set(found.values()) == {1.0}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_ranking_metrics_are_what_counting_gives(seed, merge):
    draws = random.Random(seed)
    truth = TRUE.to_head_level() if merge else TRUE
    values = draws.sample(range(1000), len(truth.universe))
    scores = EdgeScores(truth.universe, values)
    found = ranking_metrics(scores, TRUE)
    positives = truth.of_kind("varying")
    negatives = truth.negatives
    wins = sum(scores[a] > scores[b] for a in positives for b in negatives)
    assert found["edge_auroc"] == pytest.approx(wins / (len(positives) * len(negatives)))
    counted = sorted(labels_of(truth).edges, key=lambda edge: -scores[edge])
    assert found["hamming_at_size"] == pytest.approx(structural_hamming_distance(counted[: len(positives)], truth))


def test_ties_at_the_border_count_in_expectation():
    found = ranking_metrics(EdgeScores(UNIVERSE, [1.0] * len(UNIVERSE)), TRUE)
    share = 3 / (len(TRUE.negatives) + 3)
    assert found["precision_at_size"] == pytest.approx(share)
    assert found["hamming_at_size"] == pytest.approx(6 * (1 - share))


def test_faithfulness_metrics_are_what_definitions_give():
    model, data = random_model(SHAPE), random_data(SHAPE)
    ablated = AblatedModel(model, data)
    scores = EdgeScores(UNIVERSE, random.Random(3).sample(range(1000), len(UNIVERSE)))
    found = faithfulness_metrics(scores, TRUE, ablated, seed=5)

    def faithful(edges: Any) -> float:
        behaviour = ablated.behaviour([edges, []])
        return float(1 - behaviour.difference[0] / behaviour.difference[1])

    def agreeing(edges: Any) -> float:
        behaviour = ablated.behaviour([edges, []])
        return float((behaviour.agreement[0] - behaviour.agreement[1]) / (1 - behaviour.agreement[1]))

    curve = [faithful(scores.top(int(share * len(UNIVERSE)))) for share in MIB_FRACTIONS]
    area = sum((MIB_FRACTIONS[i + 1] - MIB_FRACTIONS[i]) * (curve[i] + curve[i + 1]) / 2 for i in range(len(curve) - 1))
    assert found["cpr"] == pytest.approx(area, rel=1e-4)
    # The found circuit: the best three of the edges that count, and what does not count.
    counted = sorted(labels_of(TRUE).edges, key=lambda edge: -scores[edge])
    circuit = {*counted[:3], *TRUE.of_kind("constant", "inert")}
    assert found["faithfulness_at_size"] == pytest.approx(faithful(circuit), abs=1e-5)
    losses = [abs(agreeing(circuit - {edge}) - agreeing(circuit)) for edge in counted[:3]]
    assert found["minimality"] == pytest.approx(min(losses), abs=1e-6)
    singles = [abs(agreeing(circuit - {edge}) - agreeing(set(UNIVERSE) - {edge})) for edge in counted[:3]]
    completeness = found["completeness"]
    assert completeness is not None and completeness <= 1 - max(singles) + 1e-6
    sparsity = found["sparsity"]
    assert sparsity is not None
    size = round((1 - sparsity) * len(UNIVERSE))
    assert agreeing(scores.top(size)) >= 0.99


@pytest.mark.parametrize("name", ["case_3", "case_8"])
def test_the_true_circuit_of_a_certified_model_is_faithful_at_its_size(name):
    circuit, data = load_circuit(name), PairData.of(name, n_pairs=64)
    model = to_transformer(load_model(name))
    scores = exhaustive_patching(model, circuit.universe, data)
    found = ranking_metrics(scores, circuit) | faithfulness_metrics(scores, circuit, AblatedModel(model, data))
    assert set(found) == set(METRICS)
    assert found["edge_auroc"] == found["node_auroc"] == found["precision_at_size"] == 1
    assert found["agreement_at_size"] == 1 and found["faithfulness_at_size"] == pytest.approx(1, abs=1e-3)
    n_varying = len(circuit.of_kind("varying"))
    assert found["sparsity"] == pytest.approx(1 - n_varying / len(circuit.universe))


# -- granularities -----------------------------------------------------------------------------------------------------


def test_scores_come_to_every_granularity_they_can_be_brought_to():
    edges = EdgeScores(UNIVERSE, random.Random(0).sample(range(1000), len(UNIVERSE)))
    heads = at_granularity(edges, UNIVERSE, "edge")
    nodes = at_granularity(edges, UNIVERSE, "node")
    assert heads["m0->a1.h0"] == max(edges[f"m0->a1.h0<{slot}>"] for slot in "qkv")
    of_m0 = [score for edge, score in edges.items() if "m0" in str(edge)]
    assert nodes["m0"] == max(of_m0) and "logits" not in nodes
    lifted = at_granularity(nodes, UNIVERSE, "qkv-edge")
    assert lifted["m0->a1.h0<q>"] == min(nodes["m0"], nodes["a1.h0"])
    assert tuple(at_granularity(nodes, UNIVERSE, "edge")) == tuple(heads)
    with pytest.raises(SettingError, match="say nothing of their q, k and v; evaluate at granularity edge"):
        at_granularity(heads, UNIVERSE, "qkv-edge")
    with pytest.raises(SettingError, match=r"1 have none \(embed->a0\.h0<q>\)"):
        at_granularity(EdgeScores(UNIVERSE[1:], edges.array[1:]), UNIVERSE, "qkv-edge")
    with pytest.raises(SettingError, match="are not among them"):
        at_granularity(edges, Circuit(2, 2, []).universe, "qkv-edge")
    backwards = EdgeScores(UNIVERSE[::-1], edges.array[::-1])
    assert at_granularity(backwards, UNIVERSE, "qkv-edge") == edges


# -- costs -------------------------------------------------------------------------------------------------------------


def test_passes_are_counted_forwards_and_backwards():
    model, data = random_model(SHAPE), random_data(SHAPE)
    with measured(model) as usage:
        with torch.no_grad():
            model.run(data.clean, data.lengths)
        logits = model(data.clean[:2])
        torch.autograd.grad(logits.sum(), list(model._leaves.values()))
        model.resume(torch.zeros(3, 4, SHAPE.d_model), 1, None)
    assert (usage.forward_rows, usage.backward_rows) == (len(data) + 2 + 3, 2)
    model(data.clean)
    assert usage.forward_rows == len(data) + 5
    assert usage.wall_seconds > 0 and usage.cpu_seconds > 0


def test_passes_of_a_hooked_transformer_are_counted():
    hooked = to_hooked_transformer(SHAPE, random_model(SHAPE).state_dict())
    data = random_data(SHAPE)
    with measured(hooked) as usage:
        hooked(data.clean).sum().backward()
        with torch.no_grad():
            to_transformer(hooked)(data.clean)
    assert (usage.forward_rows, usage.backward_rows) == (2 * len(data), len(data))
    hooked(data.clean)
    assert usage.forward_rows == 2 * len(data)


def test_counting_ends_with_an_exception():
    before = Transformer.unembed
    with pytest.raises(ValueError), measured(random_model(SHAPE)):
        raise ValueError
    assert Transformer.unembed is before


def test_memory_is_what_the_call_takes_at_its_most():
    model = random_model(SHAPE)
    with measured(model) as usage:
        torch.ones(64 * 2**20, dtype=torch.uint8)
    with measured(model) as little:
        pass
    if usage.peak_memory_mb is None:
        pytest.skip("this system does not say")
    assert 60 < usage.peak_memory_mb < 100
    assert little.peak_memory_mb is not None and little.peak_memory_mb < 10
