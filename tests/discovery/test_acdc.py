"""ACDC: against the algorithm as it is written, by hooks and plain interchange, and on models with a known circuit."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interpbench_hub.circuit import SLOTS, Circuit, Edge, Node
from interpbench_hub.discovery import acdc as acdc_module
from interpbench_hub.discovery.acdc import acdc, acdc_circuit
from interpbench_hub.discovery.data import PairData
from interpbench_hub.discovery.exhaustive import ABLATIONS
from interpbench_hub.discovery.masks import MaskedModel
from interpbench_hub.discovery.scores import scored_items
from interpbench_hub.errors import SettingError
from interpbench_hub.loader import load_circuit, load_model, to_hooked_transformer
from interpbench_hub.transformer import Transformer
from tests.discovery.test_exhaustive import SHAPE, random_data, random_model
from tests.hooked import interchange, senders_of

SMALL = replace(SHAPE, n_heads=2)
UNIVERSE = Circuit(2, 2, []).universe
THRESHOLDS = (1e-3, 0.003, 0.01, 0.03, 0.1, 0.3)


# -- the algorithm as it is written ------------------------------------------------------------------------------------


def in_order(items):
    """Receivers from the logits backwards, q before k before v, senders of each backwards: by sorting three times."""
    if isinstance(items[0], Node):
        return sorted(items, reverse=True)
    backwards = sorted(items, key=lambda edge: edge.source, reverse=True)
    by_slot = sorted(backwards, key=lambda edge: SLOTS.index(edge.slot) if edge.slot else 0)
    return sorted(by_slot, key=lambda edge: edge.target, reverse=True)


def sequential(items, threshold, difference) -> set:
    """Algorithm 1 of the paper; `difference(removed)` runs the model. Decisions too close to call are refused."""
    removed, current = [], difference([])
    for item in in_order(items):
        after = difference([*removed, item])
        assert abs(after - current - threshold) > 1e-5 * max(1, threshold), "too close to call: take another seed"
        if after - current < threshold:
            removed.append(item)
            current = after
    return set(items) - set(removed)


def by_interchange(model: Transformer, data: PairData):
    """Mean difference with items removed, by one plain pass over all pairs."""
    base = model.run(data.clean, data.lengths)
    source = model.run(data.corrupted, data.corrupted_lengths)

    def difference(removed) -> float:
        edges = [
            edge
            for edge in model.config.edges
            if edge in removed or edge.without_slot in removed or edge.source in removed
        ]
        mask = model.config.mask_of(edges)[None]
        logits = model.interchange(base.senders, source.senders, mask, data.lengths)
        return float(data.difference(logits, base.logits).double().mean())

    return difference


def by_hooks(hooked, data: PairData, ablation: str):
    """The same by hooks of TransformerLens, a pair at a time."""
    pairs = []
    for row, (length, other) in enumerate(zip(data.lengths.tolist(), data.corrupted_lengths.tolist(), strict=True)):
        clean = data.clean[row : row + 1, :length]
        source = senders_of(hooked, data.corrupted[row : row + 1, :other])
        zeros = {node: torch.zeros_like(value) for node, value in source.items()}
        replacement = {"resample": source, "zero": zeros}[ablation]
        pairs.append((clean, {node: value[:, :length] for node, value in replacement.items()}, hooked(clean)[0, 1:]))

    def difference(removed: list[Edge]) -> float:
        total = 0.0
        for clean, replacement, reference in pairs:
            expected = reference.log_softmax(-1)
            found = interchange(hooked, clean, removed, replacement)[0, 1:].log_softmax(-1)
            total += float((expected.exp() * (expected - found)).sum(-1).mean())
        return total / len(pairs)

    return difference


@pytest.mark.parametrize("ablation, threshold", [("resample", 0.03), ("zero", 0.1)])
@torch.no_grad()
def test_the_circuit_is_that_of_the_algorithm_run_with_hooks(ablation, threshold):
    model, data = random_model(SMALL), random_data(SMALL, longer=True)
    hooked = to_hooked_transformer(SMALL, model.state_dict())
    expected = sequential(UNIVERSE, threshold, by_hooks(hooked, data, ablation))
    assert 0 < len(expected) < len(UNIVERSE)
    assert acdc_circuit(hooked, UNIVERSE, data, threshold=threshold, ablation=ablation) == expected


@pytest.mark.parametrize("granularity, outputs", [("qkv-edge", 4), ("edge", 1), ("node", 4)])
@torch.no_grad()
def test_a_sweep_is_what_its_thresholds_give_alone(granularity, outputs):
    shape = replace(SMALL, d_vocab_out=outputs)
    # Data on which no decision is too close to call.
    model, data = random_model(shape), random_data(shape, longer=True, seed=2)
    items = scored_items(UNIVERSE, granularity)
    difference = by_interchange(model, data)
    kept = {threshold: sequential(items, threshold, difference) for threshold in THRESHOLDS}
    assert len({frozenset(circuit) for circuit in kept.values()}) > 3
    expected = [max((level for level, circuit in kept.items() if item in circuit), default=0) for item in items]
    found = acdc(model, UNIVERSE, data, granularity=granularity, thresholds=THRESHOLDS[::-1])
    assert found.array.tolist() == expected
    for threshold in THRESHOLDS[::2]:
        circuit = acdc_circuit(model, UNIVERSE, data, granularity=granularity, threshold=threshold)
        assert circuit == kept[threshold]


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 6), st.integers(5, 200), st.integers(1, 5))
def test_circuits_do_not_depend_on_how_far_ahead_candidates_are_tried(ahead, positions, every):
    model, data = random_model(SMALL), random_data(SMALL)
    expected = acdc(model, UNIVERSE[::every], data, thresholds=THRESHOLDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acdc_module, "_AHEAD", ahead)
        patch.setattr(acdc_module, "_POSITIONS", positions)
        assert acdc(model, UNIVERSE[::every], data, thresholds=THRESHOLDS) == expected


@torch.no_grad()
def test_edges_outside_the_universe_stay():
    model, data, some = random_model(SMALL), random_data(SMALL), UNIVERSE[::2]
    expected = sequential(some, 0.03, by_interchange(model, data))
    assert acdc_circuit(model, some, data, threshold=0.03) == expected


def test_a_sweep_shares_what_its_thresholds_have_in_common(monkeypatch):
    model, data, rows = random_model(SMALL), random_data(SMALL), []
    difference = MaskedModel.difference
    monkeypatch.setattr(
        MaskedModel,
        "difference",
        lambda self, *given, **more: (rows.append(len(given[1])), difference(self, *given, **more))[1],
    )
    alone = []
    for threshold in THRESHOLDS:
        rows.clear()
        acdc_circuit(model, UNIVERSE, data, threshold=threshold)
        alone.append(sum(rows))
    rows.clear()
    acdc(model, UNIVERSE, data, thresholds=THRESHOLDS)
    assert max(alone) < sum(rows) < 0.9 * sum(alone)
    rows.clear()
    # At a threshold that nothing reaches, the logits' candidates are tried, and nobody else is read any more.
    assert not acdc_circuit(model, UNIVERSE, data, threshold=1e6)
    senders = 8 - 1
    assert sum(rows) == senders * len(data)


# -- known circuits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [1e-3, 0.01, 0.05])
def test_case_3_is_recovered_exactly(threshold):
    circuit, data = load_circuit("case_3"), PairData.of("case_3")
    found = acdc_circuit(load_model("case_3"), circuit.universe, data, threshold=threshold)
    assert found == set(circuit.of_kind("varying")) != set(circuit)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("name", ["case_3", "case_13"])
def test_edges_of_the_circuit_survive_larger_thresholds_than_all_others(name, ablation):
    circuit = load_circuit(name)
    scores = acdc(load_model(name), circuit, PairData.of(name, n_pairs=96), ablation=ablation)
    inside = [scores[edge] for edge in circuit.of_kind("varying")]
    assert min(inside) >= 0.03 and max(scores[edge] for edge in circuit.negatives) <= 1e-3


def test_an_edge_whose_value_is_the_same_on_every_input_is_not_kept():
    model, data = random_model(SMALL), random_data(SMALL)
    kept = acdc_circuit(model, UNIVERSE, data, threshold=1e-9)
    assert kept and not [edge for edge in kept if str(edge).startswith("pos_embed->")]


# -- what it refuses, what it leaves alone -----------------------------------------------------------------------------


def test_it_refuses_what_cannot_be():
    model, data = random_model(SMALL), random_data(SMALL)
    with pytest.raises(SettingError, match="there are no thresholds; ACDC needs at least one"):
        acdc(model, UNIVERSE, data, thresholds=())
    for threshold in (0, -1, float("nan"), float("inf")):
        with pytest.raises(SettingError, match=r"threshold .* is not a finite number above 0"):
            acdc_circuit(model, UNIVERSE, data, threshold=threshold)
    with pytest.raises(SettingError, match="ablation 'noise' is not one of resample, zero, mean"):
        acdc(model, UNIVERSE, data, ablation="noise")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="which a model with 2 layers of 2 heads has not"):
        acdc(model, Circuit(3, 2, []), data)


def test_the_model_stays_as_it_is():
    model = random_model(SMALL)
    before = model.flat.detach().clone()
    acdc(model, UNIVERSE, random_data(SMALL), thresholds=[0.1])
    assert torch.equal(model.flat, before) and not model.flat.grad.any()  # type: ignore[union-attr]
