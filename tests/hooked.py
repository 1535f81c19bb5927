"""Interchange on a HookedTransformer by TransformerLens' hooks alone: what the package's own passes are tested against.

A value replaced is one dictionary, `Senders`: what each node writes, [row, pos, d_model], as its hook sees it. Edges
are replaced where receivers read (`hook_q_input`, `hook_mlp_in`, ...), nodes where they write (`hook_result`, ...).
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from interpbench_hub.circuit import EMBED, LOGITS, POS_EMBED, SLOTS, Edge, Node, Slot

Senders = dict[Node, Tensor]
"""What every node but the logits writes: [row, pos, d_model] each."""
Hooks = list[Any]
"""What `run_with_hooks` takes: (name, function) pairs."""


def make_hooked_transformer(shape: Mapping[str, Any], weights: Mapping[str, Tensor]) -> HookedTransformer:
    """A HookedTransformer of this shape (fields of its configuration) with these weights and hooks for all edges."""
    config = HookedTransformerConfig(
        **shape,
        use_attn_result=True,
        use_split_qkv_input=True,
        use_hook_mlp_in=True,
        default_prepend_bos=False,
        device="cpu",
    )
    with warnings.catch_warnings():
        # Said each time one is made; benchmarks use this module too, without the test suite's filters.
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated", category=DeprecationWarning)
        hooked = HookedTransformer(config)
    missing, unexpected = hooked.load_state_dict(weights, strict=False)
    assert not unexpected and not [name for name in missing if not name.endswith((".mask", ".IGNORE"))]
    return hooked


# -- where nodes write and read ----------------------------------------------------------------------------------------


def output_hook(node: Node) -> str:
    """Name of the hook that sees what a node writes; for a head, among its layer's heads."""
    if node in (EMBED, POS_EMBED):
        return f"hook_{node}"
    return f"blocks.{node.layer}." + ("attn.hook_result" if node.is_head else "hook_mlp_out")


def input_hook(hooked: HookedTransformer, node: Node, slot: Slot | None) -> str:
    """Name of the hook that sees what a receiver slot reads; for a head, among its layer's heads."""
    if node == LOGITS:
        return f"blocks.{hooked.cfg.n_layers - 1}.hook_resid_post"
    return f"blocks.{node.layer}." + ("hook_mlp_in" if slot is None else f"hook_{slot}_input")


def noting_hooks(hooked: HookedTransformer, written: Senders) -> Hooks:
    """Hooks that put what every sender writes into `written`, gradients and all."""

    def noting(*nodes: Node):
        def hook(activation: Tensor, hook: object) -> None:
            parts = activation.unbind(2) if activation.ndim == 4 else [activation]
            written.update(zip(nodes, parts, strict=True))

        return hook

    hooks: Hooks = [(output_hook(node), noting(node)) for node in (EMBED, POS_EMBED)]
    for layer in range(hooked.cfg.n_layers):
        heads = [Node.of_head(layer, head) for head in range(hooked.cfg.n_heads)]
        hooks += [(output_hook(heads[0]), noting(*heads))]
        hooks += [(output_hook(Node.of_mlp(layer)), noting(Node.of_mlp(layer)))]
    return hooks


def senders_of(hooked: HookedTransformer, tokens: Tensor) -> Senders:
    """What every sender writes in a plain run."""
    written: Senders = {}
    hooked.run_with_hooks(tokens, fwd_hooks=noting_hooks(hooked, written))
    return written


# -- interchange -------------------------------------------------------------------------------------------------------


def interchange(
    hooked: HookedTransformer, tokens: Tensor, edges: Iterable[Edge], replacement: Mapping[Node, Tensor]
) -> Tensor:
    """Logits when all these edges, the same in every row, carry `replacement`."""
    everywhere = torch.ones(len(tokens), dtype=torch.bool)
    return _interchange(hooked, tokens, dict.fromkeys(edges, everywhere), replacement)


def interchange_by_row(
    hooked: HookedTransformer, tokens: Tensor, edges: Sequence[Sequence[Edge]], replacement: Mapping[Node, Tensor]
) -> Tensor:
    """Logits when the edges `edges[row]` of each row carry `replacement`."""
    return run_by_row(hooked, tokens, edges, replacement)[0]


def run_by_row(
    hooked: HookedTransformer, tokens: Tensor, edges: Sequence[Sequence[Edge]], replacement: Mapping[Node, Tensor]
) -> tuple[Tensor, Senders]:
    """Logits, and what every sender itself writes, when the edges `edges[row]` of each row carry `replacement`."""
    sets = [set(row) for row in edges]
    where = {edge: torch.tensor([edge in row for row in sets]) for edge in set().union(*sets)}
    written: Senders = {}
    return _interchange(hooked, tokens, where, replacement, written), written


def interchange_node(hooked: HookedTransformer, tokens: Tensor, node: Node, replacement: Tensor) -> Tensor:
    """Logits when a node writes `replacement` instead of its own."""

    def replace(activation: Tensor, hook: object) -> Tensor:
        if node.head is None:
            return replacement
        changed = activation.clone()
        changed[:, :, node.head] = replacement
        return changed

    hooks: Hooks = [(output_hook(node), replace)]
    return hooked.run_with_hooks(tokens, fwd_hooks=hooks)


def _interchange(
    hooked: HookedTransformer,
    tokens: Tensor,
    where: Mapping[Edge, Tensor],
    replacement: Mapping[Node, Tensor],
    written: Senders | None = None,
) -> Tensor:
    """Logits when each edge carries `replacement` in the rows `where[edge]` [row]; `written` gets what all write."""
    written = {} if written is None else written
    readers: dict[str, list[tuple[Edge, Tensor]]] = {}
    for edge, rows in where.items():
        readers.setdefault(input_hook(hooked, edge.target, edge.slot), []).append((edge, rows[:, None, None]))

    def exchanging(edges: list[tuple[Edge, Tensor]]):
        def hook(activation: Tensor, hook: object) -> Tensor:
            seen = list(activation.unbind(2)) if activation.ndim == 4 else [activation]
            for edge, rows in edges:
                place = edge.target.head or 0
                # Out of place: gradients flow through both what is replaced and what replaces.
                seen[place] = seen[place] + rows * (replacement[edge.source] - written[edge.source])
            return torch.stack(seen, dim=2) if activation.ndim == 4 else seen[0]

        return hook

    # Senders are noted first, so that a hook of a receiver finds what all before it wrote in this very run.
    hooks = noting_hooks(hooked, written) + [(name, exchanging(edges)) for name, edges in readers.items()]
    return hooked.run_with_hooks(tokens, fwd_hooks=hooks)


def all_edges_of(hooked: HookedTransformer) -> list[Edge]:
    """Every edge of the model, written down anew from which component reads which."""
    earlier = [EMBED, POS_EMBED]
    edges = []
    for layer in range(hooked.cfg.n_layers):
        heads = [Node.of_head(layer, head) for head in range(hooked.cfg.n_heads)]
        edges += [Edge(source, head, slot) for head in heads for slot in SLOTS for source in earlier]
        earlier += heads
        edges += [Edge(source, Node.of_mlp(layer)) for source in earlier]
        earlier.append(Node.of_mlp(layer))
    return edges + [Edge(source, LOGITS) for source in earlier]
