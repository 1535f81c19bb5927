"""Pairs for discovery methods: drawn, read from a dataset, cut, and the measure that compares outputs."""

import math

import pytest
import torch

from interpbench_hub.cases import get_case
from interpbench_hub.cases.kinds import changes_output
from interpbench_hub.cases.pairs import Pairs, in_split
from interpbench_hub.discovery.data import PairData, output_difference
from interpbench_hub.errors import SettingError

# Short and long inputs, numbers and classes, causal or not, a sampler of its own.
CASES = ("case_3", "case_7", "case_21", "bigram_share", "spread_around", "induction")


def parts(data: PairData) -> list[list]:
    return [part.tolist() for part in (data.clean, data.corrupted, data.lengths, data.corrupted_lengths)]


def small() -> PairData:
    """Three pairs with BOS 7 and PAD 8, the second with a longer counterfactual."""
    clean = torch.tensor([[7, 0, 1, 8, 8], [7, 0, 1, 2, 8], [7, 1, 8, 8, 8]])
    corrupted = torch.tensor([[7, 1, 1, 8, 8], [7, 0, 1, 1, 1], [7, 0, 8, 8, 8]])
    return PairData(clean, corrupted, torch.tensor([3, 4, 2]), torch.tensor([3, 5, 2]), categorical=True)


@pytest.mark.parametrize("name", CASES)
def test_pairs_are_inputs_of_the_case_with_bos_first_and_padding_last(name):
    case, data = get_case(name), PairData.of(name, n_pairs=48)
    assert len(data) == 48 and data.categorical == case.categorical
    for ids, lengths in ((data.clean, data.lengths), (data.corrupted, data.corrupted_lengths)):
        assert ids.shape == data.clean.shape and ids.dtype == torch.long
        places = torch.arange(ids.shape[1])
        assert bool((ids[:, 0] == case.bos_id).all())
        assert bool(((ids == case.pad_id) == (places >= lengths[:, None])).all())
        tokens = ids[:, 1:].clamp(max=len(case.vocab) - 1).masked_fill(places[1:] >= lengths[:, None], 0)
        assert bool(
            in_split(case, torch.nn.functional.pad(tokens, (0, case.max_len - ids.shape[1])), lengths - 1, "test").all()
        )
    assert set(data.lengths.tolist()) == set(range(case.min_len, case.max_len + 1))
    assert bool((data.corrupted_lengths >= data.lengths).all())


@pytest.mark.parametrize("name", CASES)
def test_pairs_exercise_every_varying_edge(name):
    case, data = get_case(name), PairData.of(name, n_pairs=64)
    tokens = [ids[:, 1:].masked_fill(ids[:, 1:] >= case.bos_id, 0) for ids in (data.clean, data.corrupted)]
    pairs = Pairs(tokens[0], data.lengths - 1, tokens[1], data.corrupted_lengths - 1)
    assert bool(changes_output(case, pairs, case.circuit.of_kind("varying")).any(1).all())


def test_pairs_are_the_same_for_the_same_seed_and_others_for_another():
    first = parts(PairData.of("case_7", n_pairs=40, seed=1))
    assert first == parts(PairData.of(get_case("case_7"), n_pairs=40, seed=1))
    assert first != parts(PairData.of("case_7", n_pairs=40, seed=2))
    assert first != parts(PairData.of("case_7", n_pairs=40, seed=1, split="validation"))


def test_pairs_that_cannot_be_drawn_are_refused():
    for n_pairs in (0, 2.5, True):
        with pytest.raises(SettingError, match=r"n_pairs is .*; it is a whole number of at least 1"):
            PairData.of("case_3", n_pairs=n_pairs)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="split 'dev' is not one of train, validation, test"):
        PairData.of("case_3", split="dev")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["case_7", "bigram_share"])
def test_a_dataset_gives_the_pairs_it_was_made_of(name):
    from datasets import Dataset

    from dataset_builders.columns import tables
    from dataset_builders.counterfactuals import CounterfactualPairs

    case = get_case(name)
    table = next(tables(case, CounterfactualPairs(case, "test"), 30))
    rows = Dataset(table)
    drawn = PairData.of(case, n_pairs=30)
    for given in (rows, table.to_pylist()):
        read = PairData.from_dataset(given)
        assert parts(read) == parts(drawn) and read.categorical == case.categorical
    assert len(PairData.from_dataset(rows.select(range(5)))) == 5


def test_rows_of_another_dataset_are_refused():
    with pytest.raises(
        SettingError, match="rows have no column counterfactual_ids, length, counterfactual_length; pairs"
    ):
        PairData.from_dataset([{"input_ids": [1, 2]}])
    with pytest.raises(SettingError, match="there are no rows"):
        PairData.from_dataset([])


def test_what_is_no_pair_is_refused():
    data = small()
    with pytest.raises(SettingError, match=r"clean ids have shape \(3, 5\), corrupted ids and lengths .*\(3, 4\)"):
        PairData(data.clean, data.corrupted[:, :4], data.lengths, data.corrupted_lengths, True)
    with pytest.raises(SettingError, match="pair 1 has lengths 4 and 3 in 5 positions"):
        PairData(data.clean, data.corrupted, data.lengths, torch.tensor([3, 3, 2]), True)
    with pytest.raises(SettingError, match=r"a batch of 0 pairs cannot be"):
        next(data.batches(0))


def test_batches_hold_all_pairs_in_order_and_no_more_padding_than_they_must():
    data = PairData.of("case_7", n_pairs=50)
    batches = list(data.batches(16))
    assert [len(batch) for batch in batches] == [16, 16, 16, 2]
    assert torch.cat([batch.lengths for batch in batches]).tolist() == data.lengths.tolist()
    first = next(small().batches(1))
    assert first.clean.tolist() == [[7, 0, 1]] and first.corrupted.tolist() == [[7, 1, 1]]


def test_groups_by_length_hold_every_pair_once():
    groups = list(small().by_length())
    assert [group.lengths.tolist() for group in groups] == [[2], [3], [4]]
    assert groups[2].corrupted.tolist() == [[7, 0, 1, 1, 1]] and groups[2].clean.tolist() == [[7, 0, 1, 2, 8]]
    assert [group.real.sum().item() for group in groups] == [1, 2, 3]


def test_the_difference_of_classes_is_the_mean_divergence_of_real_positions():
    data, generator = small(), torch.Generator().manual_seed(0)
    logits, reference = (torch.randn(3, 5, 4, generator=generator) for _ in range(2))
    found = data.difference(logits, reference)
    for row, length in enumerate(data.lengths.tolist()):
        each = []
        for pos in range(1, length):
            p, q = reference[row, pos].softmax(-1).tolist(), logits[row, pos].softmax(-1).tolist()
            each.append(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
        assert float(found[row]) == pytest.approx(sum(each) / len(each), rel=1e-5)


def test_the_difference_of_numbers_is_the_mean_squared_difference_of_real_positions():
    data = small()
    data = PairData(data.clean, data.corrupted, data.lengths, data.corrupted_lengths, categorical=False)
    logits, reference = torch.zeros(3, 5, 1), torch.arange(15.0).view(3, 5, 1)
    logits[0, 4] = torch.nan  # padding
    assert data.difference(logits, reference).tolist() == pytest.approx([(1 + 4) / 2, (36 + 49 + 64) / 3, 121])


def test_the_difference_of_stacked_rows_is_that_of_each():
    data, generator = small(), torch.Generator().manual_seed(0)
    one, two, reference = (torch.randn(3, 5, 4, generator=generator) for _ in range(3))
    stacked = data.difference(torch.cat([one, two]), reference)
    assert torch.equal(stacked, torch.cat([data.difference(one, reference), data.difference(two, reference)]))
    with pytest.raises(SettingError, match="logits have 4 rows, their reference 3; 3 pairs"):
        data.difference(torch.zeros(4, 5, 4), reference)


def test_the_difference_from_itself_is_nothing_and_has_gradients():
    logits = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    reference = torch.zeros(3, 5, 4)
    assert float(small().difference(logits, logits).detach().abs().max()) < 1e-7
    small().difference(logits, reference).sum().backward()
    assert logits.grad is not None and bool((logits.grad[0, 1:3] != 0).all()) and not bool(logits.grad[:, 0].any())
    assert output_difference(torch.ones(1, 2, 1), torch.zeros(1, 2, 1), small().real[2:, :2], categorical=False) == 1
