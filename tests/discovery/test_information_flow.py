"""Information flow routes: against a search of the graph of one input's tokens, at every threshold there is."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interpbench_hub.circuit import EMBED, LOGITS, POS_EMBED, SLOTS, Circuit, Edge, Node
from interpbench_hub.discovery import information_flow
from interpbench_hub.discovery.data import PairData
from interpbench_hub.discovery.exhaustive import ABLATIONS
from interpbench_hub.discovery.information_flow import information_flow_routes, shares
from interpbench_hub.discovery.labels import labels_of
from interpbench_hub.discovery.metrics import auroc
from interpbench_hub.errors import SettingError
from interpbench_hub.loader import load_circuit, load_model, to_hooked_transformer
from tests.discovery.test_exhaustive import SHAPE, random_data, random_model
from tests.hooked import input_hook, senders_of

UNIVERSE = Circuit(2, 3, []).universe
Place = tuple[Node, int]
"""What a sender writes at a position."""


# -- shares ------------------------------------------------------------------------------------------------------------


def test_shares_are_those_of_proximities_in_l1_norm():
    # |x| = 4. Without the first part 1 is left, without the second 3; the third leads away.
    parts = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-2.0, 0.0]])
    assert shares(parts, torch.tensor([3.0, 1.0])).tolist() == [0.75, 0.25, 0]


def test_there_are_no_shares_in_nothing():
    parts = torch.tensor([[1.0, -2.0], [-1.0, 2.0]])
    assert shares(parts, parts.sum(0)).tolist() == [0, 0]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.01, 100), parts=st.integers(1, 5))
def test_shares_add_up_to_one_whatever_the_scale(seed, scale, parts):
    values = torch.randn(parts, 3, 6, generator=torch.Generator().manual_seed(seed))
    found = shares(values, values.sum(0))
    total = found.sum(0)
    assert bool(((found >= 0) & (found <= 1)).all())
    torch.testing.assert_close(total, (total > 0).float())
    torch.testing.assert_close(shares(scale * values, scale * values.sum(0)), found, rtol=1e-3, atol=1e-4)


# -- one input's graph of tokens, by hooks -----------------------------------------------------------------------------


def proximity(part: Tensor, whole: Tensor) -> float:
    return max(0.0, float(whole.abs().sum() - (whole - part).abs().sum()))


def token_graph(hooked, tokens: Tensor) -> dict[tuple[Edge, int], float]:
    """Shares of every edge at every position where its receiver reads."""
    written = senders_of(hooked, tokens)
    _, cache = hooked.run_with_cache(tokens)
    found = {}
    for one in {(edge.target, edge.slot): edge for edge in UNIVERSE}.values():
        receiver = one.target
        edges = [edge for edge in UNIVERSE if (edge.target, edge.slot) == (receiver, one.slot)]
        read = cache[input_hook(hooked, receiver, one.slot)][0]
        for pos in range(tokens.shape[1]):
            whole = read[pos, receiver.head] if read.ndim == 3 else read[pos]
            near = {edge: proximity(written[edge.source][0, pos], whole) for edge in edges}
            total = sum(near.values())
            found |= {(edge, pos): value / total if total else 0.0 for edge, value in near.items()}
    return found


def head_shares(hooked, tokens: Tensor) -> dict[tuple[Node, int, int], float]:
    """Shares of every key position in what a head writes at a query position: by (head, key, query)."""
    _, cache = hooked.run_with_cache(tokens)
    found = {}
    width = tokens.shape[1]
    for layer in range(hooked.cfg.n_layers):
        for head in range(hooked.cfg.n_heads):
            pattern, values = cache["pattern", layer][0, head], cache["v", layer][0, :, head]
            for query in range(width):
                terms = [pattern[query, key] * (values[key] @ hooked.W_O[layer, head]) for key in range(width)]
                near = [proximity(term, sum(terms)) for term in terms]  # type: ignore[arg-type]
                for key in range(width):
                    found[Node.of_head(layer, head), key, query] = near[key] / sum(near) if sum(near) else 0.0
    return found


def largest_thresholds(hooked, tokens: Tensor, counted: list[int]) -> dict[Edge, float]:
    """For every edge the largest threshold at which a walk down from the logits meets it, by trying each threshold."""
    graph, within = token_graph(hooked, tokens), head_shares(hooked, tokens)
    width = tokens.shape[1]
    best = dict.fromkeys(UNIVERSE, 0.0)
    for threshold in sorted({*graph.values(), *within.values()} - {0.0}):
        waiting: list[Place] = [(LOGITS, pos) for pos in counted]
        seen = set(waiting)
        while waiting:
            node, pos = waiting.pop()
            for edge in (edge for edge in UNIVERSE if edge.target == node):
                # A head at a query position is read at the positions that lead to what it writes there.
                keys = [key for key in range(width) if node.is_head and within[node, key, pos] >= threshold]
                for at in keys if edge.slot in ("k", "v") else [pos]:
                    if graph[edge, at] >= threshold:
                        best[edge] = max(best[edge], threshold)
                        if (edge.source, at) not in seen:
                            seen.add((edge.source, at))
                            waiting.append((edge.source, at))
    return best


@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
@torch.no_grad()
def test_scores_are_the_largest_thresholds_at_which_a_walk_from_the_output_meets_an_edge(direction, last_only):
    shape = replace(SHAPE, attention_dir=direction)
    data = random_data(shape, longer=True).rows(torch.tensor([1, 0, 3]))
    if last_only:
        data = replace(data, counted=torch.arange(data.clean.shape[1]) == data.lengths[:, None] - 1)
    hooked = to_hooked_transformer(shape, random_model(shape).state_dict())
    expected = dict.fromkeys(UNIVERSE, 0.0)
    for tokens, length, real in zip(data.clean, data.lengths.tolist(), data.real, strict=True):
        counted = real.nonzero()[:, 0].tolist()
        for edge, threshold in largest_thresholds(hooked, tokens[None, :length], counted).items():
            expected[edge] += threshold / len(data)
    assert len(set(expected.values())) > 20
    assert dict(information_flow_routes(hooked, UNIVERSE, data)) == pytest.approx(expected, rel=1e-3, abs=1e-5)


@torch.no_grad()
def test_local_scores_are_mean_shares():
    data = random_data(SHAPE)
    hooked = to_hooked_transformer(SHAPE, random_model(SHAPE).state_dict())
    expected = dict.fromkeys(UNIVERSE, 0.0)
    for tokens, length in zip(data.clean, data.lengths.tolist(), strict=True):
        graph = token_graph(hooked, tokens[None, :length])
        for edge in UNIVERSE:
            expected[edge] += sum(graph[edge, pos] for pos in range(1, length)) / (length - 1) / len(data)
    found = information_flow_routes(hooked, UNIVERSE, data, extent="local")
    assert dict(found) == pytest.approx(expected, rel=1e-3, abs=1e-5)


# -- what they do and do not depend on ---------------------------------------------------------------------------------


def test_corrupted_inputs_and_ablations_change_nothing():
    model, data = random_model(SHAPE), random_data(SHAPE)
    scores = information_flow_routes(model, UNIVERSE, data)
    other = PairData(data.clean, data.clean, data.lengths, data.lengths, data.categorical)
    for ablation in ABLATIONS:
        assert information_flow_routes(model, UNIVERSE, other, ablation=ablation) == scores


@pytest.mark.parametrize("extent", ["routes", "local"])
def test_scores_do_not_depend_on_batches(extent, monkeypatch):
    model, data = random_model(SHAPE), random_data(SHAPE)
    at_once = dict(information_flow_routes(model, UNIVERSE, data, extent=extent))
    monkeypatch.setattr(information_flow, "_FLOATS", 1)
    alone = dict(information_flow_routes(model, UNIVERSE, data, extent=extent))
    assert alone == pytest.approx(at_once, rel=1e-3, abs=1e-5)


def test_wholes_have_the_largest_score_of_their_parts_on_each_input():
    model = random_model(SHAPE)
    for row in range(5):
        data = random_data(SHAPE).rows(slice(row, row + 1))
        slots = information_flow_routes(model, UNIVERSE, data)
        heads = information_flow_routes(model, UNIVERSE, data, granularity="edge")
        nodes = information_flow_routes(model, UNIVERSE, data, granularity="node")
        assert heads == slots.to_head_level()
        assert dict(nodes) == {node: max(slots[edge] for edge in UNIVERSE if edge.source == node) for node in nodes}


def test_an_edge_is_no_wider_than_what_leads_on_from_its_receiver():
    data = random_data(SHAPE)
    for row in range(len(data)):
        scores = information_flow_routes(random_model(SHAPE), UNIVERSE, data.rows(slice(row, row + 1)))
        for edge in UNIVERSE:
            if edge.target != LOGITS:
                assert scores[edge] <= max(scores[on] for on in UNIVERSE if on.source == edge.target)


def test_it_refuses_what_cannot_be():
    model, data = random_model(SHAPE), random_data(SHAPE)
    with pytest.raises(SettingError, match="ablation 'noise' is not one of resample, zero, mean"):
        information_flow_routes(model, UNIVERSE, data, ablation="noise")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="extent 'global' is not one of routes, local"):
        information_flow_routes(model, UNIVERSE, data, extent="global")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="which a model with 2 layers of 3 heads has not"):
        information_flow_routes(model, Circuit(3, 3, []), data)


# -- on models whose circuit is known ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["case_3", "case_11", "case_20"])
def test_routes_find_more_of_a_circuit_than_shares_alone(name):
    circuit, data, model = load_circuit(name), PairData.of(name, n_pairs=64), load_model(name)
    edges, is_positive = labels_of(circuit)
    routes, local = (
        auroc([scores[edge] for edge in edges], is_positive)
        for scores in (
            information_flow_routes(model, circuit.universe, data, extent=extent) for extent in ("routes", "local")
        )
    )
    assert routes is not None and local is not None
    assert routes > 0.97 and routes > local + 0.05


def test_shares_alone_cannot_tell_the_slots_of_a_head_apart():
    scores = information_flow_routes(random_model(SHAPE), UNIVERSE, random_data(SHAPE), extent="local")
    for source in (EMBED, POS_EMBED, Node("m0")):
        assert len({scores[Edge(source, Node("a1.h0"), slot)] for slot in SLOTS}) == 1
