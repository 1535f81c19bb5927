"""Adam on one vector, against torch's."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from interpbench_hub.siit.adam import Adam, largest_update
from interpbench_hub.siit.eigenbasis import Eigenbasis


def gradients(n_steps: int) -> list[torch.Tensor]:
    """Gradients of very different norms, one of them zero."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(n_steps, 40, generator=generator, dtype=torch.float64)
    drawn *= (
        10 ** torch.linspace(-3, 2, n_steps, dtype=torch.float64)[torch.randperm(n_steps, generator=generator)][:, None]
    )
    drawn[0] = 0
    return list(drawn)


@pytest.mark.parametrize("norm", [0.05, 1.0, 1e6])
@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.5, 0.999)])
def test_updates_are_those_of_torch_on_gradients_clipped_by_torch(norm, betas):
    start = torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    adam, parameter = Adam.of(start.clone()), torch.nn.Parameter(start.clone())
    theirs = torch.optim.Adam([parameter], betas=betas, eps=1e-8)
    clipped = []
    for number, gradient in enumerate(gradients(60), start=1):
        rate = 0.01 / number**0.5
        theirs.param_groups[0]["lr"] = rate
        parameter.grad = gradient.clone()
        clipped.append(float(torch.nn.utils.clip_grad_norm_([parameter], norm)) > norm)
        theirs.step()
        adam.step(gradient, rate, number, betas, norm)
        # What was given is clipped in place; torch divides by the norm and a millionth.
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=0)
        torch.testing.assert_close(adam.parameters, parameter.detach(), rtol=1e-5, atol=1e-6)
    assert any(clipped) == (norm < 1e6) and not all(clipped)
    assert float((adam.parameters - start).abs().mean()) > 1e-3


@pytest.mark.parametrize("has_basis", [False, True])
def test_factors_multiply_the_learning_rate_parameter_by_parameter(has_basis):
    factors = torch.tensor([1.0, 3.0, 0.0]).repeat_interleave(torch.tensor([10, 20, 10]))
    shapes = {"unembed.b_U": (10,), "blocks.0.mlp.W_in": (4, 5), "blocks.0.mlp.b_in": (10,)}
    bases = [Eigenbasis(shapes, torch.device("cpu")) if has_basis else None for _ in range(2)]
    plain, scaled = Adam.of(torch.zeros(40)), Adam.of(torch.zeros(40))
    for number, gradient in enumerate(gradients(20), start=1):
        given = gradient.float()
        before = [adam.parameters.clone() for adam in (plain, scaled)]
        for adam, basis, more in ((plain, bases[0], ()), (scaled, bases[1], (factors,))):
            adam.step(given.clone(), 0.01, number, (0.9, 0.95), 1.0, basis, *more)
        moved, moved_scaled = (adam.parameters - old for adam, old in zip((plain, scaled), before, strict=True))
        torch.testing.assert_close(moved_scaled, factors * moved, rtol=1e-4, atol=1e-6)
        assert torch.equal(plain.second_moment, scaled.second_moment)
    assert bool(plain.parameters.any())


@given(
    st.floats(0.0, 0.99),
    st.floats(0.01, 0.99),
    st.lists(st.floats(-1e3, 1e3).filter(lambda g: g == 0 or abs(g) > 1e-9), min_size=1, max_size=40),
)
def test_a_first_moment_is_at_most_so_many_times_the_root_of_the_second(first, second, drawn):
    assume(first**2 < 0.999 * second)
    adam = Adam.of(torch.zeros(1, dtype=torch.float64))
    for number, value in enumerate(drawn, start=1):
        gradient = torch.tensor([value], dtype=torch.float64)
        adam.step(gradient, 0.1, number, (first, second), 1e9)
        root = float(adam.second_moment.sqrt())
        assert abs(float(adam.first_moment)) <= largest_update((first, second)) * root * (1 + 1e-9) + 1e-15


def test_with_equal_betas_that_is_once_and_gradients_can_get_as_near_as_one_likes():
    assert largest_update((0.95, 0.95)) == pytest.approx(1)
    assert largest_update((0.9, 0.5)) == math.inf
    # Gradients in proportion to first / second, one weight's share of the other, meet the bound in the end.
    first, second = 0.5, 0.7
    ages = range(60, -1, -1)
    m = sum((1 - first) * first**age * (first / second) ** age for age in ages)
    v = sum((1 - second) * second**age * (first / second) ** (2 * age) for age in ages)
    assert m / math.sqrt(v) == pytest.approx(largest_update((first, second)))


def test_a_basis_that_turns_makes_no_update_larger_than_one_that_stays():
    betas, rate = (0.95, 0.95), 0.01
    adam, basis = Adam.of(torch.zeros(64)), Eigenbasis({"unembed.W_U": (8, 8)}, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    exceeding = 0
    for number in range(1, 200):
        # Hardly any gradient, then one in a few directions that the basis has not been turned to.
        scale = 1e-3 if number % 37 else 1.0
        gradient = scale * torch.randn(8, 1, generator=generator) @ torch.randn(1, 8, generator=generator)
        before = adam.parameters.clone()
        adam.step(gradient.flatten(), rate, number, betas, 10.0, basis)
        moved = basis.into((adam.parameters - before)[None])[0] * (1 - betas[0] ** number) / rate
        assert float(moved.abs().max()) <= 1 + 1e-3
        moment = basis.into(adam.first_moment[None])[0]
        exceeding += int((moment.abs() > 1.5 * (adam.second_moment / (1 - betas[1] ** number)).sqrt()).sum())
    assert exceeding > 10


def test_a_gradient_of_zero_moves_nothing_at_first():
    adam = Adam.of(torch.ones(3))
    adam.step(torch.zeros(3), 0.1, 1, (0.9, 0.95), 1.0)
    assert adam.parameters.tolist() == [1, 1, 1]


def test_the_vector_itself_is_updated_and_a_copy_is_not():
    vector = torch.ones(3)
    adam = Adam.of(vector)
    copy = adam.copy()
    adam.step(torch.ones(3), 0.1, 1, (0.9, 0.95), 10.0)
    assert adam.parameters is vector and bool((vector < 1).all())
    assert bool((adam.first_moment > 0).all()) and bool((adam.second_moment > 0).all())
    assert bool((copy.parameters == 1).all())
    assert not bool(copy.first_moment.any()) and not bool(copy.second_moment.any())
