"""The sizes of trained transformers: the rule, for every case."""

import pytest

from interpbench_hub.cases import Case, get_case, list_cases
from interpbench_hub.rasp import Aggregate, Comparison, Select, indices, tokens
from interpbench_hub.siit.sizes import transformer_config

CASE_IDS = [case.id for case in list_cases()]
PROGRAM_IDS = [case.id for case in list_cases() if not case.is_language]


def room_needed(case: Case) -> float:
    """The most dimensions that one head of a case needs for its keys or queries."""
    needed = [1.0]
    for head in case.graph.variables:
        if head.selects is None:
            continue
        constants = dict(head.constants)
        sides = {}
        for slot in ("k", "q"):
            name = head.read_in(slot)
            sides[slot] = [constants[slot]] if name is None else [*case.graph[name].values, None]
        if len({bool(head.selects(key, query)) for key in sides["k"] for query in sides["q"]}) == 1:
            # It need not look at what it compares.
            continue
        read = [case.graph[name] for slot in ("k", "q") if (name := head.read_in(slot)) is not None]
        values_per_dimension = 1 if head.kind == "fraction" else 2
        needed += [len(variable.classes) / values_per_dimension for variable in read]
    return max(needed)


def counts_among(case: Case) -> int:
    """The most values that the head of a selector width reads to compare them."""
    heads = [variable for variable in case.graph.variables if variable.kind == "fraction"]
    read = [name for head in heads for slot in ("k", "q") if (name := head.read_in(slot)) is not None]
    return max((len(case.graph[name].values) for name in read), default=0)


def reads_another_head(case: Case) -> bool:
    """Whether some head of the circuit lies behind another one."""
    reached: set[str] = set()
    for variable in case.graph.variables:
        is_behind = any(read.variable in reached for read in variable.reads)
        if variable.selects is not None and is_behind:
            return True
        if variable.selects is not None or is_behind:
            reached.add(variable.name)
    return False


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_layers_and_heads_are_those_of_the_alignment(case_id):
    case = get_case(case_id)
    config = transformer_config(case)
    assert (config.n_layers, config.n_heads) == (case.alignment.n_layers, case.alignment.n_heads)


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_ends_fit_the_case(case_id):
    case = get_case(case_id)
    config = transformer_config(case)
    assert config.d_vocab == len(case.vocab) + 2
    assert config.d_vocab_out == (len(case.classes) if case.categorical else 1)
    assert config.n_ctx == case.max_len
    assert config.attention_dir == ("causal" if case.causal else "bidirectional")
    assert config.normalization_type == ("LN" if case.is_language else None)


@pytest.mark.parametrize(("case_id", "d_model", "d_head"), [("ioi", 64, 32), ("ioi_full", 128, 32)])
def test_sentences_have_room_for_the_names_that_every_head_writes(case_id, d_model, d_head):
    case = get_case(case_id)
    config = transformer_config(case)
    widths = (config.n_layers, config.n_heads, config.d_model, config.d_head, config.d_mlp)
    # A hundred names are to be told apart, more than any head of a program compares.
    assert widths == (6, 4, d_model, d_head, 256)
    # All variables but positions and the answer hold names.
    assert d_model >= 9 * (len(case.graph.variables) - 2)


@pytest.mark.parametrize("case_id", PROGRAM_IDS)
def test_widths_follow_the_rule_within_its_bounds(case_id):
    case = get_case(case_id)
    config = transformer_config(case)
    assert config.d_mlp == min(4 * config.d_model, 256)
    if counts_among(case) > 64:
        assert (config.d_model, config.d_head, config.n_heads) == (96, 96, 2)
        return
    allowed = (16, 32, 64) if config.n_layers > 2 or reads_another_head(case) else (8, 16, 32, 64)
    assert config.d_head == min((d_head for d_head in allowed if d_head >= room_needed(case)), default=64)
    assert config.d_model == min(max(config.n_heads * config.d_head, 32), 64)


@pytest.mark.parametrize(
    ("case_id", "d_head"),
    [("case_3", 8), ("case_7", 8), ("case_13", 8), ("case_2", 16), ("case_21", 32), ("case_22", 64), ("case_9", 96)],
)
def test_heads_grow_with_what_they_compare_and_with_depth(case_id, d_head):
    assert transformer_config(get_case(case_id)).d_head == d_head


def test_what_a_head_averages_does_not_widen_it():
    own = Aggregate(Select(indices, indices, Comparison.EQ), tokens)
    case = Case("wide_values", "Copies each of many tokens.", own, tuple(range(60)))
    assert transformer_config(case).d_head == 8


def test_heads_of_all_widths_occur():
    assert {transformer_config(get_case(case_id)).d_head for case_id in CASE_IDS} == {8, 16, 32, 64, 96}


def test_the_size_depends_on_the_case_alone():
    assert transformer_config(get_case("case_9")) == transformer_config(get_case("case_9"))
