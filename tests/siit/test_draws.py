"""Blocks of steps: every row against the program on that row alone, what they depend on, and which pairs come again."""

from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from interpbench_hub.cases import Case, get_case
from interpbench_hub.cases.pairs import in_split
from interpbench_hub.rasp.causal_model import Slots
from interpbench_hub.siit import RECIPES, Recipe
from interpbench_hub.siit.attention import AttentionTargets
from interpbench_hub.siit.draws import BLOCK_STEPS, EXCHANGED, Draws, StepDraw
from interpbench_hub.siit.interventions import OUTSIDE_SHAPES, EdgeSpace
from interpbench_hub.siit.mixing import Mixing
from interpbench_hub.siit.sizes import transformer_config

EDGE_SIIT, SIIT, BEHAVIOUR = (RECIPES[name].changed(n_pairs=5) for name in ("edge-siit", "siit", "behaviour"))
N_PAIRS = 5
OF_THE_ROW_BEFORE = {"crossed", "moved", "mixed", "mixed_codes"}
"""What hangs on the row before as well, so that it is anew wherever a pair comes again."""
CPU = torch.device("cpu")
# A head after an MLP; one before it, undefined outputs; two heads; no head at all; heads and MLPs in a row, one of them
# comparing what inputs hold.
CASE_IDS = ("case_3", "case_13", "case_4", "case_8", "case_21")


def draws_of(case_id: str, recipe: Recipe = EDGE_SIIT, seed: int = 0) -> Draws:
    case = get_case(case_id)
    variables = tuple(v.name for v in case.graph.variables if v.reads)
    config = transformer_config(case)
    mixing = Mixing(case, config, variables)
    return Draws(case, EdgeSpace(case, config), recipe, seed, variables, AttentionTargets(case), mixing, CPU)


def even(draws: Draws) -> Tensor:
    """The same weight for every kind of row."""
    return torch.ones(sum(draws.kind_counts))


@cache
def first_block(case_id: str, recipe: Recipe) -> tuple[Draws, StepDraw]:
    draws = draws_of(case_id, recipe)
    return draws, draws.block(0, even(draws), None)


def equal(one: StepDraw, other: StepDraw) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def words(case: Case, ids: Tensor, length: int) -> list[Any]:
    """Tokens of one row of ids, BOS dropped."""
    assert int(ids[0]) == case.bos_id and bool((ids[length:] == case.pad_id).all())
    return [case.vocab[token] for token in ids[1:length].tolist()]


def edges_of(space: EdgeSpace, mask: Tensor) -> set[int]:
    """Places of the edges at which a mask [receivers, senders] is set."""
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    of_place = {place: at for at, place in enumerate(zip(space.receiver.tolist(), space.sender.tolist(), strict=True))}
    return {of_place[receiver, sender] for receiver, sender in mask.nonzero().tolist()}


def test_crossed_rows_look_at_keys_of_the_rows_before_in_their_step_and_side_replayed_ones_included():
    draws = draws_of("case_21", EDGE_SIIT.changed(crossed_rows=3))
    assert draws.attention
    (head,) = draws.attention.comparing
    first = draws.block(0, even(draws), None)
    worst = draws.worst(first, torch.rand(BLOCK_STEPS, N_PAIRS, generator=torch.Generator().manual_seed(0)))
    for block in (first, draws.block(1, even(draws), worst)):
        n_groups = block.masks.shape[1] // N_PAIRS
        lengths = torch.cat([block.lengths, block.lengths[:, N_PAIRS:].repeat(1, n_groups)], dim=1) - 1
        for step in (0, 3, BLOCK_STEPS - 1):
            for start, stop in ((0, 2 * N_PAIRS), (2 * N_PAIRS, lengths.shape[1])):
                for row, distance in product(range(start, stop), (1, 2, 3)):
                    before = row - distance if row - distance >= start else row - distance + stop - start
                    q, own, theirs = *block.compared[step, row, 0], block.compared[step, before, 0, 1]
                    moved = block.moved[step, row, distance - 1]
                    assert not moved[lengths[step, before] :].any()
                    slots: Slots = {"q": q[None], "k": torch.where(moved, theirs, own)[None]}
                    expected = draws.case.high_level.selects(head, slots, lengths[step, row : row + 1], len(q))
                    assert torch.equal(block.crossed[step, row, distance - 1], expected.to(torch.uint8))
        # Half of the rows look at nothing but the row before; the others at anything from that to their own keys.
        sides = lengths.tensor_split([2 * N_PAIRS], dim=1)
        reached = torch.stack([torch.cat([side.roll(n, 1) for side in sides], dim=1) for n in (1, 2, 3)], dim=2)
        shares = block.moved.sum(-1) / reached
        # Each has a share of its own for every one of them.
        assert not torch.equal(block.moved[:, :, 0].all(-1), block.moved[:, :, 1].all(-1))
        assert 0.48 < (shares == 1).float().mean() < 0.62
        assert 0.1 < ((shares > 0) & (shares < 0.5)).float().mean() < 0.3
    # Without them nothing is kept.
    block = draws_of("case_21", EDGE_SIIT.changed(crossed_weight=0.0)).block(0, even(draws), None)
    assert not block.crossed.numel()
    assert not block.moved.any()


def test_mixed_rows_read_from_the_row_before_in_their_step_replayed_ones_included():
    draws = draws_of("modular_sum")
    case, mixing = draws.case, draws.mixing
    first = draws.block(0, even(draws), None)
    worst = draws.worst(first, torch.rand(BLOCK_STEPS, N_PAIRS, generator=torch.Generator().manual_seed(0)))
    second = draws.block(1, even(draws), worst)
    for block in (first, second):
        assert block.mixed.shape == (BLOCK_STEPS, 2 * N_PAIRS, 5)
        assert 0.4 < float(block.mixed.float().mean()) < 0.6
        for step in (0, 7, BLOCK_STEPS - 1):
            for row in range(2 * N_PAIRS):
                lengths = block.lengths[step, [row, row - 1]] - 1
                n = int(lengths.min())
                own, before = (block.ids[step, place, None, 1 : 1 + n] for place in (row, row - 1))
                alone = torch.tensor([n])
                values = case.high_level.run(before, alone)
                expected = mixing.codes(own, alone, values, block.mixed[step, row : row + 1])
                if case.causal or bool((lengths == n).all()):
                    assert torch.equal(block.mixed_codes[step, row, :, :n], expected[0])
    assert not torch.equal(first.mixed, second.mixed)


# -- every row ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_sources_and_bases_are_inputs_with_the_values_that_the_program_gives_them(case_id):
    draws, block = first_block(case_id, EDGE_SIIT)
    case, output = draws.case, draws.case.graph.output
    for step in range(0, BLOCK_STEPS, 5):
        for row, length in enumerate(block.lengths[step].tolist()):
            inputs = words(case, block.ids[step, row], length)
            assert case.min_len <= length <= case.max_len
            assert block.there[step, row].tolist() == [place < len(inputs) for place in range(case.max_len - 1)]
            outputs = [(*output.values, None)[code] for code in block.codes[step, row, : len(inputs)].tolist()]
            expected = case.program(inputs)
            assert outputs == (expected if case.categorical else pytest.approx(expected))
            tokens = torch.tensor([[case.vocab.index(word) for word in inputs]])
            alone = case.high_level.run(tokens, torch.tensor([len(inputs)]))
            found = block.variables[step, row, :, : len(inputs)]
            assert torch.equal(found, torch.cat([alone[name] for name in draws.variables]))
    lengths = block.lengths.view(BLOCK_STEPS, 2, N_PAIRS)
    assert bool((lengths[:, 0] >= lengths[:, 1]).all()), "a source is shorter than its base"
    assert len(lengths[:, 1].unique()) == case.max_len - case.min_len + 1
    tokens, n_tokens = block.ids[..., 1:].masked_fill(~block.there, 0).flatten(0, 1), (block.lengths - 1).flatten()
    assert bool(in_split(case, tokens, n_tokens, "train").all())


@pytest.mark.parametrize("case_id", CASE_IDS)
@pytest.mark.parametrize("recipe", [EDGE_SIIT.changed(circuit_groups=2), SIIT], ids=["edge-siit", "siit"])
def test_targets_of_circuit_rows_are_those_of_each_row_alone(case_id, recipe):
    draws, block = first_block(case_id, recipe)
    case, space = draws.case, draws.space
    exchanges = [{place} for place in space.interchange_edges.tolist()]
    n_single = len(exchanges)
    exchanges += [set(space.out_of(node).nonzero()[:, 0].tolist()) for node in space.circuit_nodes]
    seen = set()
    for step in range(0, BLOCK_STEPS, 3):
        for row in range(recipe.circuit_groups * N_PAIRS):
            pair, edges = row % N_PAIRS, edges_of(space, block.masks[step, row])
            exchange = int(block.kinds[step, row])
            assert edges == exchanges[exchange]
            assert int(block.ablations[step, row]) == -1
            seen.add("edge" if exchange < n_single else "node")

            source, base = (
                block.ids[step, side, 1:length][None]
                for side, length in ((at, int(block.lengths[step, at])) for at in (pair, N_PAIRS + pair))
            )
            n = base.shape[1]
            values = case.high_level.run(source, torch.tensor([source.shape[1]]))
            inside = torch.zeros(1, space.n_edges, dtype=torch.bool)
            inside[0, list(edges)] = True
            alone = base, torch.tensor([n]), values, space.to_circuit(inside)
            assert torch.equal(block.targets[step, row, :n], case.high_level.interchange(*alone)[0])
            variables = case.high_level.interchange_values(*alone)
            expected = torch.cat([variables[name] for name in draws.variables])
            assert torch.equal(block.target_variables[step, row, :, :n], expected)
            looked_at = AttentionTargets(case).selected(variables, *alone[1:])[0]
            found = block.selected[step, 2 * N_PAIRS + row]
            assert torch.equal(found[:, :n, :n], looked_at) and not bool(found[:, :, n:].any())
            compared = AttentionTargets(case).compared(variables, alone[2], alone[3])[0]
            assert torch.equal(block.compared[step, 2 * N_PAIRS + row, :, :, :n], compared)
    assert seen == ({"edge", "node"} if recipe.node_share < 1 else {"node"})


@pytest.mark.parametrize("case_id", CASE_IDS)
@pytest.mark.parametrize("recipe", [EDGE_SIIT, SIIT], ids=["edge-siit", "siit"])
def test_outside_rows_leave_the_circuit_and_the_output_alone(case_id, recipe):
    draws, block = first_block(case_id, recipe)
    space, n_circuit = draws.space, recipe.circuit_groups * N_PAIRS
    inside = set(space.circuit_places.tolist())
    nodes = [set(space.out_of(node).nonzero()[:, 0].tolist()) for node in space.outside_nodes]
    bases = block.codes[:, N_PAIRS:]
    for group in range(recipe.outside_groups):
        start = n_circuit + group * N_PAIRS
        assert torch.equal(block.targets[:, start : start + N_PAIRS], bases)
        assert torch.equal(block.target_variables[:, start : start + N_PAIRS], block.variables[:, N_PAIRS:])
        of_group = block.selected[:, 2 * N_PAIRS + start :][:, :N_PAIRS]
        assert torch.equal(of_group, block.selected[:, N_PAIRS : 2 * N_PAIRS])
    for mask in block.masks[:, n_circuit:].flatten(0, 1):
        edges = edges_of(space, mask)
        assert not edges & inside
        # A random set of edges can be empty; a node never is.
        assert edges in nodes or recipe is EDGE_SIIT
    kinds = block.kinds[:, n_circuit:]
    assert bool((block.edge_kinds[:, :n_circuit] == -1).all())
    if recipe is SIIT:
        assert bool((kinds == -1).all()) and bool((block.edge_kinds == -1).all())
    else:
        shapes, ablations = (kinds - space.n_exchanges) // 3, (kinds - space.n_exchanges) % 3
        assert torch.equal(ablations, block.ablations[:, n_circuit:])
        assert shapes.unique().tolist() == list(range(len(OUTSIDE_SHAPES)))
        singles, n_kinds = block.edge_kinds[:, n_circuit:], sum(draws.kind_counts[:2])
        assert torch.equal(singles >= 0, shapes == OUTSIDE_SHAPES.index("edge"))
        for mask, single in zip(block.masks[:, n_circuit:].flatten(0, 1), singles.flatten().tolist(), strict=True):
            assert single == -1 or edges_of(space, mask) == {single - n_kinds}
        everything = shapes == OUTSIDE_SHAPES.index("all")
        assert {tuple(sorted(edges_of(space, mask))) for mask in block.masks[:, n_circuit:][everything]} == {
            tuple(space.negatives.tolist())
        }
    counts = torch.bincount(block.ablations[:, n_circuit:].flatten(), minlength=len(recipe.ablations))
    assert len(counts) == len(recipe.ablations)
    n_rows = BLOCK_STEPS * recipe.outside_groups * N_PAIRS
    assert bool((counts / n_rows - 1 / len(recipe.ablations)).abs().max() < 0.15)


@pytest.mark.parametrize(("circuit_groups", "outside_groups"), [(0, 0), (1, 0), (0, 2), (2, 3)])
@pytest.mark.parametrize("replayed_share", [0.0, 0.5, 1.0])
def test_any_number_of_groups_can_be_drawn(circuit_groups, outside_groups, replayed_share):
    recipe = EDGE_SIIT.changed(
        circuit_groups=circuit_groups, outside_groups=outside_groups, replayed_share=replayed_share
    )
    draws = draws_of("case_13", recipe)
    assert draws.n_replayed == int(5 * replayed_share)
    block = draws.block(0, even(draws), None)
    worst = draws.worst(block, torch.rand(BLOCK_STEPS, N_PAIRS)) if draws.n_replayed else None
    again, config, n_rows = draws.block(1, even(draws), worst), draws.space.config, circuit_groups + outside_groups
    for part in (block, again):
        assert part.ids.shape == (BLOCK_STEPS, 2 * N_PAIRS, config.n_ctx)
        receivers, senders = len(config.receivers), len(config.senders)
        assert part.masks.shape == (BLOCK_STEPS, n_rows * N_PAIRS, receivers, senders)
        assert part.targets.shape == (BLOCK_STEPS, n_rows * N_PAIRS, config.n_ctx - 1)
        for kinds in (part.kinds, part.edge_kinds, part.ablations):
            assert kinds.shape == (BLOCK_STEPS, n_rows * N_PAIRS)
        assert part.masks.dtype == torch.float32 and part.there.dtype == torch.bool
    assert not equal(block, again)


@pytest.mark.parametrize("case_id", ["case_13", "ioi"])
def test_isolated_steps_replace_everything_outside_the_circuit_in_every_row(case_id):
    recipe = EDGE_SIIT.changed(circuit_groups=2, isolated_steps=BLOCK_STEPS + 1, replayed_share=0.0)
    draws, plain = draws_of(case_id, recipe), draws_of(case_id, recipe.changed(isolated_steps=0))
    space, n_circuit = draws.space, 2 * N_PAIRS
    outside, singles = (
        set(space.negatives.tolist()),
        [set(edges.nonzero()[:, 0].tolist()) for edges in space.exchange_sets],
    )
    inside = set(space.circuit_places.tolist())
    # A block in which isolated steps end is isolated as a whole.
    for number, is_isolated in ((0, True), (1, True), (2, False)):
        block, free = (each.block(number, even(each), None) for each in (draws, plain))
        assert equal(block, free) == (not is_isolated)
        if not is_isolated:
            continue
        for step in range(0, BLOCK_STEPS, 5):
            for row in range(n_circuit):
                edges = edges_of(space, block.masks[step, row])
                assert edges >= outside
                # What the row exchanges, and its target, are those of the row without the rest.
                exchanged = singles[int(block.kinds[step, row])]
                assert edges & inside == exchanged & inside == edges_of(space, free.masks[step, row]) & inside
            for row in range(n_circuit, block.masks.shape[1]):
                assert edges_of(space, block.masks[step, row]) == outside
        kinds = block.kinds[:, n_circuit:] - space.n_exchanges
        assert bool((kinds // 3 == OUTSIDE_SHAPES.index("all")).all())
        assert torch.equal(kinds % 3, block.ablations[:, n_circuit:])
        assert block.ablations[:, n_circuit:].unique().tolist() == [0, 1, 2]
        assert bool((block.edge_kinds == -1).all())
        for name in set(StepDraw._fields) - {"masks", "kinds", "edge_kinds"}:
            assert torch.equal(getattr(block, name), getattr(free, name)), name


def test_without_probes_no_variables_and_no_selections_are_kept():
    case = get_case("case_13")
    space = EdgeSpace(case, transformer_config(case))
    draws = Draws(case, space, EDGE_SIIT, 0, (), None, Mixing(case, transformer_config(case), ()), CPU)
    block = draws.block(0, even(draws), None)
    assert block.variables.shape == (BLOCK_STEPS, 2 * N_PAIRS, 0, case.max_len - 1)
    assert block.target_variables.shape == (BLOCK_STEPS, 5 * N_PAIRS, 0, case.max_len - 1)
    assert block.selected.shape == (BLOCK_STEPS, 7 * N_PAIRS, 0, 1, 1)
    without = {"variables", "target_variables", "selected", "compared", *OF_THE_ROW_BEFORE}
    assert block.crossed.shape[3] == block.mixed.shape[2] == block.mixed_codes.shape[2] == 0
    kept = [name for name in StepDraw._fields if name not in without]
    other = first_block("case_13", EDGE_SIIT)[1]
    assert all(torch.equal(getattr(block, name), getattr(other, name)) for name in kept)


def test_edges_and_nodes_are_drawn_by_their_weights():
    draws = draws_of("case_13", EDGE_SIIT.changed(n_pairs=20, node_share=0.5))
    weights, first_node = torch.zeros_like(even(draws)), len(draws.space.interchange_edges)
    weights[1], weights[2], weights[first_node] = 3.0, 1.0, 0.01
    # Single edges outside, of which the second and the third have all the weight.
    edges = draws.space.negatives[1:3] + sum(draws.kind_counts[:2])
    weights[draws.space.n_exchanges] = 1.0
    weights[edges] = 1.0
    block = draws.block(0, weights, None)
    assert sorted(block.edge_kinds.unique().tolist()) == [-1, *edges.tolist()]
    counts = torch.bincount(block.kinds[:, :20].flatten(), minlength=len(weights))
    n_rows = BLOCK_STEPS * 20
    assert int(counts.sum()) == int(counts[1] + counts[2] + counts[first_node]) == n_rows
    assert 1.5 < float(counts[1] / counts[2]) < 6
    assert 0.4 < int(counts[first_node]) / n_rows < 0.6


def test_sources_related_to_their_bases_come_at_the_recipes_share():
    def share_alike(related_share: float) -> float:
        draws = draws_of("case_13", EDGE_SIIT.changed(n_pairs=20, related_share=related_share))
        block = draws.block(0, even(draws), None)
        source, base = block.ids.unflatten(1, (2, 20)).unbind(1)
        there = block.there.unflatten(1, (2, 20))[:, 1]
        return float((source == base)[..., 1:][there].float().mean())

    # Three tokens in four of a related source are its base's.
    assert share_alike(1.0) - share_alike(0.0) > 0.3


# -- suspects ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [EDGE_SIIT, SIIT], ids=["edge-siit", "siit"])
def test_suspects_get_their_share_of_the_outside_rows(recipe):
    draws = draws_of("case_13", recipe.changed(n_pairs=40, suspect_share=0.5, outside_groups=2))
    space, last = draws.space, len(recipe.ablations) - 1
    # An edge, a node, and everything outside at once.
    places = (int(space.negatives[3]), space.n_edges + 1, len(space.outside_sets) - 1)
    suspects = [[place, kind] for place, kind in zip(places, (0, last, 0), strict=True)]
    node = set(space.out_of(space.outside_nodes[1]).nonzero()[:, 0].tolist())
    expected = [({places[0]}, 0), (node, last), (set(space.negatives.tolist()), 0)]
    block, plain = (draws.block(3, even(draws), None, chosen) for chosen in (suspects, ()))
    n_circuit = recipe.circuit_groups * 40
    rows = zip(
        block.masks[:, n_circuit:].flatten(0, 1),
        block.ablations[:, n_circuit:].flatten().tolist(),
        plain.masks[:, n_circuit:].flatten(0, 1),
        plain.ablations[:, n_circuit:].flatten().tolist(),
        strict=True,
    )
    counts = [0, 0, 0]
    for mask, kind, plain_mask, plain_kind in rows:
        if torch.equal(mask, plain_mask) and kind == plain_kind:
            continue
        counts[expected.index((edges_of(space, mask), kind))] += 1
    n_rows = BLOCK_STEPS * 80
    # Some were drawn anyway.
    assert all(-0.07 < count / n_rows - 0.5 / 3 < 0.03 for count in counts), counts
    changed = block.kinds != plain.kinds
    # Their losses say nothing about the shape they took the place of.
    assert bool((block.kinds[changed] == -1).all()) and bool(changed.any()) == (recipe is EDGE_SIIT)
    assert torch.equal(block.edge_kinds, plain.edge_kinds.masked_fill(changed, -1))
    for name in set(StepDraw._fields) - {"masks", "ablations", "kinds", "edge_kinds"}:
        assert torch.equal(getattr(block, name), getattr(plain, name)), name
    assert torch.equal(block.masks[:, :n_circuit], plain.masks[:, :n_circuit])
    assert bool((block.ablations[:, :n_circuit] == -1).all())


def test_suspect_exchanges_get_their_share_of_the_circuit_rows():
    draws = draws_of("case_13", EDGE_SIIT.changed(suspect_share=0.4))
    n_edges, n_exchanges = len(draws.space.interchange_edges), draws.space.n_exchanges
    losses = torch.linspace(0.1, 2, sum(draws.kind_counts))
    # The first is a place among the sets outside, whatever it is called.
    suspects = [[2, 0], [1, EXCHANGED], [3, EXCHANGED], [n_edges, EXCHANGED]]
    weights, plain = draws.weights(losses, suspects), draws.weights(losses)
    assert torch.equal(weights[n_exchanges:], plain[n_exchanges:])
    for first, end, found in ((0, n_edges, {1, 3}), (n_edges, n_exchanges, {n_edges})):
        shares, before = (part[first:end] / part[first:end].sum() for part in (weights, plain))
        for place in range(end - first):
            extra = 0.4 / len(found) if first + place in found else 0.0
            assert float(shares[place]) == pytest.approx(0.6 * float(before[place]) + extra, rel=1e-5)
    assert torch.equal(draws.weights(losses, suspects[:1]), plain)
    assert equal(draws.block(0, weights, None, suspects[1:]), draws.block(0, weights, None))


def test_suspects_need_rows_to_be_drawn_in():
    draws = draws_of("case_13", BEHAVIOUR)
    assert equal(draws.block(0, even(draws), None, [[3, 0]]), draws.block(0, even(draws), None))


# -- chance ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [EDGE_SIIT, SIIT, BEHAVIOUR], ids=["edge-siit", "siit", "behaviour"])
def test_a_block_follows_from_seed_number_weights_replayed_pairs_and_suspects(recipe):
    draws = draws_of("case_13", recipe)
    weights, suspects = torch.linspace(0.1, 1, len(even(draws))), [[int(draws.space.negatives[0]), 0]]
    losses = torch.rand(BLOCK_STEPS, N_PAIRS, generator=torch.Generator().manual_seed(0))
    first = draws.block(0, weights, None, suspects)
    replayed = draws.worst(first, losses) if draws.n_replayed else None
    second = draws.block(1, weights, replayed, suspects)
    # Others have been drawn from these; none from those.
    torch.manual_seed(5)
    fresh = draws_of("case_13", recipe)
    state = torch.get_rng_state()
    assert equal(fresh.block(1, weights.clone(), replayed, suspects), second)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    assert equal(draws.block(1, weights, replayed, suspects), second)
    assert equal(draws.block(0, weights, None, suspects), first)

    changed = [draws.block(2, weights, replayed, suspects)]
    changed.append(draws_of("case_13", recipe, seed=1).block(1, weights, replayed, suspects))
    if replayed is not None:
        changed.append(draws.block(1, weights, None, suspects))
    if recipe.circuit_groups and recipe.node_share < 1:
        changed.append(draws.block(1, even(draws), replayed, suspects))
    if recipe.suspect_share and recipe.outside_groups:
        changed.append(draws.block(1, weights, replayed))
    assert not any(equal(other, second) for other in changed)


# -- pairs that come again ---------------------------------------------------------------------------------------------


def marked(recipe: Recipe) -> StepDraw:
    """A block whose every part says of which step, row and part it is."""
    n_rows = {name: 2 * N_PAIRS for name in ("ids", "lengths", "there", "codes", "variables")}
    n_others = (recipe.circuit_groups + recipe.outside_groups) * N_PAIRS
    parts = []
    for place, name in enumerate(StepDraw._fields):
        rows = n_rows.get(name, n_others)
        parts.append(torch.arange(BLOCK_STEPS * rows).view(BLOCK_STEPS, rows) + 10_000 * place)
    return StepDraw(*parts)


@settings(max_examples=60, deadline=None)
@given(
    losses=st.lists(st.floats(0, 9, width=16), min_size=BLOCK_STEPS * N_PAIRS, max_size=BLOCK_STEPS * N_PAIRS),
    n_replayed=st.integers(1, N_PAIRS),
)
def test_the_worst_pairs_are_those_with_the_highest_losses_with_all_their_rows(losses, n_replayed):
    recipe = EDGE_SIIT.changed(replayed_share=n_replayed / N_PAIRS)
    draws, block = first_block("case_3", recipe)[0], marked(recipe)
    worst = draws.worst(block, torch.tensor(losses).view(BLOCK_STEPS, N_PAIRS))
    chosen = [divmod(int(of_source), 2 * N_PAIRS) for of_source in worst.ids[:, 0]]
    assert len(set(chosen)) == len(chosen) == BLOCK_STEPS * n_replayed
    assert sorted(losses[step * N_PAIRS + pair] for step, pair in chosen) == sorted(losses)[-len(chosen) :]
    for part, replayed in zip(block, worst, strict=True):
        n_groups = part.shape[1] // N_PAIRS
        for (step, pair), rows in zip(chosen, replayed, strict=True):
            assert rows.tolist() == [int(part[step, group * N_PAIRS + pair]) for group in range(n_groups)]


@pytest.mark.parametrize("recipe", [EDGE_SIIT, BEHAVIOUR], ids=["edge-siit", "behaviour"])
@pytest.mark.parametrize("share", [0.2, 0.6, 1.0])
def test_replayed_pairs_come_back_with_identical_rows_and_the_rest_is_drawn_anew(recipe, share):
    recipe = recipe.changed(replayed_share=share)
    draws, block = first_block("case_13", recipe)
    n_replayed = draws.n_replayed
    assert n_replayed == round(N_PAIRS * share)
    losses = torch.rand(BLOCK_STEPS, N_PAIRS, generator=torch.Generator().manual_seed(1))
    worst = draws.worst(block, losses)
    again, fresh = draws.block(1, even(draws), worst), draws.block(1, even(draws), None)

    def rows_of(drawn: StepDraw, step: int, pair: int) -> tuple[Any, ...]:
        """All that belongs to one pair of a step: of its source, its base and its rows in every group."""
        own = (part for name, part in drawn._asdict().items() if name not in OF_THE_ROW_BEFORE)
        return tuple(str(part[step, pair::N_PAIRS].tolist()) for part in own)

    limit = losses.flatten().sort(descending=True).values[BLOCK_STEPS * n_replayed - 1]
    expected = [rows_of(block, step, pair) for step, pair in (losses >= limit).nonzero().tolist()]
    found = [rows_of(again, step, pair) for step in range(BLOCK_STEPS) for pair in range(n_replayed)]
    assert sorted(found) == sorted(expected)
    for step in range(BLOCK_STEPS):
        for pair in range(n_replayed, N_PAIRS):
            assert rows_of(again, step, pair) == rows_of(fresh, step, pair)


def test_a_step_gets_worse_and_better_ones_of_the_replayed_pairs():
    draws, block = first_block("case_3", EDGE_SIIT.changed(n_pairs=8, replayed_share=0.5))
    # The later a step, the higher its losses: kept in this order, steps would get pairs of one step.
    losses = torch.arange(BLOCK_STEPS * 8.0).view(BLOCK_STEPS, 8)
    again = draws.worst(StepDraw(*(losses.repeat(1, part.shape[1] // 8) for part in block)), losses)
    of_step = again.ids[:, 0].view(BLOCK_STEPS, 4)
    assert bool((of_step.amax(1) - of_step.amin(1) > 8).all())
