"""Interchange of single edges and nodes from a stored base run: against the full interchange, and against hooks."""

import random
from itertools import product
from typing import Literal

import pytest
import torch
from torch import Tensor

from interpbench_hub.circuit import LOGITS, Edge, Node
from interpbench_hub.errors import UnknownNameError
from interpbench_hub.loader import to_hooked_transformer
from interpbench_hub.patching import EdgePatcher
from interpbench_hub.transformer import Transformer, TransformerConfig
from tests.hooked import interchange, interchange_node, senders_of

DIRECTIONS: tuple[Literal["causal", "bidirectional"], ...] = ("causal", "bidirectional")
NORMS: tuple[Literal["LN"] | None, ...] = (None, "LN")
CONFIGS = [
    TransformerConfig(
        n_layers, n_heads, 8, 3, 10, 5, 3, 6, attention_dir=direction, act_fn="gelu_new", normalization_type=norm
    )
    for direction, norm, (n_layers, n_heads) in product(DIRECTIONS, NORMS, [(1, 2), (3, 2)])
]


def described(value: object) -> str | None:
    if not isinstance(value, TransformerConfig):
        return None
    return f"{value.attention_dir}-{value.normalization_type}-{value.n_layers}x{value.n_heads}"


of_all_kinds = pytest.mark.parametrize("config", CONFIGS, ids=described)


def random_model(config: TransformerConfig) -> Transformer:
    """A transformer with no parameter left at zero or one."""
    model = Transformer(config)
    with torch.no_grad():
        model.flat.add_(0.3 * torch.randn(model.n_parameters, generator=torch.Generator().manual_seed(0)))
    return model


def random_tokens(config: TransformerConfig, rows: int, seed: int) -> Tensor:
    return torch.randint(config.d_vocab, (rows, config.n_ctx), generator=torch.Generator().manual_seed(seed))


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Equal up to rounding, which grows with the numbers themselves."""
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


@of_all_kinds
@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@torch.no_grad()
def test_every_edge_gives_the_logits_of_the_full_interchange(config, padded):
    model, rows = random_model(config), 4
    lengths = torch.tensor([2, config.n_ctx, 1, 4]) if padded else None
    base, source = (model.run(random_tokens(config, rows, seed), lengths) for seed in (1, 2))
    patcher = EdgePatcher(model, base, lengths)
    for edge in config.edges:
        replacement = source.senders[config.edge_places[edge][1]]
        mask = config.mask_of([edge]).expand(rows, -1, -1)
        expected = model.interchange(base.senders, source.senders, mask, lengths)
        assert_same(patcher.logits(edge, replacement), expected)


@of_all_kinds
@pytest.mark.parametrize("padded", [False, True], ids=["unpadded", "padded"])
@torch.no_grad()
def test_every_node_gives_the_logits_of_the_interchange_of_all_edges_that_leave_it(config, padded):
    model, rows = random_model(config), 4
    lengths = torch.tensor([2, config.n_ctx, 1, 4]) if padded else None
    base, source = (model.run(random_tokens(config, rows, seed), lengths) for seed in (1, 2))
    patcher = EdgePatcher(model, base, lengths)
    for values in (source.senders, torch.zeros_like(base.senders)):
        for place, node in enumerate(config.senders):
            mask = config.mask_of([edge for edge in config.edges if edge.source == node])[None]
            expected = model.interchange(base.senders, values, mask, lengths)
            assert_same(patcher.node_logits(node, values[place]), expected)


@of_all_kinds
@torch.no_grad()
def test_every_node_is_the_same_patch_made_by_a_hook_on_what_it_writes(config):
    model = random_model(config)
    hooked = to_hooked_transformer(config, model.state_dict())
    base, source = random_tokens(config, 4, seed=1), random_tokens(config, 4, seed=2)
    patcher, written = EdgePatcher(model, model.run(base)), senders_of(hooked, source)
    for node in config.senders:
        assert_same(patcher.node_logits(node, written[node]), interchange_node(hooked, base, node, written[node]))


@of_all_kinds
@torch.no_grad()
def test_edges_into_every_kind_of_receiver_are_the_same_patch_made_by_hooks(config):
    model = random_model(config)
    hooked = to_hooked_transformer(config, model.state_dict())
    base, source = random_tokens(config, 4, seed=1), random_tokens(config, 4, seed=2)
    other, written = model.run(source), senders_of(hooked, source)
    patcher, rng = EdgePatcher(model, model.run(base)), random.Random(0)
    for slot, into_head in (("q", True), ("k", True), ("v", True), (None, False)):
        into = [edge for edge in config.edges if edge.slot == slot and edge.target.is_head == into_head]
        into_logits = [edge for edge in into if edge.target == LOGITS]
        for edge in (*rng.sample(into, min(3, len(into))), *into_logits[-1:]):
            found = patcher.logits(edge, other.senders[config.edge_places[edge][1]])
            assert_same(found, interchange(hooked, base, [edge], written))


@of_all_kinds
@torch.no_grad()
def test_what_an_edge_carries_anyway_changes_nothing(config):
    model = random_model(config)
    lengths = torch.tensor([3, 5])
    base = model.run(random_tokens(config, 2, seed=1), lengths)
    patcher = EdgePatcher(model, base, lengths)
    for edge in config.edges:
        assert_same(patcher.logits(edge, base.senders[config.edge_places[edge][1]]), base.logits)


@torch.no_grad()
def test_a_replacement_need_not_come_from_a_run():
    config = CONFIGS[1]
    model = random_model(config)
    base = model.run(random_tokens(config, 3, seed=1))
    patcher = EdgePatcher(model, base)
    for edge in config.edges:
        mask = config.mask_of([edge]).expand(3, -1, -1)
        expected = model.interchange(base.senders, torch.zeros_like(base.senders), mask)
        assert_same(patcher.logits(edge, torch.zeros_like(base.senders[0])), expected)


def test_an_edge_or_node_the_transformer_does_not_have_is_refused():
    model = random_model(CONFIGS[0])
    patcher = EdgePatcher(model, model.run(random_tokens(model.config, 1, seed=0)))
    for name in ("embed->m1", "embed->a0.h2<q>", "embed->a0.h0"):
        with pytest.raises(UnknownNameError, match=f"edge {name} does not exist"):
            patcher.logits(Edge.parse(name), torch.zeros(1, 6, 8))
    for node in (LOGITS, Node.of_mlp(1), Node.of_head(0, 2)):
        with pytest.raises(UnknownNameError, match=f"node {node} sends nothing"):
            patcher.node_logits(node, torch.zeros(1, 6, 8))
