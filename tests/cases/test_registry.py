"""Finding cases and adding one's own; what a case refuses; encoding inputs and decoding outputs."""

import random
import re
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch

from interpbench_hub.cases import Case, get_case, list_cases, register_case, registry, unregister_case
from interpbench_hub.errors import CaseError, InterpBenchError, UnknownNameError
from interpbench_hub.rasp import Aggregate, Comparison, Map, Select, SelectorWidth, indices, numerical, tokens
from interpbench_hub.rasp.evaluator import evaluate

IDS = [case.id for case in list_cases()]
OF_2024 = [case_id for case_id in IDS if re.fullmatch(r"case_\d+", case_id)]
before = Select(indices, indices, Comparison.LEQ)
count = SelectorWidth(Select(tokens, tokens, Comparison.EQ)).named("count", "how often the token occurs")


def make(**changes: Any) -> Case:
    """A case of one's own."""
    fields: dict[str, Any] = {
        "id": "my_count",
        "description": "Tells how often the token occurs.",
        "program": count,
        "vocab": ("a", "b", "c"),
    }
    return Case(**(fields | changes))


@pytest.fixture
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry with few cases, put back afterwards."""
    few = {case_id: get_case(case_id) for case_id in ("case_3", "case_7", "case_8", "case_24")}
    monkeypatch.setattr(registry, "_CASES", few)


# -- finding cases ----------------------------------------------------------------------------------------------------


def test_a_case_is_found_by_its_id():
    case = get_case("case_3")
    assert (case.id, case.vocab, case.min_len, case.max_len) == ("case_3", ("a", "b", "c", "x"), 4, 5)
    assert get_case("case_3") is case
    assert case in list_cases()


@pytest.mark.parametrize(
    ("given_", "near"),
    [
        ("case3", "case_3"),
        ("case_133", "case_13"),
        ("Case_21", "case_21"),
        ("case-8", "case_8"),
        ("cases_99", "case_99"),
    ],
)
def test_an_unknown_id_shows_the_nearest_ones(given_: str, near: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        get_case(given_)
    message = str(caught.value)
    assert message.startswith(f"unknown case '{given_}'; nearest: ")
    assert near in message.removeprefix(f"unknown case '{given_}'; nearest: ").split(". ")[0].split(", ")
    assert message.endswith(". list_cases() lists them")


@pytest.mark.parametrize("given_", ["", "zzz", None, 3, ["case_3"], ("case", 3)])
def test_an_id_like_no_other_shows_the_first_ones(given_: Any) -> None:
    with pytest.raises(UnknownNameError) as caught:
        get_case(given_)
    assert str(caught.value).startswith(f"unknown case {given_!r}; ")
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, InterpBenchError)


def test_ids_16_and_27_never_existed():
    for case_id in ("case_16", "case_27"):
        with pytest.raises(UnknownNameError, match="nearest: "):
            get_case(case_id)


def test_cases_are_listed_in_the_order_of_their_numbers():
    numbers = [int(case_id.removeprefix("case_")) for case_id in OF_2024]
    assert numbers == [number for number in range(1, 132) if number not in (16, 27)]
    assert len(set(IDS)) == len(IDS)


def test_the_list_is_a_copy():
    listed = list_cases()
    listed.clear()
    assert [case.id for case in list_cases()] == IDS


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"categorical": False}, {"case_3", "case_4", "case_39"}),
        ({"categorical": False, "tier": "single-head"}, {"case_3", "case_39"}),
        ({"categorical": False, "tier": "multi-head", "was_published_2024": True}, {"case_4"}),
        ({"n_attention_heads": 7}, {"case_5"}),
        ({"tier": "elementwise", "categorical": False}, set()),
    ],
    ids=["one", "two", "three", "heads", "none"],
)
def test_tags_choose_cases(tags: dict[str, Any], expected: set[str]) -> None:
    assert {case.id for case in list_cases(**tags) if case.id.startswith("case_")} == expected


@pytest.mark.parametrize("tag", ["tier", "causal", "categorical", "was_published_2024", "n_attention_heads"])
def test_the_values_of_a_tag_divide_the_cases(tag: str) -> None:
    values = {getattr(case, tag) for case in list_cases()}
    chosen = [case.id for value in values for case in list_cases(**{tag: value})]
    assert sorted(chosen) == sorted(IDS)
    assert len(values) > 1


def test_tiers_follow_from_the_heads():
    for case in list_cases():
        several = "deep" if case.n_heads_in_a_row >= 3 else "multi-head"
        assert case.tier == {0: "elementwise", 1: "single-head"}.get(case.n_attention_heads, several)
    assert sum(case.tier == "elementwise" for case in list_cases() if case.id in OF_2024) == 62


def test_medians_and_two_more_are_the_deep_cases_of_2024():
    assert [case.id for case in list_cases(tier="deep") if case.id in OF_2024] == [
        *("case_81", "case_88", "case_113", "case_126")
    ]


def test_heads_in_a_row_are_those_of_one_path():
    first, second = count, SelectorWidth(Select(tokens, indices, Comparison.EQ)).named("other_count")
    beside = make(program=(first + second).named("sum"))
    assert (beside.n_attention_heads, beside.n_heads_in_a_row, beside.tier) == (2, 1, "multi-head")
    twice = SelectorWidth(Select(count, count, Comparison.EQ)).named("twice")
    assert (make(program=twice).n_heads_in_a_row, make(program=twice).tier) == (2, "multi-head")
    thrice = Aggregate(Select(twice, indices, Comparison.EQ), tokens).named("thrice")
    assert (make(program=thrice).n_heads_in_a_row, make(program=thrice).tier) == (3, "deep")
    assert make(program=tokens == "a").n_heads_in_a_row == 0


def test_a_causal_program_is_read_causally_when_called():
    causal, plain = make(causal=True), make()
    assert causal.program(["a", "b", "a"]) == [1, 1, 2]
    assert plain.program(["a", "b", "a"]) == count(["a", "b", "a"]) == [2, 1, 2]
    assert replace(causal, causal=False).program(["a", "b", "a"]) == [2, 1, 2]
    assert causal.graph.output.values == plain.graph.output.values


def test_tags_of_the_circuit_choose_cases(clean_registry: None) -> None:
    assert [case.id for case in list_cases()] == ["case_3", "case_7", "case_8", "case_24"]
    assert [case.id for case in list_cases(n_edges=2)] == ["case_8"]
    assert [case.id for case in list_cases(n_edges=6)] == ["case_3"]
    assert [case.id for case in list_cases(n_varying_edges=2)] == ["case_8", "case_24"]
    assert [case.id for case in list_cases(n_varying_edges=2, causal=True, tier="single-head")] == ["case_24"]


def test_the_tags_of_a_case():
    assert get_case("case_3").tags == {
        "tier": "single-head",
        "n_attention_heads": 1,
        "n_edges": 6,
        "n_varying_edges": 3,
        "causal": True,
        "categorical": False,
        "was_published_2024": True,
    }


@pytest.mark.parametrize(
    ("tag", "near"), [("tiers", "tier"), ("n_attention_head", "n_attention_heads"), ("vocab", "n_edges")]
)
def test_an_unknown_tag_shows_the_nearest_or_all(clean_registry: None, tag: str, near: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown tag '{tag}'; ") as caught:
        list_cases(**{tag: 1})
    assert near in str(caught.value)


def test_a_value_that_no_case_has_chooses_none():
    assert list_cases(tier="no such tier") == []


# -- cases of one's own -----------------------------------------------------------------------------------------------


def test_a_case_of_ones_own_in_ten_lines():
    is_x = (tokens == "x").named("is_x", "whether the token is x")
    share = Aggregate(before, numerical(is_x), default=0).named("share", "the share of x so far")
    case = register_case(
        Case("my_share", "The share of x so far.", share, ("x", "y"), min_len=3, max_len=5, causal=True)
    )
    try:
        assert get_case("my_share") is case
        assert list_cases()[-1] is case
        assert case in list_cases(tier="single-head", categorical=False)
        head = case.alignment.node_of["share"]
        assert [str(edge) for edge in case.circuit.of_kind("varying")] == [
            "embed->m0",
            f"m0->{head}<v>",
            f"{head}->logits",
        ]
        assert case.circuit.case == "my_share"
        assert case.encode([["x", "y", "y"]]).tolist() == [[2, 0, 1, 1]]
        logits = torch.tensor([[[9.0], [1.0], [0.5], [0.25]]])
        assert case.decode(logits) == [[1.0, 0.5, 0.25]]
        assert case.program(["x", "y", "y", "x"]) == [1.0, 0.5, pytest.approx(1 / 3), 0.5]
        assert case.n_inputs == 2**2 + 2**3 + 2**4
    finally:
        unregister_case("my_share")
    assert [case.id for case in list_cases()] == IDS
    with pytest.raises(UnknownNameError, match="unknown case 'my_share'"):
        get_case("my_share")


def test_an_id_belongs_to_one_case():
    with pytest.raises(CaseError, match="case 'case_3' is registered already; choose another id"):
        register_case(make(id="case_3"))
    with pytest.raises(CaseError, match="registered already"):
        register_case(get_case("case_3"))
    assert get_case("case_3").description != make().description


def test_an_id_is_free_again_after_unregistering(clean_registry: None) -> None:
    first, second = make(), make()
    register_case(first)
    unregister_case("my_count")
    assert register_case(second) is second
    assert get_case("my_count") is second


def test_unregistering_an_unknown_case_is_an_error():
    with pytest.raises(UnknownNameError, match="unknown case 'my_cuont'"):
        unregister_case("my_cuont")


def test_a_case_of_classes_and_undefined_values_end_to_end():
    holed = Map(lambda x: None if x > 2 else f"n{x}", count).named("label")
    case = make(id="my_labels", program=holed, vocab=("b", "a"), min_len=2, max_len=4)
    assert case.classes == ("n0", "n1", "n2", None)
    assert (case.categorical, case.d_vocab, case.d_vocab_out, case.n_inputs) == (True, 4, 4, 14)
    assert (case.bos_id, case.pad_id) == (2, 3)
    codes = case.encode([["b", "b", "b"], ["a", "b", "a"]])
    assert codes.tolist() == [[2, 0, 0, 0], [2, 1, 0, 1]]
    values = case.high_level.run(codes[:, 1:], torch.tensor([3, 3]))["label"]
    logits = torch.nn.functional.one_hot(values, case.d_vocab_out).double()
    outputs = case.decode(torch.cat([torch.zeros(2, 1, 4), logits], 1))
    assert outputs == [evaluate(holed, list("bbb")), evaluate(holed, list("aba"))]
    assert outputs == [[None, None, None], ["n2", "n1", "n2"]]


# -- what a case refuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case_id", ["case_3", "induction", "a", "a1", "my_case_2", "abc_1_x", "ioi_next_token"])
def test_ids_are_lower_case_words(case_id: str) -> None:
    assert make(id=case_id).id == case_id


@pytest.mark.parametrize(
    "case_id",
    ["", "Case_3", "case-3", "case 3", "3_case", "_case", "case_", "case__3", "cäse", "case_3\n", "../x", "a.b"],
)
def test_other_ids_are_refused(case_id: str) -> None:
    with pytest.raises(CaseError) as caught:
        make(id=case_id)
    assert str(caught.value) == (f"case id {case_id!r} is not lower-case words joined by underscores, such as case_3")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"program": "reverse"}, "case my_count: program is 'reverse'; give the output s-op of a RASP program"),
        ({"program": lambda x: x}, "case my_count: program is <function"),
        ({"min_len": 1}, "case my_count: lengths 1 to 10 are no range; they count BOS, so the shortest is at least 2"),
        ({"min_len": 0}, "case my_count: lengths 0 to 10 are no range"),
        ({"min_len": 11}, "case my_count: lengths 11 to 10 are no range"),
        ({"max_len": 3}, "case my_count: lengths 4 to 3 are no range"),
        ({"vocab": ()}, "case my_count: vocab is a tuple of at least two tokens, each once, got ()"),
        ({"vocab": ("a",)}, "case my_count: vocab is a tuple of at least two tokens, each once, got ('a',)"),
        (
            {"vocab": ("a", "b", "a")},
            "case my_count: vocab is a tuple of at least two tokens, each once, got ('a', 'b', 'a')",
        ),
        ({"vocab": (1, True)}, "case my_count: vocab is a tuple of at least two tokens, each once, got (1, True)"),
        ({"vocab": ("a", None)}, "case my_count: vocab holds None, <bos> or <pad>, which have meanings of their own"),
        ({"vocab": ("a", "<bos>")}, "case my_count: vocab holds None, <bos> or <pad>"),
        ({"vocab": ("a", "<pad>")}, "case my_count: vocab holds None, <bos> or <pad>"),
    ],
    ids=lambda value: str(value)[:28],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CaseError) as caught:
        make(**changes)
    assert str(caught.value).startswith(message)


def test_copies_of_a_case_are_checked_too():
    with pytest.raises(CaseError, match="lengths 4 to 2 are no range"):
        replace(get_case("case_3"), max_len=2)


@pytest.mark.parametrize("changes", [{"id": 3}, {"vocab": ([1], [2])}, {"vocab": "ab"}, {"vocab": 3}], ids=str)
def test_parts_of_a_wrong_type_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(CaseError, match="case"):
        make(**changes)


def test_the_shortest_and_longest_lengths_may_be_one():
    case = make(min_len=2, max_len=2)
    assert (case.n_inputs, case.encode([["a"]]).tolist()) == (3, [[3, 0]])


def test_a_case_does_not_change():
    case: Any = make()
    with pytest.raises(FrozenInstanceError):
        case.vocab = ("x", "y")


def test_a_program_that_cannot_be_compiled_shows_when_it_is_needed():
    case = make(program=numerical(Map(str, tokens)).named("word"))
    with pytest.raises(InterpBenchError, match="variable 'word' is numerical but takes the value 'a'"):
        _ = case.graph


def test_what_follows_from_a_case_is_worked_out_once():
    case = make()
    assert case.graph is case.graph
    assert case.alignment is case.alignment
    assert case.high_level is case.high_level
    assert case.circuit is case.circuit


# -- encoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case_id", ["case_2", "case_3", "case_28", "case_36", "case_41", "case_66", "case_121"])
def test_tokens_survive_encoding(case_id: str) -> None:
    case = get_case(case_id)
    rng = random.Random(case_id)
    of_id = {code: token for token, code in case.token_ids.items()}
    for n_tokens in range(case.min_len - 1, case.max_len):
        sequences = [[rng.choice(case.vocab) for _ in range(n_tokens)] for _ in range(4)]
        codes = case.encode(sequences)
        assert codes.shape == (4, n_tokens + 1)
        assert codes.dtype == torch.long
        assert bool((codes[:, 0] == case.bos_id).all())
        assert [[of_id[code] for code in row[1:]] for row in codes.tolist()] == sequences


def test_ids_of_tokens():
    case = make()
    assert case.token_ids == {"a": 0, "b": 1, "c": 2, "<bos>": 3, "<pad>": 4}
    assert (case.bos_id, case.pad_id, case.d_vocab) == (3, 4, 5)


def test_any_sequence_can_be_encoded():
    case = make()
    assert case.encode([("a", "b", "c")]).tolist() == case.encode(["abc"]).tolist() == [[3, 0, 1, 2]]
    assert case.encode([]).shape[0] == 0


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        ([["a", "b", "z"]], "case my_count: 'z' is not a token; the vocabulary is 'a', 'b', 'c'"),
        ([["a", "b", "c"], ["a", "b", "A"]], "case my_count: 'A' is not a token"),
        ([["a", "b", None]], "case my_count: None is not a token"),
        ([["a", "b", 0]], "case my_count: 0 is not a token"),
        ([["a", "b", ["c"]]], "case my_count: "),
        (
            [["a", "b"]],
            "case my_count: a sequence has 2 tokens; it takes 3 to 9 (BOS is added here)",
        ),
        ([["a"] * 10], "case my_count: a sequence has 10 tokens; it takes 3 to 9"),
        ([[]], "case my_count: a sequence has 0 tokens; it takes 3 to 9"),
        (
            [["a"] * 4, ["a"] * 3, ["a"] * 4],
            "case my_count: sequences have lengths [3, 4]; one batch has one length, so encode each length by itself",
        ),
        (
            [["<bos>", "a", "b", "c"]],
            "case my_count: <bos> and <pad> are no tokens of an input; encode puts BOS first itself",
        ),
        ([["a", "b", "<pad>"]], "case my_count: <bos> and <pad> are no tokens of an input"),
    ],
    ids=str,
)
def test_what_is_no_input_is_refused(sequences: list, message: str) -> None:
    with pytest.raises(CaseError) as caught:
        make().encode(sequences)
    assert str(caught.value).startswith(message)


# -- decoding ---------------------------------------------------------------------------------------------------------


def test_classes_are_decoded_by_the_largest_logit():
    case = get_case("case_19")
    assert case.classes == ("a", "b", "c", None)
    logits = torch.zeros(1, 5, 4)
    for place, code in enumerate([3, 0, 2, 3, 1]):
        logits[0, place, code] = 1.0
    # The first position is that of BOS, whose output means nothing.
    assert case.decode(logits) == [["a", "c", None, "b"]]


def test_numbers_are_decoded_as_they_are():
    case = get_case("case_3")
    assert (case.categorical, case.classes, case.d_vocab_out) == (False, (), 1)
    outputs = case.decode(torch.tensor([[[7.0], [0.5], [-0.25]], [[7.0], [1.0], [2.0]]]))
    assert outputs == [[0.5, -0.25], [1.0, 2.0]]
    assert all(type(value) is float for row in outputs for value in row)


@pytest.mark.parametrize("case_id", ["case_1", "case_2", "case_15", "case_21", "case_25", "case_34", "case_113"])
def test_every_output_of_a_program_has_a_class(case_id: str) -> None:
    case = get_case(case_id)
    rng = random.Random(case_id)
    for n_tokens in range(case.min_len - 1, case.max_len):
        expected = evaluate(case.program, case.sample(rng, n_tokens), causal=case.causal)
        ids = torch.tensor([[0, *(case.graph.output.code(value) for value in expected)]])
        logits = torch.nn.functional.one_hot(ids, case.d_vocab_out).double()
        assert case.decode(logits) == [expected]


@pytest.mark.parametrize("shape", [(2, 3), (3,), (2, 3, 3), (2, 3, 5), (1, 2, 3, 4)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(CaseError) as caught:
        get_case("case_19").decode(torch.zeros(shape))
    assert str(caught.value) == f"case case_19: logits have shape {shape}; expected [batch, pos, 4]"
    with pytest.raises(CaseError, match=r"expected \[batch, pos, 1\]"):
        get_case("case_3").decode(torch.zeros(2, 3, 2))


# -- sampling ---------------------------------------------------------------------------------------------------------


def test_inputs_are_uniform_without_a_sampler():
    case = make()
    rng = random.Random(0)
    drawn = [token for _ in range(600) for token in case.sample(rng, 5)]
    assert {token: round(drawn.count(token) / len(drawn), 1) for token in case.vocab} == {"a": 0.3, "b": 0.3, "c": 0.3}
    assert case.sample(random.Random(1), 9) == case.sample(random.Random(1), 9)


def test_a_sampler_of_ones_own_draws():
    case = make(sampler=lambda rng, n_tokens: ["a", "b", "c"] * (n_tokens // 3))
    assert case.sample(random.Random(0), 6) == ["a", "b", "c"] * 2


def test_the_size_of_the_input_space():
    assert get_case("case_3").n_inputs == 4**3 + 4**4
    assert get_case("case_2").n_inputs == sum(26**n for n in range(3, 10))
