"""Kinds of edges: against brute force over all pairs of small cases, and what is known of larger ones."""

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings

from interpbench_hub.cases import Case, get_case, kinds, list_cases
from interpbench_hub.cases.kinds import changes_output, edge_kinds, is_constant, with_kinds
from interpbench_hub.cases.pairs import Pairs, PairSampler, all_inputs, all_pairs, count_pairs
from interpbench_hub.circuit import EMBED, POS_EMBED, Circuit, Edge, Kind, Node
from interpbench_hub.rasp import (
    Aggregate,
    Comparison,
    Full,
    Map,
    Select,
    SelectorWidth,
    SequenceMap,
    SOp,
    indices,
    numerical,
    tokens,
)
from interpbench_hub.rasp.alignment import prescribed_circuit
from tests.slow_model import AMBIGUOUS, SlowModel, agree
from tests.strategies import RandomProgram, programs

CASES = [case.id for case in list_cases() if case.id.startswith("case_")]
every = Select(indices, indices, Comparison.TRUE)
itself = Select(indices, indices, Comparison.EQ)
zero = Map(lambda x: 0, indices).named("zero")
is_1 = (tokens == 1).named("is_1")
back = Aggregate(itself, tokens).named("back")


def small(program: SOp, *, vocab: tuple = (0, 1), min_len: int = 3, max_len: int = 4, causal: bool = False) -> Case:
    return Case("small", "A small case.", program, vocab, min_len=min_len, max_len=max_len, causal=causal)


def shrunk(case_id: str, *vocab: object, max_len: int = 4) -> Case:
    """A case with fewer tokens and lengths, drawn uniformly."""
    case = replace(get_case(case_id), id=f"{case_id}_shrunk", vocab=vocab, min_len=3, max_len=max_len, sampler=None)
    assert count_pairs(case) < 2000
    return case


SMALL: dict[str, Case] = {
    "case_1": shrunk("case_1", "a", "b"),
    "case_2": shrunk("case_2", "a", "b"),
    "case_3": shrunk("case_3", "a", "x", max_len=5),
    "case_4": shrunk("case_4", "(", ")"),
    "case_7": shrunk("case_7", "a", "b", "c"),
    "case_9": shrunk("case_9", 0, 1),
    "case_10": shrunk("case_10", "LB", "radar", "TPSI"),
    "case_11": shrunk("case_11", "J", "LB"),
    "case_14": shrunk("case_14", "a", "b"),
    "case_18": shrunk("case_18", "a", "b"),
    "case_21": shrunk("case_21", "a", "b"),
    "case_24": shrunk("case_24", "a", "b"),
    "case_45": shrunk("case_45", 0, 1),
    "case_76": shrunk("case_76", 0, 1),
    "case_92": shrunk("case_92", 0, 1),
    "case_108": shrunk("case_108", 0, 1),
    "the token itself": small(tokens),
    "an argument that does not matter": small(SequenceMap(lambda x, y: x, is_1, back)),
    "a queried constant": small(Aggregate(Select(indices, Full(1), Comparison.EQ), tokens)),
    "a positional map": small(SequenceMap(lambda x, y: x + y, back, zero)),
    "keys and queries of the position": small(Aggregate(Select(zero, indices, Comparison.EQ), tokens)),
    "differences that stay ambiguous": small(Aggregate(Select(tokens, tokens, Comparison.NEQ), back) == 0),
    "a causal count": small(SelectorWidth(Select(tokens, tokens, Comparison.EQ)), causal=True),
    "a length": small(SelectorWidth(every)),
    "an undefined value that shows": small(Map(lambda x: None if x else 1, back)),
}


# -- brute force ------------------------------------------------------------------------------------------------------


def sequences_of(case: Case) -> list[list]:
    codes, lengths = all_inputs(case)
    return [
        [case.vocab[code] for code in row[:length]]
        for row, length in zip(codes.tolist(), lengths.tolist(), strict=True)
    ]


def kinds_by_brute_force(case: Case, circuit: Circuit) -> dict[str, Kind]:
    """Kind of every edge, from the definition: all pairs of inputs, one path interchange at a time."""
    slow = SlowModel.of(case)
    sequences = sequences_of(case)
    clean = [slow.output(sequence) for sequence in sequences]
    found: dict[str, Kind] = {}
    for edge in map(str, circuit):
        if carries_the_same(case, Node(edge.split("->")[0])):
            found[edge] = "constant"
            continue
        is_varying = any(
            differs(slow.output(base, source, [edge]), output)
            for base, output in zip(sequences, clean, strict=True)
            for source in sequences
            if len(source) >= len(base)
        )
        found[edge] = "varying" if is_varying else "inert"
    return found


def differs(output: list, clean: list) -> bool:
    return any(new is not AMBIGUOUS and not agree(new, old) for new, old in zip(output, clean, strict=True))


def carries_the_same(case: Case, node: Node) -> bool:
    """Whether what a node implements is the same at each position for all inputs."""
    model = case.high_level
    values = model.run(*all_inputs(case))
    _, lengths = all_inputs(case)
    for name in case.alignment.variables_of.get(node, ()):
        for place in range(case.max_len - 1):
            if len(set(values[name][lengths > place, place].tolist())) > 1:
                return False
    return True


def kinds_of(case: Case) -> dict[str, Kind]:
    return {str(edge): kind for edge, kind in edge_kinds(case, prescribed_circuit(case.graph, case.alignment)).items()}


@pytest.mark.parametrize("name", SMALL)
def test_kinds_of_small_cases_are_those_of_brute_force(name: str) -> None:
    case = SMALL[name]
    expected = kinds_by_brute_force(case, prescribed_circuit(case.graph, case.alignment))
    assert kinds_of(case) == expected


def test_small_cases_have_edges_of_every_kind():
    assert {kind for case in SMALL.values() for kind in kinds_of(case).values()} == {"varying", "inert", "constant"}


@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)
@given(programs(max_steps=5))
def test_varying_edges_of_random_programs_are_those_of_brute_force(given_: RandomProgram) -> None:
    case = Case("random", "A random program.", given_.program, given_.vocab, 2, min(given_.max_len, 3), given_.causal)
    assume(case.graph.output.reads)
    expected = kinds_by_brute_force(case, prescribed_circuit(case.graph, case.alignment))
    found = kinds_of(case)
    assert {edge for edge, kind in found.items() if kind == "varying"} == {
        edge for edge, kind in expected.items() if kind == "varying"
    }
    assert all(expected[edge] == "constant" for edge, kind in found.items() if kind == "constant")


@pytest.mark.parametrize("case_id", ["case_9", "case_21", "case_113"])
def test_changes_of_single_pairs_are_those_of_the_slow_model(case_id: str) -> None:
    case = get_case(case_id)
    slow = SlowModel.of(case)
    pairs = PairSampler(case, seed="test", related=0.7).draw(25)
    edges = list(prescribed_circuit(case.graph, case.alignment))
    changes = changes_output(case, pairs, edges)
    assert changes.shape == (len(edges), 25)
    sequences = [
        [
            [case.vocab[code] for code in row[:length]]
            for row, length in zip(codes.tolist(), sizes.tolist(), strict=True)
        ]
        for codes, sizes in ((pairs.base, pairs.base_lengths), (pairs.source, pairs.source_lengths))
    ]
    for number, (base, source) in enumerate(zip(*sequences, strict=True)):
        clean = slow.output(base)
        expected = [differs(slow.output(base, source, [str(edge)]), clean) for edge in edges]
        assert changes[:, number].tolist() == expected


# -- what is known ----------------------------------------------------------------------------------------------------


def test_the_kinds_of_case_2():
    case = get_case("case_2")
    count, moved = (case.alignment.node_of[name] for name in ("length_fraction", "reversed_values"))
    circuit = case.circuit
    assert {str(edge) for edge in circuit.of_kind("varying")} == {
        f"{count}->m0",
        "m0->m1",
        "m1->m2",
        f"m2->{moved}<q>",
        f"embed->{moved}<v>",
        f"{moved}->logits",
    }
    # The head that counts selects everything, whatever the tokens are.
    assert {str(edge) for edge in circuit.of_kind("inert")} == {f"embed->{count}<q>", f"embed->{count}<k>"}
    assert {edge.source for edge in circuit.of_kind("constant")} == {POS_EMBED}


def test_the_kinds_of_case_21():
    case = get_case("case_21")
    count, kept = (case.alignment.node_of[name] for name in ("count_so_far_fraction", "first_occurrence"))
    # Because undefined outputs are a class of their own, the whole chain that decides where they are matters.
    assert {str(edge) for edge in case.circuit.of_kind("varying")} == {
        "embed->m0",
        f"m0->{count}<q>",
        f"m0->{count}<k>",
        f"{count}->m1",
        "m1->m2",
        f"m2->{kept}<k>",
        f"embed->{kept}<v>",
        f"{kept}->logits",
    }
    assert not case.circuit.of_kind("inert")
    assert {edge.source for edge in case.circuit.of_kind("constant")} == {POS_EMBED}


def test_the_kinds_of_case_3():
    case = get_case("case_3")
    head = case.alignment.node_of["fraction"]
    assert [str(edge) for edge in case.circuit.of_kind("varying")] == ["embed->m0", f"m0->{head}<v>", f"{head}->logits"]
    assert len(case.circuit.of_kind("constant")) == 3


def test_a_query_nobody_looks_at_is_inert():
    case = get_case("case_14")
    inert = case.circuit.of_kind("inert")
    assert [(edge.source, edge.slot) for edge in inert] == [(EMBED, "q")]


def test_what_depends_on_the_position_only_is_constant():
    # case_100 swaps the first two tokens: the swapped index is computed from the position.
    case = get_case("case_100")
    assert is_constant(case, Node("m0"))
    assert is_constant(case, POS_EMBED)
    assert not is_constant(case, EMBED)
    assert {edge.kind for edge in case.circuit if edge.source in (Node("m0"), POS_EMBED)} == {"constant"}


def test_a_node_is_constant_only_if_all_it_holds_is():
    mixed = small(SequenceMap(lambda x, y: (x, y), zero, is_1))
    assert mixed.alignment.node_of["zero"] == mixed.alignment.node_of["is_1"] == Node("m0")
    assert not is_constant(mixed, Node("m0"))
    assert kinds_of(mixed)["m0->m1"] == "varying"


@pytest.mark.parametrize(
    "program",
    [
        Aggregate(Select(indices, Map(lambda x: 1, tokens).named("one"), Comparison.EQ), tokens),
        Aggregate(Select(indices, indices, Comparison.FALSE), numerical(tokens), default=0),
    ],
    ids=["a map of one value", "a head that selects nothing"],
)
def test_a_variable_that_is_the_same_for_all_inputs_is_constant(program: SOp) -> None:
    case = small(program)
    assert kinds_of(case) == kinds_by_brute_force(case, prescribed_circuit(case.graph, case.alignment))


# -- circuits with kinds ----------------------------------------------------------------------------------------------


def test_a_circuit_with_kinds_is_the_prescribed_one():
    for case in (SMALL["case_9"], SMALL["case_21"], get_case("case_3")):
        plain = prescribed_circuit(case.graph, case.alignment, case=case.id)
        decided = with_kinds(case, plain)
        assert decided.edges == plain.edges
        assert (decided.roles, decided.case) == (plain.roles, plain.case)
        assert (decided.n_layers, decided.n_heads) == (plain.n_layers, plain.n_heads)
        assert None not in {edge.kind for edge in decided}
        assert {edge.kind for edge in plain} == {None}
        assert case.circuit == decided


def test_kinds_are_decided_the_same_way_each_time():
    case = get_case("case_18")
    again = replace(case)
    assert again.circuit == case.circuit
    assert again.circuit is not case.circuit


@pytest.mark.parametrize("name", ["case_2", "case_3", "case_9", "case_14", "case_21", "case_108"])
def test_sampled_pairs_find_what_all_pairs_find(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = SMALL[name]
    exact = kinds_of(case)
    monkeypatch.setattr(kinds, "MAX_EXACT_PAIRS", 0)
    monkeypatch.setattr(kinds, "MAX_SAMPLED_PAIRS", 3000)
    assert kinds_of(case) == exact


def test_few_pairs_are_tried_one_and_all_and_many_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    case = get_case("case_3")
    assert sum(pairs.n_pairs for pairs in kinds._pairs(case)) == count_pairs(case) <= kinds.MAX_EXACT_PAIRS
    sizes = [pairs.n_pairs for pairs in kinds._pairs(get_case("case_2"))]
    assert sizes[:3] == [512, 2048, 8192]
    assert max(sizes) == 8192
    assert sum(sizes) >= kinds.MAX_SAMPLED_PAIRS

    tried: list[int] = []
    plain = kinds.changes_output

    def counted(case: Case, pairs: Pairs, edges: list[Edge]) -> torch.Tensor:
        tried.append(len(edges))
        return plain(case, pairs, edges)

    monkeypatch.setattr(kinds, "changes_output", counted)
    edge_kinds(get_case("case_2"), prescribed_circuit(get_case("case_2").graph, get_case("case_2").alignment))
    # The six varying edges are found at once, and the two that feed a selector of everything are never tried.
    assert tried == [6]


def test_positions_beyond_the_end_of_the_base_do_not_count():
    # Only the third token can change the output, and a base of two tokens has none.
    last = Aggregate(Select(indices, Full(2), Comparison.EQ), tokens).named("third")
    case = small(last)
    head = case.alignment.node_of["third"]
    edge = Edge(EMBED, head, "v")
    pairs = next(all_pairs(case))
    changed = changes_output(case, pairs, [edge])[0]
    assert bool(changed.any())
    assert not bool(changed[pairs.base_lengths < 3].any())


@pytest.mark.slow
@pytest.mark.parametrize("case_id", CASES)
def test_every_case_has_a_path_of_varying_edges_from_the_tokens_to_the_output(case_id: str) -> None:
    circuit = get_case(case_id).circuit
    reached = {EMBED}
    for edge in sorted(circuit.of_kind("varying"), key=lambda edge: edge.source):
        if edge.source in reached:
            reached.add(edge.target)
    assert Node("logits") in reached
    assert {edge.kind for edge in circuit if edge.source == POS_EMBED} <= {"constant"}


@pytest.mark.slow
@pytest.mark.parametrize("case_id", ["case_9", "case_22", "case_58", "case_81", "case_113"])
def test_edges_called_inert_change_nothing_on_other_pairs(case_id: str) -> None:
    case = get_case(case_id)
    inert = case.circuit.of_kind("inert", "constant")
    pairs = PairSampler(case, seed=random.Random(case_id).random().hex(), related=0.5).draw(4000)
    assert not bool(changes_output(case, pairs, inert).any())
