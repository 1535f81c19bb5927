"""The causal models of IOI: against a slow evaluator of one sentence, and what their circuits promise."""

import random

import pytest
import torch

from interpbench_hub.cases import get_case
from interpbench_hub.cases.kinds import changes_output
from interpbench_hub.ioi.case import CASES, IOI, IoiProgram
from interpbench_hub.ioi.high_level import AMBIGUOUS, NONE
from interpbench_hub.ioi.sentences import COUNTERFACTUALS, SentencePairs
from interpbench_hub.ioi.words import NAMES, NOBODY
from interpbench_hub.rasp.causal_model import SELECTED
from interpbench_hub.rasp.causal_model import UNCLEAR as UNCLEAR_KEY
from tests.ioi.slow_sentences import UNCLEAR, slow_values


def codes_of(values: list, vocab_code: dict) -> list[int]:
    return [vocab_code[value] for value in values]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_variables_and_answers_equal_those_of_one_sentence_at_a_time(case):
    pairs = case.pair_sampler(seed="oracle").draw(40)
    values = case.high_level.run(pairs.base, pairs.base_lengths)
    names = {name: place for place, name in enumerate(NAMES)} | {None: NONE, UNCLEAR: AMBIGUOUS}
    for row in range(40):
        length = int(pairs.base_lengths[row])
        words = [case.vocab[token] for token in pairs.base[row, :length]]
        expected = slow_values(case, words)
        for name in case.heads:
            assert values[name][row, :length].tolist() == codes_of(expected[name], names), (name, words)
        assert case.vocab[values["answer"][row, length - 1]] == expected["answer"][-1] == IoiProgram()(words)[-1]
        assert (values["answer"][row, : length - 1] == case.graph.output.ambiguous).all()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_path_interchanges_equal_those_of_one_sentence_at_a_time(case):
    rng = random.Random(case.id)
    pairs = case.pair_sampler(seed="oracle interchange").draw(150)
    model = case.high_level
    source = model.run(pairs.source, pairs.source_lengths)
    reads = [(variable.name, read) for variable in case.graph.variables for read in variable.reads]
    edges = torch.zeros(150, len(model.circuit), dtype=torch.bool)
    chosen = []
    for row in range(150):
        picked = rng.sample(reads, rng.choice([1, 1, 1, 2, 3]))
        chosen.append(set(picked))
        for name, read in picked:
            target = case.alignment.node_of.get(name)
            edge = next(
                edge
                for edge in model.circuit
                if edge.source == case.alignment.node_of[read.variable]
                and edge.slot == read.slot
                and (edge.target == target if target else edge.target.name == "logits")
            )
            edges[row, model.edge_index[edge]] = True
    found = model.interchange(pairs.base, pairs.base_lengths, source, edges)
    values = model.interchange_values(pairs.base, pairs.base_lengths, source, edges)
    selected = {
        name: model.selected(case.graph[name], values, pairs.base_lengths, source, edges) for name in case.heads
    }
    seen = set()
    for row in range(150):
        words, other = (
            [case.vocab[token] for token in tokens[row, : lengths[row]]]
            for tokens, lengths in ((pairs.base, pairs.base_lengths), (pairs.source, pairs.source_lengths))
        )
        looked_at: dict[str, list] = {}
        expected = slow_values(case, words, slow_values(case, other), chosen[row], looked_at)["answer"][-1]
        for name, of_batch in selected.items():
            assert not bool(of_batch[row, :, len(words) :].any()), "padding is selected"
            for query, keys in enumerate(looked_at[name]):
                if keys is None:
                    assert of_batch[row, query, : query + 1].tolist() == [UNCLEAR_KEY] * (query + 1)
                else:
                    assert of_batch[row, query].nonzero()[:, 0].tolist() == keys, (name, words, chosen[row])
                    assert bool((of_batch[row, query, keys] == SELECTED).all())
        code = int(found[row, len(words) - 1])
        assert code == (model.output_ambiguous if expected == UNCLEAR else case.token_ids[expected]), chosen[row]
        seen.add(expected if expected in (UNCLEAR, NOBODY) else "a name")
    assert seen >= {NOBODY, "a name"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_all_tokens_of_another_sentence_are_that_sentence_if_it_ends_there(case):
    pairs = case.pair_sampler(seed="whole", counterfactual="resample").draw(120)
    model = case.high_level
    source = model.run(pairs.source, pairs.source_lengths)
    from_tokens = torch.tensor([edge.source.name == "embed" for edge in model.circuit])
    found = model.interchange(pairs.base, pairs.base_lengths, source, from_tokens.expand(120, -1))
    ends = found[torch.arange(120), pairs.base_lengths - 1]
    alike = pairs.source_lengths == pairs.base_lengths
    assert 0 < int(alike.sum()) < 120
    assert bool((ends[~alike] == model.output_ambiguous).all())
    assert torch.equal(ends[alike], source["answer"][torch.arange(120), pairs.source_lengths - 1][alike])


def test_sizes_of_the_circuits():
    assert [len(case.circuit.of_kind("varying")) for case in CASES] == [8, 29]
    assert [len(case.circuit.of_kind("inert")) for case in CASES] == [0, 0]
    assert {edge.source.name for case in CASES for edge in case.circuit.of_kind("constant")} == {"pos_embed"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_exchanging_the_names_shows_every_varying_edge(case):
    pairs = SentencePairs(case, "swap", "test", ("name_swap",)).draw(64)
    changes = changes_output(case, pairs, list(case.circuit.of_kind("varying")))
    assert changes.all()


@pytest.mark.parametrize("kind", COUNTERFACTUALS)
def test_every_kind_changes_some_answers(kind):
    case = IOI
    pairs = SentencePairs(case, "kinds", "test", (kind,)).draw(64)
    changes = changes_output(case, pairs, list(case.circuit.of_kind("varying")))
    # A third name to leave out leaves IO and S, an ambiguous answer: that tells nothing of S-inhibition.
    assert changes.any(1).float().mean() >= (0.25 if kind == "abc" else 0.5)


def test_nobody_is_the_answer_where_no_name_is_said_twice():
    sentence = "Then , Mary and John went to the store . Charles gave a drink to"
    assert IoiProgram()(sentence.split()) == [None] * 14 + [NOBODY]
    assert IoiProgram()([]) == []


def test_the_models_of_two_devices_agree():
    case = get_case("ioi_full")
    model = case.high_level.to("cpu")
    assert model is not case.high_level and model.circuit == case.high_level.circuit


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_mover_of_several_names_is_nobody_to_an_answer_and_unclear_to_a_head_that_compares(case):
    pairs = case.pair_sampler(seed="several", counterfactual="abc").draw(60)
    model, ends = case.high_level, pairs.base_lengths - 1
    source = model.run(pairs.source, pairs.source_lengths)
    rows = torch.arange(60)
    # In the sentence itself nobody, whoever reads it.
    assert bool((source["answer"][rows, ends] == case.graph.output.code(NOBODY)).all())
    # What the induction heads tell the second mover of `ioi_full` is that no name was said twice.
    movers = ["name_mover"] if case is IOI else ["name_mover_1"]
    for name in movers:
        assert bool((source[name][rows, ends] == AMBIGUOUS).all())
        sender = case.alignment.node_of[name]
        edges = torch.tensor([edge.source == sender for edge in model.circuit]).expand(60, -1)
        found = model.interchange(pairs.base, pairs.base_lengths, source, edges)[rows, ends]
        assert bool((found == (case.graph.output.code(NOBODY) if case is IOI else model.output_ambiguous)).all())
