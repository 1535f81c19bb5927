"""The evaluator against a second one, written the other way round, and against what the language promises."""

import math
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interpbench_hub.cases import get_case
from interpbench_hub.errors import ProgramError
from interpbench_hub.rasp import (
    Aggregate,
    Comparison,
    Full,
    LinearSequenceMap,
    Map,
    Select,
    SelectorWidth,
    SequenceMap,
    SOp,
    categorical,
    indices,
    numerical,
    tokens,
)
from interpbench_hub.rasp.evaluator import apply, evaluate, in_order
from interpbench_hub.rasp.language import Indices, Tokens
from tests.strategies import RandomProgram, programs

every = Select(indices, indices, Comparison.TRUE)
nothing = Select(indices, indices, Comparison.FALSE)
itself = Select(indices, indices, Comparison.EQ)
earlier = Select(indices, indices, Comparison.LT)
holed = Map(lambda x: None if x == "?" else x, tokens)
"""The tokens, undefined where they are question marks."""


# -- a second evaluator -----------------------------------------------------------------------------------------------


def value_at(sop: SOp, place: int, sequence: list, causal: bool) -> Any:
    """The value of `sop` at one place, from the definition: asked for anew each time, nothing remembered."""

    def at(part: SOp, where: int = place) -> Any:
        return value_at(part, where, sequence, causal)

    if isinstance(sop, Tokens):
        return sequence[place]
    if isinstance(sop, Indices):
        return place
    if isinstance(sop, Full):
        return sop.value
    if isinstance(sop, LinearSequenceMap):
        x, y = at(sop.first), at(sop.second)
        return None if x is None or y is None else sop.first_factor * x + sop.second_factor * y
    if isinstance(sop, Map | SequenceMap):
        values = [at(part) for part in sop.children]
        if None in values:
            return None
        try:
            return sop.function(*values)
        except ArithmeticError:
            return None
    assert isinstance(sop, Aggregate | SelectorWidth)
    within = place + 1 if causal else len(sequence)
    found = [
        where
        for where in range(within)
        if is_selected(sop.selector.predicate, at(sop.selector.keys, where), at(sop.selector.queries))
    ]
    if isinstance(sop, SelectorWidth):
        return len(found)
    values = [at(sop.sop, where) for where in found]
    if not values:
        return sop.default
    first = values[0]
    return first if values.count(first) == len(values) else None if None in values else math.fsum(values) / len(values)


def is_selected(predicate: Any, key: Any, query: Any) -> bool:
    if predicate is Comparison.TRUE or predicate is Comparison.FALSE:
        return predicate is Comparison.TRUE
    if not isinstance(predicate, Comparison):
        try:
            return bool(predicate(key, query))
        except TypeError:
            assert key is None or query is None
            return False
    if key is None or query is None:
        return False
    if predicate is Comparison.EQ or predicate is Comparison.NEQ:
        return (key == query) == (predicate is Comparison.EQ)
    if key == query:
        return predicate in (Comparison.LEQ, Comparison.GEQ)
    return (key < query) == (predicate in (Comparison.LT, Comparison.LEQ))


def same(given_: Any, expected: Any) -> bool:
    if isinstance(given_, float) and isinstance(expected, float | int):
        return math.isclose(given_, expected, abs_tol=1e-9)
    return given_ == expected


def has_mixed_mean(sop: SOp, sequence: list, causal: bool) -> bool:
    """Whether some aggregate would average values that are no numbers, which is an error."""
    try:
        for part in in_order(sop):
            [value_at(part, place, sequence, causal) for place in range(len(sequence))]
    except TypeError:
        return True
    return False


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
@given(case=programs(max_steps=4), causal=st.booleans(), seed=st.integers(0, 999))
def test_both_evaluators_agree_on_random_programs(case: RandomProgram, causal: bool, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(3):
        sequence = [rng.choice(case.vocab) for _ in range(rng.randint(0, min(case.max_len - 1, 4)))]
        if has_mixed_mean(case.program, sequence, causal):
            with pytest.raises(ProgramError, match="only numbers have a mean"):
                evaluate(case.program, sequence, causal=causal)
            continue
        result = evaluate(case.program, sequence, causal=causal)
        expected = [value_at(case.program, place, sequence, causal) for place in range(len(sequence))]
        assert all(map(same, result, expected)), (str(case.program), sequence, causal, result, expected)
        assert len(result) == len(expected)


@pytest.mark.parametrize("case_id", ["case_2", "case_4", "case_9", "case_12", "case_18", "case_21", "case_92"])
@pytest.mark.parametrize("causal", [False, True])
def test_both_evaluators_agree_on_cases(case_id: str, causal: bool) -> None:
    case = get_case(case_id)
    rng = random.Random(case_id)
    for _ in range(3):
        sequence = [rng.choice(case.vocab) for _ in range(rng.randint(3, 5))]
        expected = [value_at(case.program, place, sequence, causal) for place in range(len(sequence))]
        assert all(map(same, evaluate(case.program, sequence, causal=causal), expected))


# -- maps -------------------------------------------------------------------------------------------------------------


def test_maps_pass_none_on_without_calling_their_function():
    def never(*values: object) -> object:
        raise AssertionError("called")

    undefined = Map(lambda x: None, tokens)
    assert evaluate(Map(never, undefined), ["a"]) == [None]
    assert evaluate(SequenceMap(never, undefined, tokens), ["a"]) == [None]
    assert evaluate(SequenceMap(never, tokens, undefined), ["a"]) == [None]
    assert evaluate(holed == "a", ["a", "?", "b"]) == [True, None, False]


@pytest.mark.parametrize("raised", [ZeroDivisionError, OverflowError, FloatingPointError, ArithmeticError])
def test_arithmetic_that_fails_is_undefined(raised: type[Exception]) -> None:
    def fail(*values: object) -> object:
        raise raised("no")

    assert evaluate(Map(fail, tokens), [1]) == [None]
    assert evaluate(SequenceMap(fail, tokens, indices), [1]) == [None]


def test_arithmetic_fails_at_its_own_place_only():
    assert evaluate(6 / tokens, [0, 2, 0, 3]) == [None, 3.0, None, 2.0]
    assert evaluate(Map(math.exp, tokens), [0, 1e9]) == [1.0, None]


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (lambda x: x + 1, "TypeError"),
        (lambda x: x[5], "IndexError"),
        (lambda x: {}[x], "KeyError"),
        (lambda x: int(x), "ValueError"),
        (lambda x: x.missing, "AttributeError"),
    ],
    ids=["type", "index", "key", "value", "attribute"],
)
def test_other_failures_name_the_variable_the_value_and_the_error(function: Any, error: str) -> None:
    sop = Map(function, tokens).named("broken")
    with pytest.raises(ProgramError) as caught:
        evaluate(sop + 1, ["abc"])
    assert str(caught.value).startswith(f"variable 'broken': its function fails on 'abc': {error}(")
    assert type(caught.value.__cause__).__name__ == error


def test_a_failure_of_a_function_of_two_values_shows_both():
    with pytest.raises(ProgramError, match="variable 'sequence_map': its function fails on 'a', 0: TypeError"):
        evaluate(tokens + indices, ["a"])


def test_apply_is_a_map_on_single_values():
    total = tokens + indices
    assert isinstance(total, SequenceMap)
    assert [apply(total, 1, 2), apply(total, None, 2), apply(total, 1, None)] == [3, None, None]


# -- selecting and aggregating ----------------------------------------------------------------------------------------


def test_an_aggregate_is_its_default_where_nothing_is_selected():
    assert evaluate(Aggregate(nothing, tokens), ["a", "b"]) == [None, None]
    assert evaluate(Aggregate(nothing, numerical(tokens), default=0), [1, 2]) == [0, 0]
    assert evaluate(Aggregate(earlier, tokens, default="none yet"), ["a"]) == ["none yet"]


@pytest.mark.parametrize("value", ["word", 3, 2.5, True, (1, "a"), None])
def test_a_single_selected_value_is_returned_as_it_is(value: Any) -> None:
    (result,) = evaluate(Aggregate(itself, Map(lambda x: value, tokens)), ["a"])
    assert result == value
    assert type(result) is type(value)


def test_equal_selected_values_are_returned_as_they_are():
    assert evaluate(Aggregate(every, Full("word")), ["a", "b"]) == ["word", "word"]
    assert evaluate(Aggregate(every, Full(0.1)), ["a"] * 7) == [0.1] * 7


def test_several_numbers_are_averaged():
    assert evaluate(Aggregate(every, tokens), [1, 2, 6]) == [3.0, 3.0, 3.0]
    assert evaluate(Aggregate(every, tokens == "x"), ["x", "a", "a", "a"]) == [0.25] * 4


def test_a_mean_with_an_undefined_value_is_undefined():
    number = Map(lambda x: None if x == 0 else x, tokens)
    assert evaluate(Aggregate(every, number), [1, 0, 2]) == [None] * 3
    assert evaluate(Aggregate(every, number), [0, 0]) == [None] * 2


def test_a_mean_of_different_words_names_the_variable():
    mixed = Aggregate(every, tokens).named("mixed")
    with pytest.raises(ProgramError) as caught:
        evaluate(mixed, ["a", "b"])
    assert str(caught.value) == (
        "variable 'mixed' averages ['a', 'b']; only numbers have a mean, so select equal values"
    )


def test_a_width_counts_the_selected_keys():
    assert evaluate(SelectorWidth(Select(tokens, tokens, Comparison.EQ)), ["a", "b", "a"]) == [2, 1, 2]
    assert evaluate(SelectorWidth(nothing), ["a", "b"]) == [0, 0]
    assert evaluate(SelectorWidth(every), ["a", "b", "c"]) == [3, 3, 3]


def test_predicates_take_the_key_first():
    later = SelectorWidth(Select(indices, indices, lambda key, query: key > query))
    assert evaluate(later, "abc") == [2, 1, 0]
    assert evaluate(SelectorWidth(Select(indices, indices, Comparison.GT)), "abc") == [2, 1, 0]


def test_undefined_keys_and_queries_are_selected_by_true_alone():
    for comparison in Comparison:
        width = evaluate(SelectorWidth(Select(holed, holed, comparison)), ["?", "?"])
        assert width == ([2, 2] if comparison is Comparison.TRUE else [0, 0])


def test_a_function_sees_undefined_keys():
    holes = SelectorWidth(Select(holed, indices, lambda key, query: key is None))
    assert evaluate(holes, ["?", "a", "?"]) == [2, 2, 2]


def test_a_causal_selector_reaches_no_later_key():
    assert evaluate(SelectorWidth(every), "abc", causal=True) == [1, 2, 3]
    assert evaluate(Aggregate(every, indices), "abc", causal=True) == [0, 0.5, 1.0]
    following = Aggregate(Select(indices, indices, lambda key, query: key == query + 1), tokens)
    assert evaluate(following, "abc") == ["b", "c", None]
    assert evaluate(following, "abc", causal=True) == [None, None, None]


def test_encodings_do_not_change_values():
    share = Aggregate(Select(indices, indices, Comparison.LEQ), numerical(tokens == "x"), default=0)
    assert evaluate(categorical(share), "xa") == evaluate(share, "xa") == [1.0, 0.5]


def test_names_do_not_change_values_nor_two_variables_of_one_name():
    twice = (tokens + 1).named("n") + (tokens + 2).named("n")
    assert evaluate(twice, [1]) == [5]


def test_the_input_is_left_alone():
    given_ = ["a", "b"]
    result = evaluate(tokens, given_)
    assert result == given_
    assert result is not given_


@pytest.mark.parametrize(
    "sop", [tokens, indices, Full(1), tokens == "a", SelectorWidth(every), Aggregate(every, tokens)]
)
def test_an_empty_input_has_an_empty_output(sop: SOp) -> None:
    assert evaluate(sop, []) == []


# -- order, cycles, depth ---------------------------------------------------------------------------------------------


def test_every_expression_comes_once_and_after_those_it_reads():
    a = tokens == "a"
    b = a & a
    program = Aggregate(Select(b, indices, Comparison.EQ), a)
    order = in_order(program)
    assert len(order) == len({id(sop) for sop in order}) == 5
    assert order[-1] is program
    place = {id(sop): number for number, sop in enumerate(order)}
    assert all(place[id(child)] < place[id(sop)] for sop in order for child in sop.children)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
@given(programs())
def test_every_expression_of_a_random_program_comes_after_those_it_reads(case: RandomProgram) -> None:
    order = in_order(case.program)
    place = {id(sop): number for number, sop in enumerate(order)}
    assert len(place) == len(order)
    assert all(place[id(child)] < place[id(sop)] for sop in order for child in sop.children)


def test_a_variable_that_reads_itself_is_named():
    loop = Map(len, tokens).named("loop")
    loop.inner = loop
    with pytest.raises(ProgramError, match="variable 'loop' reads itself through 'loop'; a program has no cycles"):
        evaluate(loop + 1, ["a"])


def test_a_longer_cycle_names_both_ends():
    inner = Map(len, tokens).named("inner")
    outer = SequenceMap(max, indices, inner).named("outer")
    inner.inner = outer
    for program in (inner, outer, outer + 1):
        with pytest.raises(ProgramError, match=r"variable '(inner|outer)' reads itself through '(outer|inner)'"):
            evaluate(program, ["a"])


def test_what_is_no_expression_is_refused():
    broken: Any = Map(len, tokens)
    broken.inner = "tokens"
    with pytest.raises(ProgramError, match="'tokens' is not part of the RASP language; build programs from"):
        evaluate(broken, ["a"])


def test_an_expression_of_a_foreign_kind_is_named():
    class Reversed(SOp):
        name = "my_reversal"

    with pytest.raises(ProgramError, match="<Reversed my_reversal> is not part of the RASP language"):
        evaluate(Map(len, Reversed()), ["a"])


def chain(length: int) -> SOp:
    """Adds up `length` times the position."""
    total = tokens
    for _ in range(length):
        total = SequenceMap(lambda x, y: x + y, total, indices)
    return total


def test_programs_may_be_deeper_than_the_recursion_limit():
    deep = chain(2000)
    assert evaluate(deep, [5, 5, 5]) == [5, 2005, 4005]
    assert deep([5, 5]) == [5, 2005]
    assert len(in_order(deep)) == 2002
    assert len(str(deep).splitlines()) == 2000


def test_deep_chains_of_heads_and_maps_evaluate():
    sop: SOp = tokens
    for _ in range(1000):
        sop = Aggregate(itself, Map(lambda x: -x, sop))
    assert evaluate(sop, [1, 2]) == [1, 2]


def test_what_is_read_twice_is_computed_once():
    calls = []

    def count(x: int) -> int:
        calls.append(x)
        return x + 1

    total: SOp = Map(count, tokens)
    # Computed anew for each reader, the innermost map would be called 2 ** 40 times.
    for _ in range(40):
        total = total + total
    assert evaluate(total, [0]) == [2**40]
    assert calls == [0]
