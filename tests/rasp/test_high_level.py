"""The high-level model: runs against the evaluator, interchanges against a slow model of their definition."""

import random
from collections.abc import Iterable, Sequence
from functools import cache

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from interpbench_hub.cases import Case, get_case, list_cases
from interpbench_hub.circuit import EMBED, Edge, Node
from interpbench_hub.rasp import (
    Aggregate,
    Comparison,
    Full,
    Map,
    Select,
    SelectorWidth,
    SequenceMap,
    SOp,
    high_level,
    indices,
    numerical,
    tokens,
)
from interpbench_hub.rasp.alignment import align
from interpbench_hub.rasp.causal_model import SELECTED, UNCLEAR, CausalModel
from interpbench_hub.rasp.evaluator import evaluate, in_order
from interpbench_hub.rasp.graph import build_graph
from interpbench_hub.rasp.high_level import HighLevelModel
from interpbench_hub.rasp.printing import unique_names
from interpbench_hub.rasp.variables import Variable
from tests.slow_model import AMBIGUOUS, SlowModel, agree
from tests.strategies import RandomProgram, programs

CASES = [case.id for case in list_cases() if case.id.startswith("case_")]
GARBAGE = 10**9
"""Stands in padded places of inputs: nothing may look at it."""

every = Select(indices, indices, Comparison.TRUE)
itself = Select(indices, indices, Comparison.EQ)


# -- batches ----------------------------------------------------------------------------------------------------------


def batch(vocab: Sequence, sequences: Sequence[Sequence], width: int) -> tuple[Tensor, Tensor]:
    """Codes of `sequences` with garbage beyond their ends, and their lengths."""
    rows = [[vocab.index(token) for token in sequence] for sequence in sequences]
    codes = torch.tensor([[*row, *[GARBAGE] * (width - len(row))] for row in rows])
    return codes, torch.tensor([len(row) for row in rows])


def decoded(variable: Variable, codes: Tensor, length: int) -> list:
    values = [*variable.values, None, AMBIGUOUS]
    return [values[code] for code in codes[:length].tolist()]


def random_sequences(case: Case, rng: random.Random, lengths: Iterable[int]) -> list[list]:
    """Inputs of these lengths, uniform ones and the sampler's in turn."""
    return [
        case.sample(rng, length) if number % 2 else [rng.choice(case.vocab) for _ in range(length)]
        for number, length in enumerate(lengths)
    ]


def random_pairs(case: Case, rng: random.Random, count: int) -> tuple[list[list], list[list]]:
    """Bases and sources, some alike in most tokens and some longer than their base."""
    longest = case.max_len - 1
    bases = random_sequences(case, rng, (rng.randint(case.min_len - 1, longest) for _ in range(count)))
    sources = random_sequences(case, rng, (rng.choice((len(base), rng.randint(len(base), longest))) for base in bases))
    for base, source in zip(bases, sources, strict=True):
        if rng.random() < 0.5:
            source[: len(base)] = [rng.choice((b, b, b, s)) for b, s in zip(base, source, strict=False)]
    return bases, sources


def random_masks(model: CausalModel, rng: random.Random, count: int) -> Tensor:
    """Rows of exchanged edges: none, one, whole nodes, some, most and all."""
    edges = list(model.circuit)
    senders = sorted({edge.source for edge in edges})
    rows = []
    for number in range(count):
        share = rng.choice((0.15, 0.4, 0.8, 1.0))
        one, node = rng.choice(edges), rng.choice(senders)
        kinds = (
            [edge == one for edge in edges],
            [edge.source == node for edge in edges],
            [rng.random() < share for _ in edges],
        )
        rows.append(kinds[number % 3])
    return torch.tensor(rows)


def mask_of(model: CausalModel, rows: int, edges: Iterable[Edge | str]) -> Tensor:
    mask = torch.zeros(rows, len(model.circuit), dtype=torch.bool)
    for edge in edges:
        mask[:, model.edge_index[Edge.parse(edge) if isinstance(edge, str) else edge]] = True
    return mask


def there(lengths: Tensor, width: int) -> Tensor:
    return torch.arange(width) < lengths[:, None]


def model_of(program: SOp, vocab: tuple, max_tokens: int, *, causal: bool = False, seed: int = 0) -> HighLevelModel:
    graph = build_graph(program, vocab, 1, max_tokens, causal=causal)
    return HighLevelModel(graph, align(graph, seed=seed))


@cache
def sample_pairs(case_id: str, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    case = get_case(case_id)
    bases, sources = random_pairs(case, random.Random(f"pairs {case_id}"), count)
    width = case.max_len - 1
    return (*batch(case.vocab, bases, width), *batch(case.vocab, sources, width))


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case_id", CASES)
def test_every_variable_of_a_run_is_what_the_evaluator_says(case_id: str) -> None:
    case = get_case(case_id)
    lengths = range(case.min_len - 1, case.max_len)
    sequences = random_sequences(case, random.Random(case_id), [*lengths, *reversed(lengths)][:30])
    codes, sizes = batch(case.vocab, sequences, case.max_len - 1)
    values = case.high_level.run(codes, sizes)
    assert set(values) == {variable.name for variable in case.graph.variables}
    for sop, name in unique_names(in_order(case.program)).items():
        # An inner map that is fused with its reader is no variable.
        if name not in values:
            continue
        assert values[name].shape == codes.shape
        assert values[name].dtype == torch.long
        for row, sequence in enumerate(sequences):
            expected = evaluate(sop, sequence, causal=case.causal)
            result = decoded(case.graph[name], values[name][row], len(sequence))
            assert all(map(agree, result, expected)), (name, sequence, result, expected)


def test_the_head_of_a_width_counts_as_the_width_does():
    case = get_case("case_18")
    values = case.high_level.run(*batch(case.vocab, [list("abcab"), list("aaa")], 9))
    assert values["count_fraction"][0, :5].tolist() == [2, 2, 1, 2, 2]
    assert values["length_fraction"][:, :3].tolist() == [[5, 5, 5], [3, 3, 3]]
    assert torch.equal(values["count"], values["count_fraction"])


def test_a_vocabulary_in_any_order_keeps_its_meaning():
    for program in (Aggregate(itself, tokens), tokens + "!", Aggregate(itself, Aggregate(itself, tokens)) == "a"):
        model = model_of(program, ("c", "a", "b"), 3)
        output = model.graph.output
        codes = model.run(torch.tensor([[0, 1, 2]]), torch.tensor([3]))[output.name]
        assert decoded(output, codes[0], 3) == evaluate(program, ["c", "a", "b"])


def test_the_rows_of_a_batch_do_not_touch_one_another():
    case = get_case("case_9")
    codes, lengths, _, _ = sample_pairs("case_9", 40)
    together = case.high_level.run(codes, lengths)["sorted_values"]
    for row in range(40):
        alone = case.high_level.run(codes[row : row + 1], lengths[row : row + 1])["sorted_values"]
        assert torch.equal(alone[0, : lengths[row]], together[row, : lengths[row]])


@pytest.mark.parametrize("case_id", ["case_2", "case_3", "case_9", "case_21", "case_113"])
def test_narrow_batches_give_the_same(case_id: str) -> None:
    case = get_case(case_id)
    rng = random.Random(case_id)
    sequences = random_sequences(case, rng, [3] * 8)
    output = case.graph.output.name
    narrow = case.high_level.run(*batch(case.vocab, sequences, 3))[output]
    wide = case.high_level.run(*batch(case.vocab, sequences, case.max_len - 1))[output]
    assert torch.equal(narrow, wide[:, :3])


def test_an_empty_batch():
    model = get_case("case_9").high_level
    nothing = torch.zeros((0, 9), dtype=torch.long), torch.zeros(0, dtype=torch.long)
    source = model.run(*nothing)
    assert source["sorted_values"].shape == (0, 9)
    assert model.interchange(*nothing, source, mask_of(model, 0, [])).shape == (0, 9)


# -- interchange against the slow model -------------------------------------------------------------------------------


def assert_interchange_is_right(
    model: CausalModel, slow: SlowModel, bases: list[list], sources: list[list], masks: Tensor
) -> set:
    """The batch against one row at a time by the slow model; returns what the output held."""
    graph = model.graph
    source_values = model.run(*batch(graph.vocab, sources, graph.max_tokens))
    inputs = batch(graph.vocab, bases, graph.max_tokens)
    codes = model.interchange(*inputs, source_values, masks)
    values = model.interchange_values(*inputs, source_values, masks)
    held = set()
    for row, (base, source) in enumerate(zip(bases, sources, strict=True)):
        edges = [
            str(edge) for edge, is_exchanged in zip(model.circuit, masks[row].tolist(), strict=True) if is_exchanged
        ]
        expected = slow.output(base, source, edges)
        result = decoded(graph.output, codes[row], len(base))
        assert all(map(agree, result, expected)), (str(slow.program), base, source, edges, result, expected)
        for name, held_there in slow.values(base, source, edges).items():
            found = decoded(graph[name], values[name][row], len(base))
            assert all(map(agree, found, held_there)), (str(slow.program), name, base, source, edges, found, held_there)
        for name, selected in slow.selected(base, source, edges).items():
            pair = torch.tensor([len(base)]), {key: value[row : row + 1] for key, value in source_values.items()}
            own = {key: value[row : row + 1] for key, value in values.items()}
            (found,) = model.selected(graph[name], own, *pair, masks[row : row + 1])
            assert not bool(found[:, len(base) :].any()), "padding is selected"
            for keys, query in zip(selected, found, strict=False):
                if keys is None:
                    assert bool((query == UNCLEAR).any()), (str(slow.program), name, base, source, edges)
                else:
                    assert query.nonzero()[:, 0].tolist() == keys, (str(slow.program), name, base, source, edges)
                    assert bool((query[keys] == SELECTED).all())
        held |= set(expected)
    assert graph.output.may_be_undefined or None not in held
    return held


@pytest.mark.parametrize("number", [2, 3, 5, 7, 9, 11, 18, 21, 113])
def test_interchanges_are_what_the_definition_says(number: int) -> None:
    case = get_case(f"case_{number}")
    rng = random.Random(number)
    bases, sources = random_pairs(case, rng, 45)
    assert_interchange_is_right(
        case.high_level, SlowModel.of(case), bases, sources, random_masks(case.high_level, rng, 45)
    )


@pytest.mark.parametrize("case_id", [case_id for case_id in CASES if get_case(case_id).n_attention_heads])
def test_interchanges_of_every_case_with_heads_are_what_the_definition_says(case_id: str) -> None:
    case = get_case(case_id)
    rng = random.Random(case_id)
    n_pairs = 2 if case.max_len > 20 else 9
    bases, sources = random_pairs(case, rng, n_pairs)
    masks = random_masks(case.high_level, rng, n_pairs)
    assert_interchange_is_right(case.high_level, SlowModel.of(case), bases, sources, masks)


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
@given(case=programs(), seed=st.integers(0, 999))
def test_interchanges_of_random_programs_are_what_the_definition_says(case: RandomProgram, seed: int) -> None:
    rng = random.Random(seed)
    longest = case.max_len - 1
    model = model_of(case.program, case.vocab, longest, causal=case.causal, seed=seed)
    bases = [[rng.choice(case.vocab) for _ in range(rng.randint(1, longest))] for _ in range(9)]
    sources = [[rng.choice(case.vocab) for _ in range(rng.randint(len(base), longest))] for base in bases]
    slow = SlowModel(case.program, model.graph, model.alignment)
    assert_interchange_is_right(model, slow, bases, sources, random_masks(model, rng, 9))


def test_the_slow_model_without_interchange_is_the_evaluator():
    for case_id in ("case_2", "case_5", "case_9", "case_21", "case_113"):
        case = get_case(case_id)
        for sequence in random_sequences(case, random.Random(case_id), [3, 5, 9]):
            expected = evaluate(case.program, sequence, causal=case.causal)
            assert SlowModel.of(case).output(sequence) == expected


# -- properties of interchange ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case_id", CASES)
def test_exchanging_nothing_changes_nothing(case_id: str) -> None:
    case = get_case(case_id)
    model, output = case.high_level, case.graph.output.name
    base, base_lengths, source, source_lengths = sample_pairs(case_id, 24)
    clean = model.run(base, base_lengths)
    source_values = model.run(source, source_lengths)
    at = there(base_lengths, base.shape[1])
    rng = random.Random(case_id)
    assert torch.equal(
        model.interchange(base, base_lengths, source_values, mask_of(model, 24, []))[at], clean[output][at]
    )
    # Nor does exchanging anything for the same input's own values.
    assert torch.equal(
        model.interchange(base, base_lengths, clean, random_masks(model, rng, 24))[at], clean[output][at]
    )
    assert torch.equal(
        model.interchange(base, base_lengths, clean, mask_of(model, 24, model.circuit))[at], clean[output][at]
    )


@pytest.mark.parametrize("case_id", CASES)
def test_exchanging_all_that_embed_sends_gives_the_output_of_the_source(case_id: str) -> None:
    case = get_case(case_id)
    model, output = case.high_level, case.graph.output.name
    base, lengths, source, _ = sample_pairs(case_id, 24)
    # Of equal lengths: each source is cut to the length of its base.
    source_values = model.run(source, lengths)
    mask = mask_of(model, 24, [edge for edge in model.circuit if edge.source == EMBED])
    result = model.interchange(base, lengths, source_values, mask)
    at = there(lengths, base.shape[1])
    assert torch.equal(result[at], source_values[output][at])


@pytest.mark.parametrize("case_id", CASES)
def test_exchanging_what_the_output_node_sends_gives_the_output_of_the_source(case_id: str) -> None:
    case = get_case(case_id)
    model, output = case.high_level, case.graph.output.name
    base, base_lengths, source, source_lengths = sample_pairs(case_id, 24)
    source_values = model.run(source, source_lengths)
    last = Edge(case.alignment.node_of[output], Node("logits"))
    at = there(base_lengths, base.shape[1])
    for edges in ([last], model.circuit):
        result = model.interchange(base, base_lengths, source_values, mask_of(model, 24, edges))
        assert torch.equal(result[at], source_values[output][at])


@pytest.mark.parametrize("case_id", CASES)
def test_the_position_carries_nothing_to_exchange(case_id: str) -> None:
    case = get_case(case_id)
    model, output = case.high_level, case.graph.output.name
    base, base_lengths, source, source_lengths = sample_pairs(case_id, 24)
    source_values = model.run(source, source_lengths)
    mask = mask_of(model, 24, [edge for edge in model.circuit if edge.source.name == "pos_embed"])
    at = there(base_lengths, base.shape[1])
    result = model.interchange(base, base_lengths, source_values, mask)
    assert torch.equal(result[at], model.run(base, base_lengths)[output][at])


def test_every_row_has_an_interchange_of_its_own():
    case = get_case("case_9")
    model = case.high_level
    base, base_lengths, source, source_lengths = sample_pairs("case_9", 30)
    source_values = model.run(source, source_lengths)
    masks = random_masks(model, random.Random(0), 30)
    together = model.interchange(base, base_lengths, source_values, masks)
    for row in range(30):
        part = slice(row, row + 1)
        values = {name: codes[part] for name, codes in source_values.items()}
        alone = model.interchange(base[part], base_lengths[part], values, masks[part])
        assert torch.equal(alone[0, : base_lengths[row]], together[row, : base_lengths[row]])


def test_an_edge_moves_its_receiver_alone():
    # Both variables read the token, each through an edge of its own.
    is_a = (tokens == "a").named("is_a")
    back = Aggregate(itself, tokens).named("back")
    model = model_of(SequenceMap(lambda x, y: (x, y), is_a, back).named("both"), ("a", "b"), 2)
    output, head = model.graph.output, model.alignment.node_of["back"]
    source = model.run(torch.tensor([[1, 1]]), torch.tensor([2]))

    def result(*edges: str) -> list:
        mask = mask_of(model, 1, edges)
        codes = model.interchange(torch.tensor([[0, 0]]), torch.tensor([2]), source, mask)
        return decoded(output, codes[0], 2)

    assert result() == [(True, "a")] * 2
    assert result("embed->m0") == [(False, "a")] * 2
    assert result(f"embed->{head}<v>") == [(True, "b")] * 2
    assert result("embed->m0", f"embed->{head}<v>") == [(False, "b")] * 2
    assert result(f"{head}->m1") == [(True, "b")] * 2


def test_values_beyond_the_end_of_the_base_do_not_matter():
    case = get_case("case_7")
    model = case.high_level
    head = case.alignment.node_of["count_fraction"]
    source = model.run(*batch(case.vocab, [list("aaaaaaaaa")], 9))
    base = batch(case.vocab, [list("bbb")], 9)
    codes = model.interchange(*base, source, mask_of(model, 1, [f"embed->{head}<k>"]))
    # Three keys hold "b" in the base and "a" in the source, and the queries still ask for "b".
    assert decoded(case.graph.output, codes[0], 3) == [0, 0, 0]
    codes = model.interchange(*base, source, mask_of(model, 1, [f"embed->{head}<q>", f"embed->{head}<k>"]))
    assert decoded(case.graph.output, codes[0], 3) == [3, 3, 3]
    codes = model.interchange(*base, source, mask_of(model, 1, [f"{head}->m0"]))
    assert decoded(case.graph.output, codes[0], 3) == [9, 9, 9]


# -- ambiguity --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case_id", CASES)
def test_no_case_is_ambiguous_by_itself(case_id: str) -> None:
    case = get_case(case_id)
    codes, lengths, _, _ = sample_pairs(case_id, 24)
    at = there(lengths, codes.shape[1])
    for name, values in case.high_level.run(codes, lengths).items():
        assert bool((values[at] <= len(case.graph[name].values)).all())


def test_attention_on_different_classes_is_ambiguous():
    model = model_of(Aggregate(every, tokens), ("a", "b"), 3)
    output = model.graph.output
    codes = model.run(torch.tensor([[0, 0, 0], [0, 1, 0], [0, 1, 1]]), torch.tensor([3, 3, 1]))[output.name]
    assert [decoded(output, row, 3) for row in codes[:2]] == [["a"] * 3, [AMBIGUOUS] * 3]
    assert decoded(output, codes[2], 1) == ["a"]
    assert model.output_ambiguous == len(output.values) + 1 == int(codes[1, 0])


def test_what_is_computed_from_the_ambiguous_is_ambiguous():
    mixed = Aggregate(every, tokens).named("mixed")
    for program in (
        mixed == "a",
        SequenceMap(lambda x, y: 0, indices, mixed),
        Aggregate(itself, mixed),
        Aggregate(every, numerical(mixed == "a"), default=0),
        SelectorWidth(Select(mixed, tokens, Comparison.EQ)),
        SelectorWidth(Select(tokens, mixed, Comparison.EQ)),
        Aggregate(Select(mixed, tokens, Comparison.EQ), indices),
    ):
        model = model_of(program, ("a", "b"), 2)
        codes = model.run(torch.tensor([[0, 1]]), torch.tensor([2]))[model.graph.output.name]
        assert decoded(model.graph.output, codes[0], 2) == [AMBIGUOUS] * 2, str(program)


def test_a_selector_that_looks_at_nothing_is_not_spoilt():
    mixed = Aggregate(every, tokens).named("mixed")
    for comparison, width in ((Comparison.TRUE, 2), (Comparison.FALSE, 0)):
        model = model_of(SelectorWidth(Select(mixed, mixed, comparison)), ("a", "b"), 2)
        codes = model.run(torch.tensor([[0, 1]]), torch.tensor([2]))[model.graph.output.name]
        assert decoded(model.graph.output, codes[0], 2) == [width, width]


def test_an_ambiguous_key_behind_the_causal_mask_spoils_nothing():
    # Position 2 averages two different tokens; positions 0 and 1 cannot see it.
    earlier = Aggregate(Select(indices, indices, Comparison.LT), tokens).named("earlier")
    program = SelectorWidth(Select(earlier, tokens, Comparison.EQ))
    model = model_of(program, ("a", "b"), 3, causal=True)
    codes = model.run(torch.tensor([[0, 1, 0]]), torch.tensor([3]))[model.graph.output.name]
    assert decoded(model.graph.output, codes[0], 3) == [0, 0, AMBIGUOUS]


def test_an_ambiguous_value_nobody_selects_spoils_nothing():
    earlier = Aggregate(Select(indices, indices, Comparison.LT), tokens).named("earlier")
    model = model_of(Aggregate(Select(indices, Full(1), Comparison.EQ), earlier), ("a", "b"), 3)
    codes = model.run(torch.tensor([[0, 1, 0]]), torch.tensor([3]))[model.graph.output.name]
    assert decoded(model.graph.output, codes[0], 3) == ["a"] * 3


def test_undefined_and_defined_values_together_are_ambiguous():
    holed = Map(lambda x: None if x == "a" else x, tokens)
    model = model_of(Aggregate(every, holed), ("a", "b"), 2)
    codes = model.run(torch.tensor([[0, 0], [0, 1]]), torch.tensor([2, 2]))[model.graph.output.name]
    assert [decoded(model.graph.output, row, 2) for row in codes] == [[None] * 2, [AMBIGUOUS] * 2]


def test_interchange_makes_sorting_ambiguous():
    case = get_case("case_9")
    model, slow = case.high_level, SlowModel.of(case)
    edges = [f"m0->{case.alignment.node_of['target_index_fraction']}<q>"]
    base, source = [1, 2, 3], [3, 2, 1]
    # Of the numbers of the base, two are smaller than the source's first, and one than its second and its third.
    expected = [None, AMBIGUOUS, 1]
    assert slow.output(base, source, edges) == expected
    codes = model.interchange(
        *batch(case.vocab, [base], 9), model.run(*batch(case.vocab, [source], 9)), mask_of(model, 1, edges)
    )
    assert decoded(case.graph.output, codes[0], 3) == expected
    assert codes[0, 1] == model.output_ambiguous


# -- sizes, tables, devices -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case_id", ["case_2", "case_4", "case_5", "case_9", "case_18", "case_21", "case_113"])
def test_batches_larger_than_a_chunk_give_the_same(case_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = get_case(case_id)
    model, output = case.high_level, case.graph.output.name
    base, base_lengths, source, source_lengths = sample_pairs(case_id, 50)
    masks = random_masks(model, random.Random(1), 50)

    def results() -> tuple[dict[str, Tensor], Tensor]:
        values = model.run(source, source_lengths)
        return values, model.interchange(base, base_lengths, values, masks)

    values, codes = results()
    # Seven rows at a time, so that the last chunk is not full; then less than a row.
    for chunk in (7 * base.shape[1] ** 2, 1):
        monkeypatch.setattr(high_level, "_CHUNK", chunk)
        again, codes_again = results()
        assert all(torch.equal(values[name], again[name]) for name in values)
        assert torch.equal(codes, codes_again)
    assert output in values


@pytest.mark.parametrize("case_id", ["case_3", "case_9", "case_21"])
def test_a_hundred_thousand_inputs_run(case_id: str) -> None:
    case = get_case(case_id)
    generator = torch.Generator().manual_seed(0)
    n_inputs, width = 100_000, case.max_len - 1
    codes = torch.randint(0, len(case.vocab), (n_inputs, width), generator=generator)
    lengths = torch.randint(case.min_len - 1, case.max_len, (n_inputs,), generator=generator)
    result = case.high_level.run(codes, lengths)[case.graph.output.name]
    assert result.shape == (n_inputs, width)
    for row in range(0, n_inputs, 9973):
        sequence = [case.vocab[code] for code in codes[row, : lengths[row]].tolist()]
        expected = evaluate(case.program, sequence, causal=case.causal)
        assert all(map(agree, decoded(case.graph.output, result[row], len(sequence)), expected))


def test_edges_are_numbered_in_the_order_of_the_circuit():
    model = get_case("case_5").high_level
    assert list(model.edge_index) == list(model.circuit.edges)
    assert list(model.edge_index.values()) == list(range(len(model.circuit)))


def test_a_head_selects_alike_if_it_looks_at_nothing():
    model = get_case("case_18").high_level
    assert model.selects_alike(model.graph["length_fraction"])
    assert not model.selects_alike(model.graph["count_fraction"])
    # Undefined values count: 1 is below every token, but not below None.
    model = model_of(SelectorWidth(Select(Full(1), tokens, Comparison.LT)), (2, 3), 2)
    assert not model.selects_alike(model.graph["selector_width_fraction"])


def test_a_model_on_another_device_is_the_same_model():
    model = get_case("case_9").high_level
    moved = model.to("cpu")
    base, lengths, source, source_lengths = sample_pairs("case_9", 30)
    assert moved is not model
    assert moved.device == torch.device("cpu")
    masks = random_masks(model, random.Random(2), 30)
    results = [
        each.interchange(base, lengths, each.run(source, source_lengths), masks)[there(lengths, 9)]
        for each in (model, moved)
    ]
    assert torch.equal(*results)
