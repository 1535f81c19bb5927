"""Exact activation patching: against TransformerLens' hooks edge by edge, and against what certificates promise."""

from dataclasses import replace

import pytest
import torch

from interpbench_hub.circuit import Circuit, Edge
from interpbench_hub.discovery import exhaustive
from interpbench_hub.discovery.data import PairData
from interpbench_hub.discovery.exhaustive import ABLATIONS, exhaustive_patching
from interpbench_hub.discovery.model import to_transformer
from interpbench_hub.errors import SettingError
from interpbench_hub.hub import list_models
from interpbench_hub.loader import load_circuit, load_model, to_hooked_transformer
from interpbench_hub.transformer import Transformer, TransformerConfig
from tests.hooked import interchange, interchange_node, senders_of

SHAPE = TransformerConfig(2, 3, 12, 4, 20, d_vocab=6, d_vocab_out=4, n_ctx=6, normalization_type="LN")


def random_model(config: TransformerConfig) -> Transformer:
    model = Transformer(config)
    with torch.no_grad():
        model.flat.add_(0.3 * torch.randn(model.n_parameters, generator=torch.Generator().manual_seed(0)))
    return model


def random_data(config: TransformerConfig, *, longer: bool = False, seed: int = 1) -> PairData:
    """Pairs of every length; with `longer` some corrupted inputs are longer than the clean one."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([2, 3, 4, 4, 6])
    corrupted_lengths = (lengths + torch.arange(len(lengths)) % 3).clamp(max=config.n_ctx) if longer else lengths
    ids = torch.randint(config.d_vocab - 2, (2, len(lengths), config.n_ctx), generator=generator)
    ids[:, :, 0] = config.d_vocab - 2
    for part, real in zip(ids, (lengths, corrupted_lengths), strict=True):
        part[torch.arange(config.n_ctx) >= real[:, None]] = config.d_vocab - 1
    return PairData(ids[0], ids[1], lengths, corrupted_lengths, categorical=config.d_vocab_out > 1)


@torch.no_grad()
def hook_scores(hooked, items, data: PairData, ablation: str) -> dict[str, float]:
    """Each edge, or node, by hooks of TransformerLens alone, one pair after another: nothing is padded or stacked."""
    runs = []
    for row, (length, other) in enumerate(zip(data.lengths.tolist(), data.corrupted_lengths.tolist(), strict=True)):
        clean, corrupted = data.clean[row : row + 1, :length], data.corrupted[row : row + 1, :other]
        runs.append((clean, senders_of(hooked, clean), senders_of(hooked, corrupted)))
    means = {}
    for node in runs[0][1]:
        written = [run[node][0] for _, *both in runs for run in both]
        longest = max(len(values) for values in written)
        rows = [[values[pos] for values in written if pos < len(values)] for pos in range(longest)]
        means[node] = torch.stack([torch.stack(values).mean(0) for values in rows])[None]
    totals = dict.fromkeys(map(str, items), 0.0)
    for clean, own, source in runs:
        reference = hooked(clean)[0, 1:]
        for item in items:
            node = item.source if isinstance(item, Edge) else item
            width = clean.shape[1]
            value = {"resample": source[node], "mean": means[node], "zero": torch.zeros_like(own[node])}[ablation][
                :, :width
            ]
            if not isinstance(item, Edge):
                logits = interchange_node(hooked, clean, node, value)
            else:
                slots = "qkv" if item.target.is_head and item.slot is None else [item.slot]
                edges = [Edge(item.source, item.target, slot) for slot in slots]  # type: ignore[arg-type]
                logits = interchange(hooked, clean, edges, {node: value})
            if data.categorical:
                expected, found = reference.log_softmax(-1), logits[0, 1:].log_softmax(-1)
                each = (expected.exp() * (expected - found)).sum(-1)
            else:
                each = (reference - logits[0, 1:])[:, 0] ** 2
            totals[str(item)] += float(each.mean()) / len(runs)
    return totals


def assert_same(scores, expected: dict[str, float]) -> None:
    assert {str(item): score for item, score in scores.items()} == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert max(expected.values()) > 1e-2


def auroc(scores, circuit: Circuit) -> float:
    """Share of pairs of a varying edge and one outside in which the varying one has the higher score; ties are half."""
    outside = [scores[edge] for edge in circuit.negatives]
    inside = [scores[edge] for edge in circuit.of_kind("varying")]
    wins = sum((a > b) + (a == b) / 2 for a in inside for b in outside)
    return wins / (len(inside) * len(outside))


# -- against hooks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("direction", ["causal", "bidirectional"])
def test_a_random_model_has_the_scores_that_hooks_give(direction, ablation):
    shape = replace(SHAPE, attention_dir=direction)
    hooked = to_hooked_transformer(shape, random_model(shape).state_dict())
    data, universe = random_data(shape, longer=True), Circuit(2, 3, []).universe
    # Every third, so that all kinds of edges come up within the time of a test.
    some = universe[::3]
    expected = hook_scores(hooked, some, data, ablation)
    found = exhaustive_patching(hooked, universe, data, ablation=ablation)
    assert_same({edge: found[edge] for edge in some}, expected)


@pytest.mark.parametrize("granularity", ["edge", "node"])
def test_heads_and_nodes_as_wholes_have_the_scores_that_hooks_give(granularity):
    shape = replace(SHAPE, d_vocab_out=1)
    hooked = to_hooked_transformer(shape, random_model(shape).state_dict())
    data = random_data(shape)
    found = exhaustive_patching(hooked, Circuit(2, 3, []), data, granularity=granularity)
    assert_same(found, hook_scores(hooked, list(found), data, "resample"))


def test_case_3_has_the_scores_that_hooks_give():
    hooked, data = load_model("case_3"), PairData.of("case_3", n_pairs=4)
    found = exhaustive_patching(hooked, load_circuit("case_3").universe, data)
    assert_same(found, hook_scores(hooked, list(found), data, "resample"))


# -- what they do not depend on ----------------------------------------------------------------------------------------


def test_scores_do_not_depend_on_how_rows_are_stacked(monkeypatch):
    model, data, universe = random_model(SHAPE), random_data(SHAPE, longer=True), Circuit(2, 3, []).universe
    at_once = exhaustive_patching(model, universe, data)
    monkeypatch.setattr(exhaustive, "_POSITIONS", 20)
    assert_same(exhaustive_patching(model, universe, data), {str(edge): score for edge, score in at_once.items()})


def test_some_edges_have_the_scores_they_have_among_all():
    model, data, universe = random_model(SHAPE), random_data(SHAPE), Circuit(2, 3, []).universe
    every = exhaustive_patching(model, universe, data)
    some = exhaustive_patching(model, universe[5::7], data)
    assert tuple(some) == universe[5::7]
    assert_same(some, {str(edge): every[edge] for edge in some})


def test_an_edge_whose_value_is_the_same_on_every_input_has_no_effect():
    scores = exhaustive_patching(random_model(SHAPE), Circuit(2, 3, []), random_data(SHAPE))
    assert {scores[edge] for edge in scores.edges if edge.source.name == "pos_embed"} == {0.0}


def test_it_refuses_what_cannot_be():
    model, data = random_model(SHAPE), random_data(SHAPE)
    with pytest.raises(SettingError, match="ablation 'noise' is not one of resample, zero, mean"):
        exhaustive_patching(model, Circuit(2, 3, []), data, ablation="noise")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"the universe has .*, which a model with 2 layers of 3 heads has not"):
        exhaustive_patching(model, Circuit(3, 3, []), data)
    with pytest.raises(SettingError, match="model is a dict; give the HookedTransformer"):
        to_transformer({})  # type: ignore[arg-type]


# -- the model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["case_3", "case_7"])
def test_the_packages_own_transformer_computes_what_the_hooked_one_does(name):
    hooked, data = load_model(name), PairData.of(name, n_pairs=24)
    own = to_transformer(hooked)
    for group in data.by_length():
        ids = group.clean[:, : int(group.lengths[0])]
        with torch.no_grad():
            torch.testing.assert_close(own(ids), hooked(ids), rtol=1e-5, atol=1e-3)
    assert to_transformer(own) is own


@pytest.mark.parametrize(
    "field, value", [("positional_embedding_type", "rotary"), ("attn_only", True), ("normalization_type", "RMS")]
)
def test_a_model_of_another_architecture_is_refused(field, value):
    hooked = to_hooked_transformer(SHAPE, random_model(SHAPE).state_dict())
    setattr(hooked.cfg, field, value)
    with pytest.raises(
        SettingError, match=f"the model has {field}={value!r}; discovery runs transformers with {field}="
    ):
        to_transformer(hooked)
    hooked = to_hooked_transformer(SHAPE, random_model(SHAPE).state_dict())
    hooked.cfg.attn_scale = 1.0
    with pytest.raises(SettingError, match=r"the model scales attention by 1\.0; it is the square root of d_head"):
        to_transformer(hooked)


# -- what is certified is found ----------------------------------------------------------------------------------------

# All tiers with a model, two to four layers, classes and numbers, causal or not.
SOME = ("case_3", "case_7", "case_8", "case_15", "bigram_share", "spread_around")
MORE = ("case_1", "case_4", "case_12", "case_21", "case_93", "case_117", "period_contrast")


@pytest.mark.parametrize("name", SOME)
def test_what_is_certified_is_found(name):
    circuit, data = load_circuit(name), PairData.of(name, n_pairs=64)
    assert auroc(exhaustive_patching(load_model(name), circuit.universe, data), circuit) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_models() if not name.endswith(("_siit", "_natural"))])
def test_what_is_certified_is_found_in_every_model(name):
    circuit, data = load_circuit(name), PairData.of(name)
    model = to_transformer(load_model(name))
    assert auroc(exhaustive_patching(model, circuit.universe, data), circuit) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME + MORE)
def test_what_is_certified_is_found_under_every_ablation_and_at_head_level(name):
    circuit, data, model = load_circuit(name), PairData.of(name, n_pairs=64, seed=1), to_transformer(load_model(name))
    for ablation in ABLATIONS:
        assert auroc(exhaustive_patching(model, circuit.universe, data, ablation=ablation), circuit) == 1
    heads = circuit.to_head_level()
    assert auroc(exhaustive_patching(model, circuit.universe, data, granularity="edge"), heads) == 1
