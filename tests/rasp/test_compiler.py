"""Compiled transformers against the evaluator, the high-level model and the recorded samples of every case."""

import json
import math
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interpbench_hub.cases import Case, get_case, list_cases
from interpbench_hub.circuit import EMBED, LOGITS, POS_EMBED, SLOTS, Circuit, Edge, Node
from interpbench_hub.errors import ProgramError, SettingError, UnknownNameError
from interpbench_hub.rasp import (
    Aggregate,
    LinearSequenceMap,
    Map,
    SelectorWidth,
    SOp,
    numerical,
    tokens,
)
from interpbench_hub.rasp.alignment import Alignment, align, prescribed_circuit
from interpbench_hub.rasp.causal_model import CausalModel
from interpbench_hub.rasp.compiler import compile_to_transformer, smallest_alignment
from interpbench_hub.rasp.evaluator import evaluate
from interpbench_hub.rasp.graph import build_graph
from interpbench_hub.rasp.high_level import HighLevelModel
from interpbench_hub.rasp.variables import Graph
from tests.strategies import EXAMPLES, LETTERS, RandomProgram, backwards, before, previous, programs, same, share_of_a

VECTORS = Path(__file__).parents[1] / "data" / "vectors"
CASE_IDS = [case.id for case in list_cases() if case.id.startswith("case_")]


# -- one program, three ways -------------------------------------------------------------------------------------------


def check_agreement(program: SOp, vocab: tuple[Any, ...], max_len: int, causal: bool, n_inputs: int = 12) -> None:
    """Evaluator, high-level model and compiled transformer agree wherever the output is not ambiguous.

    The transformer has no weight outside the circuit either.
    """
    graph = build_graph(program, vocab, 1, max_len - 1, causal=causal)
    high_level = HighLevelModel(graph, smallest_alignment(graph))
    model = compile_to_transformer(program, vocab=vocab, min_len=2, max_len=max_len, causal=causal)
    assert used_edges(model) <= set(high_level.circuit)
    rng = random.Random(0)
    for n_tokens in range(1, max_len):
        inputs = [[rng.choice(vocab) for _ in range(n_tokens)] for _ in range(n_inputs)]
        ids = torch.tensor([[vocab.index(token) for token in row] for row in inputs])
        codes = high_level.run(ids, torch.full((n_inputs,), n_tokens))[graph.output.name].tolist()
        outputs = outputs_of(model, graph, ids)
        for row, places, found in zip(inputs, codes, outputs, strict=True):
            try:
                expected = evaluate(program, row, causal=causal)
            except ProgramError:
                # It averages strings somewhere; positions that do not depend on those still have values.
                expected = None
            assert len(places) == len(found) == n_tokens
            for at, code in enumerate(places):
                if code == high_level.output_ambiguous:
                    continue
                value = (*graph.output.values, None)[code]
                assert is_same(found[at], value), f"{row} at {at}: transformer {found[at]}, high-level model {value}"
                if expected is not None:
                    assert is_same(value, expected[at]), f"{row} at {at}: high-level model {value}, not {expected[at]}"


def outputs_of(model: Any, graph: Graph, ids: torch.Tensor) -> list[list[Any]]:
    """What a compiled model says on token ids without BOS."""
    bos = torch.full((len(ids), 1), len(graph.vocab))
    with torch.no_grad():
        return decoded(graph, model(torch.cat([bos, ids], 1)))


def decoded(graph: Graph, logits: torch.Tensor) -> list[list[Any]]:
    """The outputs logits stand for, that at BOS dropped."""
    if graph.output.encoding == "numerical":
        return logits[:, 1:, 0].tolist()
    return [[graph.output.classes[code] for code in row] for row in logits[:, 1:].argmax(-1).tolist()]


def is_same(a: Any, b: Any) -> bool:
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, abs_tol=1e-3)
    return a == b


@pytest.mark.parametrize("name", EXAMPLES)
def test_program_compiles_exactly(name: str) -> None:
    program, vocab, causal = EXAMPLES[name]
    check_agreement(program, vocab, 6, causal)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_random_programs_compile_exactly(made: RandomProgram) -> None:
    check_agreement(*made, n_inputs=8)


# -- the circuit its weights draw --------------------------------------------------------------------------------------


def used_edges(model: Any) -> set[Edge]:
    """The edges along which a model's weights carry anything: what the sender writes and the receiver reads."""
    names = dict(model.named_parameters())

    def rows(weight: torch.Tensor) -> set[int]:
        """Directions with a weight; the first dimension counts directions."""
        return set(weight.reshape(len(weight), -1).abs().sum(-1).nonzero().flatten().tolist())

    written = {EMBED: rows(names["embed.W_E"].T), POS_EMBED: rows(names["pos_embed.W_pos"].T)}
    read: dict[tuple[Node, Any], set[int]] = {(LOGITS, None): rows(names["unembed.W_U"])}
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            node = Node.of_head(layer, head)
            written[node] = rows(names[f"blocks.{layer}.attn.W_O"][head].T)
            for slot in SLOTS:
                read[node, slot] = rows(names[f"blocks.{layer}.attn.W_{slot.upper()}"][head])
        written[Node.of_mlp(layer)] = rows(names[f"blocks.{layer}.mlp.W_out"].T)
        read[Node.of_mlp(layer), None] = rows(names[f"blocks.{layer}.mlp.W_in"])
    universe = Circuit(model.cfg.n_layers, model.cfg.n_heads, []).universe
    return {edge for edge in universe if written[edge.source] & read[edge.target, edge.slot]}


def check_circuit(model: Any, circuit: Circuit) -> None:
    """The weights use what the circuit prescribes, but for slots that treat BOS right without looking for it."""
    used = used_edges(model)
    assert used <= set(circuit)
    spared = set(circuit) - used
    assert all(edge.source == POS_EMBED and edge.slot for edge in spared), [str(edge) for edge in spared]


@pytest.mark.parametrize("name", EXAMPLES)
def test_program_uses_its_circuit_only(name: str) -> None:
    program, vocab, causal = EXAMPLES[name]
    graph = build_graph(program, vocab, 1, 5, causal=causal)
    alignment = smallest_alignment(graph)
    model = compile_to_transformer(program, vocab=vocab, min_len=2, max_len=6, causal=causal)
    assert (model.cfg.n_layers, model.cfg.n_heads) == (alignment.n_layers, alignment.n_heads)
    check_circuit(model, prescribed_circuit(graph, alignment))


# -- interchange on the weights ----------------------------------------------------------------------------------------


@cache
def compiled_case(case_id: str) -> Any:
    """A case compiled into the nodes of its trained model."""
    return compile_to_transformer(case_id, alignment=get_case(case_id).alignment)


def node_outputs(model: Any, ids: torch.Tensor) -> dict[Node, torch.Tensor]:
    """What each node adds to the residual stream."""
    model.set_use_attn_result(True)
    with torch.no_grad():
        _, cache = model.run_with_cache(ids)
    outputs = {EMBED: cache["hook_embed"], POS_EMBED: cache["hook_pos_embed"]}
    for layer in range(model.cfg.n_layers):
        outputs[Node.of_mlp(layer)] = cache[f"blocks.{layer}.hook_mlp_out"]
        for head in range(model.cfg.n_heads):
            outputs[Node.of_head(layer, head)] = cache[f"blocks.{layer}.attn.hook_result"][:, :, head]
    return outputs


def patched_logits(model: Any, ids: torch.Tensor, edge: Edge, change: torch.Tensor) -> torch.Tensor:
    """Logits when one receiver slot alone sees its sender's output changed."""

    def add(value: torch.Tensor, hook: Any) -> torch.Tensor:
        value = value.clone()
        (value[:, :, edge.target.head] if edge.slot else value).add_(change)
        return value

    place = f"hook_{edge.slot}_input" if edge.slot else "hook_mlp_in"
    name = "unembed.hook_in" if edge.target == LOGITS else f"blocks.{edge.target.layer}.{place}"
    with torch.no_grad():
        return model.run_with_hooks(ids, fwd_hooks=[(name, add)])


def check_interchange(model: Any, high_level: CausalModel, base: torch.Tensor, source: torch.Tensor) -> None:
    """Changing one edge of a compiled model does what the high-level model says, for every edge of the circuit.

    Inputs are token ids without BOS, all of one length.
    """
    graph, lengths = high_level.graph, torch.full((len(base),), base.shape[1])
    source_values = high_level.run(source, lengths)
    bos = torch.full((len(base), 1), len(graph.vocab))
    base_ids, source_ids = torch.cat([bos, base], 1), torch.cat([bos, source], 1)
    clean, other = node_outputs(model, base_ids), node_outputs(model, source_ids)
    # Results of single heads are slow to come by and no longer needed.
    model.set_use_attn_result(False)
    for place, edge in enumerate(high_level.circuit):
        chosen = torch.zeros(len(base), len(high_level.circuit), dtype=torch.bool)
        chosen[:, place] = True
        codes = high_level.interchange(base, lengths, source_values, chosen).tolist()
        logits = patched_logits(model, base_ids, edge, other[edge.source] - clean[edge.source])
        for row, outputs in zip(codes, decoded(graph, logits), strict=True):
            for code, output in zip(row, outputs, strict=True):
                if code != high_level.output_ambiguous:
                    value = (*graph.output.values, None)[code]
                    assert is_same(output, value), f"{edge}: transformer {output}, high-level model {value}"


def check_interchange_of_case(case: Case, n_pairs: int) -> None:
    rng = random.Random(case.id)
    base, source = (case.encode([case.sample(rng, case.max_len - 1) for _ in range(n_pairs)])[:, 1:] for _ in range(2))
    check_interchange(compiled_case(case.id), case.high_level, base, source)


@pytest.mark.parametrize(
    "case_id", ["case_3", "case_4", "case_5", "case_12", "case_21", "case_81", "case_113", "case_119"]
)
def test_edge_interchange_follows_high_level_model(case_id: str) -> None:
    check_interchange_of_case(get_case(case_id), n_pairs=16)


@pytest.mark.slow
@pytest.mark.parametrize("case_id", CASE_IDS)
def test_edge_interchange_of_every_case(case_id: str) -> None:
    check_interchange_of_case(get_case(case_id), n_pairs=64)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(programs(), st.integers(0, 9))
def test_edge_interchange_of_random_programs(made: RandomProgram, seed: int) -> None:
    program, vocab, max_len, causal = made
    graph = build_graph(program, vocab, 1, max_len - 1, causal=causal)
    alignment = align(graph, seed=seed)
    model = compile_to_transformer(program, vocab=vocab, min_len=2, max_len=max_len, causal=causal, alignment=alignment)
    generator = torch.Generator().manual_seed(seed)
    base, source = (torch.randint(len(vocab), (8, max_len - 1), generator=generator) for _ in range(2))
    check_interchange(model, HighLevelModel(graph, alignment), base, source)


# -- every case --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_case_reproduces_its_samples(case_id: str) -> None:
    case = get_case(case_id)
    samples = json.loads((VECTORS / f"{case_id}.json").read_text(encoding="utf-8"))["samples"]
    model = compile_to_transformer(case)
    for n_tokens in sorted({len(sample["input"]) for sample in samples}):
        chosen = [sample for sample in samples if len(sample["input"]) == n_tokens]
        with torch.no_grad():
            outputs = case.decode(model(case.encode([sample["input"] for sample in chosen])))
        for sample, found in zip(chosen, outputs, strict=True):
            expected = sample["output"]
            assert all(map(is_same, expected, found)), f"{sample['input']}: {found}, expected {expected}"
    check_circuit(model, prescribed_circuit(case.graph, smallest_alignment(case.graph)))


@pytest.mark.parametrize("case_id", CASE_IDS[::4])
def test_case_shares_the_circuit_of_its_trained_model(case_id: str) -> None:
    case = get_case(case_id)
    model = compiled_case(case_id)
    assert (model.cfg.n_layers, model.cfg.n_heads) == (case.alignment.n_layers, case.alignment.n_heads)
    check_circuit(model, prescribed_circuit(case.graph, case.alignment))


# -- sizes, options and refusals ---------------------------------------------------------------------------------------


def test_model_is_set_up_for_circuit_work() -> None:
    model = compile_to_transformer("case_3")
    assert not model.training
    assert model.cfg.use_attn_result and model.cfg.use_split_qkv_input and model.cfg.use_hook_mlp_in
    assert (model.cfg.device, model.cfg.n_ctx, model.cfg.d_vocab) == ("cpu", 5, 6)


def test_undefined_is_the_last_class_and_only_where_it_can_occur() -> None:
    assert compile_to_transformer(previous, vocab=LETTERS).cfg.d_vocab_out == 4
    assert compile_to_transformer(tokens, vocab=LETTERS).cfg.d_vocab_out == 3


def test_more_layers_and_heads_change_nothing() -> None:
    small = compile_to_transformer(backwards, vocab=LETTERS)
    large = compile_to_transformer(backwards, vocab=LETTERS, n_heads=3, n_layers=5)
    assert (large.cfg.n_layers, large.cfg.n_heads) == (5, 3)
    ids = torch.tensor([[3, 0, 1, 2, 2, 1]])
    with torch.no_grad():
        torch.testing.assert_close(small(ids), large(ids))


def test_case_takes_other_lengths() -> None:
    model = compile_to_transformer("case_3", max_len=20)
    with torch.no_grad():
        logits = model(torch.tensor([[4] + [3, 0] * 9]))
    assert logits.shape == (1, 19, 1)
    assert math.isclose(logits[0, -1, 0].item(), 0.5, abs_tol=1e-4)


def test_compiling_leaves_the_random_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    compile_to_transformer(backwards, vocab=LETTERS)
    assert torch.equal(torch.rand(1), expected)


def test_long_counts_stay_exact() -> None:
    model = compile_to_transformer(SelectorWidth(same), vocab=LETTERS, min_len=2, max_len=151)
    with torch.no_grad():
        counts = model(torch.tensor([[3] + [0] * 150, [3] + [0, 1] * 75])).argmax(-1)[:, 1:]
    assert counts[0].unique().tolist() == [150]
    assert counts[1].unique().tolist() == [75]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no vocabulary"),
        ({"vocab": LETTERS, "n_layers": 1}, "n_layers is 1; this program needs at least 4"),
        ({"vocab": LETTERS, "n_heads": 0}, "n_heads is 0; this program needs at least 1"),
        ({"vocab": LETTERS, "min_len": 5, "max_len": 4}, "lengths 5 to 4 are no range"),
        ({"vocab": LETTERS, "max_len": 1}, "are no range"),
        ({"vocab": LETTERS, "alignment": Alignment(2, 1, {})}, "has no node for variable"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        compile_to_transformer(backwards, **options)


def test_what_is_no_program_is_refused() -> None:
    with pytest.raises(SettingError, match="program is 3; give a case, the id of a case or a RASP program"):
        compile_to_transformer(3)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="case_300"):
        compile_to_transformer("case_300")


@pytest.mark.parametrize(
    ("node", "message"),
    [("m0", "which cannot compute it"), ("a1.h0", "a head computes one variable"), ("a0.h1", "does not come before")],
)
def test_alignments_that_cannot_compute_are_refused(node: str, message: str) -> None:
    swapped = Aggregate(before, numerical(tokens == "b"), default=0).named("swapped")
    program = LinearSequenceMap(share_of_a.named("kept"), swapped, 1, 1)
    alignment = smallest_alignment(build_graph(program, LETTERS, 3, 9))
    moved = Alignment(3, 2, {**alignment.node_of, "swapped": Node(node)})
    with pytest.raises(SettingError, match=message):
        compile_to_transformer(program, vocab=LETTERS, alignment=moved)


def test_values_too_close_for_float32_are_refused_by_name() -> None:
    apart = Map(lambda x: x > 1e-9, numerical(tokens)).named("is_positive")
    with pytest.raises(ProgramError, match=r"'is_positive' tells 0\.0 and 2e-09 of 'tokens_numerical' apart"):
        compile_to_transformer(apart, vocab=(0, 2e-9, 1))


def test_seeded_alignment_of_a_bare_program() -> None:
    graph = build_graph(backwards, LETTERS, 3, 5)
    model = compile_to_transformer(backwards, vocab=LETTERS, max_len=6, alignment=align(graph, seed=3))
    ids = torch.tensor([[2, 1, 0, 0, 1]])
    assert outputs_of(model, graph, ids)[0] == evaluate(backwards, ["c", "b", "a", "a", "b"])
