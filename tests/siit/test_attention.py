"""What the circuit's heads are told to look at: the loss against a loop, and what it never looks at."""

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from interpbench_hub.cases import Case, get_case, list_cases
from interpbench_hub.circuit import POS_EMBED, Edge
from interpbench_hub.exchange import Replacement
from interpbench_hub.rasp.causal_model import UNCLEAR
from interpbench_hub.rasp.variables import Variable
from interpbench_hub.siit.attention import AttentionTargets, _places_by_code
from interpbench_hub.siit.pair_run import to_ids
from interpbench_hub.siit.sizes import transformer_config
from interpbench_hub.transformer import Attention, Transformer
from tests.slow_model import SlowModel

ALL_IDS = [case.id for case in list_cases()]
# Heads that count; a head that looks one up; causal sentences; no head at all.
CASE_IDS = ("case_3", "case_13", "case_21", "case_11", "case_8")


def place_of(case: Case, head: Variable) -> tuple[int, int]:
    """Layer and number of the head that computes a variable."""
    node = case.alignment.node_of[head.name]
    assert node.layer is not None and node.head is not None
    return node.layer, node.head


def by_scores(scores: list[Tensor]) -> list[Attention]:
    """Attention of which only the scores are looked at."""
    return [Attention(torch.empty(0), torch.empty(0), of_layer) for of_layer in scores]


def slow_loss(
    targets: AttentionTargets,
    heads: Sequence[Variable],
    scores: Sequence[Tensor],
    chosen: list[dict[str, list[list[int] | None]]],
) -> Tensor:
    """Divergence of the attention from its target, one query at a time: `chosen[row][head][query]` are its keys."""
    total = torch.zeros(())
    for head in heads:
        layer, number = place_of(targets.case, head)
        apart = []
        for row, of_row in enumerate(chosen):
            for query, keys in enumerate(of_row[head.name]):
                if keys is None:
                    continue
                # BOS stands before all tokens.
                places = [1 + key for key in keys]
                if head.kind == "fraction" or not places:
                    places = [0, *places]
                logs = torch.log_softmax(scores[layer][number, row, :, 1 + query], dim=0)
                share = 1 / len(places)
                apart.append(sum((share * (math.log(share) - logs[place]) for place in places), torch.zeros(())))
        total = total + sum(apart, torch.zeros(())) / max(len(apart), 1)
    return total


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_the_loss_is_that_of_a_loop_over_queries(case_id):
    case = get_case(case_id)
    targets, model = AttentionTargets(case), Transformer(transformer_config(case))
    inputs, lengths = case.pair_sampler(seed=1).inputs(9)
    attention: list[Attention] = []
    model.run(to_ids(case, inputs, lengths), lengths + 1, attention=attention)
    there = torch.arange(inputs.shape[1]) < lengths[:, None]
    found = targets.loss(attention, targets.selected(case.high_level.run(inputs, lengths), lengths), there)
    slow = SlowModel.of(case)
    rows = [[case.vocab[token] for token in row[:n]] for row, n in zip(inputs.tolist(), lengths.tolist(), strict=True)]
    scores = [of_layer.scores for of_layer in attention]
    expected = slow_loss(targets, targets.heads, scores, [slow.selected(row) for row in rows])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert bool(found > 0) == bool(targets.heads)


@pytest.mark.parametrize("case_id", ["case_3", "case_21"])
def test_queries_that_are_not_there_or_unclear_do_not_count(case_id):
    case = get_case(case_id)
    config = transformer_config(case)
    targets, generator = AttentionTargets(case), torch.Generator().manual_seed(0)
    rows, width = 5, 4
    scores = [
        torch.randn(config.n_heads, rows, 1 + width, 1 + width, generator=generator, requires_grad=True)
        for _ in range(config.n_layers)
    ]
    there = torch.rand(rows, width, generator=generator) < 0.7
    selected = torch.randint(3, (rows, len(targets.heads), width, width), generator=generator)
    # One unclear key is enough, and few enough queries have one.
    selected = selected.masked_fill((selected == UNCLEAR) & (torch.rand(selected.shape, generator=generator) < 0.8), 0)
    chosen = [
        {
            head.name: [
                None if not there[row, query] or UNCLEAR in keys else [key for key, kind in enumerate(keys) if kind]
                for query, keys in enumerate(selected[row, place].tolist())
            ]
            for place, head in enumerate(targets.heads)
        }
        for row in range(rows)
    ]
    found = targets.loss(by_scores(scores), selected, there)
    torch.testing.assert_close(found, slow_loss(targets, targets.heads, scores, chosen), rtol=1e-4, atol=1e-5)
    found.backward()
    places = [place_of(case, head) for head in targets.heads]
    for layer, of_layer in enumerate(scores):
        for head in range(config.n_heads):
            gradient = torch.zeros(()) if of_layer.grad is None else of_layer.grad[head]
            assert bool(gradient.any()) == ((layer, head) in places)
            if (layer, head) in places:
                assert not bool(gradient[:, :, 0].any()), "BOS asks nothing"
                assert not bool(gradient[:, :, 1:].transpose(1, 2)[~there].any()), "padding asks nothing"


def perfect_scores(case: Case, targets: AttentionTargets, selected: Tensor) -> list[Tensor]:
    """Scores by which every head looks at exactly what it should."""
    config = transformer_config(case)
    rows, _, width, _ = selected.shape
    scores = [torch.zeros(config.n_heads, rows, 1 + width, 1 + width) for _ in range(config.n_layers)]
    for place, head in enumerate(targets.heads):
        layer, number = place_of(case, head)
        keys = selected[:, place].transpose(1, 2) == 1
        bos = torch.ones_like(keys[:, :1]) if head.kind == "fraction" else ~keys.any(1, keepdim=True)
        wanted = torch.cat([bos, keys], dim=1)
        scores[layer][number][:, :, 1:] = torch.zeros(wanted.shape).masked_fill(~wanted, -torch.inf)
    return scores


@pytest.mark.parametrize("case_id", ["case_3", "case_21", "ioi", "ioi_full"])
def test_attention_that_is_just_right_has_no_loss_and_any_other_has_one(case_id):
    case = get_case(case_id)
    targets = AttentionTargets(case)
    inputs, lengths = case.pair_sampler(seed=2, split="train").inputs(7)
    there = torch.arange(inputs.shape[1]) < lengths[:, None]
    selected = targets.selected(case.high_level.run(inputs, lengths), lengths)
    scores = perfect_scores(case, targets, selected)
    assert targets.loss(by_scores(scores), selected, there).item() == pytest.approx(0, abs=1e-6)
    for head in targets.heads:
        layer, number = place_of(case, head)
        kept = scores[layer][number].clone()
        scores[layer][number][0] = 0.0
        assert targets.loss(by_scores(scores), selected, there).item() > 1e-3
        scores[layer][number].copy_(kept)
    assert len(targets.heads) >= 1


def test_in_sentences_queries_that_select_nothing_count_as_much_as_all_others():
    case = get_case("ioi")
    targets, config = AttentionTargets(case), transformer_config(case)
    inputs, lengths = case.pair_sampler(seed=3, split="train").inputs(6)
    there = torch.arange(inputs.shape[1]) < lengths[:, None]
    selected = targets.selected(case.high_level.run(inputs, lengths), lengths)
    # Attention that knows nothing: what it is from its target hangs on the number of keys alone.
    width = inputs.shape[1]
    scores = [torch.zeros(config.n_heads, len(inputs), 1 + width, 1 + width) for _ in range(config.n_layers)]
    expected = 0.0
    for place in range(len(targets.heads)):
        groups: tuple[list[float], list[float]] = ([], [])
        for row, query in there.nonzero().tolist():
            n_keys = int(selected[row, place, query].sum())
            groups[n_keys == 0].append(math.log(1 + (1 + width) - max(n_keys, 1)))
        assert all(groups)
        expected += sum(sum(group) / len(group) for group in groups)
    assert targets.loss(by_scores(scores), selected, there).item() == pytest.approx(expected, rel=1e-5)


def test_in_sentences_attention_is_spread_over_what_it_selects_as_it_likes():
    case = get_case("ioi")
    targets = AttentionTargets(case)
    inputs, lengths = case.pair_sampler(seed=4, split="train").inputs(6)
    there = torch.arange(inputs.shape[1]) < lengths[:, None]
    selected = targets.selected(case.high_level.run(inputs, lengths), lengths)
    scores = perfect_scores(case, targets, selected)
    generator = torch.Generator().manual_seed(0)
    uneven = [of_layer + 3 * torch.randn(of_layer.shape, generator=generator) for of_layer in scores]
    for place, head in enumerate(targets.heads):
        layer, number = place_of(case, head)
        several = (selected[:, place].sum(2) > 1) & there
        shares = uneven[layer][number][:, :, 1:].softmax(1).amax(1)
        # A name mover in the first clause has one name and the other, a head that finds a name both its mentions.
        assert head.name == "s_inhibition" or bool((shares[several] > 0.6).any())
    assert targets.loss(by_scores(uneven), selected, there).item() == pytest.approx(0, abs=1e-6)
    # What each of them would leave to all others is a loss.
    for of_layer in uneven:
        of_layer.masked_fill_(of_layer == -torch.inf, -2.0)
    expected = 0.0
    for place, head in enumerate(targets.heads):
        layer, number = place_of(case, head)
        groups: tuple[list[float], list[float]] = ([], [])
        for row, query in there.nonzero().tolist():
            keys = [1 + key for key, kind in enumerate(selected[row, place, query].tolist()) if kind]
            sizes = uneven[layer][number, row, :, 1 + query].exp().tolist()
            others = sum(size for key, size in enumerate(sizes) if key not in (keys or [0]))
            by_key = [-math.log(sizes[key] / (sizes[key] + others)) for key in keys or [0]]
            groups[not keys].append(sum(by_key) / len(by_key))
        expected += sum(sum(group) / len(group) for group in groups)
    assert targets.loss(by_scores(uneven), selected, there).item() == pytest.approx(expected, rel=1e-4)


# -- queries that look at the keys of the row before -------------------------------------------------------------------


def test_heads_compare_if_both_their_queries_and_their_keys_hold_what_inputs_hold():
    comparing = {
        case_id: {head.name for head in AttentionTargets(get_case(case_id)).comparing}
        for case_id in ("case_3", "case_8", "case_9", "ioi", "first_follower")
    }
    assert comparing["case_3"] == comparing["case_8"] == set()
    # Sorting compares keys with keys; the place of a value is compared with a position.
    assert comparing["case_9"] == {"target_index_fraction"}
    # Heads that look at positions only do not.
    assert comparing["ioi"] == {"duplicate_token", "name_mover"}
    assert comparing["first_follower"] == {"times_fraction", "follower"}


# One that counts, undefined values among what it compares; look-ups; causal.
COMPARING_IDS = ("case_9", "case_21", "first_follower", "bigram_share")


def crossed_by_loop(
    case: Case, head: Variable, own: dict[str, list], before: dict[str, list], moved: list[bool]
) -> list[list[int] | None]:
    """What the queries of a row select if some of its keys are those of the row before: variables' values by
    position."""
    q, k = head.read_in("q"), head.read_in("k")
    assert head.selects and q and k
    keys = [before[k][place] if moved[place] else held for place, held in enumerate(own[k])]
    return [
        [key for key, held in enumerate(keys) if head.selects(held, asked) and not (case.causal and key > query)]
        for query, asked in enumerate(own[q])
    ]


def moved_at_random(there: Tensor, before: Tensor) -> Tensor:
    """Some of the positions that rows and those before them have: none, some or all of a row's."""
    share = torch.rand(len(there), 1, generator=torch.Generator().manual_seed(6)) * 3 - 1
    drawn = torch.rand(there.shape, generator=torch.Generator().manual_seed(7)) < share
    return drawn & before


@pytest.mark.parametrize("distance", [1, 3])
@pytest.mark.parametrize("case_id", COMPARING_IDS)
def test_crossed_rows_select_and_lose_as_a_loop_says(case_id, distance):
    case = get_case(case_id)
    targets, model = AttentionTargets(case), Transformer(transformer_config(case), seed=3)
    inputs, lengths = case.pair_sampler(seed=4).inputs(14)
    values = case.high_level.run(inputs, lengths)
    slow = SlowModel.of(case)
    rows = [[case.vocab[token] for token in row[:n]] for row, n in zip(inputs.tolist(), lengths.tolist(), strict=True)]
    held = [{**slow.values(row), "tokens": row} for row in rows]
    there = torch.arange(inputs.shape[1]) < lengths[:, None]
    # Two batches: rows of one never look at the other's.
    before = [*range(7 - distance, 7), *range(7 - distance), *range(14 - distance, 14), *range(7, 14 - distance)]
    moved = moved_at_random(there, there[before])
    shares = {float(row.sum() / reached.sum()) for row, reached in zip(moved, there[before], strict=True)}
    assert {0.0, 1.0} < shares
    compared = targets.compared(values).unflatten(0, (2, 7))
    # Rows nearer by have none of their keys moved.
    of_others = torch.zeros(14, distance, moved.shape[1], dtype=torch.bool)
    of_others[:, -1] = moved
    found = targets.crossed(compared, lengths.view(2, 7), of_others.unflatten(0, (2, 7))).flatten(0, 1)[:, -1]
    assert targets.comparing and len(set(lengths.tolist())) > 1
    chosen: list[dict[str, list[list[int] | None]]] = []
    for row, other in enumerate(before):
        chosen.append({})
        for place, head in enumerate(targets.comparing):
            expected = crossed_by_loop(case, head, held[row], held[other], moved[row].tolist())
            chosen[-1][head.name] = expected
            selected = found[row, place, : len(rows[row])]
            assert [keys.nonzero()[:, 0].tolist() for keys in selected] == expected
    assert bool(found.any())

    attention: list[Attention] = []
    model.run(to_ids(case, inputs, lengths), lengths + 1, attention=attention)
    # One batch now: the first row looks at the last, and at those before it.
    moved = torch.stack([moved_at_random(there, there.roll(1 + other, 0)) for other in range(distance)], dim=1)
    crossed = targets.crossed(targets.compared(values)[None], lengths[None], moved[None])[0]
    bias = model.attention_bias(1 + inputs.shape[1], lengths + 1)
    assert bias is not None
    loss = targets.crossed_loss(attention, crossed, moved, bias, there)
    width, expected = 1 + inputs.shape[1], torch.zeros(())
    for other in range(distance):
        scores = [torch.full(of_layer.scores.shape, -torch.inf) for of_layer in attention]
        for of_layer, (q, k, _) in zip(scores, attention, strict=True):
            for row in range(14):
                for query in range(width):
                    for key in range(1 + int(lengths[row])):
                        of_row = row - 1 - other if key and bool(moved[row, other, key - 1]) else row
                        if not (case.causal and key > query):
                            of_layer[:, row, key, query] = (k[:, of_row, key] * q[:, row, query]).sum(-1)
        chosen = [
            {
                head.name: crossed_by_loop(case, head, held[row], held[row - 1 - other], moved[row, other].tolist())
                for head in targets.comparing
            }
            for row in range(14)
        ]
        expected = expected + slow_loss(targets, targets.comparing, scores, chosen)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case_id", ["ioi", "ioi_full"])
def test_crossed_sentences_select_what_an_exchange_of_the_keys_selects(case_id):
    case = get_case(case_id)
    targets, high_level = AttentionTargets(case), case.high_level
    inputs, lengths = case.pair_sampler(seed=5, split="train").inputs(400)
    # Of one length: an exchange leaves keys that the source does not have.
    rows = lengths == lengths.mode().values
    inputs, lengths = inputs[rows], lengths[rows]
    values = high_level.run(inputs, lengths)
    source = {name: codes.roll(1, 0) for name, codes in values.items()}
    moved = torch.ones_like(inputs, dtype=torch.bool)
    found = targets.crossed(targets.compared(values)[None], lengths[None], moved[None, :, None])[0, :, 0]
    for place, head in enumerate(targets.comparing):
        key = next(read for read in head.reads if read.slot == "k")
        edge = Edge(case.alignment.node_of[key.variable], case.alignment.node_of[head.name], "k")
        edges = torch.zeros(len(lengths), len(high_level.circuit), dtype=torch.bool)
        edges[:, high_level.edge_index[edge]] = True
        assert torch.equal(found[:, place].long(), high_level.selected(head, values, lengths, source, edges).long())
    assert bool((found == 1).any())


# -- what the circuit brings, from other places ------------------------------------------------------------------------


@pytest.mark.parametrize("case_id", [*COMPARING_IDS, "ioi", "ioi_full"])
def test_the_loss_of_interchanged_values_is_that_of_exchanging_each_edge_alone(case_id, monkeypatch):
    targets, model, inputs, lengths, there, compared = seen_by(case_id)
    case = targets.case
    real = there.flatten().nonzero()[:, 0]
    drawn = torch.Generator().manual_seed(12)
    asked: list[Tensor] = []

    def places_of(codes: Tensor, there: Tensor, n_codes: int, generator: torch.Generator) -> Tensor:
        asked.append(real[torch.randint(len(real), codes.shape, generator=drawn)])
        return asked[-1]

    monkeypatch.setattr("interpbench_hub.siit.attention._places_by_code", places_of)
    attention: list[Attention] = []
    run = model.run(to_ids(case, inputs, lengths), lengths + 1, attention=attention)
    loss = targets.interchanged_loss(model, run.senders, attention, compared, lengths, torch.Generator())
    values = case.high_level.run(inputs, lengths)
    expected, edges = torch.zeros(()), iter(asked)
    for head in targets.comparing:
        for slot in ("q", "k"):
            places, name = next(edges), head.read_in(slot) or ""
            edge = Edge(case.alignment.node_of[name], case.alignment.node_of[head.name], slot)
            sender = model.config.senders.index(edge.source)
            written = run.senders.clone()
            written[sender, :, 1:] = written[sender, :, 1:].flatten(0, 1)[places]
            changed: list[Attention] = []
            mask = model.config.mask_of([edge]).expand(len(inputs), -1, -1)
            model.interchange_run(run.senders[:2], written, mask, lengths + 1, attention=changed)
            source = {**values, name: values[name].flatten()[places]}
            exchanged = torch.zeros(len(inputs), len(case.high_level.circuit), dtype=torch.bool)
            exchanged[:, case.high_level.edge_index[edge]] = True
            selected = case.high_level.selected(head, values, lengths, source, exchanged)
            of_head = AttentionTargets(case)
            of_head.heads = (head,)
            expected = expected + of_head.loss(changed, selected[:, None], there)
    assert next(edges, None) is None and len(asked) == 2 * len(targets.comparing)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_places_are_real_and_bring_all_values_alike():
    codes = torch.tensor([[0, 0, 0, 0, 1], [7, 0, 2, 0, 3]])
    there = torch.tensor([[True, True, True, True, True], [True, True, True, True, False]])
    generator = torch.Generator().manual_seed(1)
    places = torch.stack([_places_by_code(codes, there, 5, generator) for _ in range(3000)]).flatten()
    assert places.shape == (30_000,)
    found = codes.flatten()[places].bincount()
    # Three values, and neither the one beyond those that count nor what stands in padding.
    assert set(found.nonzero()[:, 0].tolist()) == {0, 1, 2}
    assert all(abs(count / 10_000 - 1) < 0.05 for count in found[:3].tolist())
    # No value at all that counts: any place that is real.
    assert set(_places_by_code(codes + 5, there, 5, generator).flatten().tolist()) <= set(range(9))


# -- every query with every key ----------------------------------------------------------------------------------------


def seen_by(case_id: str, n_rows: int = 6) -> tuple[AttentionTargets, Transformer, Tensor, Tensor, Tensor, Tensor]:
    """A case's targets, a model, inputs, their lengths, which positions are real, and what is compared at them."""
    case = get_case(case_id)
    targets, model = AttentionTargets(case), Transformer(transformer_config(case), seed=5)
    inputs, lengths = case.pair_sampler(seed=8).inputs(n_rows)
    there = torch.arange(inputs.shape[1]) < lengths[:, None]
    return targets, model, inputs, lengths, there, targets.compared(case.high_level.run(inputs, lengths))


@pytest.mark.parametrize("slot", ["q", "k"])
@pytest.mark.parametrize("case_id", COMPARING_IDS)
def test_what_edges_carry_to_queries_and_keys_is_what_exchanging_them_changes(case_id, slot):
    targets, model, inputs, lengths, _, _ = seen_by(case_id)
    case = targets.case
    plain: list[Attention] = []
    run = model.run(to_ids(case, inputs, lengths), lengths + 1, attention=plain)
    carried = targets.carried(model, run.senders)
    # Sources are the same rows in another order.
    order = torch.arange(len(inputs)).roll(1)
    for place, head in enumerate(targets.comparing):
        layer, number = place_of(case, head)
        mask = model.config.mask_of(
            [Edge(case.alignment.node_of[head.read_in(slot) or ""], case.alignment.node_of[head.name], slot)]
        ).float()
        changed: list[Attention] = []
        model.interchange_run(
            run.senders[:2],
            Replacement(run.senders[:, order], kept=torch.ones(len(inputs))),
            mask.expand(len(inputs), -1, -1),
            lengths + 1,
            attention=changed,
        )
        side = "qk".index(slot)
        found = changed[layer][side][number] - plain[layer][side][number]
        of_edge = carried[place][side]
        torch.testing.assert_close(found, of_edge[order] - of_edge, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("slot", ["q", "k"])
@pytest.mark.parametrize("case_id", COMPARING_IDS)
def test_the_circuit_carries_to_queries_and_keys_what_goes_when_its_edges_are_zero(case_id, slot):
    targets, model, inputs, lengths, _, _ = seen_by(case_id)
    plain: list[Attention] = []
    run = model.run(to_ids(targets.case, inputs, lengths), lengths + 1, attention=plain)
    carried = targets.carried(model, run.senders)
    nothing = targets.carried(model, torch.zeros_like(run.senders))
    for place, head in enumerate(targets.comparing):
        layer, number = place_of(targets.case, head)
        node = targets.case.alignment.node_of[head.name]
        edges = [edge for edge in targets.case.circuit if (edge.target, edge.slot) == (node, slot)]
        assert any(edge.source == POS_EMBED for edge in edges)
        changed: list[Attention] = []
        model.interchange_run(
            run.senders[:2],
            Replacement(torch.zeros_like(run.senders), kept=torch.ones(len(inputs))),
            model.config.mask_of(edges).float().expand(len(inputs), -1, -1),
            lengths + 1,
            attention=changed,
        )
        side = "qk".index(slot)
        found = plain[layer][side][number] - changed[layer][side][number]
        torch.testing.assert_close(found, carried[place][side] - nothing[place][side], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("case_id", COMPARING_IDS)
def test_the_loss_of_all_pairs_is_that_of_a_loop_over_queries_and_keys(case_id):
    targets, model, inputs, lengths, there, compared = seen_by(case_id)
    case = targets.case
    attention: list[Attention] = []
    run = model.run(to_ids(case, inputs, lengths), lengths + 1, attention=attention)
    carried = targets.carried(model, run.senders)
    expected = torch.zeros(())
    for place, head in enumerate(targets.comparing):
        layer, number = place_of(case, head)
        q, k = (attention[layer][side][number] for side in range(2))
        bos = k[:, 0].mean(0)
        asked, held = (case.graph[name or ""].classes for name in (head.read_in("q"), head.read_in("k")))
        met: dict[tuple[int, int], list[Tensor]] = {}
        places = [(row, at) for row in range(len(inputs)) for at in range(inputs.shape[1])]
        # A row lends what other edges carry to the next one, where that has the position too, if that is an odd one.
        places = [(row, at) for row, at in places if there[row, at] and there[row - 1, at]]
        for row, at in places:
            query = carried[place][0][row, 1 + at] + row % 2 * (q - carried[place][0])[row - 1, 1 + at]
            for other, to in places:
                key = carried[place][1][other, 1 + to] + other % 2 * (k - carried[place][1])[other - 1, 1 + to]
                of_query, of_key = int(compared[row, place, 0, at]), int(compared[other, place, 1, to])
                if of_query >= len(asked) or of_key >= len(held):
                    continue
                # One key beside BOS, whose score is taken off.
                logs = torch.log_softmax(torch.stack([torch.zeros(()), (key - bos) @ query]), dim=0)
                assert head.selects is not None
                if not head.selects(held[of_key], asked[of_query]):
                    apart = -logs[0]
                elif head.kind == "fraction":
                    apart = -math.log(2) - logs.mean()
                else:
                    apart = -logs[1]
                met.setdefault((of_query, of_key), []).append(apart)
        # Each pair of values counts as often as the product of how many queries and keys there are allows: once.
        mean = torch.stack([torch.stack(found).mean() for found in met.values()]).mean()
        expected = expected + (inputs.shape[1] * mean + 1e-6).sqrt()
    found = targets.pairwise_loss(attention, carried, compared, there)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("case_id", COMPARING_IDS)
def test_values_are_apart_if_no_two_point_the_same_way(case_id):
    targets, model, inputs, lengths, there, compared = seen_by(case_id)
    case = targets.case
    senders = model.run(to_ids(case, inputs, lengths), lengths + 1).senders.detach()
    expected = 0.0
    for place, head in enumerate(targets.comparing):
        seen = []
        for side, name in enumerate((head.read_in("q"), head.read_in("k"))):
            assert name
            node = case.alignment.node_of[name]
            if node in seen:
                continue
            seen.append(node)
            written = senders[model.config.senders.index(node)][:, 1:]
            of_code: dict[int, list[Tensor]] = {}
            for row, at in there.nonzero().tolist():
                code = int(compared[row, place, side, at])
                if code < len(case.graph[name].classes):
                    of_code.setdefault(code, []).append(written[row, at])
            means = torch.stack([torch.stack(found).mean(0) for found in of_code.values()])
            means = means - means.mean(0)
            for mine in range(len(means)):
                for other in range(len(means)):
                    cosine = float(torch.cosine_similarity(means[mine], means[other], dim=0))
                    expected += (mine != other) * max(cosine, 0) ** 2 / len(means)
    found = targets.spread_loss(model, senders, compared, there)
    assert expected > 0 and float(found) == pytest.approx(expected, rel=1e-3)


def test_values_in_directions_of_their_own_are_spread():
    targets, model, _, _, there, compared = seen_by("case_9")
    # Of 90 values, each met here is written in one of 90 dimensions; queries and keys are the same node's.
    own = F.one_hot(compared[:, 0, 0].clamp(max=89), 90).to(torch.float32)
    senders = F.pad(own, (0, 0, 1, 0)).expand(len(model.config.senders), -1, -1, -1)
    assert float(targets.spread_loss(model, senders, compared, there)) == pytest.approx(0, abs=1e-6)
    assert float(targets.spread_loss(model, senders + 0.5 * senders.roll(1, -1), compared, there)) > 0


def test_only_cases_that_order_dozens_of_values_are_told_of_pairs():
    told = {
        case_id: get_case(case_id).n_compared("fraction")
        for case_id in ALL_IDS
        if get_case(case_id).edge_siit.get("pairwise_weight")
    }
    assert told == dict.fromkeys(("case_59", "case_81", "case_97", "case_98", "case_126"), 99) | {
        "case_9": 90,
        "case_22": 45,
    }
    assert get_case("case_21").n_compared("fraction") == 27 and not get_case("case_21").edge_siit
    # Heads that select everything, or by position, order nothing.
    assert get_case("case_13").n_compared("fraction") == 0
