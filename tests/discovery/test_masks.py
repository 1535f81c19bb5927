"""Masked models and gates: against hooks, plain interchange, finite differences and the distribution written down."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import logistic

from interpbench_hub.circuit import Circuit
from interpbench_hub.discovery.data import output_difference
from interpbench_hub.discovery.exhaustive import ABLATIONS
from interpbench_hub.discovery.masks import MaskedModel, chance_open, item_places, location_of, sample_gates
from interpbench_hub.discovery.scores import Universe, scored_items
from interpbench_hub.errors import SettingError
from interpbench_hub.loader import to_hooked_transformer
from tests.discovery.test_exhaustive import SHAPE, random_data, random_model
from tests.hooked import interchange, senders_of

UNIVERSE = Circuit(2, 3, []).universe


def masked_model(*, ablation: Any = "resample", granularity=None, universe: Universe = UNIVERSE) -> MaskedModel:
    data = random_data(SHAPE, longer=True)
    return MaskedModel(random_model(SHAPE), universe, data, ablation=ablation, granularity=granularity)


@pytest.fixture
def doubles() -> Iterator[None]:
    """Models and data in double precision, for differences of small steps."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# -- gates -------------------------------------------------------------------------------------------------------------


@given(st.floats(-8, 8))
def test_the_chance_of_an_open_gate_is_that_of_its_draws(log_alpha):
    # A gate is closed if log alpha plus a logistic draw is at most temperature * logit of where 0 lies in the stretch.
    expected = logistic.sf(2 / 3 * np.log((0.1 / 1.2) / (1.1 / 1.2)) - log_alpha)
    location = torch.tensor(log_alpha, dtype=torch.float64)
    assert float(chance_open(location)) == pytest.approx(expected, rel=1e-9)
    grid = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    draws = sample_gates(location, grid)
    assert float((draws > 0).double().mean()) == pytest.approx(expected, abs=1e-4)
    assert float(draws.min()) >= 0 and float(draws.max()) <= 1
    assert bool((draws.diff() >= 0).all())


@given(st.floats(0.01, 0.99))
def test_a_gates_median_is_what_it_was_asked_to_be(median):
    half = torch.tensor(0.5, dtype=torch.float64)
    assert float(sample_gates(torch.tensor(location_of(median), dtype=torch.float64), half)) == pytest.approx(median)


def test_the_most_extreme_draws_are_gates_with_finite_gradients():
    log_alpha = torch.zeros(3, requires_grad=True)
    gates = sample_gates(log_alpha, torch.tensor([0.0, 0.5, 1.0]))
    assert gates.tolist() == [0, 0.5, 1]
    (gradient,) = torch.autograd.grad(gates.sum(), [log_alpha])
    assert torch.isfinite(gradient).all() and float(gradient[1]) > 0


# -- items -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["qkv-edge", "edge", "node"])
def test_an_item_has_the_edges_that_its_name_says(granularity):
    items = scored_items(UNIVERSE, granularity)
    places = item_places(items, SHAPE)
    of_node = {"node": lambda edge: str(edge.source), "edge": lambda edge: str(edge).split("<")[0]}
    name = of_node.get(granularity, str)
    for edge, place in SHAPE.edge_places.items():
        assert str(items[places[place]]) == name(edge)
    assert int((places < len(items)).sum()) == len(UNIVERSE)


def test_edges_of_no_item_are_never_removed():
    masked = masked_model(universe=UNIVERSE[::5])
    removed = masked.edges(torch.ones(masked.n_items))
    assert torch.equal(removed.bool(), SHAPE.mask_of(UNIVERSE[::5]))


def test_it_refuses_what_the_model_has_not():
    deeper = Circuit(3, 3, []).universe
    for granularity, name in (("qkv-edge", r"embed->a2\.h0<q>"), ("edge", r"embed->a2\.h0"), ("node", r"a2\.h0")):
        with pytest.raises(SettingError, match=f"the universe has {name}, which a model with 2 layers of 3 heads has"):
            # Without the edges between the second layer and the logits, which both have.
            masked_model(
                universe=[edge for edge in deeper if edge.target.layer == 2 or edge.source.layer == 2],
                granularity=granularity,
            )
    with pytest.raises(SettingError, match="ablation 'noise' is not one of resample, zero, mean"):
        masked_model(ablation="noise")


# -- masked models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", ABLATIONS)
@torch.no_grad()
def test_gates_fixed_at_0_and_1_do_what_an_interchange_does(ablation):
    masked = masked_model(ablation=ablation)
    removed = torch.rand(masked.n_pairs, masked.n_items, generator=torch.Generator().manual_seed(2)) < 0.3
    pairs = torch.arange(masked.n_pairs)
    edges = torch.stack(
        [SHAPE.mask_of([edge for edge, out in zip(UNIVERSE, row, strict=True) if out]) for row in removed]
    )
    expected = masked.model.interchange(masked.base.senders, masked.replacement, edges, masked.lengths)
    found = masked.logits(masked.edges(removed.float()), pairs)
    assert float((expected - masked.base.logits)[masked.real].abs().max()) > 0.1
    torch.testing.assert_close(found[masked.real], expected[masked.real])
    difference = output_difference(expected, masked.base.logits, masked.real, categorical=True)
    torch.testing.assert_close(masked.difference(masked.edges(removed.float()), pairs), difference)


@torch.no_grad()
def test_an_edge_removed_in_part_carries_a_mixture_as_hooks_see_it():
    masked = masked_model()
    data, shape = random_data(SHAPE, longer=True), SHAPE
    hooked = to_hooked_transformer(shape, masked.model.state_dict())
    for number in range(0, masked.n_items, 7):
        edge = UNIVERSE[number]
        removed = torch.zeros(1, masked.n_items)
        removed[0, number] = 0.3
        found = masked.logits(masked.edges(removed), torch.arange(masked.n_pairs))
        for row, (length, other) in enumerate(zip(data.lengths.tolist(), data.corrupted_lengths.tolist(), strict=True)):
            own = senders_of(hooked, data.clean[row : row + 1, :length])[edge.source]
            source = senders_of(hooked, data.corrupted[row : row + 1, :other])[edge.source][:, :length]
            mixed = {edge.source: 0.7 * own + 0.3 * source}
            expected = interchange(hooked, data.clean[row : row + 1, :length], [edge], mixed)
            torch.testing.assert_close(found[row, :length], expected[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_pass_from_a_later_layer_gives_the_same():
    masked = masked_model()
    late = torch.tensor([float(edge.target.layer in (1, None)) for edge in UNIVERSE])
    removed = torch.rand(4, masked.n_items, generator=torch.Generator().manual_seed(3)) * late
    pairs = torch.tensor([4, 0, 0, 2])
    expected = masked.difference(masked.edges(removed), pairs)
    torch.testing.assert_close(masked.difference(masked.edges(removed), pairs, first_layer=1), expected)


@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("granularity", ["qkv-edge", "node"])
def test_gradients_of_masks_are_those_of_small_steps(granularity):
    masked = masked_model(granularity=granularity)
    pairs = torch.arange(masked.n_pairs)
    generator = torch.Generator().manual_seed(4)
    removed = torch.rand(masked.n_items, generator=generator).requires_grad_()
    (gradient,) = torch.autograd.grad(masked.difference(masked.edges(removed[None]), pairs).mean(), [removed])
    step = 1e-6
    steps = step * torch.eye(masked.n_items)
    with torch.no_grad():
        up, down = (
            torch.stack([masked.difference(masked.edges(row[None]), pairs).mean() for row in removed + sign * steps])
            for sign in (1, -1)
        )
    torch.testing.assert_close(gradient, (up - down) / (2 * step), rtol=1e-4, atol=1e-7)
    assert float(gradient.abs().max()) > 1e-3
    assert not masked.model.flat.grad.any()  # type: ignore[union-attr]


# -- batches -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 8), st.integers(1, 20), st.integers(0, 3))
def test_every_pair_has_its_turn_before_any_has_two_more(size, steps, seed):
    masked = masked_model()
    batches = [list(masked.batches(size, steps, torch.Generator().manual_seed(seed))) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*batches, strict=True))
    assert [len(batch) for batch in batches[0]] == [min(size, 5)] * steps
    turns = torch.bincount(torch.cat(batches[0]), minlength=5)
    assert int(turns.max() - turns.min()) <= 1


def test_numbers_are_compared_by_squares_at_real_positions():
    shape = replace(SHAPE, d_vocab_out=1)
    data = random_data(shape)
    masked = MaskedModel(random_model(shape), UNIVERSE, data, ablation="resample", granularity=None)
    with torch.no_grad():
        edges, pairs = masked.edges(torch.ones(1, masked.n_items)), torch.arange(masked.n_pairs)
        found, apart = masked.difference(edges, pairs), masked.logits(edges, pairs) - masked.base.logits
    expected = [float(apart[row, 1:length].square().mean()) for row, length in enumerate(data.lengths.tolist())]
    assert found.tolist() == pytest.approx(expected, rel=1e-5) and min(expected) > 0
