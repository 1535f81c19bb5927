"""Where variables live, and the circuit that follows: against the definition, worked out anew from the expressions."""

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interpbench_hub.cases import get_case, list_cases
from interpbench_hub.circuit import EMBED, LOGITS, POS_EMBED, SLOTS, Edge, Node
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
from interpbench_hub.rasp.alignment import (
    MAX_COUNTED,
    MIN_HEADS,
    MIN_LAYERS,
    MIN_WIDE_HEADS,
    Alignment,
    align,
    layer_of_variables,
    n_counted,
    prescribed_circuit,
)
from interpbench_hub.rasp.evaluator import in_order
from interpbench_hub.rasp.graph import build_graph
from interpbench_hub.rasp.language import Indices, Tokens
from interpbench_hub.rasp.printing import unique_names
from interpbench_hub.rasp.variables import Graph
from tests.strategies import RandomProgram, programs

CASES = [case.id for case in list_cases() if case.id.startswith("case_")]
same = Select(tokens, tokens, Comparison.EQ)
itself = Select(indices, indices, Comparison.EQ)


def graph_of(program: SOp, n_tokens: int = 3) -> Graph:
    return build_graph(program, (0, 1, 2), 2, n_tokens)


# -- the definition, from the expressions -----------------------------------------------------------------------------


def is_constant(sop: SOp) -> bool:
    return isinstance(sop, Full) or (isinstance(sop, Map | SequenceMap) and all(map(is_constant, sop.children)))


def origin(sop: SOp) -> SOp:
    """What a map of a map of ... starts from."""
    while type(sop) is Map and not is_constant(sop):
        sop = sop.inner
    return sop


def edges_by_definition(program: SOp, node_of: dict[str, Node]) -> set[str]:
    """Edges by name: what each expression reads, in which slot, and the position for every head."""
    order = in_order(program)
    names = unique_names([sop for sop in order if not isinstance(sop, Full)])

    def home(sop: SOp) -> str:
        if isinstance(sop, Tokens | Indices):
            return "embed" if isinstance(sop, Tokens) else "pos_embed"
        return str(node_of[names[sop]])

    edges = {f"{home(program)}->logits"}
    waiting, done = [program], set()
    while waiting:
        sop = waiting.pop()
        if id(sop) in done or is_constant(sop) or isinstance(sop, Tokens | Indices):
            continue
        done.add(id(sop))
        if isinstance(sop, Aggregate | SelectorWidth):
            head = home(sop) if isinstance(sop, Aggregate) else str(node_of[f"{names[sop]}_fraction"])
            slots = {"q": sop.selector.queries, "k": sop.selector.keys}
            if isinstance(sop, Aggregate):
                slots["v"] = sop.sop
            else:
                edges.add(f"{head}->{home(sop)}")
            edges |= {f"{home(part)}->{head}<{slot}>" for slot, part in slots.items() if not is_constant(part)}
            edges |= {f"pos_embed->{head}<{slot}>" for slot in "qkv"}
            waiting += slots.values()
            continue
        parts = [origin(sop)] if type(sop) is Map else [part for part in sop.children if not is_constant(part)]
        edges |= {f"{home(part)}->{home(sop)}" for part in parts}
        waiting += parts
    return edges


@pytest.mark.parametrize("case_id", CASES)
def test_the_circuit_of_a_case_is_that_of_the_definition(case_id: str) -> None:
    case = get_case(case_id)
    circuit = prescribed_circuit(case.graph, case.alignment, case=case_id)
    assert {str(edge) for edge in circuit} == edges_by_definition(case.program, case.alignment.node_of)
    assert (circuit.case, circuit.granularity) == (case_id, "qkv-edge")
    assert {edge.kind for edge in circuit} == {None}


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much])
@given(case=programs(), seed=st.integers(0, 99))
def test_the_circuit_of_a_random_program_is_that_of_the_definition(case: RandomProgram, seed: int) -> None:
    graph = build_graph(case.program, case.vocab, 1, case.max_len - 1, causal=case.causal)
    alignment = align(graph, seed=seed)
    circuit = prescribed_circuit(graph, alignment)
    assert {str(edge) for edge in circuit} == edges_by_definition(case.program, alignment.node_of)
    assert_is_in_place(graph, alignment)


def test_the_edges_of_case_3():
    case = get_case("case_3")
    head = next(node for node in case.alignment.variables_of if node.is_head)
    assert [str(edge) for edge in prescribed_circuit(case.graph, case.alignment)] == [
        "embed->m0",
        f"pos_embed->{head}<q>",
        f"pos_embed->{head}<k>",
        f"pos_embed->{head}<v>",
        f"m0->{head}<v>",
        f"{head}->logits",
    ]


def test_the_edges_of_a_width():
    graph = graph_of(SelectorWidth(same))
    alignment = align(graph)
    head = alignment.node_of["selector_width_fraction"]
    edges = {str(edge) for edge in prescribed_circuit(graph, alignment)}
    # The v slot reads the position only: how much attention BOS gets is all that is asked.
    expected = {f"embed->{head}<q>", f"embed->{head}<k>", f"{head}->m0", "m0->logits"}
    assert edges == expected | {f"pos_embed->{head}<{slot}>" for slot in SLOTS}


def test_a_circuit_of_inputs_alone():
    graph = graph_of(tokens)
    alignment = align(graph)
    circuit = prescribed_circuit(graph, alignment)
    assert [str(edge) for edge in circuit] == ["embed->logits"]
    assert list(circuit.roles) == [EMBED]
    assert (alignment.n_layers, alignment.n_heads) == (MIN_LAYERS, MIN_HEADS)


# -- places -----------------------------------------------------------------------------------------------------------


def assert_is_in_place(graph: Graph, alignment: Alignment) -> None:
    """Every variable is in a node of its kind, reads come from before, and no head has two variables."""
    assert set(alignment.node_of) == {variable.name for variable in graph.variables}
    for variable in graph.variables:
        node = alignment.node_of[variable.name]
        match variable.kind:
            case "tokens":
                assert node == EMBED
            case "indices":
                assert node == POS_EMBED
            case "map":
                assert node.is_mlp
            case "fraction" | "aggregate":
                assert node.is_head
        if node.layer is not None:
            assert node.layer < alignment.n_layers
        for read in variable.reads:
            # An edge that runs backwards or within one place cannot be made.
            edge = Edge(alignment.node_of[read.variable], node, read.slot)
            assert edge.source < edge.target
    heads = [node for node in alignment.node_of.values() if node.is_head]
    assert len(set(heads)) == len(heads)
    assert all(head.head is not None and head.head < alignment.n_heads for head in heads)


@pytest.mark.parametrize("case_id", CASES)
def test_variables_of_a_case_are_in_place(case_id: str) -> None:
    case = get_case(case_id)
    assert_is_in_place(case.graph, case.alignment)
    assert case.alignment.n_heads >= (MIN_WIDE_HEADS if n_counted(case.graph) > MAX_COUNTED else MIN_HEADS)
    assert case.alignment.n_layers >= MIN_LAYERS == 2


def test_copies_of_inputs_live_with_the_inputs():
    program = Aggregate(itself, numerical(tokens), default=0).named("copy")
    alignment = align(graph_of(Map(lambda x: x > 0, program)))
    assert alignment.node_of["tokens_numerical"] == EMBED
    both = SequenceMap(lambda x, y: x + y, indices.named("place"), indices)
    assert align(graph_of(both)).node_of["place"] == POS_EMBED


def test_a_width_is_in_the_layer_of_its_head():
    for case in map(get_case, CASES):
        layers = layer_of_variables(case.graph)
        for variable in case.graph.variables:
            if variable.kind == "map" and case.graph[variable.reads[0].variable].kind == "fraction":
                assert layers[variable.name] == layers[variable.reads[0].variable]


def test_layers_hold_steps_in_order():
    step_1 = (tokens + indices).named("step_1")
    step_2 = Aggregate(itself, step_1).named("step_2")
    step_3 = (step_2 - indices).named("step_3")
    step_4 = SelectorWidth(Select(step_3, step_3, Comparison.EQ)).named("step_4")
    step_5 = SequenceMap(lambda x, y: x * y, step_4, step_1).named("step_5")
    assert layer_of_variables(graph_of(step_5)) == {
        "step_1": 0,
        "step_2": 1,
        "step_3": 1,
        "step_4_fraction": 2,
        "step_4": 2,
        "step_5": 3,
    }


def test_there_are_as_many_heads_as_the_fullest_layer_needs():
    shifts = [
        Aggregate(Select(indices, indices, lambda key, query, n=n: key == query - n), tokens).named(f"back_{n}")
        for n in range(6)
    ]
    program = shifts[0]
    for number, shifted in enumerate(shifts[1:]):
        program = SequenceMap(lambda x, y: (x, y)[0], program, shifted).named(f"joined_{number}")
    alignment = align(graph_of(program))
    assert alignment.n_heads == 6
    assert {alignment.node_of[f"back_{n}"] for n in range(6)} == {Node.of_head(0, head) for head in range(6)}


def test_there_are_fewer_heads_where_one_counts_among_many_values():
    assert (MIN_HEADS, MIN_WIDE_HEADS) == (4, 2)
    width = SelectorWidth(Select(tokens, tokens, Comparison.LT))
    for n_values, n_heads in ((MAX_COUNTED, MIN_HEADS), (MAX_COUNTED + 1, MIN_WIDE_HEADS)):
        graph = build_graph(width, tuple(range(n_values)), 1, 3)
        assert (n_counted(graph), align(graph).n_heads) == (n_values, n_heads)
    # Heads that pick and values that are counted with do not matter.
    picking = build_graph(Aggregate(Select(tokens, tokens, Comparison.EQ), tokens), tuple(range(99)), 1, 3)
    assert (n_counted(picking), align(picking).n_heads) == (0, MIN_HEADS)


def test_variables_of_a_node_come_in_the_order_of_a_forward_pass():
    alignment = get_case("case_5").alignment
    nodes = list(alignment.variables_of)
    assert nodes == sorted(nodes)
    assert sorted(name for names in alignment.variables_of.values() for name in names) == sorted(alignment.node_of)
    assert all(alignment.node_of[name] == node for node, names in alignment.variables_of.items() for name in names)


# -- where heads are --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, "case_5", "another"])
def test_the_same_seed_gives_the_same_heads(seed: int | str) -> None:
    graph = get_case("case_5").graph
    assert align(graph, seed=seed) == align(graph, seed=seed)
    again = build_graph(get_case("case_5").program, graph.vocab, graph.min_tokens, graph.max_tokens)
    assert align(again, seed=seed).node_of == align(graph, seed=seed).node_of


def test_seeds_move_heads_and_nothing_else():
    graph = get_case("case_5").graph
    drawn = [align(graph, seed=seed) for seed in range(40)]
    heads = [tuple(node for node in alignment.node_of.values() if node.is_head) for alignment in drawn]
    rest = [{name: node for name, node in alignment.node_of.items() if not node.is_head} for alignment in drawn]
    assert len(set(heads)) > 35
    assert all(nodes == rest[0] for nodes in rest)
    assert {(alignment.n_layers, alignment.n_heads) for alignment in drawn} == {(8, 4)}


def test_every_head_of_a_layer_is_drawn_about_equally_often():
    graph = get_case("case_7").graph
    count = Counter(align(graph, seed=seed).node_of["count_fraction"].head for seed in range(400))
    assert set(count) == {0, 1, 2, 3}
    assert all(70 <= times <= 130 for times in count.values())


def test_heads_of_the_cases_are_not_the_lowest_numbered_ones():
    is_lowest, numbers = [], Counter()
    for case in map(get_case, CASES):
        by_layer: dict[int | None, set[int | None]] = {}
        for node in case.alignment.variables_of:
            if node.is_head:
                by_layer.setdefault(node.layer, set()).add(node.head)
                numbers[node.head] += 1
        is_lowest += [heads == set(range(len(heads))) for heads in by_layer.values() if len(heads) < MIN_HEADS]
    # One head of four is the lowest in a quarter of all draws.
    assert 0.1 < sum(is_lowest) / len(is_lowest) < 0.4
    assert min(numbers[head] for head in range(MIN_HEADS)) > sum(numbers.values()) / 8


def test_a_case_is_aligned_by_its_id():
    case = get_case("case_18")
    assert case.alignment == align(case.graph, seed="case_18")


@pytest.mark.parametrize(
    ("case_id", "heads"),
    [
        ("case_2", {"length_fraction": "a0.h3", "reversed_values": "a3.h3"}),
        ("case_3", {"fraction": "a1.h0"}),
        ("case_18", {"count_fraction": "a0.h3", "length_fraction": "a0.h2"}),
    ],
)
def test_heads_stay_where_published_models_have_them(case_id: str, heads: dict[str, str]) -> None:
    node_of = get_case(case_id).alignment.node_of
    assert {name: str(node) for name, node in node_of.items() if node.is_head} == heads


# -- roles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case_id", CASES)
def test_roles_tell_what_each_node_is_for(case_id: str) -> None:
    case = get_case(case_id)
    circuit = prescribed_circuit(case.graph, case.alignment)
    assert set(circuit.roles) == set(circuit.nodes) - {LOGITS}
    meanings = {sop.name: sop.meaning for sop in in_order(case.program)}
    for node, role in circuit.roles.items():
        assert role.variables == case.alignment.variables_of.get(node, ())
        assert role.meaning
        for name in role.variables:
            assert meanings.get(name, "share of attention that BOS keeps") in role.meaning


def test_several_variables_of_a_node_share_its_meaning():
    circuit = prescribed_circuit(get_case("case_4").graph, get_case("case_4").alignment)
    assert circuit.roles[Node("m0")].variables == ("is_open", "is_close")
    assert circuit.roles[Node("m0")].meaning == "whether the token is (; whether the token is )"


def test_the_position_has_a_role_where_heads_read_it_only_to_tell_bos_apart():
    graph = graph_of(SelectorWidth(same))
    role = prescribed_circuit(graph, align(graph)).roles[POS_EMBED]
    assert (role.variables, role.meaning) == ((), "the position, by which heads tell BOS apart")
    assert POS_EMBED not in prescribed_circuit(graph_of(tokens == 1), align(graph_of(tokens == 1))).roles


def test_a_variable_without_meaning_shows_its_expression():
    graph = graph_of((tokens == 1).named("is_1"))
    assert prescribed_circuit(graph, align(graph)).roles[Node("m0")].meaning == "Map(lambda x: x == 1, tokens)"
