"""Exchanges against the same sums written out, with every gradient left to autograd."""

import gc
import weakref

import pytest
import torch
from torch import Tensor

from interpbench_hub import exchange
from interpbench_hub.exchange import Exchange, Replacement

SENDERS, PAIRS, GROUPS, POS, D = (2, 1, 3), 3, 2, 4, 5
"""Senders that write at once, in the order of a pass."""
ROWS, N_SENDERS = PAIRS * GROUPS, sum(SENDERS)
RECEIVERS = ((0, 2), (2, 5), (5, 6))
"""Receivers that read once the senders up to a place have written."""


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Written:
    """A pass over the exchange itself: what later senders write depends on what earlier receivers were given."""

    def __init__(self, edges: Tensor, replacement: Replacement, base: Tensor, stream: Tensor) -> None:
        self.exchange = Exchange(edges, replacement, ROWS)
        self.given: list[Tensor] = []
        written = base
        for place, (start, stop) in enumerate(RECEIVERS):
            self.exchange.add(written)
            self.given.append(self.exchange.inputs(stream, start, stop))
            if place + 1 < len(SENDERS):
                written = later(self.given[-1], SENDERS[place + 1])


def later(given: Tensor, n_senders: int) -> Tensor:
    return torch.stack([torch.sin(given.sum(0) + number) for number in range(n_senders)])


def written_out(edges: Tensor, replacement: Replacement, base: Tensor, stream: Tensor) -> list[Tensor]:
    """What every receiver is given, sum by sum."""
    kept = replacement.kept if replacement.kept is not None else torch.ones(ROWS, dtype=torch.float64)
    all_given: list[Tensor] = []
    senders = list(base)
    for place, (start, stop) in enumerate(RECEIVERS):
        given = []
        for receiver in range(start, stop):
            rows = []
            for row in range(ROWS):
                total = stream[row]
                for number, own in enumerate(senders):
                    replaced = kept[row] * replacement.values[number, row % PAIRS]
                    if replacement.means is not None and replacement.averaged is not None:
                        replaced = replaced + replacement.averaged[row] * replacement.means[number]
                    total = total + edges[row % len(edges), receiver, number] * (replaced - own[row])
                rows.append(total)
            given.append(torch.stack(rows))
        all_given.append(torch.stack(given))
        if place + 1 < len(SENDERS):
            senders += list(later(all_given[-1], SENDERS[place + 1]))
    return all_given


def inputs(n_edge_rows: int, ablated: bool) -> dict[str, Tensor]:
    found = {
        "edges": randn(n_edge_rows, RECEIVERS[-1][1], N_SENDERS, seed=1),
        "base": randn(SENDERS[0], ROWS, POS, D, seed=2),
        "values": randn(N_SENDERS, PAIRS, POS, D, seed=3),
        "stream": randn(ROWS, POS, D, seed=5),
    }
    if ablated:
        found["means"] = randn(N_SENDERS, POS, D, seed=4)
    return {name: tensor.requires_grad_() for name, tensor in found.items()}


def replacement_of(given: dict[str, Tensor]) -> Replacement:
    if "means" not in given:
        return Replacement(given["values"])
    kept = torch.tensor([1, 0, 0, 1, 0, 1], dtype=torch.float64)
    averaged = torch.tensor([0, 1, 0, 0, 1, 0], dtype=torch.float64)
    return Replacement(given["values"], kept, given["means"], averaged)


@pytest.mark.parametrize("long", [0, 10**9], ids=["in place", "by a tensor between"])
@pytest.mark.parametrize("ablated", [False, True], ids=["values", "values, zeros and means"])
@pytest.mark.parametrize("n_edge_rows", [1, ROWS])
@pytest.mark.parametrize("last", [0, 1, 2])
def test_what_receivers_are_given_and_its_gradients_are_those_of_the_sums(
    monkeypatch, long, ablated, n_edge_rows, last
):
    monkeypatch.setattr(exchange, "_LONG", long)
    ours, theirs = inputs(n_edge_rows, ablated), inputs(n_edge_rows, ablated)
    found = Written(ours["edges"], replacement_of(ours), ours["base"], ours["stream"]).given
    expected = written_out(theirs["edges"], replacement_of(theirs), theirs["base"], theirs["stream"])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    # Of the receivers up to one of them, so that some senders are read by none that matters.
    for given in (found, expected):
        sum(((part + 1) ** 2).sum() for part in given[: last + 1]).backward()  # type: ignore[union-attr]
    for name in ours:
        gradient = theirs[name].grad
        assert gradient is not None and ours[name].grad is not None
        torch.testing.assert_close(ours[name].grad, gradient)


def test_no_gradient_is_made_where_none_is_wanted():
    given = inputs(ROWS, ablated=True)
    with torch.no_grad():
        assert not any(
            part.requires_grad
            for part in Written(given["edges"], replacement_of(given), given["base"], given["stream"]).given
        )
    for name in given:
        alone = {other: tensor.detach().requires_grad_(other == name) for other, tensor in given.items()}
        Written(alone["edges"], replacement_of(alone), alone["base"], alone["stream"]).given[-1].sum().backward()
        assert [other for other, tensor in alone.items() if tensor.grad is not None] == [name]


def test_a_pass_that_is_over_frees_its_memory_at_once():
    given = inputs(ROWS, ablated=True)
    gc.disable()
    try:
        written = Written(given["edges"], replacement_of(given), given["base"], given["stream"])
        differences = weakref.ref(written.exchange._differences)
        written.given[-1].sum().backward()
        del written
        assert differences() is None
    finally:
        gc.enable()
