"""Edge pruning: against the same updates by torch's own Adam, the sparsity it is to reach, and known circuits."""

import math

import pytest
import torch

from interpbench_hub.circuit import POS_EMBED, Circuit, Edge
from interpbench_hub.discovery.data import PairData
from interpbench_hub.discovery.edge_pruning import edge_pruning
from interpbench_hub.discovery.exhaustive import ABLATIONS
from interpbench_hub.errors import SettingError
from interpbench_hub.loader import load_circuit, load_model
from tests.discovery.test_exhaustive import SHAPE, auroc, random_data, random_model

UNIVERSE = Circuit(2, 3, []).universe


def by_torch(
    model, data: PairData, target: float, steps: int, rate: float, multiplier_rate: float
) -> dict[Edge, float]:
    """The paper's updates on all pairs at once, one optimiser that goes down in the gates and up in the multipliers."""
    config, n_pairs = model.config, len(data)
    with torch.no_grad():
        base, source = model.run(data.clean, data.lengths), model.run(data.corrupted, data.corrupted_lengths)
    log_alpha = torch.full((len(config.edges),), 3.0, requires_grad=True)
    multipliers = torch.zeros(2, requires_grad=True)
    down = torch.optim.Adam([log_alpha], lr=rate)
    up = torch.optim.Adam([multipliers], lr=multiplier_rate, maximize=True)
    generator = torch.Generator().manual_seed(0)
    for step in range(1, steps + 1):
        pairs = torch.randperm(n_pairs, generator=generator)
        uniform = torch.rand(n_pairs, len(config.edges), generator=generator)
        stretched = 1.2 * torch.sigmoid((uniform.log() - (1 - uniform).log() + log_alpha) / (2 / 3)) - 0.1
        gates = torch.nn.functional.hardtanh(stretched, 0, 1)
        mask = torch.zeros(n_pairs, len(config.receivers), len(config.senders))
        for number, edge in enumerate(config.edges):
            mask[:, config.edge_places[edge][0], config.edge_places[edge][1]] = 1 - gates[:, number]
        logits = model.interchange(base.senders[:, pairs], source.senders[:, pairs], mask, data.lengths[pairs])
        sparsity = torch.sigmoid(-log_alpha - 2 / 3 * math.log(11)).mean()
        gap = target * min(1, 6 * step / (5 * steps)) - sparsity
        loss = data.rows(pairs).difference(logits, base.logits[pairs]).mean()
        loss = loss + multipliers[0] * gap + multipliers[1] * gap**2
        log_alpha.grad, multipliers.grad = torch.autograd.grad(loss, [log_alpha, multipliers])
        down.step()
        up.step()
    return dict(zip(config.edges, torch.sigmoid(log_alpha.detach() + 2 / 3 * math.log(11)).tolist(), strict=True))


def test_scores_are_those_of_the_same_updates_by_torch():
    model, data = random_model(SHAPE), random_data(SHAPE, longer=True)
    found = edge_pruning(
        model, UNIVERSE, data, target_sparsity=0.8, steps=12, batch_size=5, learning_rate=0.3, multiplier_rate=0.2
    )
    expected = by_torch(model, data, 0.8, 12, 0.3, 0.2)
    assert dict(found) == pytest.approx(expected, rel=2e-3)
    assert max(expected.values()) - min(expected.values()) > 0.01
    assert not model.flat.grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("target", [0.5, 0.95])
def test_the_sparsity_asked_for_is_reached(target):
    found = edge_pruning(
        load_model("case_3"), Circuit(2, 4, []), PairData.of("case_3", n_pairs=64), target_sparsity=target, steps=240
    )
    assert 1 - found.array.mean() == pytest.approx(target, abs=0.03)


def test_what_never_differs_is_closed_like_all_that_does_nothing():
    circuit = load_circuit("case_3")
    found = edge_pruning(load_model("case_3"), circuit, PairData.of("case_3", n_pairs=64), steps=240)
    assert max(found[edge] for edge in found.edges if edge.source == POS_EMBED) < 0.05
    assert min(found[edge] for edge in circuit.of_kind("varying")) > 0.99


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_edges_of_case_3_are_found(ablation):
    circuit, data = load_circuit("case_3"), PairData.of("case_3", n_pairs=64)
    scores = edge_pruning(load_model("case_3"), circuit, data, ablation=ablation, steps=160)
    assert auroc(scores, circuit) == 1


def test_heads_and_nodes_as_wholes_have_gates_of_their_own():
    model, data = random_model(SHAPE), random_data(SHAPE)
    heads = edge_pruning(model, UNIVERSE, data, granularity="edge", steps=3)
    nodes = edge_pruning(model, UNIVERSE, data, granularity="node", steps=3)
    assert tuple(heads) == Circuit(2, 3, []).to_head_level().universe and tuple(nodes) == SHAPE.senders


def test_the_same_seed_gives_the_same_scores():
    model, data = random_model(SHAPE), random_data(SHAPE)
    first, again, other = (edge_pruning(model, UNIVERSE, data, steps=4, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_it_refuses_what_cannot_be():
    model, data = random_model(SHAPE), random_data(SHAPE)
    for wrong, match in [
        ({"target_sparsity": 0}, "target_sparsity is 0; it is a share of gates, above 0 and at most 1"),
        ({"target_sparsity": 1.5}, r"target_sparsity is 1\.5; it is a share of gates"),
        ({"steps": True}, "steps is True; it is a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size is 0; it is a whole number of at least 1"),
        ({"learning_rate": 0}, "learning_rate is 0; it is a finite number above 0"),
        ({"multiplier_rate": -1}, "multiplier_rate is -1; it is a finite number above 0"),
        ({"ablation": "noise"}, "ablation 'noise' is not one of resample, zero, mean"),
    ]:
        with pytest.raises(SettingError, match=match):
            edge_pruning(model, UNIVERSE, data, **wrong)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["case_4", "case_8", "case_18", "trend"])
def test_edges_of_certified_models_are_found(name):
    circuit = load_circuit(name)
    assert auroc(edge_pruning(load_model(name), circuit, PairData.of(name)), circuit) > 0.99
