"""The cases against samples that the 2024 benchmark's own code computed (tests/data/vectors, one file a case)."""

import json
from pathlib import Path

import pytest

from interpbench_hub.cases import Case, get_case, list_cases
from interpbench_hub.rasp import language as rasp
from interpbench_hub.rasp.evaluator import evaluate, in_order
from interpbench_hub.rasp.printing import program_text

VECTORS = Path(__file__).parent.parent / "data" / "vectors"
NUMBERS = [number for number in range(1, 132) if number not in (16, 27)]
IDS = [f"case_{number}" for number in NUMBERS]


def vectors_of(case_id: str) -> dict:
    return json.loads((VECTORS / f"{case_id}.json").read_text(encoding="utf-8"))


def samples_of(case_id: str) -> list[dict]:
    vectors = vectors_of(case_id)
    return vectors["samples"] + vectors.get("own_sampler_samples", [])


def named_variables(case: Case) -> list[rasp.SOp]:
    return [sop for sop in in_order(case.program) if not isinstance(sop, rasp.Tokens | rasp.Indices)]


def test_all_cases_of_2024_are_registered_in_the_order_of_their_numbers():
    registered = [case.id for case in list_cases() if case.id in IDS]
    assert registered == IDS
    assert len(list(VECTORS.glob("*.json"))) == len(IDS) == 129


@pytest.mark.parametrize("case_id", IDS)
def test_program_reproduces_every_sample(case_id):
    case = get_case(case_id)
    samples = samples_of(case_id)
    assert len(samples) >= 64
    for sample in samples:
        assert case.program(sample["input"]) == sample["output"], sample["input"]


@pytest.mark.parametrize("case_id", IDS)
def test_vocabulary_lengths_and_kind_are_those_of_2024(case_id):
    case, vectors = get_case(case_id), vectors_of(case_id)
    assert set(case.vocab) == set(vectors["vocab"])
    assert len(case.vocab) == len(vectors["vocab"])
    assert list(case.vocab) == sorted(case.vocab)
    assert {type(token) for token in case.vocab} == {type(token) for token in vectors["vocab"]}
    assert (case.min_len, case.max_len) == (vectors["min_seq_len"], vectors["max_seq_len"])
    assert case.causal == vectors["causal"]
    assert (case.program.encoding == "categorical") == vectors["categorical"]


@pytest.mark.parametrize("case_id", [case.id for case in list_cases() if case.id in IDS and case.causal])
def test_a_causal_case_means_the_same_under_a_causal_mask(case_id):
    case = get_case(case_id)
    for sample in samples_of(case_id):
        assert evaluate(case.program, sample["input"], causal=True) == sample["output"], sample["input"]


def test_84_cases_were_published_in_2024():
    assert sum(get_case(case_id).was_published_2024 for case_id in IDS) == 84


@pytest.mark.parametrize("case_id", IDS)
def test_every_variable_has_a_name_of_its_own_and_a_meaning(case_id):
    variables = named_variables(get_case(case_id))
    assert all(sop.is_named and sop.meaning for sop in variables)
    assert len({sop.name for sop in variables}) == len(variables)


@pytest.mark.parametrize("case_id", IDS)
def test_every_function_can_be_shown(case_id):
    assert "<lambda>" not in program_text(get_case(case_id).program)


def test_descriptions_are_single_sentences_and_differ():
    descriptions = [get_case(case_id).description for case_id in IDS]
    assert len(set(descriptions)) == len(descriptions)
    for description in descriptions:
        assert description[0].isupper() and description.endswith("."), description
        assert ". " not in description, description


@pytest.mark.parametrize("case_id", IDS)
def test_functions_are_total_on_every_combination_of_values(case_id):
    # Building the graph applies every map to every combination of its inputs' values, as interchange can.
    assert get_case(case_id).graph.output.values
