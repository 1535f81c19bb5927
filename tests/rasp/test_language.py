"""Expressions: what the operators build, what copies share, and what is refused."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from interpbench_hub.errors import InterpBenchError, ProgramError
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

OF_CONSTANT: list[tuple[Callable[[Any], SOp], str, list]] = [
    (lambda s: s == 4, "x == 4", [False, True, False]),
    (lambda s: s != 4, "x != 4", [True, False, True]),
    (lambda s: s < 4, "x < 4", [True, False, False]),
    (lambda s: s <= 4, "x <= 4", [True, True, False]),
    (lambda s: s > 4, "x > 4", [False, False, True]),
    (lambda s: s >= 4, "x >= 4", [False, True, True]),
    (lambda s: s + 10, "x + 10", [11, 14, 17]),
    (lambda s: s - 10, "x - 10", [-9, -6, -3]),
    (lambda s: s * 10, "x * 10", [10, 40, 70]),
    (lambda s: s / 2, "x / 2", [0.5, 2.0, 3.5]),
    (lambda s: s // 2, "x // 2", [0, 2, 3]),
    (lambda s: s % 3, "x % 3", [1, 1, 1]),
    (lambda s: s & 0, "x and 0", [0, 0, 0]),
    (lambda s: s | 0, "x or 0", [1, 4, 7]),
    (lambda s: 10 + s, "10 + x", [11, 14, 17]),
    (lambda s: 10 - s, "10 - x", [9, 6, 3]),
    (lambda s: 10 * s, "10 * x", [10, 40, 70]),
    (lambda s: 28 / s, "28 / x", [28.0, 7.0, 4.0]),
    # Python swaps the sides of a comparison by itself.
    (lambda s: 4 < s, "x > 4", [False, False, True]),  # noqa: SIM300
    (lambda s: 4 == s, "x == 4", [False, True, False]),  # noqa: SIM300
    (lambda s: ~s, "not x", [False, False, False]),
    (lambda s: -s, "-x", [-1, -4, -7]),
]

OF_TWO: list[tuple[Callable[[Any, Any], SOp], str, list]] = [
    (lambda s, t: s == t, "x == y", [False, False, False]),
    (lambda s, t: s != t, "x != y", [True, True, True]),
    (lambda s, t: s < t, "x < y", [False, False, False]),
    (lambda s, t: s <= t, "x <= y", [False, False, False]),
    (lambda s, t: s > t, "x > y", [True, True, True]),
    (lambda s, t: s >= t, "x >= y", [True, True, True]),
    (lambda s, t: s + t, "x + y", [1, 5, 9]),
    (lambda s, t: s - t, "x - y", [1, 3, 5]),
    (lambda s, t: s * t, "x * y", [0, 4, 14]),
    (lambda s, t: s / t, "x / y", [None, 4.0, 3.5]),
    (lambda s, t: s // t, "x // y", [None, 4, 3]),
    (lambda s, t: s % t, "x % y", [None, 0, 1]),
    (lambda s, t: s & t, "x and y", [0, 1, 2]),
    (lambda s, t: s | t, "x or y", [1, 4, 7]),
]


@pytest.mark.parametrize(("build", "text", "expected"), OF_CONSTANT, ids=[text for _, text, _ in OF_CONSTANT])
def test_an_operator_with_a_constant_is_a_map(build, text, expected):
    sop = build(tokens)
    assert type(sop) is Map
    assert sop.inner is tokens
    assert sop.text == text
    assert sop([1, 4, 7]) == expected


@pytest.mark.parametrize(("build", "text", "expected"), OF_TWO, ids=[text for _, text, _ in OF_TWO])
def test_an_operator_with_a_variable_is_a_sequence_map(build, text, expected):
    sop = build(tokens, indices)
    assert type(sop) is SequenceMap
    assert sop.first is tokens
    assert sop.second is indices
    assert sop.text == text
    assert sop([1, 4, 7]) == expected


def test_operators_keep_the_order_of_their_operands():
    assert (tokens - indices)([5, 5, 5]) == [5, 4, 3]
    assert (indices - tokens)([5, 5, 5]) == [-5, -4, -3]
    assert (tokens + "!")(["a", "b"]) == ["a!", "b!"]
    assert ("!" + tokens)(["a", "b"]) == ["!a", "!b"]


def test_and_and_or_yield_an_operand_as_python_does():
    assert (tokens & "yes")([0, 2]) == [0, "yes"]
    assert (tokens | "no")([0, 2]) == ["no", 2]


def test_operators_build_new_expressions_and_leave_their_operands_alone():
    first, second = tokens == "x", tokens == "x"
    assert first is not second
    assert len({first, second, tokens, indices}) == 4
    assert tokens.children == ()


@pytest.mark.parametrize(
    "misuse",
    [
        lambda: (tokens == "a") and (tokens == "b"),
        lambda: (tokens == "a") or (tokens == "b"),
        lambda: not tokens,
        lambda: 1 if tokens == "a" else 0,
        lambda: bool(tokens == "a"),
        lambda: 0 < (tokens == "a") < 2,
    ],
    ids=["and", "or", "not", "if", "bool", "chained comparison"],
)
def test_the_truth_of_an_expression_is_refused_with_a_hint(misuse):
    with pytest.raises(ProgramError) as caught:
        misuse()
    assert re.fullmatch(
        r"variable '(map|tokens)' has a value a position, so it is neither true nor false; use &, \| and ~ instead of "
        "and, or, not, and one comparison at a time",
        str(caught.value),
    )


def test_the_truth_of_a_named_expression_is_refused_by_its_name():
    with pytest.raises(ProgramError, match="variable 'is_a' has a value a position"):
        bool((tokens == "a").named("is_a"))


def test_defaults_of_an_expression():
    sop = Map(len, tokens)
    assert (sop.name, sop.meaning, sop.encoding, sop.is_named) == ("map", "", "categorical", False)
    assert repr(sop) == "<Map map>"
    assert repr(tokens) == "<Tokens tokens>"
    every = Select(indices, indices, Comparison.TRUE)
    assert [s.name for s in (SequenceMap(max, tokens, indices), SelectorWidth(every), Aggregate(every, tokens))] == [
        "sequence_map",
        "selector_width",
        "aggregate",
    ]
    assert (tokens.is_named, indices.is_named) == (True, True)


def test_named_is_a_copy():
    plain = Map(len, tokens)
    named = plain.named("word_length", "how long the word is")
    assert named is not plain
    assert (plain.name, plain.meaning, plain.is_named) == ("map", "", False)
    assert (named.name, named.meaning, named.is_named) == ("word_length", "how long the word is", True)
    assert named.inner is plain.inner
    assert named.function is plain.function
    assert named(["abc"]) == plain(["abc"]) == [3]


def test_naming_again_keeps_the_meaning_unless_another_is_given():
    first = Map(len, tokens).named("a", "one meaning")
    assert (first.named("b").name, first.named("b").meaning) == ("b", "one meaning")
    assert first.named("b", "another").meaning == "another"


@pytest.mark.parametrize("name", ["", "two words", "1st", "a-b", "x?", None, 3])
def test_a_name_is_an_identifier(name):
    with pytest.raises(ProgramError, match="is not an identifier; use letters, digits and underscores") as caught:
        tokens.named(name)
    assert repr(name) in str(caught.value)


def test_numerical_and_categorical_are_copies():
    plain = tokens == "a"
    magnitude = numerical(plain)
    back = categorical(magnitude)
    assert len({plain, magnitude, back}) == 3
    assert [s.encoding for s in (plain, magnitude, back)] == ["categorical", "numerical", "categorical"]
    assert {s.name for s in (plain, magnitude, back)} == {"map"}
    assert magnitude(["a", "b"]) == plain(["a", "b"]) == [True, False]


def test_inputs_taken_as_numbers_have_a_name_of_their_own():
    assert numerical(tokens).name == "tokens_numerical"
    assert numerical(indices).name == "indices_numerical"
    assert (tokens.name, tokens.encoding) == ("tokens", "categorical")
    assert (indices.name, indices.encoding) == ("indices", "categorical")
    assert numerical(indices)(["a", "b"]) == [0, 1]


def test_an_aggregate_is_encoded_as_what_it_averages():
    every = Select(indices, indices, Comparison.TRUE)
    assert Aggregate(every, tokens).encoding == "categorical"
    assert Aggregate(every, numerical(tokens), default=0).encoding == "numerical"


def test_a_linear_map_is_numerical():
    linear = LinearSequenceMap(numerical(tokens), numerical(indices), 2, -0.5)
    assert linear.encoding == "numerical"
    assert (linear.first_factor, linear.second_factor) == (2, -0.5)
    assert linear([1, 2, 3]) == [2.0, 3.5, 5.0]


def test_children_are_what_an_expression_reads_in_the_order_of_its_arguments():
    a, b, c = (tokens == value for value in "abc")
    selector = Select(a, b, Comparison.EQ)
    for sop, children in [
        (tokens, []),
        (indices, []),
        (Full(3), []),
        (Map(len, a), [a]),
        (SequenceMap(max, a, b), [a, b]),
        (LinearSequenceMap(b, a, 1, 1), [b, a]),
        (Aggregate(selector, c), [a, b, c]),
        (SelectorWidth(selector), [a, b]),
    ]:
        assert [id(child) for child in sop.children] == [id(child) for child in children]


def test_expressions_are_compared_by_identity_in_sets():
    sop = tokens == "a"
    assert sop in {sop}
    assert {sop: 1}[sop] == 1
    assert hash(sop) == hash(sop)


def test_calling_an_expression_evaluates_it():
    before = Select(indices, indices, Comparison.LEQ)
    program = Aggregate(before, numerical(tokens == "x"), default=0)
    assert program(["x", "a", "x", "x"]) == [1.0, 0.5, pytest.approx(2 / 3), 0.75]
    assert program([]) == []


# -- Full -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1.5, "a", False, (1, "b")])
def test_full_is_its_value_everywhere(value):
    assert Full(value)(["a", "b"]) == [value, value]
    assert str(Full(value)) == f"Full({value!r})"


def test_full_of_none_is_refused():
    with pytest.raises(ProgramError, match=r"Full\(None\) is undefined everywhere; give it a value"):
        Full(None)


# -- Comparison and Select --------------------------------------------------------------------------------------------

COMPARISONS = [
    (Comparison.EQ, [False, True, False]),
    (Comparison.NEQ, [True, False, True]),
    (Comparison.LT, [True, False, False]),
    (Comparison.LEQ, [True, True, False]),
    (Comparison.GT, [False, False, True]),
    (Comparison.GEQ, [False, True, True]),
    (Comparison.TRUE, [True, True, True]),
    (Comparison.FALSE, [False, False, False]),
]


def test_every_comparison_is_tried_here():
    assert {comparison for comparison, _ in COMPARISONS} == set(Comparison)


@pytest.mark.parametrize(("comparison", "expected"), COMPARISONS, ids=lambda value: getattr(value, "name", ""))
def test_a_comparison_reads_key_op_query(comparison, expected):
    assert [comparison(key, 2) for key in (1, 2, 3)] == expected
    assert all(type(comparison(key, 2)) is bool for key in (1, 2, 3))


@pytest.mark.parametrize("comparison", Comparison, ids=lambda comparison: comparison.name)
def test_none_is_never_selected_except_by_true(comparison):
    for key, query in [(None, 1), (1, None), (None, None), ("a", None)]:
        assert comparison(key, query) is (comparison is Comparison.TRUE)
        assert Select(tokens, tokens, comparison).selects(key, query) is (comparison is Comparison.TRUE)


def test_a_function_may_look_at_none():
    select = Select(tokens, tokens, lambda key, query: key is None)
    assert [select.selects(key, 1) for key in (None, 1)] == [True, False]


def test_a_function_that_fails_on_none_selects_nothing():
    select = Select(tokens, tokens, lambda key, query: key + query > 0)
    assert [select.selects(*pair) for pair in [(1, 1), (None, 1), (1, None), (None, None)]] == [
        True,
        False,
        False,
        False,
    ]


def test_a_function_that_fails_on_values_is_not_hushed_up():
    with pytest.raises((TypeError, ProgramError), match="unsupported operand"):
        Select(tokens, tokens, lambda key, query: key - query).selects("a", 1)


def test_what_a_function_returns_counts_by_its_truth():
    select = Select(tokens, tokens, lambda key, query: key % query)
    assert [select.selects(key, 3) for key in (3, 4)] == [False, True]


# -- wrong arguments --------------------------------------------------------------------------------------------------

every_token = Select(tokens, tokens, Comparison.TRUE)
WRONG: Any = "a"
"""Typed loosely, so that the wrong arguments below are wrong at run time only."""

WRONG_ARGUMENTS: list[tuple[Callable[[], object], str]] = [
    (
        lambda: Map(len, WRONG),
        "Map takes an s-op (tokens, indices, Map, ...), got 'a'; wrap a constant as Full(constant)",
    ),
    (lambda: Map(WRONG, tokens), "Map takes a function, got 'a'"),
    (lambda: SequenceMap(max, WRONG, tokens), "SequenceMap takes an s-op (tokens, indices, Map, ...), got 'a'"),
    (lambda: SequenceMap(max, tokens, WRONG), "SequenceMap takes an s-op (tokens, indices, Map, ...), got 'a'"),
    (lambda: SequenceMap(WRONG, tokens, tokens), "SequenceMap takes a function, got 'a'"),
    (lambda: LinearSequenceMap(tokens, WRONG, 1, 1), "SequenceMap takes an s-op (tokens, indices, Map, ...), got 'a'"),
    (lambda: Select(WRONG, tokens, Comparison.EQ), "Select takes an s-op (tokens, indices, Map, ...), got 'a'"),
    (lambda: Select(tokens, WRONG, Comparison.EQ), "Select takes an s-op (tokens, indices, Map, ...), got 'a'"),
    (lambda: Select(tokens, tokens, WRONG), "Select takes a function, got 'a'"),
    (lambda: Aggregate(WRONG, tokens), "Aggregate takes a Select first, got str"),
    (lambda: Aggregate(every_token, WRONG), "Aggregate takes an s-op (tokens, indices, Map, ...), got 'a'"),
    (lambda: SelectorWidth(WRONG), "SelectorWidth takes a Select, got str"),
    (lambda: numerical(WRONG), "numerical takes an s-op (tokens, indices, Map, ...), got 'a'"),
    (lambda: categorical(WRONG), "categorical takes an s-op (tokens, indices, Map, ...), got 'a'"),
    # A selector is no s-op, and the class in place of an s-op is a slip of the same kind.
    (lambda: Map(len, every_token), "Map takes an s-op"),  # type: ignore[arg-type]
    (lambda: numerical(type(tokens)), "numerical takes an s-op"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("build", "message"), WRONG_ARGUMENTS, ids=[message[:40] for _, message in WRONG_ARGUMENTS])
def test_wrong_arguments_are_refused_when_the_expression_is_built(build, message):
    with pytest.raises(ProgramError) as caught:
        build()
    assert str(caught.value).startswith(message)


def test_program_errors_are_errors_of_the_package_and_value_errors():
    assert issubclass(ProgramError, InterpBenchError)
    assert issubclass(ProgramError, ValueError)


def test_constants_of_any_kind_may_stand_beside_an_expression():
    assert (tokens == (1, 2))([(1, 2), (2, 1)]) == [True, False]
    assert (tokens < math.inf)([1, 2.5]) == [True, True]
    assert (tokens == None)(["a"]) == [False]  # noqa: E711
