"""What is scored, in which order, and what other tools call it.

Every naming is a table from its names to the edges (or nodes) each stands for. Sources of the names:

- `eap-ig`: EAP-IG and the circuit track of MIB, `input->a0.h1<q>`, `a0.h1->m0`, `m0->logits` (Hanna et al. 2024,
  arXiv:2403.17806; Mueller et al. 2025, arXiv:2504.13151). Their `input` is token and position embedding together.
- `acdc`: hook names of TransformerLens with indices, sender first, `blocks.0.attn.hook_result[:, :, 2]->
  blocks.1.hook_q_input[:, :, 0]` (Conmy et al. 2023, arXiv:2304.14997). Without `use_pos_embed` ACDC writes
  `blocks.0.hook_resid_pre`, both embeddings together, which is read too.
- `auto-circuit`: `A0.0->A1.2.Q`, `Resid Start->MLP 0`, `MLP 1->Resid End` (Miller et al. 2024, arXiv:2407.08734). Their
  `Resid Start` is both embeddings together.

A name that stands for two edges, one from `embed` and one from `pos_embed`, says the larger of their scores when it is
written, and gives its score to both when it is read. So scores written in our own names or ACDC's come back as they
were, and the other two bring back what they can say.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal, get_args

from interpbench_hub.circuit import EMBED, LOGITS, POS_EMBED, Circuit, Edge, Node
from interpbench_hub.errors import SettingError, unknown_name

ScoreGranularity = Literal["qkv-edge", "edge", "node"]
"""What is scored: edges into the q, k and v of heads (`m0->a1.h2<v>`), into heads as wholes (`m0->a1.h2`), or nodes."""
GRANULARITIES: tuple[ScoreGranularity, ...] = get_args(ScoreGranularity)

Universe = Circuit | Sequence[Edge]
"""The edges to score: `Circuit.universe`, or a circuit, of which nothing but its universe is looked at."""

Naming = Literal["interpbench", "eap-ig", "acdc", "auto-circuit"]
NAMINGS: tuple[Naming, ...] = get_args(Naming)

Item = Edge | Node
"""What has a score: an edge, or at node level a node."""
Table = dict[str, tuple[Item, ...]]
"""The items that each name stands for: one, or two where a name means both embeddings."""

_ARROW = re.compile(r"\s*->\s*")
_ACDC_WITHIN = re.compile(r"blocks\.\d+\.(hook_[qkv]_input|hook_attn_in|attn\.hook_[qkv]|hook_mlp_in)(\[.*\])?->.*")
"""Edges of ACDC's graph inside one component, from its input to its output: no edges between components."""
_ACDC_BOTH = "blocks.0.hook_resid_pre"


def granularity_of(universe: Universe) -> Literal["qkv-edge", "edge"]:
    """Whether a universe has edges into each slot of a head or into heads as wholes."""
    edges = universe.universe if isinstance(universe, Circuit) else universe
    return "edge" if any(edge.target.is_head and edge.slot is None for edge in edges) else "qkv-edge"


def scored_items(universe: Universe, granularity: ScoreGranularity | None = None) -> tuple[Item, ...]:
    """What a method scores: the universe's edges in their order, merged into head-level ones, or its senders as nodes.

    Without a granularity the edges are taken as they are. Raises `SettingError` where the universe cannot be had at a
    granularity: slots that were merged cannot be told apart again.

    >>> [str(node) for node in scored_items(Circuit(1, 1, []), "node")]
    ['embed', 'pos_embed', 'a0.h0', 'm0']
    """
    if granularity is not None and granularity not in GRANULARITIES:
        raise SettingError(f"granularity {granularity!r} is not one of {', '.join(GRANULARITIES)}")
    # Without what a circuit knows of its edges: scores must not carry the answer along.
    given = universe.universe if isinstance(universe, Circuit) else universe
    edges = tuple(dict.fromkeys(replace(edge, kind=None, effect=None) for edge in given))
    if not edges:
        raise SettingError("the universe has no edges; give Circuit.universe, every edge of a model")
    if granularity == "node":
        return tuple(sorted({edge.source for edge in edges}))
    if granularity == "edge":
        return tuple(dict.fromkeys(edge.without_slot for edge in edges))
    if granularity == "qkv-edge" and granularity_of(edges) == "edge":
        raise SettingError(
            "the universe is at head level, so its edges have no scores at granularity qkv-edge; give the universe "
            "of a circuit that was not merged (Circuit.to_head_level)"
        )
    return edges


# -- names ------------------------------------------------------------------------------------------------------------


def name_table(naming: Naming, items: Sequence[Item]) -> Table:
    """The names of edges or nodes in a naming, in the order of the items: what is written.

    >>> table = name_table("eap-ig", [Edge.parse("embed->m0"), Edge.parse("pos_embed->m0")])
    >>> {name: [str(item) for item in named] for name, named in table.items()}
    {'input->m0': ['embed->m0', 'pos_embed->m0']}
    """
    name_of = _NAMERS[_known(naming)](_last_layer(items))
    table: dict[str, list[Item]] = {}
    for item in items:
        table.setdefault(name_of(item), []).append(item)
    return {name: tuple(named) for name, named in table.items()}


def items_of_names(naming: Naming, names: Iterable[str], items: Sequence[Item]) -> dict[str, tuple[Item, ...]]:
    """The items that each of these names stands for: what is read.

    Names of steps inside one component, which ACDC's graph has, are left out. Raises `UnknownNameError` for the first
    name that stands for none of the items.
    """
    table = _reading_table(naming, items)
    found: dict[str, tuple[Item, ...]] = {}
    for name in names:
        plain = canonical(naming, name)
        if plain in table:
            found[name] = table[plain]
        elif not (naming == "acdc" and _ACDC_WITHIN.fullmatch(plain)):
            what = "node" if items and isinstance(items[0], Node) else "edge"
            raise unknown_name(what, name, table, hint=f"names are read as those of {naming}")
    return found


def count_known(naming: Naming, names: Iterable[str], items: Sequence[Item]) -> int:
    """How many of the names stand for one of the items."""
    table = _reading_table(naming, items)
    return sum(canonical(naming, name) in table for name in names)


def canonical(naming: Naming, name: str) -> str:
    """A name without what writers of it differ in: spaces around the arrow, indices that take everything.

    >>> canonical("acdc", "hook_embed[:] -> blocks.0.hook_resid_mid[:]")
    'hook_embed->blocks.0.hook_mlp_in'
    """
    name = _ARROW.sub("->", name.strip())
    if naming == "acdc":
        name = re.sub(r"\[:(, :)*\]", "", name.replace("COLON", ":")).replace("hook_resid_mid", "hook_mlp_in")
    return name


def _known(naming: str) -> Naming:
    for known in NAMINGS:
        if naming == known:
            return known
    raise unknown_name("naming", naming, NAMINGS)


def _reading_table(naming: Naming, items: Sequence[Item]) -> Table:
    table = name_table(naming, items)
    if naming == "acdc":
        # Both embeddings under one name, for those who ran it without `use_pos_embed`.
        both: dict[str, list[Item]] = {}
        for name, named in table.items():
            sender, *rest = name.split("->")
            if sender in ("hook_embed", "hook_pos_embed"):
                both.setdefault("->".join([_ACDC_BOTH, *rest]), []).extend(named)
        table |= {name: tuple(named) for name, named in both.items()}
    return table


def _last_layer(items: Iterable[Item]) -> int:
    nodes = (node for item in items for node in ((item,) if isinstance(item, Node) else (item.source, item.target)))
    return max((node.layer for node in nodes if node.layer is not None), default=0)


# -- the namings: functions from an item to its name ------------------------------------------------------------------

_Namer = Callable[[Item], str]


def _namer(sender: Callable[[Node], str], receiver: Callable[[Edge], str]) -> _Namer:
    def name_of(item: Item) -> str:
        return sender(item) if isinstance(item, Node) else f"{sender(item.source)}->{receiver(item)}"

    return name_of


def _interpbench(last_layer: int) -> _Namer:
    return str


def _eap_ig(last_layer: int) -> _Namer:
    def sender(node: Node) -> str:
        return "input" if node in (EMBED, POS_EMBED) else node.name

    return _namer(sender, lambda edge: str(edge).partition("->")[2])


def _acdc(last_layer: int) -> _Namer:
    end = f"blocks.{last_layer}.hook_resid_post"

    def sender(node: Node) -> str:
        if node.layer is None:
            return end if node == LOGITS else f"hook_{node}"
        return f"blocks.{node.layer}." + (f"attn.hook_result[:, :, {node.head}]" if node.is_head else "hook_mlp_out")

    def receiver(edge: Edge) -> str:
        node = edge.target
        if node == LOGITS:
            return end
        # Without split inputs a head reads the hook that all three slots share.
        hook = f"hook_{edge.slot}_input" if edge.slot else "hook_attn_in"
        return f"blocks.{node.layer}." + (f"{hook}[:, :, {node.head}]" if node.is_head else "hook_mlp_in")

    return _namer(sender, receiver)


def _auto_circuit(last_layer: int) -> _Namer:
    def named(node: Node) -> str:
        if node.layer is None:
            return "Resid End" if node == LOGITS else "Resid Start"
        return f"A{node.layer}.{node.head}" if node.is_head else f"MLP {node.layer}"

    return _namer(named, lambda edge: named(edge.target) + (f".{edge.slot.upper()}" if edge.slot else ""))


_NAMERS: dict[Naming, Callable[[int], _Namer]] = {
    "interpbench": _interpbench,
    "eap-ig": _eap_ig,
    "acdc": _acdc,
    "auto-circuit": _auto_circuit,
}
