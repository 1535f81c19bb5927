"""From programs to variables: what is fused, folded and dropped, value sets, and what cannot be compiled."""

import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interpbench_hub.cases import get_case, list_cases
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
from interpbench_hub.rasp.evaluator import evaluate, in_order
from interpbench_hub.rasp.graph import MAX_COMBINATIONS, build_graph
from interpbench_hub.rasp.printing import unique_names
from interpbench_hub.rasp.value_sets import MAX_VALUES, value_order
from interpbench_hub.rasp.variables import Graph, Read, Variable
from tests.strategies import RandomProgram, programs

CASES = [case.id for case in list_cases() if case.id.startswith("case_")]
VOCAB = (0, 1, 2)
every = Select(indices, indices, Comparison.TRUE)
itself = Select(indices, indices, Comparison.EQ)
same = Select(tokens, tokens, Comparison.EQ)
share = Aggregate(every, numerical(tokens == 1), default=0)


def graph_of(program: SOp, vocab: tuple = VOCAB, n_tokens: tuple[int, int] = (2, 4), causal: bool = False) -> Graph:
    return build_graph(program, vocab, *n_tokens, causal=causal)


def names(graph: Graph) -> list[str]:
    return [variable.name for variable in graph.variables]


def reads(variable: Variable) -> list[tuple[str, str | None]]:
    return [(read.variable, read.slot) for read in variable.reads]


# -- which variables there are ----------------------------------------------------------------------------------------


def test_inputs_are_variables():
    graph = graph_of(tokens + indices)
    found, place = graph["tokens"], graph["indices"]
    assert (found.kind, found.values, found.reads, found.is_positional) == ("tokens", VOCAB, (), False)
    assert (place.kind, place.values, place.reads, place.is_positional) == ("indices", (0, 1, 2, 3), (), True)
    assert (found.may_be_undefined, place.may_be_undefined) == (False, False)


def test_inputs_nothing_reads_are_left_out():
    assert names(graph_of(tokens == 1)) == ["tokens", "map"]
    assert names(graph_of(indices == 1)) == ["indices", "map"]
    assert names(graph_of(tokens)) == ["tokens"]


def test_the_vocabulary_keeps_its_order():
    assert graph_of(tokens, ("c", "a", "b"))["tokens"].values == ("c", "a", "b")
    assert graph_of(Aggregate(itself, tokens), ("c", "a", "b")).output.values == ("c", "a", "b")


def test_a_map_of_a_map_is_one_map():
    graph = graph_of(Map(lambda x: -x, Map(lambda x: x + 1, tokens).named("one_more")).named("negative"))
    assert names(graph) == ["tokens", "negative"]
    assert reads(graph.output) == [("tokens", None)]
    assert graph.output.values == (-3, -2, -1)
    assert graph.output.function is not None
    assert graph.output.function(2) == -3


def test_a_chain_of_maps_is_one_map_through_copies_of_any_kind():
    chain = tokens + 1
    for step in (lambda s: s, lambda s: s.named("step", "meaning"), numerical, categorical, numerical):
        chain = step(chain) * 2
    graph = graph_of(chain.named("end"))
    assert names(graph) == ["tokens", "end"]
    assert graph.output.values == (32, 64, 96)


def test_a_fused_map_stops_at_an_undefined_step():
    calls: list = []
    graph = graph_of(Map(lambda x: calls.append(x) or x, Map(lambda x: None if x == 1 else x, tokens)))
    assert graph.output.values == (0, 2)
    assert graph.output.may_be_undefined
    assert None not in calls


@pytest.mark.parametrize(
    "inner",
    [
        SelectorWidth(same),
        tokens + indices,
        LinearSequenceMap(numerical(tokens), numerical(indices), 1, 1),
        Aggregate(itself, tokens),
        share,
    ],
    ids=["width", "sequence map", "linear map", "aggregate", "mean"],
)
def test_a_map_of_anything_else_is_a_map_of_its_own(inner: SOp) -> None:
    graph = graph_of(Map(lambda x: x > 1, inner.named("inner")).named("outer"))
    assert reads(graph.output) == [("inner", None)]
    assert "inner" in names(graph)


def test_a_sequence_map_of_maps_reads_them():
    graph = graph_of(SequenceMap(lambda x, y: x + y, (tokens + 1).named("a"), (indices * 2).named("b")))
    assert reads(graph.output) == [("a", None), ("b", None)]


def test_an_inner_map_stays_where_something_else_reads_it():
    inner = (tokens + 1).named("inner")
    outer = (-inner).named("outer")
    graph = graph_of(SequenceMap(lambda x, y: (x, y), inner, outer).named("both"))
    assert names(graph) == ["tokens", "inner", "outer", "both"]
    assert reads(graph["outer"]) == [("tokens", None)]


def test_an_inner_map_nothing_reads_is_dropped():
    inner = (tokens + 1).named("inner")
    assert "inner" not in names(graph_of(~inner))
    assert names(graph_of(SequenceMap(lambda x, y: x, ~inner, indices).named("end"))) == [
        "tokens",
        "map",
        "indices",
        "end",
    ]


def test_a_width_is_a_head_and_a_map():
    graph = graph_of(SelectorWidth(Select(tokens, indices, Comparison.LT)).named("count", "how many"), n_tokens=(2, 4))
    head, width = graph.variables[-2:]
    assert (head.name, head.kind, head.encoding) == ("count_fraction", "fraction", "numerical")
    assert reads(head) == [("indices", "q"), ("tokens", "k")]
    assert (head.read_in("q"), head.read_in("k"), head.read_in("v")) == ("indices", "tokens", None)
    assert head.selects is not None
    assert [head.selects(key, 1) for key in (0, 1)] == [True, False]
    assert head.values == (0, 1, 2, 3, 4)
    assert (width.name, width.kind, width.values, width.meaning) == ("count", "map", (0, 1, 2, 3, 4), "how many")
    assert reads(width) == [("count_fraction", None)]
    assert not width.may_be_undefined
    assert "count" in head.meaning


def test_a_width_may_be_a_number():
    width = graph_of(LinearSequenceMap(numerical(SelectorWidth(same)), numerical(indices), 1, 1))
    assert width["selector_width"].encoding == "numerical"
    assert width.output.values == (0, 1, 2, 3, 4, 5, 6, 7)


def test_two_widths_are_two_heads_and_one_read_twice_is_one():
    once = SelectorWidth(same)
    assert names(graph_of(once + once)).count("selector_width_fraction") == 1
    twice = graph_of(SelectorWidth(same) + SelectorWidth(same))
    assert [variable.kind for variable in twice.variables].count("fraction") == 2


def test_an_aggregate_is_a_head():
    graph = graph_of(Aggregate(Select(tokens, indices, Comparison.GT), (tokens == 1).named("is_1")))
    assert graph.output.kind == "aggregate"
    assert reads(graph.output) == [("indices", "q"), ("tokens", "k"), ("is_1", "v")]
    assert graph.output.values == graph["is_1"].values == (False, True)


def test_a_variable_read_in_two_slots_is_read_twice():
    assert reads(graph_of(Aggregate(same, tokens)).output) == [("tokens", "q"), ("tokens", "k"), ("tokens", "v")]


def test_variables_come_after_those_they_read_and_the_output_is_one_of_them():
    for case in map(get_case, CASES):
        seen: set[str] = set()
        for variable in case.graph.variables:
            assert {read.variable for read in variable.reads} <= seen
            assert variable.name not in seen
            seen.add(variable.name)
        assert case.graph.output in case.graph.variables
        read = {read.variable for variable in case.graph.variables for read in variable.reads}
        assert seen == read | {case.graph.output.name}


def test_names_that_repeat_are_numbered():
    graph = graph_of(SequenceMap(lambda x, y: (x, y), tokens == 1, indices == 1))
    assert names(graph) == ["tokens", "map_1", "indices", "map_2", "sequence_map"]


def test_meanings_fall_back_on_the_expression():
    graph = graph_of(((tokens == 1).named("is_1", "whether it is 1") & indices).named("end"))
    assert graph["is_1"].meaning == "whether it is 1"
    assert graph["is_1"].text == "Map(lambda x: x == 1, tokens)"
    assert graph.output.meaning == graph.output.text == "SequenceMap(lambda x, y: x and y, is_1, indices)"


def test_a_positional_variable_depends_on_indices_only():
    zero = Map(lambda x: 0, indices).named("zero")
    mixed = SequenceMap(lambda x, y: y, zero, tokens).named("mixed")
    graph = graph_of(SequenceMap(lambda x, y: x, mixed, (zero - indices).named("minus")))
    assert {variable.name for variable in graph.variables if variable.is_positional} == {"indices", "zero", "minus"}
    assert not graph_of(SelectorWidth(every)).output.is_positional


def test_the_codes_of_a_variable():
    variable = graph_of(Map(lambda x: None if x == 1 else f"v{x}", tokens)).output
    assert variable.values == ("v0", "v2")
    assert variable.classes == ("v0", "v2", None)
    assert variable.undefined == 2
    assert [variable.code(value) for value in ("v0", "v2", None)] == [0, 1, 2]
    assert graph_of(tokens).output.classes == VOCAB


def test_the_code_of_a_number_is_that_of_the_nearest_value():
    variable = graph_of(numerical(tokens / 3), (1, 2, 5)).output
    assert [variable.code(number) for number in (1 / 3, 0.1 + 0.2 + 0.1 / 3, 1.6666666667, 99, -99)] == [0, 0, 2, 2, 0]


def test_an_unknown_variable_is_a_key_error():
    with pytest.raises(KeyError):
        graph_of(tokens)["missing"]


# -- constants --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (SequenceMap(lambda x, y: x - y, tokens, Full(2)), (-2, -1, 0)),
        (SequenceMap(lambda x, y: x - y, Full(2), tokens), (0, 1, 2)),
        (tokens + (Full(2) * 3), (6, 7, 8)),
        (LinearSequenceMap(numerical(tokens), Full(3), 2, -1), (-3, -1, 1)),
    ],
    ids=["second", "first", "computed", "linear"],
)
def test_constants_are_folded_into_a_map(program: SOp, expected: tuple) -> None:
    graph = graph_of(program)
    assert len(graph.variables) == 2
    assert len(graph.output.reads) == 1
    assert graph.output.values == expected


def test_two_arguments_of_one_variable_are_one_read():
    graph = graph_of(tokens - tokens)
    assert reads(graph.output) == [("tokens", None)]
    assert graph.output.values == (0,)
    fused = graph_of(SequenceMap(lambda x, y: x * 10 + y, share > 0, share > 0))
    assert len(fused.output.reads) == 2


def test_constants_in_a_selector_are_no_reads():
    graph = graph_of(Aggregate(Select(indices, Full(1), Comparison.EQ), tokens))
    assert reads(graph.output) == [("indices", "k"), ("tokens", "v")]
    assert graph.output.constants == (("q", 1),)
    graph = graph_of(SelectorWidth(Select(Full(1) + 1, tokens, Comparison.EQ)))
    assert reads(graph.variables[-2]) == [("tokens", "q")]
    assert graph.variables[-2].constants == (("k", 2),)


def test_a_constant_may_be_what_is_averaged():
    graph = graph_of(Aggregate(Select(tokens, indices, Comparison.EQ), Full("a")))
    assert (graph.output.constants, graph.output.classes) == ((("v", "a"),), ("a", None))
    graph = graph_of(Aggregate(every, numerical(Full(2.5)), default=0))
    assert (graph.output.constants, graph.output.classes) == ((("v", 2.5),), (2.5,))
    graph = graph_of(Aggregate(Select(tokens, indices, Comparison.EQ), numerical(Full(2.5)), default=0))
    assert graph.output.classes == (0, 2.5)


def test_a_head_may_read_nothing_but_constants():
    head = graph_of(SelectorWidth(Select(Full(1), Full(1), Comparison.EQ))).variables[0]
    assert (head.kind, head.reads, head.constants) == ("fraction", (), (("q", 1), ("k", 1)))


# -- value sets -------------------------------------------------------------------------------------------------------


def test_value_sets_are_images_of_the_products_of_value_sets():
    pairs = graph_of(SequenceMap(lambda x, y: (x, y), tokens, Aggregate(itself, tokens)))
    assert len(pairs.output.values) == 9
    assert get_case("case_15").graph.output.values == tuple(range(-3, 9))


def test_value_sets_are_sorted_numbers_first():
    mixed = {0: "b", 1: 2.5, 2: (1, 2), 3: "a", 4: -1, 5: True}
    assert graph_of(Map(mixed.get, tokens), tuple(mixed)).output.values == (-1, True, 2.5, "a", "b", (1, 2))
    assert sorted([(1,), "b", 3, "a", 1.5], key=value_order) == [1.5, 3, "a", "b", (1,)]


def test_equal_values_of_different_types_are_one():
    assert graph_of(Map({0: 1, 1: True, 2: 1.0}.get, tokens)).output.values == (1,)


def test_numbers_that_differ_by_a_rounding_error_are_one():
    thirds = Aggregate(every, numerical(tokens / 3), default=0)
    sums = LinearSequenceMap(thirds, thirds.named("again"), 1, 1)
    values = graph_of(sums).output.values
    assert list(values) == sorted(values)
    assert min(after - before for before, after in pairwise(values)) > 1e-6
    tenths = graph_of(LinearSequenceMap(numerical(tokens * 0.1), numerical(indices * 0.1), 1, 1)).output.values
    assert [round(value, 12) for value in tenths] == [0, 0.1, 0.2, 0.3, 0.4, 0.5]


def test_means_are_those_of_one_to_all_values():
    assert graph_of(share, n_tokens=(2, 3)).output.values == (0, pytest.approx(1 / 3), 0.5, pytest.approx(2 / 3), 1)
    offset = Aggregate(every, numerical(tokens + 5), default=0)
    assert graph_of(offset, (0, 1), (1, 2)).output.values == (5, 5.5, 6)


def test_the_default_of_a_mean_is_a_value_where_nothing_may_be_selected():
    later = Aggregate(Select(indices, indices, Comparison.GT), numerical(tokens + 5), default=0)
    assert graph_of(later, (0, 1), (1, 2)).output.values == (0, 5, 5.5, 6)


@pytest.mark.parametrize(
    ("selector", "causal", "expected"),
    [
        (every, False, False),
        (itself, True, False),
        (Select(indices, indices, Comparison.LEQ), True, False),
        (Select(indices, indices, Comparison.GEQ), False, False),
        (Select(indices, indices, Comparison.GEQ), True, False),
        (Select(indices, indices, Comparison.LT), False, True),
        (Select(indices, indices, lambda key, query: key == 0), True, False),
        (Select(indices, indices, lambda key, query: key == 1), False, False),
        (Select(indices, indices, lambda key, query: key == 1), True, True),
        (Select(indices, indices, lambda key, query: key == 2), False, True),
        (Select(indices, indices, Comparison.FALSE), False, True),
        (Select(tokens, indices, Comparison.EQ), False, True),
        # Each token selects itself, but not where keys alone are exchanged.
        (same, False, True),
        (Select(tokens, tokens, Comparison.TRUE), False, False),
        (Select(Map(lambda x: 0, tokens), Full(0), Comparison.EQ), False, False),
    ],
)
def test_an_aggregate_may_be_undefined_where_its_selector_may_select_nothing(
    selector: Select, causal: bool, expected: bool
) -> None:
    assert graph_of(Aggregate(selector, tokens), causal=causal).output.may_be_undefined is expected


def test_an_aggregate_of_what_may_be_undefined_may_be_undefined():
    holed = Map(lambda x: None if x == 0 else x, tokens)
    assert graph_of(Aggregate(every, holed)).output.may_be_undefined


def test_none_is_passed_on_by_maps():
    holed = Map(lambda x: None if x == 0 else x, tokens).named("holed")
    for program in (holed == 1, holed + indices, Aggregate(itself, holed) == 1):
        assert graph_of(program).output.may_be_undefined
    assert not graph_of(SelectorWidth(Select(holed, holed, Comparison.EQ))).output.may_be_undefined
    assert graph_of(1 / tokens).output.may_be_undefined
    assert not graph_of(1 / (tokens + 1)).output.may_be_undefined


def selected_values(sop: Aggregate, sequence: list, causal: bool) -> list[list]:
    keys, queries, values = (evaluate(child, sequence, causal=causal) for child in sop.children)
    return [
        [
            value
            for where, (key, value) in enumerate(zip(keys, values, strict=True))
            if sop.selector.selects(key, query) and not (causal and where > place)
        ]
        for place, query in enumerate(queries)
    ]


def spreads(program: SOp, sequence: list, causal: bool) -> bool:
    """Whether a categorical aggregate meets different values, whose mean is no value a class stands for."""
    return any(
        any(value != found[0] for value in found)
        for sop in in_order(program)
        if isinstance(sop, Aggregate) and sop.encoding == "categorical"
        for found in selected_values(sop, sequence, causal)
    )


def assert_values_are_expected(program: SOp, graph: Graph, sequence: list) -> None:
    """Every variable holds one of its values on `sequence`, and None only where it may be undefined."""
    variable_names = unique_names([sop for sop in in_order(program) if not isinstance(sop, Full)])
    known = {variable.name: variable for variable in graph.variables}
    for sop, name in variable_names.items():
        # Fused and constant expressions are no variables.
        if name not in known:
            continue
        variable = known[name]
        for value in evaluate(sop, sequence, causal=graph.causal):
            if value is None:
                assert variable.may_be_undefined, (name, sequence)
            elif variable.encoding == "numerical":
                nearest = variable.values[variable.code(value)]
                assert math.isclose(nearest, value, abs_tol=1e-9), (name, sequence, value)
            else:
                assert value in variable.values, (name, sequence, value)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
@given(case=programs(), seed=st.integers(0, 999))
def test_value_sets_hold_every_value_seen(case: RandomProgram, seed: int) -> None:
    graph = build_graph(case.program, case.vocab, 1, case.max_len - 1, causal=case.causal)
    rng = random.Random(seed)
    for n_tokens in range(1, case.max_len):
        sequence = [rng.choice(case.vocab) for _ in range(n_tokens)]
        try:
            if spreads(case.program, sequence, case.causal):
                continue
        except ProgramError as error:
            assert "only numbers have a mean" in str(error)
            continue
        assert_values_are_expected(case.program, graph, sequence)


@pytest.mark.parametrize("case_id", CASES)
def test_value_sets_of_a_case_hold_every_value_seen(case_id: str) -> None:
    case = get_case(case_id)
    rng = random.Random(case_id)
    for n_tokens in {case.min_len - 1, case.min_len, case.max_len - 2, case.max_len - 1}:
        uniform = [rng.choice(case.vocab) for _ in range(n_tokens)]
        for sequence in (uniform, case.sample(rng, n_tokens), [rng.choice(case.vocab)] * n_tokens):
            assert_values_are_expected(case.program, case.graph, sequence)


@pytest.mark.parametrize("case_id", CASES)
def test_functions_of_a_case_stay_within_their_value_sets(case_id: str) -> None:
    graph = get_case(case_id).graph
    for variable in graph.variables:
        if variable.kind != "map":
            continue
        assert variable.function is not None
        values = [graph[read.variable].classes for read in variable.reads]
        rng = random.Random(variable.name)
        for _ in range(50):
            result = variable.function(*(rng.choice(choices) for choices in values))
            assert result in variable.classes or variable.encoding == "numerical"


# -- what cannot be compiled ------------------------------------------------------------------------------------------

holed = Map(lambda x: None if x == 1 else x, tokens)
number = numerical(tokens).named("number")

REFUSED: dict[str, tuple[SOp, str]] = {
    "numerical copy of a categorical aggregate": (
        numerical(Aggregate(itself, tokens)),
        "variable 'aggregate' is numerical but averages the categorical 'tokens'; an aggregate is encoded as what it "
        "averages",
    ),
    "categorical copy of a numerical aggregate": (
        categorical(share),
        "variable 'aggregate' is categorical but averages the numerical 'map'; an aggregate is encoded as what it "
        "averages",
    ),
    "categorical aggregate with a default": (
        Aggregate(itself, tokens, default=0).named("kept"),
        "variable 'kept' is a categorical Aggregate with default 0; attention on nothing carries no class, so its "
        "default is None (map None away afterwards)",
    ),
    "numerical aggregate without default": (
        Aggregate(itself, number).named("kept"),
        "variable 'kept' is a numerical Aggregate with default None; attention on BOS carries 0, so its default is 0",
    ),
    "numerical aggregate with another default": (
        Aggregate(itself, number, default=1),
        "variable 'aggregate' is a numerical Aggregate with default 1; attention on BOS carries 0",
    ),
    "linear map of a category": (
        LinearSequenceMap(number, tokens, 1, 1).named("total"),
        "variable 'total' is a LinearSequenceMap of 'tokens', which is categorical; wrap it in numerical(...)",
    ),
    "sequence map of a number": (
        (number + tokens).named("total"),
        "variable 'total' is a SequenceMap of the numerical 'number'; only linear functions of numerical variables "
        "compile: use LinearSequenceMap, or a Map to categories",
    ),
    "numerical keys of an aggregate": (
        Aggregate(Select(number, indices, Comparison.EQ), tokens),
        "variable 'aggregate' selects by the numerical 'number' as keys; a Select compares categorical values: wrap it "
        "in categorical(...) or Map it to classes",
    ),
    "numerical queries of a width": (
        SelectorWidth(Select(indices, number, Comparison.EQ)).named("n"),
        "variable 'n' selects by the numerical 'number' as queries; a Select compares categorical values",
    ),
    "a number that may be undefined": (
        numerical(holed).named("gaps"),
        "variable 'gaps' is numerical but undefined for some inputs; a number cannot stand for None, so map every "
        "input to a number or make the variable categorical",
    ),
    "a linear map of too large numbers": (
        LinearSequenceMap(numerical(tokens * 5e307), numerical(indices), 2, 1),
        "variable 'linear_sequence_map' is numerical but takes the value inf",
    ),
    "a word as a number": (numerical(Map(str, tokens)), "variable 'map' is numerical but takes the value '0'"),
    "infinity as a number": (
        numerical(Map(lambda x: math.inf, tokens)),
        "variable 'map' is numerical but takes the value inf",
    ),
    "not a number": (numerical(Map(lambda x: math.nan, tokens)), "variable 'map' takes the value NaN"),
    "a complex number": (numerical(Map(complex, tokens)), "variable 'map' is numerical but takes the value (1+0j)"),
    "a constant output": (Full(3), "the program's output 'full' is the constant 3"),
    "a computed constant output": ((Full(3) + 1).named("four"), "the program's output 'four' is the constant 4"),
    "an undefined constant": (Full(1) / Full(0) + tokens, "variable 'sequence_map_1' is undefined everywhere"),
    "a map that is undefined throughout": (
        Map(lambda x: None, tokens).named("void"),
        "variable 'void' is undefined for every input",
    ),
    "values that cannot be told apart": (
        Map(lambda x: [x], tokens).named("boxed"),
        "variable 'boxed' takes a value that cannot be told apart: unhashable type: 'list'",
    ),
    "a function that fails": (
        Map(lambda x: {}[x], tokens).named("broken"),
        "variable 'broken': its function fails on 0: KeyError(0)",
    ),
    "a function that fails on a combination that never occurs": (
        SequenceMap(lambda x, y: {(x, x): 1}[x, y], tokens, Aggregate(itself, tokens)).named("pair"),
        "variable 'pair': its function fails on 0, 1: KeyError((0, 1))",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_transformer_can_carry_is_refused(name: str) -> None:
    program, message = REFUSED[name]
    with pytest.raises(ProgramError) as caught:
        graph_of(program)
    assert str(caught.value).startswith(message)


def test_numbers_are_finite_in_the_inputs_too():
    with pytest.raises(ProgramError, match="variable 'number' is numerical but takes the value 'a'"):
        graph_of(Aggregate(every, number, default=0), ("a", "b"))


def test_constants_may_stand_beside_variables_of_either_encoding():
    assert graph_of(LinearSequenceMap(number, Full(1), 1, 1)).output.values == (1, 2, 3)
    assert graph_of(SequenceMap(lambda x, y: x + y, tokens, numerical(Full(1)))).output.values == (1, 2, 3)
    assert graph_of(SelectorWidth(Select(numerical(Full(1)), tokens, Comparison.EQ))).output.kind == "map"


def test_a_cycle_is_refused():
    loop: Any = Map(len, tokens).named("loop")
    loop.inner = loop
    with pytest.raises(ProgramError, match="variable 'loop' reads itself"):
        graph_of(loop)


def test_an_expression_of_a_foreign_kind_is_refused():
    class Reversed(SOp):
        name = "my_reversal"

    with pytest.raises(ProgramError, match="<Reversed my_reversal> is not part of the RASP language"):
        graph_of(Map(len, Reversed()))


def test_value_sets_have_a_limit():
    most = tuple(range(MAX_VALUES))
    assert len(graph_of(tokens, most).output.values) == MAX_VALUES
    with pytest.raises(ProgramError) as caught:
        graph_of(tokens, (*most, -1))
    assert str(caught.value) == (
        f"variable 'tokens' takes {MAX_VALUES + 1} values; at most {MAX_VALUES} can be told apart, so round or coarsen "
        "it first"
    )
    with pytest.raises(ProgramError, match="variable 'pair' takes 10201 values; at most 10000 can be told apart"):
        graph_of(SequenceMap(lambda x, y: (x, y), tokens, Aggregate(itself, tokens)).named("pair"), tuple(range(101)))


def test_combinations_have_a_limit():
    called: list = []
    vocab = tuple(range(1500))
    program = SequenceMap(lambda x, y: called.append(x), tokens, Aggregate(itself, tokens)).named("wide")
    assert len(vocab) ** 2 > MAX_COMBINATIONS
    with pytest.raises(ProgramError) as caught:
        graph_of(program, vocab)
    assert str(caught.value) == (
        f"variable 'wide' combines 1500 x 1500 values; at most {MAX_COMBINATIONS} combinations can be tabulated, so "
        "split it into smaller steps"
    )
    assert not called


def test_means_have_a_limit():
    squares = Aggregate(every, numerical(tokens).named("number"), default=0).named("mean")
    vocab = tuple(math.sqrt(number) for number in range(2, 12))
    with pytest.raises(ProgramError, match="variable 'mean' has more than 10000 possible means of 10 values; average"):
        graph_of(squares, vocab, (3, 9))


def test_deep_programs_have_graphs():
    total: SOp = tokens
    for _ in range(1000):
        total = SequenceMap(lambda x, y: (x + y) % 2, total, tokens)
    graph = graph_of(total)
    assert len(graph.variables) == 1001
    assert graph.output.values == (0, 1)


def test_long_chains_of_maps_have_graphs():
    chain: SOp = tokens
    for _ in range(1000):
        chain = 1 - chain
    assert graph_of(chain).output.values == (0, 1, 2)


def test_the_head_of_a_width_takes_no_name_away():
    count = SelectorWidth(same).named("n")
    program = SequenceMap(lambda x, y: (x, y), count, (tokens == 1).named("n_fraction"))
    graph = graph_of(program)
    kinds = [variable.kind for variable in graph.variables]
    assert sorted(kinds) == ["fraction", "map", "map", "map", "tokens"]
    (first, second) = (graph[read.variable] for read in graph.output.reads)
    assert graph[first.reads[0].variable].kind == "fraction"
    assert reads(second) == [("tokens", None)]


@pytest.mark.parametrize("function", [lambda x: float("nan"), lambda x: x * math.inf], ids=["nan", "0 * inf"])
def test_a_value_unlike_itself_is_refused(function: Callable[[Any], Any]) -> None:
    with pytest.raises(ProgramError, match="variable 'map'"):
        graph_of(Map(function, tokens))


def test_a_number_too_large_for_a_float_is_refused():
    with pytest.raises(ProgramError, match="variable 'map' is numerical but takes the value"):
        graph_of(numerical(Map(lambda x: 10**400, tokens)))


@pytest.mark.parametrize("predicate", [Comparison.LT, lambda key, query: 1 / query > 0], ids=["type", "zero division"])
def test_a_predicate_that_fails_is_named(predicate: Any) -> None:
    count = SelectorWidth(Select(tokens, Map(lambda x: 0, tokens), predicate)).named("count")
    with pytest.raises(ProgramError, match="count"):
        evaluate(count, ["a", "b"])


def test_read_is_a_plain_pair():
    assert Read("tokens") == Read("tokens", None) != Read("tokens", "v")
