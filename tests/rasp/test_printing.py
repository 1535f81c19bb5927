"""Programs as text: whole programs to the letter, names, functions shown by their source."""

import functools
import inspect
import operator
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from interpbench_hub.cases import get_case, list_cases
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
from interpbench_hub.rasp.evaluator import evaluate, in_order
from interpbench_hub.rasp.printing import expression, function_text, program_text, unique_names
from tests.strategies import RandomProgram, programs

CASES = [case.id for case in list_cases() if case.id.startswith("case_")]

CASE_3 = """\
is_x = numerical(Map(lambda x: x == 'x', tokens))                             # whether the token is x
fraction = numerical(Aggregate(Select(indices, indices, LEQ), is_x, default=0))  # the fraction of positions so far \
where is_x holds"""

CASE_2 = """\
length = SelectorWidth(Select(tokens, tokens, TRUE))                    # the number of tokens in the input
from_end = SequenceMap(lambda x, y: x - y, length, indices)             # the position counted from the end, the last \
being 1
mirror_index = Map(lambda x: x - 1, from_end)                           # the index that mirrors this one
reversed_values = Aggregate(Select(indices, mirror_index, EQ), tokens)  # the input in reverse order"""

CASE_21 = """\
placed_token = SequenceMap(lambda x, y: (x, y), tokens, indices)              # the token with its index
count_so_far = SelectorWidth(Select(placed_token, placed_token, lambda key, query: key[0] == query[0] and key[1] <= \
query[1]))  # how often the token has come, this time included
first_index = SequenceMap(lambda x, y: y if x == 1 else -1, count_so_far, indices)  # the index where the token comes \
for the first time, else -1
first_occurrence = Aggregate(Select(first_index, indices, EQ), tokens)        # the token where it comes for the first \
time"""

every = Select(indices, indices, Comparison.TRUE)


@pytest.mark.parametrize(
    ("case_id", "text"), [("case_2", CASE_2), ("case_3", CASE_3), ("case_21", CASE_21)], ids=["2", "3", "21"]
)
def test_the_text_of_a_case(case_id: str, text: str) -> None:
    assert program_text(get_case(case_id).program) == text
    assert str(get_case(case_id).program) == text


def test_the_text_of_a_program_without_names():
    before = Select(indices, indices, Comparison.LEQ)
    a, b = (Aggregate(before, numerical(tokens == letter), default=0) for letter in "ab")
    program = Map(lambda x: x > 0.5, LinearSequenceMap(a, b, 1, -0.5))
    assert str(program).splitlines() == [
        "map_1 = numerical(Map(lambda x: x == 'a', tokens))",
        "aggregate_1 = numerical(Aggregate(Select(indices, indices, LEQ), map_1, default=0))",
        "map_2 = numerical(Map(lambda x: x == 'b', tokens))",
        "aggregate_2 = numerical(Aggregate(Select(indices, indices, LEQ), map_2, default=0))",
        "linear_sequence_map = LinearSequenceMap(aggregate_1, aggregate_2, 1, -0.5)",
        "map_3 = Map(lambda x: x > 0.5, linear_sequence_map)",
    ]


def test_one_line_a_variable_even_where_it_is_read_twice():
    once = tokens == "a"
    assert str(once & once).splitlines() == [
        "map = Map(lambda x: x == 'a', tokens)",
        "sequence_map = SequenceMap(lambda x, y: x and y, map, map)",
    ]


def test_inputs_and_constants_alone():
    assert [str(sop) for sop in (tokens, indices, Full(3), Full("a"))] == ["tokens", "indices", "Full(3)", "Full('a')"]
    assert str(numerical(tokens)) == "tokens_numerical"


def test_constants_stand_where_they_are_read():
    program = SequenceMap(lambda x, y: x + y, Full(2), SelectorWidth(Select(Full("a"), tokens, Comparison.EQ)))
    assert str(program).splitlines() == [
        "selector_width = SelectorWidth(Select(Full('a'), tokens, EQ))",
        "sequence_map = SequenceMap(lambda x, y: x + y, Full(2), selector_width)",
    ]


def test_encodings_show():
    share = Aggregate(every, numerical(tokens == "a"), default=0)
    assert (
        str(share).splitlines()[-1]
        == "aggregate = numerical(Aggregate(Select(indices, indices, TRUE), map, default=0))"
    )
    assert str(categorical(share)).splitlines()[-1].startswith("aggregate = Aggregate(")
    assert str(numerical(tokens - 1)) == "map = numerical(Map(lambda x: x - 1, tokens))"


@pytest.mark.parametrize("comparison", Comparison, ids=lambda comparison: comparison.name)
def test_comparisons_show_by_name(comparison: Comparison) -> None:
    assert str(SelectorWidth(Select(tokens, indices, comparison))) == (
        f"selector_width = SelectorWidth(Select(tokens, indices, {comparison.name}))"
    )


# -- meanings ---------------------------------------------------------------------------------------------------------


def test_meanings_are_comments_in_one_column():
    first = (tokens == "a").named("is_a", "whether it is a")
    plain = first & first
    last = (~plain).named("not_a", "whether it is not")
    assert str(last).splitlines() == [
        "is_a = Map(lambda x: x == 'a', tokens)      # whether it is a",
        "sequence_map = SequenceMap(lambda x, y: x and y, is_a, is_a)",
        "not_a = Map(lambda x: not x, sequence_map)  # whether it is not",
    ]


@pytest.mark.parametrize("case_id", CASES)
def test_every_variable_of_a_case_has_a_line_with_its_meaning(case_id: str) -> None:
    program = get_case(case_id).program
    shown = [sop for sop in in_order(program) if sop not in {tokens, indices} and not isinstance(sop, Full)]
    lines = program_text(program).splitlines()
    assert len(lines) == len(shown)
    for line, sop in zip(lines, shown, strict=True):
        assert line.startswith(f"{sop.name} = ")
        assert line.endswith(f"# {sop.meaning}")


# -- names ------------------------------------------------------------------------------------------------------------


def names_of(*names: str) -> list[str]:
    sops = [(tokens == number).named(name) for number, name in enumerate(names)]
    return list(unique_names([*sops]).values())


def test_names_that_differ_stay():
    assert names_of("a", "b", "a_1") == ["a", "b", "a_1"]


def test_names_that_repeat_are_numbered_in_order():
    assert names_of("a", "b", "a", "a") == ["a_1", "b", "a_2", "a_3"]


@pytest.mark.parametrize(
    "names",
    [
        ("a", "a", "a_1"),
        ("a_1", "a", "a"),
        ("a", "a_2", "a"),
        ("a", "a", "a_1", "a_1"),
        ("a_1", "a_1", "a", "a", "a_1_1"),
    ],
)
def test_numbering_hits_no_name_that_is_taken(names: tuple[str, ...]) -> None:
    made = names_of(*names)
    assert len(set(made)) == len(names)
    for name, given_ in zip(made, names, strict=True):
        assert name == given_ if names.count(given_) == 1 else name.startswith(given_ + "_")


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
@given(programs())
def test_every_line_of_a_random_program_defines_a_name_of_its_own(case: RandomProgram) -> None:
    names = [line.split(" = ")[0] for line in program_text(case.program).splitlines()]
    shown = [sop for sop in in_order(case.program) if type(sop).__name__ not in ("Tokens", "Indices", "Full")]
    assert len(set(names)) == len(names)
    assert len(names) == max(len(shown), 1)


# -- functions --------------------------------------------------------------------------------------------------------


def text_of(function: Callable[..., Any]) -> str:
    return function_text(function, None, "x")


def test_a_lambda_shows_its_source():
    assert text_of(lambda x: x == "it's") == 'lambda x: x == "it\'s"'
    assert text_of(lambda x: 0) == "lambda x: 0"
    assert text_of(lambda x: x) == "lambda x: x"
    assert text_of(lambda: None) == "lambda: None"


def test_spaces_and_line_breaks_do_not_show():
    wide = lambda x, y: (  # noqa: E731
        x +
        # a remark
        y
    )  # fmt: skip
    assert text_of(wide) == "lambda x, y: x + y"


def test_two_lambdas_on_one_line_are_told_apart():
    first, second = (lambda x: x + 1, lambda x: x + 2)
    assert [text_of(first), text_of(second)] == ["lambda x: x + 1", "lambda x: x + 2"]
    both = SequenceMap(lambda x, y: x - y, Map(lambda x: x * 2, tokens), Map(lambda x: x * 3, tokens))
    assert str(both).splitlines() == [
        "map_1 = Map(lambda x: x * 2, tokens)",
        "map_2 = Map(lambda x: x * 3, tokens)",
        "sequence_map = SequenceMap(lambda x, y: x - y, map_1, map_2)",
    ]


def test_nested_lambdas_are_told_apart():
    outer = lambda x: (lambda y: y * 2)(x)  # noqa: E731
    make = lambda n: lambda x: x + n  # noqa: E731
    assert text_of(outer) == "lambda x: (lambda y: y * 2)(x)"
    assert text_of(make) == "lambda n: lambda x: x + n"
    assert text_of(make(3)) == "lambda x: x + n"


def test_a_lambda_around_a_comprehension_shows_whole():
    shown = text_of(lambda x: sum(letter in "aeiou" for letter in x))
    # Python writes the generator with parentheses of its own.
    assert shown.replace("((", "(").replace("))", ")") == "lambda x: sum(letter in 'aeiou' for letter in x)"
    assert text_of(lambda x: [len(part) for part in x]) == "lambda x: [len(part) for part in x]"


def test_lambdas_with_conditions_and_defaults_show_whole():
    assert text_of(lambda x: "few" if x < 1 else "many") == "lambda x: 'few' if x < 1 else 'many'"
    assert text_of(lambda x, n=2: x and n) == "lambda x, n=2: x and n"


def test_a_lambda_in_an_argument_of_a_call_in_a_lambda():
    order = lambda x: sorted(x, key=lambda y: -y)  # noqa: E731
    assert text_of(order) == "lambda x: sorted(x, key=lambda y: -y)"


def test_a_lambda_without_a_file_says_that_it_is_one():
    assert text_of(eval("lambda x: x + 1")) == "<lambda>"


def test_other_functions_show_by_name():
    def by_name(x: int) -> int:
        return x

    assert text_of(by_name) == "by_name"
    assert text_of(len) == "len"
    assert text_of(operator.not_) == "operator.not_"
    assert text_of(operator.add) == "operator.add"
    assert text_of(str.upper) == "upper"


def test_what_has_no_name_shows_as_python_shows_it():
    half = functools.partial(operator.mul, 0.5)
    assert text_of(half) == repr(half)


def test_a_text_given_is_what_shows():
    assert str(Map(lambda x: x + 1, tokens, text="one more than x")) == "map = Map(lambda x: one more than x, tokens)"
    assert str(SequenceMap(max, tokens, indices, text="max(x, y)")) == (
        "sequence_map = SequenceMap(lambda x, y: max(x, y), tokens, indices)"
    )
    assert str(SelectorWidth(Select(tokens, tokens, lambda key, query: key > query, text="key > query"))) == (
        "selector_width = SelectorWidth(Select(tokens, tokens, lambda key, query: key > query))"
    )


def test_operators_show_as_lambdas():
    assert str(~(tokens == "a")).splitlines()[-1] == "map_2 = Map(lambda x: not x, map_1)"
    assert str(1 - tokens) == "map = Map(lambda x: 1 - x, tokens)"


def test_expression_takes_names_from_outside():
    inner = tokens == "a"
    assert expression(~inner, {inner: "is_a"}) == "Map(lambda x: not x, is_a)"
    assert expression(~inner, {}) == "Map(lambda x: not x, map)"


# -- text as a program ------------------------------------------------------------------------------------------------

LANGUAGE = {
    **{made.__name__: made for made in (Aggregate, Full, LinearSequenceMap, Map, Select, SelectorWidth, SequenceMap)},
    **{comparison.name: comparison for comparison in Comparison},
    **{"tokens": tokens, "indices": indices, "numerical": numerical, "operator": operator},
}


def functions_of(sop: SOp) -> list[Callable[..., Any]]:
    """The functions that `sop` was built from."""
    if isinstance(sop, Map | SequenceMap):
        return [sop.function]
    if isinstance(sop, Aggregate | SelectorWidth) and not isinstance(sop.selector.predicate, Comparison):
        return [sop.selector.predicate]
    return []


@pytest.mark.parametrize("case_id", CASES)
def test_the_text_of_a_case_runs_as_a_program(case_id: str) -> None:
    case = get_case(case_id)
    made: dict[str, Any] = dict(LANGUAGE)
    for function in (function for sop in in_order(case.program) for function in functions_of(sop)):
        # What the text takes for granted: named functions, and what lambdas read from around them.
        made.update({function.__name__: function} if function.__name__ != "<lambda>" else {})
        if inspect.isfunction(function):
            around = inspect.getclosurevars(function)
            made.update({**around.globals, **around.nonlocals})
    exec(program_text(case.program), made)
    again: SOp = made[case.program.name]
    rng = random.Random(case_id)
    for n_tokens in {case.min_len - 1, min(case.max_len - 1, 9)}:
        sequence = case.sample(rng, n_tokens)
        assert evaluate(again, sequence) == evaluate(case.program, sequence)
