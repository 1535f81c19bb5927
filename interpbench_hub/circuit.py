"""Nodes, edges and circuits of a transformer, their names, their JSON and their text.

Owns the vocabulary in which a circuit is said (design: node, edge, slot, kind) and the set of all edges a
transformer of given size has. Knows nothing of torch, of programs or of files.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, cast

from interpbench_hub.constants import SCHEMA_VERSION
from interpbench_hub.errors import CheckpointError, SettingError, UnknownNameError

Slot = Literal["q", "k", "v"]
Kind = Literal["varying", "constant", "inert"]
Granularity = Literal["qkv-edge", "edge"]

SLOTS: tuple[Slot, ...] = ("q", "k", "v")
KINDS: tuple[Kind, ...] = ("varying", "constant", "inert")

_NODE = re.compile(r"embed|pos_embed|logits|a(0|[1-9]\d*)\.h(0|[1-9]\d*)|m(0|[1-9]\d*)")
_EDGE = re.compile(r"(?P<source>[^\s<>]+)->(?P<target>[^\s<>]+?)(?:<(?P<slot>[qkv])>)?")


@dataclass(frozen=True)
class Node:
    """A component of a transformer: `embed`, `pos_embed`, `a{layer}.h{head}`, `m{layer}` or `logits`.

    Nodes sort in the order in which a forward pass reaches them.

    >>> Node("a1.h2").layer, Node("a1.h2").head, Node("m0") < Node("a1.h2")
    (1, 2, True)
    """

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or _NODE.fullmatch(self.name) is None:
            raise UnknownNameError(
                f"unknown node {self.name!r}; a node is embed, pos_embed, a<layer>.h<head>, m<layer> or logits"
            )

    @classmethod
    def of_head(cls, layer: int, head: int) -> "Node":
        return cls(f"a{layer}.h{head}")

    @classmethod
    def of_mlp(cls, layer: int) -> "Node":
        return cls(f"m{layer}")

    @property
    def is_head(self) -> bool:
        return self.name.startswith("a")

    @property
    def is_mlp(self) -> bool:
        return self.name.startswith("m")

    @property
    def layer(self) -> int | None:
        """Layer of a head or an MLP; None for the embeddings and the logits."""
        match = _NODE.fullmatch(self.name)
        number = match and (match[1] or match[3])
        return int(number) if number else None

    @property
    def head(self) -> int | None:
        """Index of a head within its layer; None for other nodes."""
        match = _NODE.fullmatch(self.name)
        return int(match[2]) if match and match[2] else None

    @cached_property
    def _rank(self) -> tuple[int, int, int]:
        if self.name in ("embed", "pos_embed"):
            return (-1, int(self.name == "pos_embed"), 0)
        if self.layer is None:
            return (10**9, 0, 0)
        return (self.layer, 1, 0) if self.is_mlp else (self.layer, 0, cast(int, self.head))

    def __lt__(self, other: "Node") -> bool:
        return self._rank < other._rank

    def __str__(self) -> str:
        return self.name


EMBED, POS_EMBED, LOGITS = Node("embed"), Node("pos_embed"), Node("logits")


@dataclass(frozen=True)
class Edge:
    """What `source` writes, as seen by one input slot of `target`.

    Heads have the slots `q`, `k` and `v`; MLPs and the logits have one input, slot None. At head level
    (`Circuit.to_head_level`) heads have slot None too. `kind` and `effect` are what is known about the edge;
    they take no part in equality.

    >>> str(Edge.parse("m0->a1.h2<v>")), Edge.parse("m0->m1") == Edge(Node("m0"), Node("m1"), kind="inert")
    ('m0->a1.h2<v>', True)
    """

    source: Node
    target: Node
    slot: Slot | None = None
    kind: Kind | None = field(default=None, compare=False)
    """`varying`, `constant` or `inert` for an edge of a circuit; None for an edge outside."""
    effect: float | None = field(default=None, compare=False)
    """Share of input pairs whose output changes when this edge alone is resampled; None if not measured."""

    def __post_init__(self) -> None:
        if self.slot is not None and (self.slot not in SLOTS or not self.target.is_head):
            raise SettingError(f"edge {self.source}->{self.target} has slot {self.slot!r}; only heads have q, k and v")
        if self.kind is not None and self.kind not in KINDS:
            raise SettingError(f"edge {self} has kind {self.kind!r}; a kind is one of {', '.join(KINDS)}")
        if not _can_feed(self.source, self.target):
            raise SettingError(f"no edge {self}: {self.source} does not come before {self.target} in a forward pass")

    @classmethod
    def parse(cls, text: str) -> "Edge":
        """The edge a name such as `m0->a1.h2<v>` stands for."""
        match = _EDGE.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise UnknownNameError(f"unknown edge {text!r}; an edge is source->target or source->head<slot>")
        return cls(Node(match["source"]), Node(match["target"]), cast(Slot | None, match["slot"]))

    @property
    def without_slot(self) -> "Edge":
        return replace(self, slot=None)

    @cached_property
    def _rank(self) -> tuple[Any, ...]:
        return (self.target._rank, SLOTS.index(self.slot) if self.slot else -1, self.source._rank)

    def __lt__(self, other: "Edge") -> bool:
        return self._rank < other._rank

    def __str__(self) -> str:
        return f"{self.source}->{self.target}" + (f"<{self.slot}>" if self.slot else "")


def _can_feed(source: Node, target: Node) -> bool:
    if source == LOGITS or target in (EMBED, POS_EMBED):
        return False
    # Heads of one layer run side by side: they feed their own layer's MLP but not one another.
    if source.is_head and target.is_head:
        return cast(int, source.layer) < cast(int, target.layer)
    return source < target


@dataclass(frozen=True)
class Role:
    """What a node of a circuit is for: the variables it implements and one line of meaning."""

    variables: tuple[str, ...]
    meaning: str = ""


class Circuit:
    """The edges of a transformer with `n_layers` layers of `n_heads` heads that carry a program.

    Iterating yields the circuit's edges in a fixed order (by receiver, slot, sender); `edge in circuit` takes an
    `Edge` or its name. `universe` is every edge the transformer has, `negatives` those outside the circuit.

    >>> circuit = Circuit(1, 1, [Edge.parse("embed->m0"), Edge.parse("m0->logits")])
    >>> "embed->m0" in circuit, len(circuit), len(circuit.universe), len(circuit.negatives)
    (True, 2, 13, 11)
    """

    def __init__(
        self,
        n_layers: int,
        n_heads: int,
        edges: Iterable[Edge | str],
        roles: Mapping[Node, Role] | None = None,
        *,
        case: str | None = None,
        granularity: Granularity = "qkv-edge",
    ) -> None:
        if granularity not in ("qkv-edge", "edge"):
            raise SettingError(f"granularity {granularity!r} is not one of qkv-edge, edge")
        if n_layers < 1 or n_heads < 1:
            raise SettingError(f"a circuit needs at least one layer and one head, got {n_layers} and {n_heads}")
        self.n_layers = n_layers
        self.n_heads = n_heads
        self.case = case
        self.granularity: Granularity = granularity
        parsed = [Edge.parse(edge) if isinstance(edge, str) else edge for edge in edges]
        self.edges = tuple(sorted(parsed))
        self._by_edge = {edge: edge for edge in self.edges}
        if len(self._by_edge) < len(parsed):
            twice = next(edge for edge in self._by_edge if parsed.count(edge) > 1)
            raise SettingError(f"edge {twice} is listed twice; an edge belongs to a circuit once")
        known = set(self.universe)
        for edge in self.edges:
            if edge not in known:
                raise SettingError(
                    f"edge {edge} does not exist in a transformer with {n_layers} layers of {n_heads} heads "
                    f"at granularity {granularity}"
                )
        self.roles = dict(sorted((roles or {}).items()))

    # -- what belongs to it ------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Edge]:
        return iter(self.edges)

    def __len__(self) -> int:
        return len(self.edges)

    def __contains__(self, edge: object) -> bool:
        if isinstance(edge, str):
            edge = Edge.parse(edge)
        return edge in self._by_edge

    def __getitem__(self, edge: Edge | str) -> Edge:
        """The circuit's own copy of an edge, with its kind and effect."""
        key = Edge.parse(edge) if isinstance(edge, str) else edge
        try:
            return self._by_edge[key]
        except KeyError:
            raise UnknownNameError(f"edge {key} is not in this circuit; it has {len(self)} edges") from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Circuit) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.n_layers, self.n_heads, self.granularity, self.edges))

    def has_edges_of(self, other: "Circuit") -> bool:
        """Whether the other circuit has the same edges in a transformer of the same size, whatever is known of them."""
        return (self.universe, self.edges) == (other.universe, other.edges)

    def of_kind(self, *kinds: Kind) -> list[Edge]:
        """The circuit's edges of the given kinds, in order."""
        for kind in kinds:
            if kind not in KINDS:
                raise SettingError(f"kind {kind!r} is not one of {', '.join(KINDS)}")
        return [edge for edge in self.edges if edge.kind in kinds]

    @cached_property
    def universe(self) -> tuple[Edge, ...]:
        """Every edge a transformer of this size has, in order."""
        return tuple(all_edges(self.n_layers, self.n_heads, granularity=self.granularity))

    @property
    def negatives(self) -> list[Edge]:
        """The edges of the universe outside the circuit, in order."""
        return [edge for edge in self.universe if edge not in self._by_edge]

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Nodes that an edge of the circuit touches, in order."""
        return tuple(sorted({node for edge in self.edges for node in (edge.source, edge.target)}))

    @property
    def node_universe(self) -> tuple[Node, ...]:
        """Every node a transformer of this size has, in order."""
        return tuple(all_nodes(self.n_layers, self.n_heads))

    def with_effects(self, effects: Mapping[Edge, float]) -> "Circuit":
        """The same circuit with the measured effect of some edges."""
        edges = [replace(edge, effect=round(effects[edge], 6)) if edge in effects else edge for edge in self.edges]
        return Circuit(self.n_layers, self.n_heads, edges, self.roles, case=self.case, granularity=self.granularity)

    # -- other granularities -----------------------------------------------------------------------------------

    def to_head_level(self) -> "Circuit":
        """The same circuit with the q, k and v edges of a head merged into one.

        A merged edge is `varying` if one of its parts is, else `inert` if one is, else `constant`; its effect is
        not known (the parts' effects do not add up to it) unless it has one part only.
        """
        parts: dict[Edge, list[Edge]] = {}
        for edge in self.edges:
            parts.setdefault(edge.without_slot, []).append(edge)
        merged = []
        for whole, edges in parts.items():
            kinds = {edge.kind for edge in edges}
            kind = next((kind for kind in ("varying", "inert", "constant") if kind in kinds), None)
            effect = edges[0].effect if len(edges) == 1 else None
            merged.append(replace(whole, kind=cast(Kind | None, kind), effect=effect))
        return Circuit(self.n_layers, self.n_heads, merged, self.roles, case=self.case, granularity="edge")

    def to_node_level(self) -> frozenset[Node]:
        """The nodes that carry something: those with a varying or inert edge, or any edge if kinds are unknown."""
        touched = [edge for edge in self.edges if edge.kind != "constant"]
        return frozenset(node for edge in touched for node in (edge.source, edge.target))

    # -- JSON --------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The content of `circuit.json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "case": self.case,
            "granularity": self.granularity,
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "nodes": [
                {"name": node.name, "variables": list(role.variables), "meaning": role.meaning}
                for node, role in self.roles.items()
            ],
            "edges": [
                {
                    "source": edge.source.name,
                    "target": edge.target.name,
                    "slot": edge.slot,
                    "kind": edge.kind,
                    "effect": edge.effect,
                }
                for edge in self.edges
            ],
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Circuit":
        """The circuit `to_dict` wrote; raises `CheckpointError` for anything else."""
        try:
            if data["schema_version"] != SCHEMA_VERSION:
                raise CheckpointError(
                    f"circuit has schema_version {data['schema_version']!r}; this package reads {SCHEMA_VERSION}"
                )
            roles = {Node(item["name"]): Role(tuple(item["variables"]), item["meaning"]) for item in data["nodes"]}
            edges = [
                Edge(Node(item["source"]), Node(item["target"]), item["slot"], item["kind"], item["effect"])
                for item in data["edges"]
            ]
            return cls(
                data["n_layers"],
                data["n_heads"],
                edges,
                roles,
                case=data["case"],
                granularity=data["granularity"],
            )
        except (KeyError, TypeError, SettingError) as error:
            if isinstance(error, KeyError) and not isinstance(error, UnknownNameError):
                raise CheckpointError(f"circuit lacks the key {error}; write circuits with Circuit.to_json") from error
            raise CheckpointError(f"not a circuit: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> "Circuit":
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise CheckpointError(f"not a circuit: the text is not JSON ({error})") from error
        if not isinstance(data, dict):
            raise CheckpointError(f"not a circuit: expected a JSON object, found {type(data).__name__}")
        return cls.from_dict(data)

    # -- for people --------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(self.of_kind(kind))} {kind}" for kind in KINDS if self.of_kind(kind))
        name = f"{self.case}: " if self.case else ""
        return f"<Circuit {name}{len(self)} of {len(self.universe)} edges{f' ({counts})' if counts else ''}>"

    def __str__(self) -> str:
        """A table, one row an edge: sender, receiver slot, kind, effect, and what the sender carries."""
        rows = [("edge", "kind", "effect", "carries")]
        for edge in self.edges:
            role = self.roles.get(edge.source)
            effect = "" if edge.effect is None else f"{edge.effect:.3f}"
            rows.append((str(edge), edge.kind or "", effect, ", ".join(role.variables) if role else ""))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join(lines)

    def to_svg(self) -> str:
        """A drawing of the circuit: layers upwards, the circuit's nodes filled, one line an edge."""
        from interpbench_hub.drawing import circuit_svg

        return circuit_svg(self)

    def _repr_svg_(self) -> str:
        return self.to_svg()


def all_nodes(n_layers: int, n_heads: int) -> list[Node]:
    """Every node of a transformer, in the order of a forward pass."""
    nodes = [EMBED, POS_EMBED]
    for layer in range(n_layers):
        nodes += [Node.of_head(layer, head) for head in range(n_heads)] + [Node.of_mlp(layer)]
    return [*nodes, LOGITS]


def all_edges(n_layers: int, n_heads: int, *, granularity: Granularity = "qkv-edge") -> list[Edge]:
    """Every edge of a transformer with attention and MLP in series, ordered by receiver, slot and sender."""
    nodes = all_nodes(n_layers, n_heads)
    edges = []
    for target in nodes[2:]:
        slots: tuple[Slot | None, ...] = SLOTS if target.is_head and granularity == "qkv-edge" else (None,)
        senders = [source for source in nodes if _can_feed(source, target)]
        edges += [Edge(source, target, slot) for slot in slots for source in senders]
    return edges
