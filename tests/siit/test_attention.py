"""What the circuit's heads are told to look at: the loss against a loop, and what it never looks at."""

import math

import pytest
import torch
from torch import Tensor

from interpbench_hub.cases import Case, get_case
from interpbench_hub.rasp.causal_model import UNCLEAR
from interpbench_hub.rasp.variables import Variable
from interpbench_hub.siit.attention import AttentionTargets
from interpbench_hub.siit.pair_run import to_ids
from interpbench_hub.siit.sizes import transformer_config
from interpbench_hub.transformer import Transformer
from tests.slow_model import SlowModel

# Heads that count; a head that looks one up; causal sentences; no head at all.
CASE_IDS = ("case_3", "case_13", "case_21", "case_11", "case_8")


def place_of(case: Case, head: Variable) -> tuple[int, int]:
    """Layer and number of the head that computes a variable."""
    node = case.alignment.node_of[head.name]
    assert node.layer is not None and node.head is not None
    return node.layer, node.head


def slow_loss(
    targets: AttentionTargets, scores: list[Tensor], chosen: list[dict[str, list[list[int] | None]]]
) -> Tensor:
    """Divergence of the attention from its target, one query at a time: `chosen[row][head][query]` are its keys."""
    total = torch.zeros(())
    for head in targets.heads:
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
    scores: list[Tensor] = []
    model.run(to_ids(case, inputs, lengths), lengths + 1, scores=scores)
    there = torch.arange(inputs.shape[1]) < lengths[:, None]
    found = targets.loss(scores, targets.selected(case.high_level.run(inputs, lengths), lengths), there)
    slow = SlowModel.of(case)
    rows = [[case.vocab[token] for token in row[:n]] for row, n in zip(inputs.tolist(), lengths.tolist(), strict=True)]
    expected = slow_loss(targets, scores, [slow.selected(row) for row in rows])
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
    found = targets.loss(scores, selected, there)
    torch.testing.assert_close(found, slow_loss(targets, scores, chosen), rtol=1e-4, atol=1e-5)
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
    assert targets.loss(scores, selected, there).item() == pytest.approx(0, abs=1e-6)
    for head in targets.heads:
        layer, number = place_of(case, head)
        kept = scores[layer][number].clone()
        scores[layer][number][0] = 0.0
        assert targets.loss(scores, selected, there).item() > 1e-3
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
            groups[n_keys == 0].append(math.log((1 + width) / max(n_keys, 1)))
        assert all(groups)
        expected += sum(sum(group) / len(group) for group in groups)
    assert targets.loss(scores, selected, there).item() == pytest.approx(expected, rel=1e-5)
