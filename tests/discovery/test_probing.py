"""Subnetwork probing: against the same updates by torch's own Adam, what must close or stay, and known circuits."""

import math
from typing import Any

import pytest
import torch

from interpbench_hub.circuit import EMBED, LOGITS, POS_EMBED, Circuit, Edge, Node
from interpbench_hub.discovery.data import PairData
from interpbench_hub.discovery.exhaustive import ABLATIONS
from interpbench_hub.discovery.labels import node_labels_of
from interpbench_hub.discovery.masks import chance_open, location_of
from interpbench_hub.discovery.metrics import auroc
from interpbench_hub.discovery.probing import edge_subnetwork_probing, node_subnetwork_probing
from interpbench_hub.errors import SettingError
from interpbench_hub.loader import load_circuit, load_model
from tests.discovery.test_exhaustive import SHAPE, random_data, random_model
from tests.discovery.test_exhaustive import auroc as edge_auroc

UNIVERSE = Circuit(2, 3, []).universe


def by_torch(
    model, data: PairData, penalty: float, steps: int, rate: float, *, nodes: bool
) -> dict[Edge | Node, float]:
    """Gates of one penalty learned on all pairs at once by torch's own optimiser and a loop over edges."""
    config, n_pairs = model.config, len(data)
    with torch.no_grad():
        base, source = model.run(data.clean, data.lengths), model.run(data.corrupted, data.corrupted_lengths)
    items: list[Edge | Node] = list(config.senders if nodes else config.edges)
    log_alpha = torch.full((len(items),), 2 / 3 * math.log(1.0 / 0.2), requires_grad=True)
    optimiser = torch.optim.Adam([log_alpha], lr=rate)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        # The package's own order of draws: a batch of pairs, then a number for every gate of every pair.
        pairs = torch.randperm(n_pairs, generator=generator)
        uniform = torch.rand(1, n_pairs, len(items), generator=generator)[0]
        stretched = 1.2 * torch.sigmoid((uniform.log() - (1 - uniform).log() + log_alpha) / (2 / 3)) - 0.1
        gates = torch.nn.functional.hardtanh(stretched, 0, 1)
        mask = torch.zeros(n_pairs, len(config.receivers), len(config.senders))
        for edge, (receiver, sender) in config.edge_places.items():
            mask[:, receiver, sender] = 1 - gates[:, items.index(edge.source if nodes else edge)]
        logits = model.interchange(base.senders[:, pairs], source.senders[:, pairs], mask, data.lengths[pairs])
        loss = data.rows(pairs).difference(logits, base.logits[pairs]).mean()
        loss = loss + penalty * torch.sigmoid(log_alpha + 2 / 3 * math.log(11)).mean()
        (log_alpha.grad,) = torch.autograd.grad(loss, [log_alpha])
        optimiser.step()
    open_chance = torch.sigmoid(log_alpha.detach() + 2 / 3 * math.log(11))
    return dict(zip(items, open_chance.tolist(), strict=True))


@pytest.mark.parametrize("nodes", [False, True])
def test_scores_are_those_of_the_same_updates_by_torch(nodes):
    model, data = random_model(SHAPE), random_data(SHAPE, longer=True)
    expected = by_torch(model, data, 3.0, 8, 0.05, nodes=nodes)
    options: dict[str, Any] = {"penalties": [3.0], "steps": 8, "learning_rate": 0.05, "batch_size": 5}
    if nodes:
        found = node_subnetwork_probing(model, UNIVERSE, data, granularity="node", **options)
    else:
        found = edge_subnetwork_probing(model, UNIVERSE, data, **options)
    assert dict(found) == pytest.approx(expected, rel=1e-3)
    assert max(expected.values()) - min(expected.values()) > 0.01
    # Nor did it touch the model.
    assert not model.flat.grad.any()  # type: ignore[union-attr]


def test_gates_of_what_never_differs_close_by_one_step_at_a_time():
    # Adam's first update is the learning rate whatever the gradient, here that of the penalty alone.
    found = edge_subnetwork_probing(
        random_model(SHAPE), UNIVERSE, random_data(SHAPE), steps=1, learning_rate=0.25, penalties=[0.5, 7]
    )
    expected = float(chance_open(torch.tensor(location_of(0.9) - 0.25)))
    of_position = [found[edge] for edge in found.edges if edge.source == POS_EMBED]
    assert of_position == pytest.approx([expected] * len(of_position), rel=1e-4)


def test_a_larger_penalty_closes_more():
    model, data = load_model("case_4"), PairData.of("case_4", n_pairs=64)
    means = [
        edge_subnetwork_probing(model, Circuit(2, 4, []), data, penalties=[penalty], steps=80).array.mean()
        for penalty in (0.03, 3, 300)
    ]
    assert means[0] > 1.5 * means[1] > 1.5 * means[2]


def test_the_same_seed_gives_the_same_scores():
    model, data = random_model(SHAPE), random_data(SHAPE)
    first, again, other = (edge_subnetwork_probing(model, UNIVERSE, data, steps=4, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_scores_of_nodes_are_lifted_to_edges_by_their_smaller_end():
    model, data = random_model(SHAPE), random_data(SHAPE)
    options: dict[str, Any] = {"steps": 10, "batch_size": 2}
    nodes = node_subnetwork_probing(model, UNIVERSE, data, granularity="node", **options)
    assert tuple(nodes) == SHAPE.senders
    for granularity in (None, "edge"):
        edges = node_subnetwork_probing(model, UNIVERSE, data, granularity=granularity, **options)
        assert edges.granularity == (granularity or "qkv-edge")
        for edge in edges.edges:
            ends = [nodes[node] for node in (edge.source, edge.target) if node not in (EMBED, POS_EMBED, LOGITS)]
            if ends:
                assert edges[edge] == min(ends)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_edges_and_nodes_of_case_3_are_found(ablation):
    circuit, model, data = load_circuit("case_3"), load_model("case_3"), PairData.of("case_3", n_pairs=64)
    options: dict[str, Any] = {"ablation": ablation, "steps": 80}
    assert edge_auroc(edge_subnetwork_probing(model, circuit, data, **options), circuit) == 1
    scores = node_subnetwork_probing(model, circuit, data, granularity="node", **options)
    nodes, is_positive = node_labels_of(circuit)
    assert auroc([scores[node] for node in nodes], is_positive) == 1


def test_it_refuses_what_cannot_be():
    model, data = random_model(SHAPE), random_data(SHAPE)
    for wrong, match in [
        ({"penalties": []}, "there are no penalties; subnetwork probing needs at least one"),
        ({"penalties": [1, 0]}, "a penalty is 0; it is a finite number above 0"),
        ({"steps": 0}, "steps is 0; it is a whole number of at least 1"),
        ({"batch_size": 1.5}, r"batch_size is 1\.5; it is a whole number of at least 1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; it is a finite number above 0"),
        ({"ablation": "noise"}, "ablation 'noise' is not one of resample, zero, mean"),
        ({"granularity": "layer"}, "granularity 'layer' is not one of"),
    ]:
        for method in (edge_subnetwork_probing, node_subnetwork_probing):
            with pytest.raises(SettingError, match=match):
                method(model, UNIVERSE, data, **wrong)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["case_4", "case_8", "case_18", "trend"])
def test_edges_of_certified_models_are_found(name):
    circuit = load_circuit(name)
    assert edge_auroc(edge_subnetwork_probing(load_model(name), circuit, PairData.of(name)), circuit) > 0.99
