"""Samplers: deterministic, of the right length, and rich in what uniform tokens starve."""

import random
from collections import Counter
from collections.abc import Iterator

import pytest

from interpbench_hub.cases import Case, get_case, list_cases, samplers
from interpbench_hub.rasp.evaluator import evaluate, in_order

WITH_SAMPLER = [case.id for case in list_cases() if case.sampler is not None]
N_DRAWS = 2000


def draws(case: Case, count: int = N_DRAWS, seed: object = 0) -> Iterator[list]:
    rng = random.Random(f"{case.id} {seed}")
    lengths = range(case.min_len - 1, case.max_len)
    for number in range(count):
        yield case.sample(rng, lengths[number % len(lengths)])


def values_seen(case: Case, variable: str) -> Counter:
    """In how many draws each value of a variable occurs somewhere."""
    (sop,) = (sop for sop in in_order(case.program) if sop.name == variable)
    seen: Counter = Counter()
    for sequence in draws(case):
        seen.update(set(evaluate(sop, sequence, causal=case.causal)))
    return seen


@pytest.mark.parametrize("case_id", WITH_SAMPLER)
def test_a_sampler_gives_tokens_of_the_vocabulary_at_every_length(case_id):
    case = get_case(case_id)
    rng = random.Random(1)
    for n_tokens in range(case.min_len - 1, case.max_len):
        for _ in range(50):
            sequence = case.sample(rng, n_tokens)
            assert isinstance(sequence, list)
            assert len(sequence) == n_tokens
            assert set(sequence) <= set(case.vocab)


@pytest.mark.parametrize("case_id", WITH_SAMPLER)
def test_a_sampler_depends_on_the_seed_alone(case_id):
    case = get_case(case_id)
    assert list(draws(case, 100)) == list(draws(case, 100))
    assert list(draws(case, 100)) != list(draws(case, 100, seed=1))


class OnlyRandom(random.Random):
    """A generator that lends out `random()` only: the numbers of the other methods differ between Python versions."""

    def getrandbits(self, k, /):
        raise AssertionError("a sampler drew by something else than random()")


@pytest.mark.parametrize("case_id", WITH_SAMPLER)
def test_a_sampler_draws_by_random_alone(case_id):
    case = get_case(case_id)
    rng = OnlyRandom(0)
    for _ in range(50):
        case.sample(rng, case.max_len - 1)


@pytest.mark.parametrize(
    ("case_id", "drawn"),
    [
        ("case_5", ["}", "}", "x", "{", "{", "x"]),
        ("case_108", [5, 3, 6, 6, 8, 2]),
        ("case_125", [3, 4, 3, 6, 5, 7]),
    ],
)
def test_the_first_draw_of_a_seed_stays_what_it_is(case_id, drawn):
    # The bundled checkpoints are reproducible only while these hold.
    assert get_case(case_id).sample(random.Random(0), 6) == drawn


VERDICT = {0: 200, 1: 200}
SEEN_AT_LEAST = {
    # (case, variable): every value it must take, with the number of 2000 draws that must show it.
    ("case_1", "repeats"): {True: 200, False: 200},
    ("case_4", "balance"): {1.0: 10, -1.0: 10, 0: 10, 0.5: 10, -0.5: 10},
    ("case_5", "is_balanced"): {True: 200, False: 200},
    ("case_5", "last_zero"): {True: 200, False: 200},
    ("case_5", "never_negative"): {True: 200, False: 200},
    ("case_7", "count"): dict.fromkeys(range(1, 10), 8),
    ("case_14", "count_of_a"): dict.fromkeys(range(10), 8),
    ("case_17", "equals_mirror"): {True: 200, False: 200},
    ("case_18", "count"): dict.fromkeys(range(1, 10), 8),
    ("case_18", "rarity"): dict.fromkeys(("rare", "common", "frequent"), 200),
    ("case_21", "count_so_far"): dict.fromkeys(range(1, 10), 8),
    ("case_25", "share"): {count / n: 3 for n in range(3, 10) for count in range(1, n + 1)},
    ("case_39", "fraction"): dict.fromkeys((0, 1 / 4, 1 / 2, 3 / 4, 1), 20),
    ("case_47", "count"): dict.fromkeys(range(1, 10), 5),
    ("case_78", "count"): dict.fromkeys(range(1, 10), 5),
    ("case_81", "median"): {half / 2: 3 for half in range(21)},
    ("case_89", "verdict"): VERDICT,
    ("case_89", "n_failures"): dict.fromkeys(range(10), 5),
    ("case_94", "verdict"): VERDICT,
    ("case_94", "n_failures"): dict.fromkeys(range(9), 5),
    ("case_96", "count"): dict.fromkeys(range(1, 10), 5),
    ("case_97", "maximum"): dict.fromkeys(range(11), 8),
    ("case_98", "maximum"): dict.fromkeys(range(11), 8),
    ("case_108", "verdict"): VERDICT,
    ("case_108", "n_repeated"): dict.fromkeys((0, *range(2, 10)), 5),
    ("case_109", "verdict"): VERDICT,
    ("case_113", "direction"): {-1: 200, 1: 200},
    ("case_113", "n_failures"): dict.fromkeys(range(9), 5),
    ("case_119", "polynomial"): {**dict.fromkeys(range(0, 40), 1), None: 100},
    ("case_124", "verdict"): VERDICT,
    ("case_124", "n_different"): dict.fromkeys(range(9), 8),
    ("case_125", "verdict"): VERDICT,
    ("case_125", "n_failures"): dict.fromkeys(range(10), 5),
    ("case_126", "median"): {half / 2: 3 for half in range(21)},
    ("case_129", "verdict"): VERDICT,
    ("case_129", "n_failures"): dict.fromkeys(range(10), 8),
    ("induction", "times"): dict.fromkeys(range(1, 7), 20),
    ("induction", "predicted"): dict.fromkeys(("a", "b", "c", None), 400),
    ("first_follower", "follower"): dict.fromkeys(("a", "b", "c", "d", None), 400),
    ("bigram_share", "share"): dict.fromkeys((1 / 4, 1 / 3, 1 / 2, 2 / 3, 1), 8),
    ("rotate_by_count", "n_x"): dict.fromkeys(range(7), 10),
    ("edit_flags", "end"): dict.fromkeys(range(13), 5),
    ("edit_flags", "edited"): dict.fromkeys(("a", "b", None), 400),
    ("delete_flags", "n_kept"): dict.fromkeys(range(8), 10),
    ("most_frequent", "winner"): dict.fromkeys("abc", 300),
    ("most_frequent", "n_c"): dict.fromkeys(range(7), 5),
    ("majority", "majority"): dict.fromkeys(("a", "b", "c", None), 400),
    ("count_of_counts", "count"): dict.fromkeys(range(1, 8), 10),
    ("count_of_counts", "n_alike"): dict.fromkeys(range(1, 8), 10),
    ("repeat_share", "share"): dict.fromkeys((0, 2 / 5, 1 / 2, 3 / 5, 2 / 3, 3 / 4, 4 / 5, 5 / 6, 1), 50),
    ("peer_share", "share"): dict.fromkeys((0, 1 / 4, 1 / 3, 1 / 2, 1), 10),
    ("sort_distinct", "n_found"): dict.fromkeys(range(5), 200),
    ("sort_distinct", "n_copies"): dict.fromkeys(range(8), 10),
    ("sort_by_count", "count"): dict.fromkeys(range(1, 6), 50),
    ("sort_by_count", "n_better"): dict.fromkeys(range(5), 30),
    ("spread_around", "spread"): dict.fromkeys((0, 1 / 4, 1 / 2, 3 / 4), 20),
    ("current_run", "run_length"): dict.fromkeys(range(1, 8), 15),
    ("current_run", "run_number"): dict.fromkeys(range(7), 5),
    ("run_encoding", "listed_length"): dict.fromkeys((*range(1, 7), None), 15),
    ("comparison_chain", "holds"): {True: 200, False: 200},
    ("comparison_chain", "n_false"): dict.fromkeys(range(4), 10),
    ("trend", "trend"): dict.fromkeys((-3 / 4, -2 / 3, -1 / 2, -1 / 3, 0, 1 / 3, 1 / 2, 2 / 3, 3 / 4), 50),
    ("period_contrast", "contrast"): dict.fromkeys((-1 / 2, -1 / 3, -1 / 4, 0, 1 / 4), 50),
    ("local_surge", "overall_share"): dict.fromkeys((0, 1 / 4, 1 / 2, 3 / 4, 1), 20),
    ("depth_rank", "rank"): dict.fromkeys(range(1, 8), 50),
    ("depth_rank", "depth"): dict.fromkeys(range(-5, 6), 10),
    ("dyck_2", "verdict"): dict.fromkeys(("opens", "closes", "clashes", None), 200),
    ("dyck_2", "level"): dict.fromkeys(range(-3, 6), 8),
    ("dyck_2", "nth"): dict.fromkeys(range(4), 40),
    ("average_depth", "average"): dict.fromkeys((0, 1 / 4, 1 / 2, 3 / 4), 100),
    ("average_depth", "depth"): dict.fromkeys(range(-4, 5), 15),
    ("surplus_share", "surplus"): dict.fromkeys((-1, -1 / 2, 0, 1 / 2, 1), 100),
    ("modular_sum", "total"): dict.fromkeys(range(4), 400),
    ("modular_sum", "n_threes"): dict.fromkeys(range(8), 5),
    ("remainder", "remainder"): dict.fromkeys(range(4), 400),
    ("remainder", "n_twos"): dict.fromkeys(range(8), 5),
    ("carry_addition", "n_settled"): dict.fromkeys(range(8), 5),
    ("carry_addition", "carry"): {0: 400, 1: 400},
}


@pytest.mark.parametrize(("case_id", "variable"), SEEN_AT_LEAST)
def test_a_sampler_shows_what_it_exists_for(case_id, variable):
    seen = values_seen(get_case(case_id), variable)
    missing = {value: seen[value] for value, least in SEEN_AT_LEAST[case_id, variable].items() if seen[value] < least}
    assert not missing, f"too rare in {N_DRAWS} draws: {missing}"


def test_every_sampler_is_checked_for_what_it_exists_for():
    assert set(WITH_SAMPLER) <= {case_id for case_id, _ in SEEN_AT_LEAST}


@pytest.mark.parametrize("case_id", ["case_89", "case_94", "case_108", "case_124", "case_125", "case_129"])
def test_both_verdicts_occur_at_every_length(case_id):
    case = get_case(case_id)
    rng = random.Random(0)
    for n_tokens in range(case.min_len - 1, case.max_len):
        verdicts = Counter(case.program(case.sample(rng, n_tokens))[0] for _ in range(200))
        assert min(verdicts[0], verdicts[1]) >= 20, (n_tokens, verdicts)


def test_brackets_are_balanced_or_not_at_every_length():
    case = get_case("case_5")
    rng = random.Random(0)
    for n_tokens in range(case.min_len - 1, case.max_len):
        verdicts = Counter(case.program(case.sample(rng, n_tokens))[0] for _ in range(200))
        assert min(verdicts[True], verdicts[False]) >= 20, (n_tokens, verdicts)


def test_parts_keep_what_they_promise():
    rng = random.Random(0)
    for _ in range(200):
        rising = samplers.in_order(range(9))(rng, 6)
        assert rising == sorted(rising)
        falling = samplers.in_order(range(9), descending=True)(rng, 6)
        assert falling == sorted(falling, reverse=True)
        assert len(set(samplers.distinct(range(9))(rng, 9))) == 9
        assert len(set(samplers.distinct(range(9), n_repeats=1)(rng, 9))) in (8, 9)
        window = samplers.from_window(range(9))(rng, 4)
        assert max(window) - min(window) < 4
        assert len(set(samplers.from_subset(range(9))(rng, 4))) <= 4


def test_parts_take_more_tokens_than_the_vocabulary_has():
    rng = random.Random(0)
    for sampler in (
        samplers.distinct("ab"),
        samplers.in_runs("ab"),
        samplers.from_subset("ab"),
        samplers.from_window("ab"),
        samplers.periodic("ab"),
        samplers.one_repeat("ab"),
    ):
        assert len(sampler(rng, 7)) == 7
