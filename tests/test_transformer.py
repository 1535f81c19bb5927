"""The plain-torch transformer against TransformerLens: outputs, senders, interchanges, gradients; and its own rules.

What an interchange should give is computed by hooks on a HookedTransformer alone.
"""

import random
from collections.abc import Sequence
from itertools import product
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from interpbench_hub.circuit import LOGITS, POS_EMBED, Circuit, Edge, Node
from interpbench_hub.errors import CheckpointError, SettingError
from interpbench_hub.transformer import Run, Transformer, TransformerConfig, check_state
from tests.hooked import (
    all_edges_of,
    interchange,
    interchange_by_row,
    interchange_node,
    make_hooked_transformer,
    run_by_row,
    senders_of,
)

DIRECTIONS: tuple[Literal["causal", "bidirectional"], ...] = ("causal", "bidirectional")
NORMS: tuple[Literal["LN"] | None, ...] = (None, "LN")
ACTIVATIONS = ("relu", "gelu", "gelu_new")
SMALL: dict[str, Any] = dict(
    n_layers=2, n_heads=2, d_model=8, d_head=3, d_mlp=10, d_vocab=5, d_vocab_out=3, n_ctx=6, act_fn="gelu_new"
)


def random_config(seed: int, **fixed: Any) -> TransformerConfig:
    rng = random.Random(seed)
    ranges = {"n_layers": (1, 3), "n_heads": (1, 3), "d_model": (4, 12), "d_head": (1, 6), "d_mlp": (1, 12)}
    ranges |= {"d_vocab": (2, 6), "d_vocab_out": (1, 4), "n_ctx": (3, 7)}
    return TransformerConfig(**{name: rng.randint(*ends) for name, ends in ranges.items()}, **fixed)


CONFIGS = [
    random_config(seed, attention_dir=direction, normalization_type=norm, act_fn=activation)
    for seed, (direction, norm, activation) in enumerate(2 * list(product(DIRECTIONS, NORMS, ACTIVATIONS)))
]
# Two layers at least, so that edges between layers exist.
DEEP = [
    TransformerConfig(**SMALL, attention_dir=direction, normalization_type=norm)
    for direction, norm in product(DIRECTIONS, NORMS)
]


def described(value: object) -> str | None:
    if not isinstance(value, TransformerConfig):
        return None
    sizes = f"{value.n_layers}x{value.n_heads}x{value.d_model}"
    return f"{value.attention_dir}-{value.normalization_type}-{value.act_fn}-{sizes}"


of_all_kinds = pytest.mark.parametrize("config", CONFIGS, ids=described)
of_both_directions_and_norms = pytest.mark.parametrize("config", DEEP, ids=described)


def random_model(config: TransformerConfig, seed: int = 0) -> Transformer:
    """A transformer with no parameter left at zero or one."""
    model = Transformer(config)
    with torch.no_grad():
        model.flat.add_(0.3 * torch.randn(model.n_parameters, generator=torch.Generator().manual_seed(seed)))
    return model


def random_tokens(config: TransformerConfig, rows: int, width: int | None = None, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.d_vocab, (rows, width or config.n_ctx), generator=generator)


def hooked_transformer(model: Transformer) -> HookedTransformer:
    """TransformerLens' transformer with the same weights and hooks for all edges."""
    return make_hooked_transformer(model.config.to_dict(), model.state_dict())


def random_edges(config: TransformerConfig, rows: int, seed: int = 0) -> list[list[Edge]]:
    """A set of edges a row: none, one, and ever larger shares of all."""
    rng = random.Random(seed)
    sizes = [0, 1] + [max(2, round(len(config.edges) * row / (rows - 2))) for row in range(1, rows - 1)]
    return [rng.sample(config.edges, size) for size in sizes]


def mask_of_rows(config: TransformerConfig, edges: Sequence[Sequence[Edge]]) -> Tensor:
    return torch.stack([config.mask_of(list(row)) for row in edges])


def assert_same(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to rounding, which grows with the numbers themselves."""
    assert found.shape == expected.shape
    scale = max(1.0, float(expected.abs().max()))
    assert float((found - expected).abs().max()) <= tolerance * scale


# -- against TransformerLens -------------------------------------------------------------------------------------------


@of_all_kinds
@torch.no_grad()
def test_logits_are_those_of_hooked_transformer(config):
    model, tokens = random_model(config), random_tokens(config, 5)
    assert_same(model(tokens), hooked_transformer(model)(tokens))


@torch.no_grad()
def test_inputs_may_be_shorter_than_the_context():
    model = random_model(DEEP[0])
    tokens = random_tokens(model.config, 3, width=2)
    assert_same(model(tokens), hooked_transformer(model)(tokens))


@of_all_kinds
def test_parameters_have_the_names_and_shapes_of_hooked_transformer(config):
    model = Transformer(config)
    theirs = {name: tuple(tensor.shape) for name, tensor in hooked_transformer(model).named_parameters()}
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert ours == theirs == dict(config.parameter_shapes)


@of_all_kinds
@torch.no_grad()
def test_senders_are_what_the_hooks_see(config):
    model, tokens = random_model(config), random_tokens(config, 4)
    run, seen = model.run(tokens), senders_of(hooked_transformer(model), tokens)
    assert list(config.senders) == list(seen)
    for place, node in enumerate(config.senders):
        assert_same(run.senders[place], seen[node])


@of_all_kinds
@torch.no_grad()
def test_what_mlps_read_is_what_the_hooks_see(config):
    model, tokens = random_model(config), random_tokens(config, 4)
    run = model.run(tokens)
    _, cache = hooked_transformer(model).run_with_cache(tokens)
    for layer in range(config.n_layers):
        assert_same(model.mlp_input(run, layer), cache["resid_mid", layer])


@of_all_kinds
@torch.no_grad()
def test_an_interchange_with_its_own_edges_for_each_row_is_the_same_patch_made_by_hooks(config):
    model, rows = random_model(config), 7
    hooked, edges = hooked_transformer(model), random_edges(config, rows)
    base, source = random_tokens(config, rows, seed=1), random_tokens(config, rows, seed=2)
    found = model.interchange(model.run(base).senders, model.run(source).senders, mask_of_rows(config, edges))
    assert_same(found, interchange_by_row(hooked, base, edges, senders_of(hooked, source)))


@of_both_directions_and_norms
@pytest.mark.parametrize("first_layer", [0, 1])
@torch.no_grad()
def test_what_senders_write_under_an_interchange_is_what_the_hooks_see(config, first_layer):
    model, rows = random_model(config), 7
    late = [edge for edge in config.edges if edge.target.layer is None or edge.target.layer >= first_layer]
    edges = [[edge for edge in row if edge in late] for row in random_edges(config, rows)]
    base, source = random_tokens(config, rows, seed=1), random_tokens(config, rows, seed=2)
    mask = mask_of_rows(config, edges)
    run = model.run(base)
    _, written = model.interchange_run(run.senders, model.run(source).senders, mask, first_layer=first_layer)
    hooked = hooked_transformer(model)
    seen = run_by_row(hooked, base, edges, senders_of(hooked, source))[1]
    assert list(written) == list(range(config.senders_before(first_layer), len(config.senders)))
    for place, found in written.items():
        assert_same(found, seen[config.senders[place]])


@of_both_directions_and_norms
@torch.no_grad()
def test_each_single_edge_is_the_same_patch_made_by_hooks(config):
    model = random_model(config)
    hooked, edges = hooked_transformer(model), [[edge] for edge in config.edges]
    base = random_tokens(config, 1, seed=1).expand(len(edges), -1)
    source = random_tokens(config, 1, seed=2).expand(len(edges), -1)
    found = model.interchange(model.run(base).senders, model.run(source).senders, mask_of_rows(config, edges))
    assert_same(found, interchange_by_row(hooked, base, edges, senders_of(hooked, source)))
    # Each of them matters in a random model, or the comparison would say nothing.
    position = torch.tensor([edge.source == POS_EMBED for edge in config.edges])
    moved = (found - model(base)).abs().amax((1, 2))
    # The position is the same in both runs: its edges move nothing but how sums are rounded.
    assert float(moved[~position].min()) > 1e-5 > float(moved[position].max())


@of_both_directions_and_norms
@torch.no_grad()
def test_a_set_of_edges_for_all_rows_is_the_same_patch_made_by_hooks(config):
    model = random_model(config)
    hooked = hooked_transformer(model)
    assert set(all_edges_of(hooked)) == set(config.edges)
    base, source = random_tokens(config, 4, seed=1), random_tokens(config, 4, seed=2)
    replacement = senders_of(hooked, source)
    for edges in random_edges(config, 6):
        found = model.interchange(model.run(base).senders, model.run(source).senders, config.mask_of(edges)[None])
        assert_same(found, interchange(hooked, base, edges, replacement))


@of_both_directions_and_norms
@torch.no_grad()
def test_exchanging_all_edges_that_leave_a_node_exchanges_the_node(config):
    model = random_model(config)
    hooked = hooked_transformer(model)
    base, source = random_tokens(config, 4, seed=1), random_tokens(config, 4, seed=2)
    replacement = senders_of(hooked, source)
    for node in config.senders:
        leaving = [edge for edge in config.edges if edge.source == node]
        mask = mask_of_rows(config, [leaving] * 4)
        found = model.interchange(model.run(base).senders, model.run(source).senders, mask)
        assert_same(found, interchange_node(hooked, base, node, replacement[node]))


@of_both_directions_and_norms
def test_gradients_of_an_interchange_are_those_through_the_hooks(config):
    model, rows = random_model(config), 6
    hooked, edges = hooked_transformer(model), random_edges(config, rows)
    base, source = random_tokens(config, rows, seed=1), random_tokens(config, rows, seed=2)
    # Base and source from one pass, as in training: gradients flow through both ends of every exchange.
    run = model.run(torch.cat([base, source]))
    logits = model.interchange(run.senders[:2, :rows], run.senders[:, rows:], mask_of_rows(config, edges))
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(3))
    assert model.flat.grad is not None
    model.flat.grad.zero_()
    (logits * weights).sum().backward()

    (interchange_by_row(hooked, base, edges, senders_of(hooked, source)) * weights).sum().backward()
    theirs = {name: parameter.grad for name, parameter in hooked.named_parameters()}
    expected = [gradient.flatten() for name in model.parameters if (gradient := theirs[name]) is not None]
    assert_same(model.flat.grad, torch.cat(expected))


# -- the interchange by itself -----------------------------------------------------------------------------------------


@of_both_directions_and_norms
@torch.no_grad()
def test_exchanging_nothing_or_all_gives_the_base_or_the_source(config):
    model = random_model(config)
    base, source = (model.run(random_tokens(config, 3, seed=seed)) for seed in (1, 2))
    nothing, everything = mask_of_rows(config, [[]] * 3), mask_of_rows(config, [config.edges] * 3)
    assert_same(model.interchange(base.senders, source.senders, nothing), base.logits)
    assert_same(model.interchange(base.senders, source.senders, everything), source.logits)
    assert_same(model.interchange(base.senders, base.senders, everything), base.logits)


@torch.no_grad()
def test_biases_of_attention_belong_to_no_edge():
    model = random_model(TransformerConfig(**SMALL))
    config, base = model.config, model.run(random_tokens(TransformerConfig(**SMALL), 3))
    into_logits = [edge for edge in config.edges if edge.target == LOGITS]
    mask = mask_of_rows(config, [into_logits] * 3)
    found = model.interchange(base.senders, torch.zeros_like(base.senders), mask)
    p = model.parameters
    alone = (p["blocks.0.attn.b_O"] + p["blocks.1.attn.b_O"]) @ p["unembed.W_U"] + p["unembed.b_U"]
    assert_same(found, alone.expand_as(found))


@of_both_directions_and_norms
@torch.no_grad()
def test_starting_at_a_later_layer_changes_nothing(config):
    model, rows = random_model(config), 6
    base, source = (model.run(random_tokens(config, rows, seed=seed)) for seed in (1, 2))
    for first_layer in range(1, config.n_layers + 1):
        rng = random.Random(first_layer)
        allowed = [e for e in config.edges if e.target == LOGITS or (e.target.layer or 0) >= first_layer]
        mask = mask_of_rows(config, [rng.sample(allowed, rng.randint(1, len(allowed))) for _ in range(rows)])
        whole = model.interchange(base.senders, source.senders, mask)
        known = base.senders[: config.senders_before(first_layer)]
        assert_same(model.interchange(known, source.senders, mask, first_layer=first_layer), whole)


@torch.no_grad()
def test_only_the_senders_before_the_first_layer_are_read_from_the_base():
    model = random_model(TransformerConfig(**SMALL))
    config = model.config
    base, source = (model.run(random_tokens(config, 6, seed=seed)) for seed in (1, 2))
    mask = mask_of_rows(config, random_edges(config, 6))
    spoiled = base.senders.clone()
    spoiled[2:] = torch.nan
    whole = model.interchange(base.senders, source.senders, mask)
    assert torch.equal(model.interchange(spoiled, source.senders, mask), whole)


# -- padding -----------------------------------------------------------------------------------------------------------


@of_both_directions_and_norms
@torch.no_grad()
def test_a_padded_row_computes_what_it_computes_alone(config):
    model = random_model(config)
    lengths = torch.tensor([1, 3, config.n_ctx, 2])
    base, source = random_tokens(config, 4, seed=1), random_tokens(config, 4, seed=2)
    edges = random_edges(config, 4)
    run, other = model.run(base, lengths), model.run(source, lengths)
    exchanged = model.interchange(run.senders, other.senders, mask_of_rows(config, edges), lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = model.run(base[row : row + 1, :length])
        assert_same(run.logits[row, :length], alone.logits[0])
        assert_same(run.senders[:, row, :length], alone.senders[:, 0])
        source_alone = model.run(source[row : row + 1, :length])
        exchanged_alone = model.interchange(
            alone.senders, source_alone.senders, mask_of_rows(config, edges[row : row + 1])
        )
        assert_same(exchanged[row, :length], exchanged_alone[0])


@of_both_directions_and_norms
@torch.no_grad()
def test_what_padding_holds_does_not_matter(config):
    model, lengths = random_model(config), torch.tensor([2, 4, 3])
    tokens, other = random_tokens(config, 3, seed=1), random_tokens(config, 3, seed=2)
    real = torch.arange(config.n_ctx) < lengths[:, None]
    repadded = torch.where(real, tokens, other)
    assert not torch.equal(repadded, tokens)
    assert torch.equal(model(tokens, lengths)[real], model(repadded, lengths)[real])


@torch.no_grad()
def test_no_lengths_means_no_padding():
    for config in DEEP:
        model, tokens = random_model(config), random_tokens(config, 3)
        assert_same(model(tokens, torch.full((3,), config.n_ctx)), model(tokens))


# -- runs, parameters, masks -------------------------------------------------------------------------------------------


@torch.no_grad()
def test_rows_of_a_run_are_the_run_of_those_rows():
    model = random_model(DEEP[0])
    tokens = random_tokens(model.config, 5)
    run = model.run(tokens)
    assert isinstance(run.rows(slice(1, 3)), Run)
    for rows in (slice(1, 3), torch.tensor([4, 0])):
        assert_same(run.rows(rows).senders, model.run(tokens[rows]).senders)
        assert_same(run.rows(rows).logits, model(tokens[rows]))


@of_both_directions_and_norms
def test_parameters_are_views_of_one_vector(config):
    model = Transformer(config)
    assert model.n_parameters == sum(parameter.numel() for parameter in model.parameters.values())
    with torch.no_grad():
        model.flat.copy_(torch.arange(model.n_parameters))
    joined = torch.cat([parameter.detach().flatten() for parameter in model.parameters.values()])
    assert torch.equal(joined, torch.arange(model.n_parameters, dtype=joined.dtype))
    for name, parameter in model.parameters.items():
        parameter.fill_(1.0)
        assert int((model.flat == 1.0).sum()) >= parameter.numel(), name
    assert bool((model.flat == 1.0).all())


def test_backward_passes_add_up_in_the_one_vector():
    model = random_model(DEEP[0])
    tokens = random_tokens(model.config, 3)
    assert model.flat.grad is not None
    assert not bool(model.flat.grad.any())
    model(tokens).sum().backward()
    once = model.flat.grad.clone()
    assert bool(once.any())
    model(tokens).sum().backward()
    assert_same(model.flat.grad, 2 * once)


def test_a_state_dict_is_a_copy_that_can_be_loaded():
    model, other = random_model(DEEP[1], seed=1), random_model(DEEP[1], seed=2)
    state = model.state_dict()
    other.load_state_dict(state)
    assert torch.equal(other.flat, model.flat)
    before = {name: tensor.clone() for name, tensor in state.items()}
    with torch.no_grad():
        model.flat.zero_()
    assert all(torch.equal(state[name], before[name]) for name in before)


def test_weights_that_require_gradients_can_be_loaded():
    model, other = random_model(DEEP[1], seed=1), random_model(DEEP[1], seed=2)
    other.load_state_dict({name: torch.nn.Parameter(tensor) for name, tensor in model.state_dict().items()})
    assert torch.equal(other.flat, model.flat)
    assert not any(tensor.requires_grad for tensor in other.state_dict().values())


def test_a_seed_decides_the_initial_weights():
    first, again, other = (Transformer(DEEP[1], seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.flat, again.flat)
    assert not torch.equal(first.flat, other.flat)


@pytest.mark.parametrize("norm", [None, "LN"])
def test_initial_weights_have_the_deviation_promised_and_biases_are_zero(norm):
    config = TransformerConfig(2, 4, 64, 16, 256, 50, 40, 60, normalization_type=norm)
    for name, parameter in Transformer(config).state_dict().items():
        kind = name.rsplit(".", 1)[1]
        if kind == "w":
            assert bool((parameter == 1).all())
        elif kind.startswith("b"):
            assert not bool(parameter.any())
        else:
            fan_in = {"W_O": 16, "W_out": 256}.get(kind, 64)
            promised = 0.8 / fan_in**0.5
            if norm == "LN":
                # Of two layers with two parts each.
                promised = {"W_E": 1.0, "W_pos": 1.0, "W_O": promised / 2, "W_out": promised / 2}.get(kind, promised)
            assert float(parameter.std()) == pytest.approx(promised, rel=0.05)


@of_both_directions_and_norms
def test_a_mask_has_one_place_for_every_edge(config):
    circuit = Circuit(config.n_layers, config.n_heads, [])
    assert config.edges == circuit.universe
    assert len(set(config.edge_places.values())) == len(config.edges)
    assert config.senders == circuit.node_universe[:-1]
    assert len(config.receivers) == config.n_layers * config.receivers_per_layer + 1
    for edge, (receiver, sender) in config.edge_places.items():
        assert config.receivers[receiver] == (edge.target, edge.slot)
        assert config.senders[sender] == edge.source
    assert int(config.mask_of(config.edges).sum()) == len(config.edges)


def test_a_mask_is_set_at_the_edges_of_a_circuit():
    config = DEEP[0]
    circuit = Circuit(2, 2, ["embed->a0.h1<k>", "m0->a1.h0<v>", "a1.h0->logits"])
    mask = config.mask_of(circuit)
    assert mask.dtype == torch.bool
    assert {tuple(place) for place in mask.nonzero().tolist()} == {config.edge_places[edge] for edge in circuit}


@of_all_kinds
def test_senders_before_a_layer_are_those_its_heads_and_its_mlp_can_read(config):
    for layer in range(config.n_layers):
        for target, mlp in ((Node.of_head(layer, 0), False), (Node.of_mlp(layer), True)):
            readable = {edge.source for edge in config.edges if edge.target == target}
            assert readable == set(config.senders[: config.senders_before(layer, mlp=mlp)])


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_layers", 0),
        ("n_heads", -1),
        ("d_model", 1.5),
        ("d_vocab", "7"),
        ("n_ctx", True),
        ("attention_dir", "backwards"),
        ("act_fn", "silu"),
        ("normalization_type", "RMS"),
    ],
)
def test_a_configuration_that_cannot_be_names_field_and_value(field, value):
    with pytest.raises(SettingError, match=f"{field} is {value!r}"):
        TransformerConfig(**{**SMALL, field: value})


def test_a_configuration_comes_back_from_its_dictionary():
    for config in DEEP:
        assert TransformerConfig(**config.to_dict()) == config


def test_inputs_longer_than_the_context_are_refused():
    model = Transformer(DEEP[0])
    with pytest.raises(SettingError, match=r"7 positions.*at most 6"):
        model(torch.zeros(1, 7, dtype=torch.long))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("unembed.b_U"), "lack the parameter unembed.b_U"),
        (lambda state: state.update(extra=torch.zeros(1)), "hold extra"),
        (lambda state: state.update({"embed.W_E": torch.zeros(8, 5)}), r"embed.W_E has shape \(8, 5\).*\(5, 8\)"),
        (lambda state: state.update({"unembed.b_U": torch.zeros(3, dtype=torch.long)}), "unembed.b_U has type"),
        (lambda state: state.update({"unembed.b_U": torch.tensor([0, torch.nan, 1])}), "unembed.b_U holds NaN"),
        (lambda state: state.update({"unembed.b_U": torch.tensor([0, torch.inf, 1])}), "unembed.b_U holds NaN or inf"),
    ],
)
def test_weights_that_are_not_the_configurations_are_refused(change, message):
    model = random_model(TransformerConfig(**SMALL))
    state, before = model.state_dict(), model.flat.detach().clone()
    check_state(state, model.config)
    change(state)
    with pytest.raises(CheckpointError, match=message):
        check_state(state, model.config)
    with pytest.raises(CheckpointError, match=message):
        model.load_state_dict(state)
    assert torch.equal(model.flat, before)
