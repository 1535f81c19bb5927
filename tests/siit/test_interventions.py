"""Which edges training rows exchange: the index tensors of a circuit, and what is drawn from them."""

from collections import Counter
from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from interpbench_hub.cases import get_case
from interpbench_hub.circuit import POS_EMBED, Node
from interpbench_hub.siit.interventions import OUTSIDE_SHAPES, OUTSIDE_SHARES, EdgeSpace, InterventionDraw
from interpbench_hub.siit.sizes import transformer_config

# One head after an MLP; one before it; two heads, values of both in one MLP; no head at all; a head that counts.
CASE_IDS = ("case_3", "case_13", "case_4", "case_8", "case_7")
ROWS, FEWER_ROWS = 20_000, 4_000


@cache
def space_of(case_id: str) -> EdgeSpace:
    case = get_case(case_id)
    return EdgeSpace(case, transformer_config(case))


@pytest.fixture(params=CASE_IDS)
def space(request) -> EdgeSpace:
    return space_of(request.param)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def names(space: EdgeSpace, edges: Tensor) -> set[str]:
    """The edges of one row by name."""
    return {str(space.edges[place]) for place in edges.nonzero()[:, 0].tolist()}


def leaving(space: EdgeSpace, *nodes: Node) -> set[str]:
    return {str(edge) for edge in space.edges if edge.source in nodes}


def as_rows(edges: Tensor) -> Counter[tuple[bool, ...]]:
    """How often each set of edges occurs among the rows."""
    return Counter(tuple(row) for row in edges.tolist())


# -- the circuit over all edges ----------------------------------------------------------------------------------------


def test_circuit_and_negatives_divide_all_edges(space):
    circuit = space.case.circuit
    assert space.n_edges == len(circuit.universe)
    assert names(space, space.in_circuit) == {str(edge) for edge in circuit}
    assert [str(space.edges[place]) for place in space.circuit_places] == [str(edge) for edge in circuit]
    assert [space.edges[place] for place in space.negatives] == circuit.negatives
    assert all(space.edges[place] == edge for edge, place in space.index.items())


def test_masks_are_those_of_the_configuration(space):
    rows = torch.rand(20, space.n_edges, generator=generator()) < torch.linspace(0, 1, 20)[:, None]
    masks = space.to_mask(rows)
    assert masks.dtype == torch.bool
    for row, mask in zip(rows, masks, strict=True):
        edges = [space.edges[place] for place in row.nonzero()[:, 0]]
        assert torch.equal(mask, space.config.mask_of(edges))


def test_circuit_columns_keep_the_order_of_the_circuit(space):
    for column, edge in enumerate(space.case.high_level.circuit):
        alone = torch.zeros(1, space.n_edges, dtype=torch.bool)
        alone[0, space.index[edge]] = True
        expected = torch.zeros(1, len(space.case.circuit), dtype=torch.bool)
        expected[0, column] = True
        assert torch.equal(space.to_circuit(alone), expected)


def test_no_rows_make_no_masks(space):
    masks = space.to_mask(torch.zeros(0, space.n_edges, dtype=torch.bool))
    assert masks.shape == (0, len(space.config.receivers), len(space.config.senders))


def test_edges_out_of_a_node_are_all_that_leave_it(space):
    for node in space.config.senders:
        assert names(space, space.out_of(node)) == leaving(space, node)


def test_nodes_are_in_the_circuit_outside_or_the_position(space):
    circuit = space.case.circuit
    inside, outside = set(space.circuit_nodes), set(space.outside_nodes)
    assert not inside & outside
    assert set(space.config.senders) - inside - outside <= {POS_EMBED}
    assert inside == {edge.source for edge in circuit} - {POS_EMBED}
    assert all(node not in (edge.source, edge.target) for node in outside for edge in circuit)


def test_the_nodes_of_case_3_are_those_of_its_program():
    space = space_of("case_3")
    (head,) = (node for node in space.circuit_nodes if node.is_head)
    assert [str(node) for node in space.circuit_nodes] == ["embed", "m0", str(head)]
    assert len(space.outside_nodes) == 4 + 3 + 1
    assert [str(space.edges[place]) for place in space.interchange_edges] == [
        "embed->m0",
        f"m0->{head}<v>",
        f"{head}->logits",
    ]


def test_outside_sets_are_what_a_certificate_replaces(space):
    circuit, sets = space.case.circuit, space.outside_sets
    assert sets.shape == (space.n_edges + len(space.outside_nodes) + 1, space.n_edges)
    for edge in circuit.negatives:
        assert names(space, sets[space.outside_set("edge_strict", str(edge))]) == {str(edge)}
    for node in space.outside_nodes:
        assert names(space, sets[space.outside_set("node_strict", node.name)]) == leaving(space, node)
    everything = names(space, sets[space.outside_set("complement", "all")])
    assert everything == {str(edge) for edge in circuit.negatives}


def test_a_circuit_may_leave_no_node_outside(space, monkeypatch):
    whole = EdgeSpace(space.case, space.config)
    monkeypatch.setattr(whole, "outside_nodes", [])
    assert whole.outside_node_edges.shape == (0, space.n_edges)
    assert torch.equal(whole.outside_sets[-1], ~space.in_circuit)
    rows = outside_rows(whole, shapes(200))
    assert bool(rows.any()) and not bool((rows & space.in_circuit).any())


# -- drawn inside the circuit ------------------------------------------------------------------------------------------


def evenly(space: EdgeSpace) -> Tensor:
    return torch.ones(space.n_exchanges)


def exchanged(space: EdgeSpace, rows: int, weights: Tensor, node_share: float) -> Tensor:
    """The edges that drawn exchanges move: [row, edge]."""
    draw = InterventionDraw(space)
    return draw.exchanged_edges(draw.circuit(rows, weights, node_share, generator()))


def test_exchanges_are_the_single_edges_then_the_nodes_of_the_circuit(space):
    edges = InterventionDraw(space).exchanged_edges(torch.arange(space.n_exchanges))
    expected = [{str(space.edges[place])} for place in space.interchange_edges]
    expected += [leaving(space, node) for node in space.circuit_nodes]
    assert [names(space, row) for row in edges] == expected


def test_circuit_rows_exchange_a_circuit_edge_or_node_at_their_share(space):
    n_edges = len(space.interchange_edges)
    drawn = InterventionDraw(space).circuit(FEWER_ROWS, evenly(space), 0.3, generator())
    counts = torch.bincount(drawn, minlength=space.n_exchanges) / FEWER_ROWS
    assert float(counts[n_edges:].sum()) == pytest.approx(0.3, abs=0.025)
    torch.testing.assert_close(counts[:n_edges], torch.full((n_edges,), 0.7 / n_edges), atol=0.03, rtol=0)
    n_nodes = len(space.circuit_nodes)
    torch.testing.assert_close(counts[n_edges:], torch.full((n_nodes,), 0.3 / n_nodes), atol=0.03, rtol=0)


def test_a_node_interchange_takes_edges_outside_the_circuit_along():
    space = space_of("case_3")
    drawn = exchanged(space, 200, evenly(space), 1.0)
    found = {frozenset(names(space, row)) for row in drawn}
    assert found == {frozenset(leaving(space, node)) for node in space.circuit_nodes}
    assert bool((drawn & ~space.in_circuit).any(1).all())


def test_the_node_share_is_obeyed_at_its_ends(space):
    assert bool((exchanged(space, 500, evenly(space), 0.0).sum(1) == 1).all())
    nodes = {tuple(space.out_of(node).tolist()) for node in space.circuit_nodes}
    assert set(as_rows(exchanged(space, 500, evenly(space), 1.0))) == nodes


@pytest.mark.parametrize("by_node", [False, True], ids=["edges", "nodes"])
def test_edges_and_nodes_are_drawn_by_their_weights(space, by_node):
    n_edges = len(space.interchange_edges)
    # What is drawn by share does not compete with the others: their weights are of no account, but cannot all be 0.
    start, stop = (n_edges, space.n_exchanges) if by_node else (0, n_edges)
    weights = evenly(space)
    weights[start:stop] = torch.arange(stop - start) + 0.5
    drawn = InterventionDraw(space).circuit(ROWS, weights, float(by_node), generator())
    counts = torch.bincount(drawn, minlength=space.n_exchanges) / ROWS
    expected = torch.zeros(space.n_exchanges)
    expected[start:stop] = weights[start:stop] / weights[start:stop].sum()
    torch.testing.assert_close(counts, expected, atol=0.015, rtol=0)


def test_no_rows_can_be_drawn(space):
    draw = InterventionDraw(space)
    assert draw.exchanged_edges(draw.circuit(0, evenly(space), 0.5, generator())).shape == (0, space.n_edges)
    assert outside_rows(space, shapes(0)).shape == draw.outside_node(0, generator()).shape == (0, space.n_edges)
    assert draw.outside_edge(0, torch.ones(space.n_edges), generator()).shape == (0,)


# -- drawn outside -----------------------------------------------------------------------------------------------------


def shapes(rows: int) -> Tensor:
    """Shapes of as many rows, by their shares."""
    return torch.multinomial(torch.tensor(OUTSIDE_SHARES), max(rows, 1), replacement=True, generator=generator())[:rows]


def outside_rows(space: EdgeSpace, shapes: Tensor) -> Tensor:
    """Sets of edges drawn outside for rows of these shapes, any single edge with the same weight: [row, edge]."""
    # Other numbers than those the shapes were drawn by.
    draw, chance = InterventionDraw(space), generator(1)
    return draw.outside(shapes, draw.outside_edge(len(shapes), torch.ones(space.n_edges), chance), chance)


def test_single_edges_outside_are_drawn_by_their_weights(space):
    draw, weights = InterventionDraw(space), torch.zeros(space.n_edges)
    # Two edges from a sender of no circuit to the same receiver differ in nothing but their weight.
    nodes = [space.config.senders.index(node) for node in space.outside_nodes]
    rows = [(space.sender == node) & (space.receiver == space.receiver.max()) for node in nodes[:2]]
    heavy, light = (int(torch.where(row)[0]) for row in rows)
    # What is of the circuit is never drawn.
    weights[heavy], weights[light], weights[space.circuit_places[0]] = 3.0, 1.0, 1e6
    counts = torch.bincount(draw.outside_edge(FEWER_ROWS, weights, generator()), minlength=space.n_edges)
    assert int(counts[heavy] + counts[light]) == FEWER_ROWS
    assert float(counts[heavy]) / FEWER_ROWS == pytest.approx(0.75, abs=0.03)


def test_kinds_outside_are_drawn_by_shares_and_weights(space):
    weights = torch.tensor([1.0, 2.0, 0.0, *[1.0] * 12])
    drawn = InterventionDraw(space).outside_kinds(ROWS, weights, generator())
    chances = torch.tensor(OUTSIDE_SHARES).repeat_interleave(3) * weights
    counts = torch.bincount(drawn, minlength=15) / ROWS
    torch.testing.assert_close(counts, chances / chances.sum(), atol=0.015, rtol=0)
    assert InterventionDraw(space).outside_kinds(0, weights, generator()).shape == (0,)


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_each_shape_is_what_its_name_says(case_id):
    space = space_of(case_id)
    outside = ~space.in_circuit
    rows = {shape: outside_rows(space, torch.full((200,), place)) for place, shape in enumerate(OUTSIDE_SHAPES)}
    assert bool((rows["edge"].sum(1) == 1).all())
    assert bool((rows["all"] == outside).all())
    for row in rows["receiver"]:
        (receiver,) = space.receiver[row].unique()
        assert torch.equal(row, (space.receiver == receiver) & outside)
    for row in rows["nodes"]:
        parts = [space.out_of(node) for node in space.outside_nodes if bool((row | ~space.out_of(node)).all())]
        assert torch.equal(row, torch.stack(parts).any(0) if parts else torch.zeros_like(row))
    # Other than the rest, of many sizes.
    assert len(rows["edges"].sum(1).unique()) > 20


class Outside(NamedTuple):
    """Many rows drawn outside a case's circuit, and how often each set of edges is among them."""

    space: EdgeSpace
    rows: Tensor
    counts: Counter[tuple[bool, ...]]


@cache
def drawn_outside(case_id: str) -> Outside:
    space = space_of(case_id)
    rows = outside_rows(space, shapes(ROWS))
    return Outside(space, rows, as_rows(rows))


@pytest.fixture(params=CASE_IDS)
def outside(request) -> Outside:
    return drawn_outside(request.param)


def test_outside_rows_leave_the_circuit_alone(outside):
    space, rows, _ = outside
    assert rows.shape == (ROWS, space.n_edges) and rows.dtype == torch.bool
    assert not bool((rows & space.in_circuit).any())


def test_every_edge_outside_is_drawn_alone(outside):
    space, rows, _ = outside
    alone = rows[rows.sum(1) == 1].sum(0)
    assert bool((alone[space.negatives] > 0).all())
    # By the share of single edges; single edges into a receiver of the circuit are the more frequent ones.
    assert 0.28 < float(alone.sum()) / ROWS < 0.40
    targets = {(edge.target, edge.slot) for edge in space.case.circuit}
    into = torch.tensor([(edge.target, edge.slot) in targets for edge in space.edges])
    if bool((into & ~space.in_circuit).any()):
        mean_into = alone[into & ~space.in_circuit].double().mean()
        assert float(mean_into) > 2 * float(alone[~into & ~space.in_circuit].double().mean())


def test_every_receiver_is_replaced_whole(outside):
    space, _, drawn = outside
    for receiver in range(len(space.config.receivers)):
        whole = (space.receiver == receiver) & ~space.in_circuit
        if bool(whole.any()):
            assert drawn[tuple(whole.tolist())] > 0, space.config.receivers[receiver]


def test_everything_outside_at_once_is_drawn_often(outside):
    space, rows, _ = outside
    assert 0.18 < float((rows == ~space.in_circuit).all(1).float().mean()) < 0.25


def test_sets_of_nodes_outside_are_drawn(outside):
    space, _, drawn = outside
    for node in space.outside_nodes:
        assert drawn[tuple(space.out_of(node).tolist())] > 0, node
    both = space.out_of(space.outside_nodes[0]) | space.out_of(space.outside_nodes[-1])
    assert drawn[tuple(both.tolist())] > 0
    everything = torch.stack([space.out_of(node) for node in space.outside_nodes]).any(0)
    assert drawn[tuple(everything.tolist())] > 0


def test_random_sets_of_all_sizes_are_drawn(outside):
    space, rows, _ = outside
    shares = rows.sum(1) / len(space.negatives)
    for low in torch.arange(0.05, 0.95, 0.1).tolist():
        assert bool(((shares > low) & (shares <= low + 0.1)).any())


def test_single_nodes_outside_are_drawn_evenly(space):
    drawn = as_rows(InterventionDraw(space).outside_node(FEWER_ROWS, generator()))
    nodes = {tuple(space.out_of(node).tolist()) for node in space.outside_nodes}
    assert set(drawn) == nodes
    for count in drawn.values():
        assert count / FEWER_ROWS == pytest.approx(1 / len(nodes), rel=0.25)


# -- chance ------------------------------------------------------------------------------------------------------------


def test_the_generator_decides_every_draw(space):
    draw, weights = InterventionDraw(space), evenly(space)

    def drawn(seed: int) -> list[Tensor]:
        chance = generator(seed)
        single = draw.outside_edge(50, torch.ones(space.n_edges), chance)
        outside = draw.outside(shapes(50), single, chance)
        return [draw.circuit(50, weights, 0.5, chance), single, outside, draw.outside_node(50, chance)]

    torch.manual_seed(0)
    first = drawn(1)
    torch.manual_seed(1)
    assert all(torch.equal(one, again) for one, again in zip(first, drawn(1), strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(first, drawn(2), strict=True))


def test_drawing_leaves_the_global_generator_alone(space):
    draw, weights = InterventionDraw(space), evenly(space)
    before = torch.get_rng_state()
    draw.circuit(5, weights, 0.5, generator())
    outside_rows(space, shapes(5))
    draw.outside_node(5, generator())
    assert torch.equal(torch.get_rng_state(), before)
