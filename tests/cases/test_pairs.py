"""Inputs and pairs: deterministic draws, lengths, splits, and enumerations against brute force."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interpbench_hub.cases import Case, get_case
from interpbench_hub.cases.pairs import (
    MIN_SPACE_TO_SPLIT,
    SPLITS,
    Pairs,
    PairSampler,
    Split,
    all_inputs,
    all_pairs,
    count_pairs,
    in_split,
    is_split,
    pair_places,
    seeded,
    split_bucket,
)
from interpbench_hub.errors import SettingError
from interpbench_hub.rasp import tokens

# With and without a sampler of their own, few tokens and many, short and long.
DRAWN_FROM = ["case_2", "case_3", "case_5", "case_7", "case_39", "case_113", "case_119"]
SHARES: dict[Split, range] = {"train": range(70), "validation": range(70, 80), "test": range(80, 100)}


def tiny(n_tokens: int = 2, max_len: int = 4, **changes: Any) -> Case:
    """A case with few inputs."""
    plain = Case("tiny", "Copies.", tokens, tuple(range(n_tokens)), min_len=2, max_len=max_len)
    return replace(plain, **changes)


def same_pairs(first: Pairs, second: Pairs) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def rows_of(codes: torch.Tensor, lengths: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(row[:length]) for row, length in zip(codes.tolist(), lengths.tolist(), strict=True)]


# -- draws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case_id", DRAWN_FROM)
@pytest.mark.parametrize("split", [None, *SPLITS])
def test_a_draw_depends_on_its_settings_and_number_alone(case_id: str, split: Split | None) -> None:
    case = get_case(case_id)
    first = PairSampler(case, seed=3, split=split, related=0.3)
    torch.manual_seed(1)
    random.seed(1)
    stream = [first.draw(20, number) for number in range(3)]
    torch.manual_seed(2)
    random.seed(2)
    again = PairSampler(case, seed=3, split=split, related=0.3)
    assert same_pairs(again.draw(20, 2), stream[2])
    assert same_pairs(again.draw(20), stream[0])
    assert not same_pairs(stream[0], stream[1])
    assert not same_pairs(stream[0], PairSampler(case, seed=4, split=split, related=0.3).draw(20))
    assert not same_pairs(stream[0], PairSampler(case, seed="3", split=split, related=0.3).draw(20))


def test_a_draw_leaves_other_generators_alone():
    before = torch.random.get_rng_state(), random.getstate()
    PairSampler(get_case("case_5"), related=0.5).draw(10)
    PairSampler(get_case("case_5")).inputs(10)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_cases_and_splits_have_draws_of_their_own():
    case = get_case("case_7")
    drawn = [
        PairSampler(case).draw(30),
        PairSampler(replace(case, id="other")).draw(30),
        *(PairSampler(case, split=split).draw(30) for split in SPLITS),
    ]
    assert len({pairs.base_lengths.numpy().tobytes() for pairs in drawn}) == len(drawn)


def test_draws_are_the_same_in_another_process():
    script = (
        "import json\n"
        "from interpbench_hub.cases import get_case\n"
        "from interpbench_hub.cases.pairs import PairSampler\n"
        f"draws = [PairSampler(get_case(id), 1, 'test', 0.5).draw(5) for id in {DRAWN_FROM}]\n"
        "print(json.dumps([[part.tolist() for part in pairs] for pairs in draws]))\n"
    )
    # The order of sets of strings changes with the hash seed: nothing may depend on it.
    environment = os.environ | {"PYTHONHASHSEED": "4242", "OMP_NUM_THREADS": "1"}
    printed = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, check=True, text=True
    )
    here = [PairSampler(get_case(case_id), 1, "test", 0.5).draw(5) for case_id in DRAWN_FROM]
    assert json.loads(printed.stdout) == [[part.tolist() for part in pairs] for pairs in here]


@pytest.mark.parametrize("case_id", DRAWN_FROM)
@pytest.mark.parametrize("related", [0.0, 0.5])
def test_pairs_are_inputs_of_the_case(case_id: str, related: float) -> None:
    case = get_case(case_id)
    pairs = PairSampler(case, related=related).draw(300)
    shortest, longest = case.min_len - 1, case.max_len - 1
    assert pairs.n_pairs == 300
    assert bool((pairs.source_lengths >= pairs.base_lengths).all())
    for codes, lengths in ((pairs.base, pairs.base_lengths), (pairs.source, pairs.source_lengths)):
        assert codes.shape == (300, longest)
        assert codes.dtype == lengths.dtype == torch.long
        assert shortest <= int(lengths.min()) <= int(lengths.max()) <= longest
        assert 0 <= int(codes.min()) <= int(codes.max()) < len(case.vocab)
        beyond = torch.arange(longest) >= lengths[:, None]
        assert not bool(codes[beyond].any())


def test_every_length_is_drawn_equally_often():
    case = get_case("case_2")
    pairs = PairSampler(case).draw(7000)
    count = Counter(pairs.base_lengths.tolist())
    assert sorted(count) == [3, 4, 5, 6, 7, 8, 9]
    assert all(850 <= times <= 1150 for times in count.values())
    _, lengths = PairSampler(case).inputs(7000)
    count = Counter(lengths.tolist())
    assert sorted(count) == [3, 4, 5, 6, 7, 8, 9]
    assert all(850 <= times <= 1150 for times in count.values())


def test_sources_have_the_length_of_their_base_or_any_longer_one():
    pairs = PairSampler(get_case("case_2")).draw(7000)
    of_shortest = Counter(pairs.source_lengths[pairs.base_lengths == 3].tolist())
    assert sorted(of_shortest) == [3, 4, 5, 6, 7, 8, 9]
    assert 0.5 < of_shortest[3] / sum(of_shortest.values()) < 0.64
    assert max(of_shortest[length] for length in range(4, 10)) < 2 * min(of_shortest[length] for length in range(4, 10))
    assert set(pairs.source_lengths[pairs.base_lengths == 9].tolist()) == {9}


def test_tokens_are_uniform_without_a_sampler():
    case = get_case("case_7")
    codes, lengths = PairSampler(case).inputs(3000)
    count = Counter(code for row in rows_of(codes, lengths) for code in row)
    assert all(abs(times / sum(count.values()) - 1 / 3) < 0.02 for times in count.values())


def test_the_sampler_of_a_case_is_what_draws():
    def falling(rng: random.Random, n_tokens: int) -> list:
        return sorted((int(rng.random() * 5) for _ in range(n_tokens)), reverse=True)

    case = tiny(5, 6, sampler=falling)
    pairs = PairSampler(case).draw(50)
    for row in rows_of(pairs.base, pairs.base_lengths) + rows_of(pairs.source, pairs.source_lengths):
        assert list(row) == sorted(row, reverse=True)


def test_inputs_differ_from_pairs_and_between_draws():
    sampler = PairSampler(get_case("case_2"))
    first, second = sampler.inputs(40), sampler.inputs(40, 1)
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[0], PairSampler(get_case("case_2")).inputs(40)[0])
    assert not torch.equal(first[0], sampler.draw(40).base)


def test_no_pairs_may_be_drawn():
    pairs = PairSampler(get_case("case_2"), split="train", related=0.5).draw(0)
    assert pairs.n_pairs == 0
    assert pairs.base.shape == (0, 9)
    assert PairSampler(get_case("case_5")).inputs(0)[0].shape == (0, 9)


# -- related pairs ----------------------------------------------------------------------------------------------------


def test_a_related_source_is_its_base_with_a_few_tokens_changed():
    case = get_case("case_2")
    unlike, alike = PairSampler(case).draw(2000), PairSampler(case, related=1.0).draw(2000)
    assert torch.equal(unlike.base, alike.base)
    assert torch.equal(unlike.source_lengths, alike.source_lengths)
    within = torch.arange(9) < alike.base_lengths[:, None]
    kept = alike.source == alike.base
    # One token and a quarter of the others are taken from the unrelated source; one in 26 is the same by chance.
    taken = (1 + 0.25 * (alike.base_lengths - 1)).sum() / alike.base_lengths.sum()
    assert abs(float(kept[within].double().mean()) - (1 - float(taken) * 25 / 26)) < 0.02
    assert bool((kept | (alike.source == unlike.source))[within].all())
    assert torch.equal(alike.source[~within], unlike.source[~within])


def test_the_share_of_related_pairs():
    case = get_case("case_2")
    pairs = PairSampler(case, related=0.3).draw(2000)
    within = torch.arange(9) < pairs.base_lengths[:, None]
    is_related = ((pairs.source == pairs.base) & within).sum(-1) / pairs.base_lengths > 0.34
    assert 0.24 < float(is_related.double().mean()) < 0.36


@pytest.mark.parametrize("split", SPLITS)
def test_related_pairs_stay_in_their_split(split: Split) -> None:
    case = get_case("case_2")
    pairs = PairSampler(case, split=split, related=1.0).draw(1500)
    assert bool(in_split(case, pairs.base, pairs.base_lengths, split).all())
    assert bool(in_split(case, pairs.source, pairs.source_lengths, split).all())
    within = torch.arange(9) < pairs.base_lengths[:, None]
    like = ((pairs.source == pairs.base) & within).sum(-1) / pairs.base_lengths > 0.34
    # A source that differs from its base falls into the split by chance, an unchanged one always.
    differs = (pairs.source != pairs.base).any(-1)
    share = len(SHARES[split]) / 100
    assert 0.5 * share < float((like & differs).double().mean()) < share + 0.03


# -- splits -----------------------------------------------------------------------------------------------------------


def bucket_by_hand(row: list[int]) -> int:
    """The bucket in whole numbers of any size."""
    state = len(row) * 2_654_435_761 + 97
    for code in row:
        state = (state * 1_099_511_628_211 + code + 1) % 2**61
        state ^= state >> 29
    state = state * 2_246_822_519 % 2**61
    return (state ^ (state >> 31)) % 100


GOLDEN = {(0,): 8, (0, 0): 53, (0, 0, 0): 75, (1, 0, 0): 67, (0, 1, 2): 63, (0, 1, 2, 3): 82, (4, 3, 2, 1, 0): 23}


@pytest.mark.parametrize("row", GOLDEN, ids=str)
def test_the_bucket_of_an_input_never_changes(row: tuple[int, ...]) -> None:
    assert bucket_by_hand(list(row)) == GOLDEN[row]
    assert split_bucket(torch.tensor([row]), torch.tensor([len(row)])).tolist() == [GOLDEN[row]]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.integers(0, 200), min_size=1, max_size=12), min_size=1, max_size=5), st.integers(0, 200))
def test_the_bucket_looks_at_the_tokens_and_not_at_the_padding(rows: list[list[int]], padding: int) -> None:
    lengths = torch.tensor([len(row) for row in rows])
    codes = torch.tensor([row + [padding] * (12 - len(row)) for row in rows])
    assert split_bucket(codes, lengths).tolist() == [bucket_by_hand(row) for row in rows]


def test_buckets_are_about_equally_full():
    codes = torch.tensor(list(product(range(10), repeat=4)))
    count = torch.bincount(split_bucket(codes, torch.full((len(codes),), 4)), minlength=100)
    assert count.shape == (100,)
    assert 60 <= int(count.min()) <= int(count.max()) <= 145


def test_lengths_with_few_inputs_are_not_split():
    case = get_case("case_7")
    assert MIN_SPACE_TO_SPLIT == 5000
    assert [is_split(case, n_tokens) for n_tokens in (3, 7, 8, 9)] == [False, False, True, True]
    codes, lengths = PairSampler(case).inputs(2000)
    for split in SPLITS:
        assert bool(in_split(case, codes, lengths, split)[lengths < 8].all())


@pytest.mark.parametrize("case_id", ["case_2", "case_7", "case_113"])
def test_splits_are_disjoint_and_hold_every_input(case_id: str) -> None:
    case = get_case(case_id)
    codes, lengths = PairSampler(case).inputs(4000)
    where = torch.stack([in_split(case, codes, lengths, split) for split in SPLITS])
    divided = torch.tensor([is_split(case, length) for length in lengths.tolist()])
    assert bool((where[:, divided].sum(0) == 1).all())
    assert bool(where[:, ~divided].all())
    buckets = split_bucket(codes, lengths)
    for split, is_in in zip(SPLITS, where, strict=True):
        expected = torch.tensor([bucket in SHARES[split] for bucket in buckets.tolist()])
        assert torch.equal(is_in[divided], expected[divided])


@pytest.mark.parametrize("case_id", ["case_2", "case_5", "case_7"])
def test_draws_of_different_splits_share_no_input(case_id: str) -> None:
    case = get_case(case_id)
    seen: dict[Split, set] = {}
    for split in SPLITS:
        pairs = PairSampler(case, split=split).draw(1000)
        rows = rows_of(pairs.base, pairs.base_lengths) + rows_of(pairs.source, pairs.source_lengths)
        seen[split] = {row for row in rows if is_split(case, len(row))}
        assert seen[split]
        inputs = PairSampler(case, split=split).inputs(500)
        assert bool(in_split(case, *inputs, split).all())
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


def test_a_sampler_that_draws_nothing_of_a_split_is_an_error():
    case = tiny(20, 6, min_len=6, sampler=lambda rng, n_tokens: [3] * n_tokens)
    for split in SPLITS:
        if bucket_by_hand([3] * 5) in SHARES[split]:
            assert rows_of(*PairSampler(case, split=split).inputs(2)) == [(3,) * 5] * 2
            continue
        message = f"case tiny: its sampler draws no inputs of the split '{split}' at some length"
        with pytest.raises(SettingError, match=message):
            PairSampler(case, split=split).inputs(2)


# -- enumerations -----------------------------------------------------------------------------------------------------


def inputs_by_hand(case: Case) -> list[tuple[int, ...]]:
    return [
        row
        for n_tokens in range(case.min_len - 1, case.max_len)
        for row in product(range(len(case.vocab)), repeat=n_tokens)
    ]


def pairs_by_hand(case: Case) -> list[tuple]:
    rows = inputs_by_hand(case)
    return [(base, source) for base in rows for source in rows if len(source) >= len(base)]


@pytest.mark.parametrize("case", [tiny(), tiny(3, 4), tiny(2, 5), tiny(2, 4, min_len=4)], ids=["2", "3", "long", "one"])
def test_all_inputs_and_pairs_of_small_cases(case: Case) -> None:
    codes, lengths = all_inputs(case)
    assert codes.shape == (case.n_inputs, case.max_len - 1)
    assert rows_of(codes, lengths) == inputs_by_hand(case)
    assert not bool(codes[torch.arange(codes.shape[1]) >= lengths[:, None]].any())
    expected = pairs_by_hand(case)
    assert count_pairs(case) == len(expected)
    for chunk in (1, 7, 8192):
        chunks = list(all_pairs(case, chunk))
        assert all(0 < pairs.n_pairs <= chunk for pairs in chunks)
        found = [
            pair
            for pairs in chunks
            for pair in zip(
                rows_of(pairs.base, pairs.base_lengths), rows_of(pairs.source, pairs.source_lengths), strict=True
            )
        ]
        assert len(found) == len(expected)
        assert set(found) == set(expected)


def test_all_inputs_and_pairs_of_case_3():
    case = get_case("case_3")
    assert case.n_inputs == len(all_inputs(case)[0]) == len(inputs_by_hand(case)) == 320
    assert count_pairs(case) == len(pairs_by_hand(case)) == 86_016
    chunks = list(all_pairs(case))
    assert [pairs.n_pairs for pairs in chunks] == [8192] * 10 + [86_016 - 81_920]
    joined = torch.cat([torch.cat([p.base, p.source], 1) for p in chunks])
    lengths = torch.cat([torch.stack([p.base_lengths, p.source_lengths], 1) for p in chunks])
    assert len(torch.unique(torch.cat([joined, lengths], 1), dim=0)) == 86_016
    assert bool((lengths[:, 1] >= lengths[:, 0]).all())


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(2, 4), st.integers(2, 4), st.integers(0, 2))
def test_pairs_are_counted_without_making_them(n_tokens: int, min_len: int, more: int) -> None:
    case = tiny(n_tokens, min_len + more, min_len=min_len)
    sizes = Counter(len(row) for row in inputs_by_hand(case))
    assert count_pairs(case) == sum(sizes[base] * sizes[source] for base in sizes for source in sizes if source >= base)


def test_large_cases_are_counted_too():
    case = get_case("case_2")
    assert case.n_inputs == sum(26**n_tokens for n_tokens in range(3, 10))
    assert count_pairs(case) > 10**25


def test_places_of_pairs():
    base, source = pair_places(torch.tensor([2, 1, 2]))
    assert list(zip(base.tolist(), source.tolist(), strict=True)) == [
        (0, 0), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 2),
    ]  # fmt: skip


# -- Pairs and seeds --------------------------------------------------------------------------------------------------


def test_pairs_are_sliced_by_row_and_are_a_tuple_of_fields():
    pairs = PairSampler(get_case("case_7")).draw(10)
    some = pairs[2:5]
    assert isinstance(some, Pairs)
    assert some.n_pairs == 3
    assert torch.equal(some.base, pairs.base[2:5])
    assert torch.equal(some.source_lengths, pairs.source_lengths[2:5])
    picked = pairs[torch.tensor([7, 0])]
    assert torch.equal(picked.source, pairs.source[[7, 0]])
    assert pairs[pairs.base_lengths > 5].n_pairs == int((pairs.base_lengths > 5).sum())
    assert pairs[0] is pairs.base
    assert pairs[3] is pairs.source_lengths
    base, base_lengths, source, source_lengths = pairs
    assert (base is pairs.base, base_lengths is pairs.base_lengths) == (True, True)
    assert (source is pairs.source, source_lengths is pairs.source_lengths) == (True, True)


def test_seeds_never_change():
    assert seeded() == 5911644737314724887
    assert seeded("a", 1) == 2817767603020893852
    assert seeded("pairs", "case_3", 0, None, 0) == 5840437892789787163


def test_seeds_tell_all_their_parts_apart():
    parts = [("a", 1), ("a", "1"), ("a1",), ("a", 1, None), ("a", None, 1), (1, "a")]
    assert len({seeded(*each) for each in parts}) == len(parts)
    assert all(0 <= seeded(*each) < 2**63 for each in parts)
