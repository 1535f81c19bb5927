"""The sizes of trained transformers: the rule, for every case."""

import pytest

from interpbench_hub.cases import Case, get_case, list_cases
from interpbench_hub.rasp import Aggregate, Comparison, Select, indices, tokens
from interpbench_hub.siit.sizes import MAX_D_HEAD, MAX_D_MODEL, MIN_D_HEAD, transformer_config

CASE_IDS = [case.id for case in list_cases()]


def most_compared(case: Case) -> int:
    """The most values that one head of a case must tell apart in its keys or queries."""
    read = [
        case.graph[name]
        for variable in case.graph.variables
        if variable.selects is not None
        for slot in ("k", "q")
        if (name := variable.read_in(slot)) is not None
    ]
    return max([1, *(len(variable.classes) for variable in read)])


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
    assert config.normalization_type is None


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_widths_follow_the_rule_within_its_bounds(case_id):
    case = get_case(case_id)
    config = transformer_config(case)
    wide_enough = [d_head for d_head in (8, 16, 32) if 2 * d_head >= most_compared(case)]
    assert config.d_head == min(wide_enough, default=MAX_D_HEAD)
    assert MIN_D_HEAD <= config.d_head <= MAX_D_HEAD
    assert 16 <= config.d_model <= MAX_D_MODEL
    assert config.d_model == min(max(config.n_heads * config.d_head, 32), MAX_D_MODEL)
    assert config.d_mlp == 4 * config.d_model


@pytest.mark.parametrize(("case_id", "d_head"), [("case_3", 8), ("case_7", 8), ("case_2", 16)])
def test_heads_grow_with_what_they_compare(case_id, d_head):
    assert transformer_config(get_case(case_id)).d_head == d_head


def test_what_a_head_averages_does_not_widen_it():
    own = Aggregate(Select(indices, indices, Comparison.EQ), tokens)
    case = Case("wide_values", "Copies each of many tokens.", own, tuple(range(60)))
    assert transformer_config(case).d_head == MIN_D_HEAD


def test_heads_of_all_widths_occur():
    assert {transformer_config(get_case(case_id)).d_head for case_id in CASE_IDS} == {8, 16, 32}


def test_the_size_depends_on_the_case_alone():
    assert transformer_config(get_case("case_9")) == transformer_config(get_case("case_9"))
