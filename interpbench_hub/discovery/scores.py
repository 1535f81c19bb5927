"""Scores of edges: what every discovery method returns, and the files they are exchanged in.

Owns how scores of one granularity become those of another, and JSON. What is scored, and what other tools call it, is
in `naming`. Knows nothing of torch, of models or of circuits' edges.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from interpbench_hub.circuit import EMBED, LOGITS, POS_EMBED, Edge, Node
from interpbench_hub.discovery.naming import GRANULARITIES as GRANULARITIES
from interpbench_hub.discovery.naming import NAMINGS, Item, Naming, Universe, count_known, items_of_names, name_table
from interpbench_hub.discovery.naming import ScoreGranularity as ScoreGranularity
from interpbench_hub.discovery.naming import granularity_of as granularity_of
from interpbench_hub.discovery.naming import scored_items as scored_items
from interpbench_hub.errors import SettingError, unknown_name

SCORES_VERSION = 1
"""Version of the JSON of scores."""


class EdgeScores(Mapping[Item, float]):
    """A score for every edge of a universe (at granularity `node`, every node that sends): higher is more important.

    A mapping from edges, or their names, to floats in the order of the universe; it never changes. Infinite scores
    are allowed, NaN is not. Signed scores, as attribution methods give them, are ranked as they are: take `abs(scores)`
    where size is meant.

    >>> from interpbench_hub import Circuit
    >>> scores = EdgeScores.of(Circuit(1, 1, []), {"m0->logits": 2}, missing=0)
    >>> scores["m0->logits"], len(scores), scores.top(1) == {Edge.parse("m0->logits")}
    (2.0, 13, True)
    """

    def __init__(self, items: Sequence[Item], array: Sequence[float] | np.ndarray) -> None:
        """Scores of edges, or of nodes, in the order of a universe; `of` is the door that checks names."""
        values = np.array(array, dtype=np.float64)
        if values.shape != (len(items),) or not len(items):
            raise SettingError(f"{len(items)} edges or nodes have scores of shape {values.shape}; each has one score")
        if np.isnan(values).any():
            nan = [item for item, is_nan in zip(items, np.isnan(values), strict=True) if is_nan]
            raise SettingError(f"NaN is no score; it is that of {_listing(nan)}")
        values.setflags(write=False)
        self._array = values
        self._items = tuple(items)
        self._places = {item: place for place, item in enumerate(self._items)}
        if len(self._places) < len(self._items):
            raise SettingError("an edge is listed twice; each has one score")

    @classmethod
    def of(
        cls,
        universe: Universe,
        scores: Mapping[Edge, float] | Mapping[Node, float] | Mapping[str, float] | Mapping[Any, float],
        *,
        granularity: ScoreGranularity | None = None,
        missing: float | None = None,
    ) -> "EdgeScores":
        """Scores by edges or their names (nodes at granularity `node`).

        Args:
            universe: The edges that need a score.
            scores: Their scores, in any order.
            granularity: At which granularity the universe is scored; as it is if not given.
            missing: Score of what has none; without it every edge must have one.

        Raises:
            SettingError: An edge has no score, or NaN, or does not belong to the universe.
            UnknownNameError: A key is no name of an edge.
        """
        items = scored_items(universe, granularity)
        parse = Node if granularity == "node" else Edge.parse
        given: dict[Item, float] = {}
        for key, score in scores.items():
            item = parse(key) if isinstance(key, str) else key
            if item in given:
                raise SettingError(f"{item} has two scores; each has one")
            given[item] = score
        unknown = given.keys() - set(items)
        if unknown:
            raise SettingError(
                f"scores are given for {_listing(unknown)}, not in the universe of {len(items)} "
                f"at granularity {granularity or granularity_of(universe)}"
            )
        lacking = [item for item in items if item not in given]
        if lacking and missing is None:
            raise SettingError(f"no score for {_listing(lacking)}; every one of the {len(items)} needs one")
        return cls(items, [_number(item, given.get(item, missing)) for item in items])

    @classmethod
    def from_nodes(cls, universe: Universe, node_scores: Mapping[Any, float]) -> "EdgeScores":
        """Scores of edges from scores of nodes: an edge gets the smaller of the scores of its two ends.

        The embeddings and the logits count as infinitely important, whatever score they are given: everything starts
        and ends there. An edge between two of them, whose smaller end is infinite, gets the largest score of any other
        node, so that scores stay finite.

        Raises `SettingError` for a head or an MLP without a score.
        """
        ends = (EMBED, POS_EMBED, LOGITS)
        given = {Node(node) if isinstance(node, str) else node: float(score) for node, score in node_scores.items()}
        edges = cast(tuple[Edge, ...], scored_items(universe))
        inner = sorted({node for edge in edges for node in (edge.source, edge.target)} - set(ends))
        lacking = [node for node in inner if node not in given]
        if lacking:
            raise SettingError(f"no score for {_listing(lacking)}; every head and MLP needs one")
        unknown = given.keys() - set(inner) - set(ends)
        if unknown:
            raise SettingError(f"scores are given for {_listing(unknown)}, nodes that no edge of the universe touches")
        most = max((given[node] for node in inner), default=0.0)
        known = {node: given[node] for node in inner} | dict.fromkeys(ends, math.inf)
        lifted = [min(known[edge.source], known[edge.target]) for edge in edges]
        both_ends = [edge.source in ends and edge.target in ends for edge in edges]
        return cls(edges, [most if both else score for score, both in zip(lifted, both_ends, strict=True)])

    # -- a mapping ---------------------------------------------------------------------------------------------------

    def __getitem__(self, item: Item | str) -> float:
        if isinstance(item, str):
            item = Node(item) if self.granularity == "node" else Edge.parse(item)
        if item not in self._places:
            raise unknown_name(self._what, str(item), map(str, self._items))
        return float(self._array[self._places[item]])

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, item: object) -> bool:
        return item in self._places or (isinstance(item, str) and item in map(str, self._items))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EdgeScores):
            return NotImplemented
        return self._items == other._items and np.array_equal(self._array, other._array)

    def __hash__(self) -> int:
        return hash((self._items, self._array.tobytes()))

    def __abs__(self) -> "EdgeScores":
        return EdgeScores(self._items, np.abs(self._array))

    def __repr__(self) -> str:
        low, high = self._array.min(), self._array.max()
        return f"<EdgeScores of {len(self)} {self._what}s ({self.granularity}), {low:.3g} to {high:.3g}>"

    @property
    def array(self) -> np.ndarray:
        """The scores [edge], float64, in the order of the universe; cannot be written to."""
        return self._array

    @cached_property
    def granularity(self) -> ScoreGranularity:
        """`qkv-edge`, `edge` or `node`."""
        if isinstance(self._items[0], Node):
            return "node"
        return granularity_of(cast(tuple[Edge, ...], self._items))

    @property
    def edges(self) -> tuple[Edge, ...]:
        """The edges in the order of the universe; scores of nodes have none and raise `SettingError`."""
        if self.granularity == "node":
            raise SettingError("scores of nodes have no edges; EdgeScores.from_nodes makes scores of edges of them")
        return cast(tuple[Edge, ...], self._items)

    @property
    def _what(self) -> str:
        return "node" if self.granularity == "node" else "edge"

    # -- what follows from them --------------------------------------------------------------------------------------

    def top(self, k: int) -> set[Edge]:
        """The `k` edges (at node level, nodes) with the highest scores; of equals, those first in the universe."""
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 0 <= k <= len(self):
            raise SettingError(f"k is {k!r}; it is a whole number from 0 to {len(self)}, the number of scores")
        order = np.argsort(-self._array, kind="stable")[:k]
        return cast(set[Edge], {self._items[place] for place in order})

    def to_head_level(self) -> "EdgeScores":
        """Scores of edges into heads as wholes: the largest of those into its q, k and v."""
        largest: dict[Edge, float] = {}
        for edge in self.edges:
            largest[edge.without_slot] = max(self[edge], largest.get(edge.without_slot, -math.inf))
        return EdgeScores(tuple(largest), list(largest.values()))

    # -- names and files ---------------------------------------------------------------------------------------------

    def by_name(self, naming: Naming = "interpbench") -> dict[str, float]:
        """The scores under the names of a tool; a name that stands for both embeddings says the larger score."""
        return {name: max(self[item] for item in items) for name, items in name_table(naming, self._items).items()}

    @classmethod
    def from_names(
        cls,
        universe: Universe,
        scores: Mapping[str, float],
        naming: Naming,
        *,
        granularity: ScoreGranularity | None = None,
        missing: float | None = None,
    ) -> "EdgeScores":
        """Scores from the names of a tool; a name that stands for both embeddings gives its score to both.

        Raises `UnknownNameError` for a name that the naming does not have for this universe, with the nearest it has;
        otherwise as `of`, whose options it takes.
        """
        given: dict[Item, float] = {}
        for name, items in items_of_names(naming, scores, scored_items(universe, granularity)).items():
            for item in items:
                if item in given:
                    raise SettingError(f"{item} has two scores, one of them under the name {name!r}; each has one")
                given[item] = scores[name]
        return cls.of(universe, given, granularity=granularity, missing=missing)

    def to_dict(self, naming: Naming = "interpbench") -> dict[str, Any]:
        """The content of a file of scores; infinite ones are text, as JSON has no such numbers."""
        named = self.by_name(naming)
        return {
            "schema_version": SCORES_VERSION,
            "granularity": self.granularity,
            "naming": naming,
            "scores": {name: score if math.isfinite(score) else str(score) for name, score in named.items()},
        }

    def to_json(self, naming: Naming = "interpbench") -> str:
        return json.dumps(self.to_dict(naming), indent=1, allow_nan=False) + "\n"

    def write(self, path: str | Path, naming: Naming = "interpbench") -> Path:
        """Writes a file that `read_scores` reads; returns its path."""
        path = Path(path)
        path.write_text(self.to_json(naming), encoding="utf-8")
        return path


def _listing(items: Iterable[Item]) -> str:
    """A few of them by name, and how many more there are."""
    names = [str(item) for item in sorted(items, key=str)]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _number(item: object, score: object) -> float:
    try:
        if isinstance(score, bool):
            raise TypeError
        return float(cast(float, score))
    except (TypeError, ValueError) as error:
        raise SettingError(f"the score of {item} is {score!r}; a score is a number") from error


# -- reading files of any tool -----------------------------------------------------------------------------------------


def read_scores(
    path: str | Path,
    universe: Universe,
    *,
    granularity: ScoreGranularity | None = None,
    missing: float | None = None,
) -> EdgeScores:
    """Scores from a JSON file, in our names or those of EAP-IG and MIB, ACDC or auto-circuit; found out by itself.

    The file is what `EdgeScores.write` writes, what EAP-IG's `Graph.to_json` writes, or an object from names to scores.
    Scores keep their sign. Nothing is ever unpickled.

    Args:
        path: The file.
        universe: The universe of the model that was scored, or its circuit.
        granularity: What the file scores; the one that fits its names best if not given.
        missing: Score of edges that the file leaves out; without it every edge must be there.

    Raises:
        SettingError: The file is no JSON of scores, or an edge has no score, or NaN.
        UnknownNameError: A name is not that of an edge of the universe; the message has the nearest.
    """
    path = Path(path)
    data = _read_json(path)
    if "schema_version" in data and data["schema_version"] != SCORES_VERSION:
        raise SettingError(
            f"{path}: schema_version is {data['schema_version']!r}; this version of the package reads {SCORES_VERSION}"
        )
    named = _named_scores(data, path, nodes=granularity == "node")
    fits: list[tuple[int, Naming, ScoreGranularity]] = []
    levels: tuple[ScoreGranularity, ...] = (granularity,) if granularity else GRANULARITIES
    for level in levels:
        if (level, granularity_of(universe)) != ("qkv-edge", "edge"):
            items = scored_items(universe, level)
            for naming in NAMINGS:
                fits.append((count_known(naming, named, items), naming, level))
    # Of equals the first: names that several have (m0->logits) say nothing.
    known, naming, level = max(fits, key=lambda fit: fit[0])
    if not known:
        raise SettingError(
            f"{path}: no name in it, such as {next(iter(named))!r}, is that of an edge of this universe in any of "
            f"{', '.join(NAMINGS)}"
        )
    return EdgeScores.from_names(universe, named, naming, granularity=level, missing=missing)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingError(f"{path}: cannot be read ({error.strerror or error}); give a JSON file of scores") from error
    # The first bytes of a zip, which is what torch.save writes, and of a bare pickle.
    if content.startswith((b"PK\x03\x04", b"\x80")):
        raise SettingError(
            f"{path}: this is a pickle or a torch file, which may run code when it is read, so none is ever read here; "
            "export the scores as JSON (EAP-IG: Graph.to_json)"
        )
    try:
        data = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise SettingError(f"{path}: not JSON ({error}); give a JSON file of scores") from error
    if not isinstance(data, dict) or not data:
        raise SettingError(
            f"{path}: holds {type(data).__name__}; a file of scores holds an object from names to scores"
        )
    return data


def _named_scores(data: dict[str, Any], path: Path, *, nodes: bool) -> dict[str, float]:
    """Names and scores wherever the file keeps them."""
    part = data
    for key in ("scores", "nodes" if nodes else "edges"):
        if isinstance(data.get(key), dict):
            part = data[key]
            break
    named: dict[str, float] = {}
    for name, score in part.items():
        if isinstance(score, dict):
            # EAP-IG: {"score": 0.1, "in_graph": true}; its logits are a node without a score of their own.
            if nodes and name == "logits":
                continue
            score = score.get("score")
        named[name] = _number(f"{name} in {path}", score)
    if not named:
        raise SettingError(f"{path}: holds no scores")
    return named
