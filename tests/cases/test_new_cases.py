"""The cases that are new here: against oracles in plain Python, and what each must be to serve the benchmark."""

import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from interpbench_hub.cases import Case, get_case, list_cases
from interpbench_hub.cases.kinds import changes_output
from interpbench_hub.cases.pairs import PairSampler
from interpbench_hub.rasp.printing import program_text
from tests.cases.oracles import ORACLES
from tests.cases.relabelled import is_part_of, same_up_to_names

NEW = list(ORACLES)
MAX_EXHAUSTIVE = 4_500
"""Most inputs of a case that are tried one and all."""
N_DRAWS = 1_500
N_SLOW = 250
"""Inputs also given to the evaluator, which takes a hundred times as long."""

NEVER_DRAWN: dict[str, set[Any]] = {
    # Classes that occur only under an interchange: places beyond the end of the input, a count of nothing although
    # each position counts itself, a letter that the program deletes.
    "two_hop": {None},
    "leap": {None},
    "rotate_by_count": {None},
    "delete_flags": {"-"},
    "count_of_counts": {0},
    "sort_by_count": {None},
    "current_run": {0},
    "run_encoding": {0},
    "depth_rank": {0},
}


def lengths_of(case: Case) -> range:
    return range(case.min_len - 1, case.max_len)


@cache
def inputs_of(case_id: str) -> list[list[Any]]:
    """All inputs where there are few, else uniform ones and draws of the sampler, of every length."""
    case = get_case(case_id)
    if case.n_inputs <= MAX_EXHAUSTIVE:
        return [list(row) for n in lengths_of(case) for row in product(case.vocab, repeat=n)]
    rng = random.Random(case_id)
    lengths = lengths_of(case)
    uniform = ([rng.choice(case.vocab) for _ in range(lengths[at % len(lengths)])] for at in range(N_DRAWS))
    return [*uniform, *drawn(case)]


def drawn(case: Case, count: int = N_DRAWS) -> Iterator[list[Any]]:
    rng = random.Random(f"{case.id} drawn")
    for at in range(count):
        yield case.sample(rng, lengths_of(case)[at % len(lengths_of(case))])


def coded(case: Case, rows: list[list[Any]]) -> tuple[Tensor, Tensor]:
    """Token codes padded to the longest input, and lengths."""
    codes = torch.full((len(rows), case.max_len - 1), case.pad_id)
    for number, row in enumerate(rows):
        codes[number, : len(row)] = torch.tensor([case.token_ids[token] for token in row])
    return codes, torch.tensor([len(row) for row in rows])


# -- what they compute -------------------------------------------------------------------------------------------------


def test_every_new_case_has_an_oracle_and_comes_after_those_of_2024():
    ids = [case.id for case in list_cases()]
    sentences = ["ioi", "ioi_full"]
    assert [case_id for case_id in ids if not re.fullmatch(r"case_\d+", case_id)] == NEW + sentences
    assert ids[-len(NEW + sentences) :] == NEW + sentences


@pytest.mark.parametrize("case_id", NEW)
def test_the_batch_model_computes_what_the_oracle_says(case_id):
    case, rows = get_case(case_id), inputs_of(case_id)
    codes, lengths = coded(case, rows)
    outputs = case.high_level.run(codes, lengths)[case.graph.output.name].tolist()
    for row, found in zip(rows, outputs, strict=True):
        expected = ORACLES[case_id](row)
        assert len(expected) == len(row)
        if case.categorical:
            assert [case.classes[code] for code in found[: len(row)]] == expected, row
        else:
            numbers = [case.graph.output.values[code] for code in found[: len(row)]]
            assert numbers == pytest.approx(expected, abs=1e-9), row


@pytest.mark.parametrize("case_id", NEW)
def test_the_program_computes_what_the_oracle_says(case_id):
    case = get_case(case_id)
    rng = random.Random(case_id)
    rows = [rng.choice(inputs_of(case_id)) for _ in range(N_SLOW)]
    assert {len(row) for row in rows} == set(lengths_of(case))
    for row in rows:
        expected = ORACLES[case_id](row)
        assert case.program(row) == (expected if case.categorical else pytest.approx(expected, abs=1e-9)), row


@pytest.mark.parametrize(
    ("case_id", "row", "expected"),
    [
        ("two_hop", [1, 2, 0, 6], [0, 1, 2, 1]),
        ("leap", [1, 1, 2, -1], [1, 2, 0, 2]),
        ("induction", list("ababca"), [None, None, "b", "a", None, "b"]),
        ("first_follower", list("abaca"), [None, None, "b", None, "b"]),
        ("bigram_share", list("axaba"), [0, 0, 1.0, 0, 0.5]),
        ("rotate_by_count", list("abxcx"), ["c", "x", "a", "b", "x"]),
        ("edit_flags", ["a+", "b-", "b", "a"], ["a", "a", "b", "a"]),
        ("delete_flags", list("a-bc"), ["a", "c", None, None]),
        ("most_frequent", list("cbcb"), ["b"] * 4),
        ("majority", list("abbb"), ["a", None, "b", "b"]),
        ("count_of_counts", list("aabc"), [2, 2, 2, 2]),
        ("repeat_share", [0, 1, 1, 3], [0, 2 / 3, 2 / 3, 0.5]),
        ("peer_share", list("aabbc"), [0.5, 0.5, 0.5, 0.5, 0]),
        ("sort_distinct", [3, 1, 3, 0], [0, 1, 3, None]),
        ("sort_by_count", list("abbcc"), list("bbcca")),
        ("spread_around", [0, 1, 2], [0.5, 0.5, 0.5]),
        ("current_run", list("aabbb"), [1, 2, 1, 2, 3]),
        ("run_encoding", list("aabbb"), [2, 3, None, None, None]),
        ("comparison_chain", list("0<2>1=0"), [True] * 6 + [False]),
        ("trend", [0, 2, 1, 3], [0, 0.5, 0, 0.25]),
        ("period_contrast", list("aabab"), [0, 0, 0, -0.25, -0.4]),
        ("local_surge", list("xaab"), [0.25, 1 / 3 - 0.25, -0.25, -0.25]),
        ("depth_rank", list("(()x)"), [1, 1, 3, 4, 5]),
        ("dyck_2", list("([))]"), ["opens", "opens", "clashes", "closes", None]),
        ("average_depth", list("(()x"), [0.5, 0.75, 2 / 3, 0.625]),
        ("surplus_share", list("()))"), [1, 0.5, 0, -0.25]),
        ("modular_sum", [3, 2, 0, 3], [3, 1, 1, 0]),
        ("remainder", [2, 1, 0, 2], [2, 3, 1, 1]),
        ("carry_addition", ["11", "01", "10", "00"], [0, 0, 0, 1]),
    ],
)
def test_an_example_worked_out_by_hand(case_id, row, expected):
    assert ORACLES[case_id](row) == pytest.approx(expected)
    assert get_case(case_id).program(row) == pytest.approx(expected)


# -- what they must be -------------------------------------------------------------------------------------------------


def test_there_are_enough_of_every_kind():
    cases = [get_case(case_id) for case_id in NEW]
    assert len(cases) >= 26
    assert sum(not case.categorical for case in cases) >= 8
    assert sum(case.n_attention_heads >= 3 for case in cases) >= 12
    assert sum(case.tier == "deep" for case in cases) >= 10
    assert sum(case.causal for case in cases) >= 8


@pytest.mark.parametrize("case_id", NEW)
def test_its_circuit_is_worth_finding(case_id):
    case = get_case(case_id)
    assert case.n_attention_heads >= 2
    assert len(case.circuit.of_kind("varying")) >= 5
    assert not case.circuit.of_kind("inert")
    # More layers are hard to train; six are the exception.
    assert case.circuit.n_layers <= (6 if case_id == "dyck_2" else 5)


@pytest.mark.parametrize("case_id", NEW)
def test_its_values_are_few_enough_to_learn(case_id):
    case = get_case(case_id)
    assert 3 <= len(case.vocab) <= 8
    assert 6 <= case.max_len <= 8
    assert 4 <= case.min_len <= case.max_len - 2
    assert len(case.classes) <= 20
    for variable in case.graph.variables:
        compared = [case.graph[read.variable] for read in variable.reads if read.slot in ("q", "k")]
        assert all(len(read.classes) <= 20 for read in compared), variable.name
        # Numbers need no code each: along one direction there is room for all fractions of short inputs.
        assert len(variable.classes) <= (30 if variable.encoding == "categorical" else 150), variable.name


@pytest.mark.parametrize("case_id", NEW)
def test_its_variables_are_named_and_explained(case_id):
    case = get_case(case_id)
    made = [variable for variable in case.graph.variables if variable.kind not in ("tokens", "indices")]
    for variable in made:
        assert variable.meaning and variable.meaning != variable.text, variable.name
        assert not re.fullmatch(r"(map|sequence_map|aggregate|selector_width|linear_sequence_map).*", variable.name)
        # Copies of one name are told apart by a number at the end.
        assert not re.fullmatch(r".*[a-z]_\d", variable.name) or case_id == "period_contrast", variable.name
    assert "<lambda>" not in program_text(case.program)


def test_descriptions_are_single_sentences_and_differ_from_all_others():
    descriptions = Counter(case.description for case in list_cases())
    for case_id in NEW:
        text = get_case(case_id).description
        assert descriptions[text] == 1
        assert text[0].isupper() and text.endswith(".") and ". " not in text, text


@pytest.mark.parametrize("case_id", NEW)
def test_its_sampler_shows_all_outputs_and_none_too_often(case_id):
    case = get_case(case_id)
    seen: Counter = Counter()
    for row in drawn(case):
        seen.update(ORACLES[case_id](row))
    total = sum(seen.values())
    assert max(seen.values()) <= 0.8 * total, seen.most_common(1)
    if case.categorical:
        assert set(case.classes) - set(seen) == NEVER_DRAWN.get(case_id, set())
        assert min(seen.values()) >= 0.003 * total, seen.most_common()[-1]
    else:
        assert len(seen) >= 5
        assert min(seen) >= -1 and max(seen) <= 1
        assert max(seen) - min(seen) >= 0.5


@pytest.mark.parametrize("case_id", NEW)
def test_its_sampler_can_draw_every_input(case_id):
    # Shown on the shortest inputs: each token may follow each at every place.
    case = get_case(case_id)
    rng = random.Random(case_id)
    n_tokens = case.min_len - 1
    seen: set[tuple[int, Any, Any]] = set()
    for _ in range(6_000):
        row = case.sample(rng, n_tokens)
        seen.update((at, row[at], row[at + 1]) for at in range(n_tokens - 1))
    assert len(seen) == (n_tokens - 1) * len(case.vocab) ** 2


@pytest.mark.parametrize("case_id", NEW)
def test_interchanges_of_varying_edges_show(case_id):
    """Each varying edge alone changes the output, to another that has a meaning, in a fair share of the pairs."""
    case = get_case(case_id)
    pairs = PairSampler(case, seed="shows", related=0.5).draw(400, 0)
    edges = list(case.circuit.of_kind("varying"))
    shares = changes_output(case, pairs, edges).float().mean(-1)
    assert float(shares.min()) >= 0.05, {str(edge): float(share) for edge, share in zip(edges, shares, strict=True)}


# -- no two alike ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case_id", NEW)
def test_no_other_case_computes_the_same_under_other_names(case_id):
    """Not even with tokens and outputs renamed: all bijections of the vocabularies, where they are as large."""
    case = get_case(case_id)
    alike = [other.id for other in list_cases() if other.id != case_id and same_up_to_names(case, other)]
    assert not alike


@pytest.mark.parametrize("case_id", NEW)
def test_no_case_is_another_one_with_fewer_tokens(case_id):
    case = get_case(case_id)
    wider = [other.id for other in list_cases() if other.id != case_id and is_part_of(case, other)]
    assert not wider


def test_renamed_and_narrower_cases_are_told():
    # The comparison itself: it must find what it looks for.
    case = get_case("induction")
    renamed = replace(case, id="renamed", vocab=("c", "a", "b"))
    assert same_up_to_names(case, renamed)
    assert not same_up_to_names(case, get_case("majority"))
    narrower = replace(get_case("modular_sum"), id="narrower", vocab=(1, 2, 3))
    assert is_part_of(narrower, get_case("modular_sum"))
    assert not is_part_of(get_case("modular_sum"), narrower)
    sums = get_case("modular_sum")
    doubled = replace(sums, id="doubled", program=(sums.program * 2).named("doubled"))
    mirrored = replace(sums, id="mirrored", vocab=(3, 2, 1, 0))
    assert same_up_to_names(sums, doubled) and same_up_to_names(sums, mirrored)
