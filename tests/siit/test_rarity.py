"""What is rare: surprises against a count of tuples, and the pairs that training draws because of them."""

import math
from collections import Counter
from typing import Any

import pytest
import torch

from interpbench_hub.cases import get_case
from interpbench_hub.cases.pairs import Pairs
from interpbench_hub.siit import RECIPES
from interpbench_hub.siit.draws import BLOCK_STEPS, Draws
from interpbench_hub.siit.interventions import EdgeSpace
from interpbench_hub.siit.mixing import Mixing
from interpbench_hub.siit.pair_run import to_ids
from interpbench_hub.siit.rarity import Rarity
from interpbench_hub.siit.sizes import transformer_config

RECIPE = RECIPES["edge-siit"].changed(n_pairs=6, circuit_groups=2)
# Counts before a position and maps of two variables; heads that see all.
CASE_IDS = ("depth_rank", "case_3", "case_21")


def space_of(case_id: str) -> EdgeSpace:
    case = get_case(case_id)
    return EdgeSpace(case, transformer_config(case))


def held_alone(space: EdgeSpace, pairs: Pairs, exchanges: torch.Tensor, row: int) -> list[dict[int, Any]]:
    """What each variable holds at each position of one pair, run by itself: read value by value, as tuples."""
    case, model = space.case, space.case.high_level
    base, length = pairs.base[row : row + 1], int(pairs.base_lengths[row])
    source = model.run(pairs.source[row : row + 1], pairs.source_lengths[row : row + 1])
    exchanged = space.exchange_sets[exchanges[row]]
    edges = space.to_circuit(exchanged[None])
    values = model.interchange_values(base, pairs.base_lengths[row : row + 1], source, edges)
    on = {str(space.edges[place]) for place in exchanged.nonzero().flatten().tolist()}
    found = []
    for variable in case.graph.variables:
        if not variable.reads:
            continue
        node = case.alignment.node_of.get(variable.name)
        held = {}
        for at in range(length):
            read_values = []
            for read in variable.reads:
                receiver = "logits" if node is None else node.name
                slot = f"<{read.slot}>" if read.slot else ""
                name = f"{case.alignment.node_of[read.variable].name}->{receiver}{slot}"
                read_values.append(int((source if name in on else values)[read.variable][0, at]))
            value = tuple(read_values) if variable.kind == "map" else int(values[variable.name][0, at])
            held[at] = (value, at if case.causal else length)
        found.append(held)
    return found


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_surprise_is_what_a_count_of_tuples_says(case_id):
    space = space_of(case_id)
    case = space.case
    generator = torch.Generator().manual_seed(0)
    known, others = (case.pair_sampler(seed=f"rarity test {name}").draw(60) for name in ("known", "others"))
    exchanges = torch.randint(space.n_exchanges, (2, 60), generator=generator)
    rarity = Rarity(case, space, known, exchanges[0])
    rows = [held_alone(space, known, exchanges[0], row) for row in range(60)]
    counts = [Counter(value for row in rows for value in row[place].values()) for place in range(len(rows[0]))]
    assert len(counts) == len(rarity.variables)
    n_seen = int(known.base_lengths.sum())
    variables = torch.arange(60) % len(counts)
    found = rarity.surprise(others, exchanges[1], variables)
    assert found.shape == (60,)
    for row in range(60):
        place = int(variables[row])
        held = held_alone(space, others, exchanges[1], row)[place].values()
        rarest = min(counts[place][value] for value in held)
        assert float(found[row]) == pytest.approx(math.log(n_seen / (rarest + 0.5)), rel=1e-5)


def draws_of(case_id: str, **changes: Any) -> Draws:
    space = space_of(case_id)
    mixing = Mixing(space.case, space.config, ())
    return Draws(space.case, space, RECIPE.changed(**changes), 0, (), None, mixing, torch.device("cpu"))


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_each_pair_is_one_of_its_candidates_and_the_share_that_is_rare_the_rarest(case_id):
    draws = draws_of(case_id, rare_share=1.0, replayed_share=0.0)
    assert draws.rarity is not None
    rows, weights = BLOCK_STEPS * RECIPE.n_pairs, torch.ones(sum(draws.kind_counts))
    block = draws.block(3, weights, None)
    candidates = draws.sampler.draw(4 * rows, 3)
    ids = to_ids(draws.case, candidates.base, candidates.base_lengths).view(4, BLOCK_STEPS, RECIPE.n_pairs, -1)
    drawn = block.ids[:, RECIPE.n_pairs :]
    assert bool((ids == drawn).all(-1).any(0).all())
    # Over all variables, what the rarest of four hold is rarer than what four at random do.
    exchanges = block.kinds[:, : RECIPE.n_pairs].flatten()
    sources, bases = (part.flatten(0, 1) for part in (block.ids[:, : RECIPE.n_pairs], drawn))
    lengths = block.lengths.unflatten(1, (2, -1)) - 1
    chosen = Pairs(bases[:, 1:], lengths[:, 1].flatten(), sources[:, 1:], lengths[:, 0].flatten())
    chosen = Pairs(*(part.masked_fill(part >= len(draws.case.vocab), 0) if part.ndim == 2 else part for part in chosen))
    variables = torch.arange(rows) % len(draws.rarity.variables)
    at_random = draws.rarity.surprise(candidates[:rows], exchanges, variables).mean()
    assert float(draws.rarity.surprise(chosen, exchanges, variables).mean()) > float(at_random)


def test_without_a_share_pairs_are_those_of_the_sampler():
    draws = draws_of("case_3", rare_share=0.0, replayed_share=0.0)
    assert draws.rarity is None
    block = draws.block(2, torch.ones(sum(draws.kind_counts)), None)
    pairs = draws.sampler.draw(BLOCK_STEPS * RECIPE.n_pairs, 2)
    assert torch.equal(block.ids[:, RECIPE.n_pairs :].flatten(0, 1), to_ids(draws.case, pairs.base, pairs.base_lengths))
    assert torch.equal(
        block.ids[:, : RECIPE.n_pairs].flatten(0, 1), to_ids(draws.case, pairs.source, pairs.source_lengths)
    )


def test_nothing_is_rare_where_nothing_is_exchanged():
    assert draws_of("case_3", circuit_groups=0).rarity is None
