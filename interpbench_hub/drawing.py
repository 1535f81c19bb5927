"""Drawing a circuit as one self-contained SVG: no scripts, no style sheet, no identifiers, so that many fit on a page.

The picture reads upwards: embeddings at the bottom, a row of heads and the MLP above it for each layer, logits on top.
Edges that pass rows of other nodes run in lanes between the columns of heads.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from html import escape

from interpbench_hub.circuit import EMBED, LOGITS, POS_EMBED, Circuit, Edge, Node

_PITCH, _WIDE, _TALL = 138.0, 100.0, 46.0
"""Distance of the columns of heads; size of a circuit node."""
_SMALL_WIDE, _SMALL_TALL = 62.0, 20.0
"""Size of a node outside the circuit."""
_CHANNEL, _SMALL_CHANNEL = 50.0, 26.0
"""Height between two rows, and where neither row has a circuit node."""
_LEFT, _MARGIN, _HEAD = 74.0, 30.0, 62.0
"""Room for the layers' names, at the right and bottom, and for the heading."""
_PORT = 26.0
"""Distance of a head's q and v ports from the k port."""

_INK, _SOFT, _FAINT = "#1f2a44", "#66708a", "#a3abbd"
_CARD, _BAND, _LINE = "#ffffff", "#f5f7fb", "#dde2ec"
_COLOURS = {"q": "#2f6fe0", "k": "#dd7a16", "v": "#219653", None: "#7b54c4"}
_SLOT_NAMES = {"q": "query input", "k": "key input", "v": "value input", None: "input of an MLP or of the logits"}
_STROKES = {
    "varying": 'stroke-width="2.2"',
    "constant": 'stroke-width="1.8" stroke-dasharray="0.1 4.6"',
    "inert": 'stroke-width="1.8" stroke-dasharray="7 5" stroke-opacity="0.8"',
    None: 'stroke-width="1.6"',
}
_KIND_NAMES = {
    "varying": "varying: resampling it can change the output",
    "constant": "constant: the same for all inputs",
    "inert": "inert: varies without consequence",
    None: "kind not known",
}
_FONT = "font-family=\"ui-sans-serif, system-ui, 'Segoe UI', Helvetica, Arial, sans-serif\""
# What XML cannot hold even escaped.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def circuit_svg(circuit: Circuit) -> str:
    """The SVG text of a circuit; the same circuit gives the same text.

    Circuit nodes are filled and carry their variables, all others are pale. An edge's colour is the slot it feeds, its
    line the kind; constant edges, which no method can see, are grey dots. Hovering shows names, kinds, effects and
    meanings.

    >>> circuit_svg(Circuit(1, 1, ["embed->m0", "m0->logits"])).startswith("<svg ")
    True
    """
    return _Drawing(circuit).text


@dataclass
class _Track:
    """Part of a lane that edges of one sender share, where they also look alike."""

    key: tuple[Node, str, str | None]
    """Sender, colour and kind."""
    low: int
    high: int
    place: int = 0


class _Drawing:
    def __init__(self, circuit: Circuit) -> None:
        self.circuit = circuit
        # Rows from the bottom: embeddings, then heads and MLP of each layer, then the logits.
        self.rows: list[list[Node]] = [[EMBED, POS_EMBED]]
        for layer in range(circuit.n_layers):
            self.rows.append([Node.of_head(layer, head) for head in range(circuit.n_heads)])
            self.rows.append([Node.of_mlp(layer)])
        self.rows.append([LOGITS])
        self.row_of = {node: row for row, nodes in enumerate(self.rows) for node in nodes}
        self.inside = set(circuit.nodes) | set(circuit.roles)
        self.centre = _LEFT + max(circuit.n_heads, 3) * _PITCH / 2
        self.width = self.centre + max(circuit.n_heads, 3) * _PITCH / 2 + _MARGIN
        self._place_rows()

    def _place_rows(self) -> None:
        busy = [any(node in self.inside for node in nodes) for nodes in self.rows]
        self.tall = [_TALL if is_busy else _SMALL_TALL for is_busy in busy]
        self.middle = [0.0] * len(self.rows)
        y = _HEAD
        for row in reversed(range(len(self.rows))):
            self.middle[row] = y + self.tall[row] / 2
            y += self.tall[row]
            if row:
                y += _CHANNEL if busy[row] or busy[row - 1] else _SMALL_CHANNEL
        self.bottom = y

    def x(self, node: Node) -> float:
        if node in (EMBED, POS_EMBED):
            return self.centre + (-_PITCH / 2 if node == EMBED else _PITCH / 2)
        if node.head is None:
            return self.centre
        return self.centre + (node.head - (self.circuit.n_heads - 1) / 2) * _PITCH

    def top(self, row: int) -> float:
        return self.middle[row] - self.tall[row] / 2

    def base(self, row: int) -> float:
        return self.middle[row] + self.tall[row] / 2

    # -- lanes ---------------------------------------------------------------------------------------------------------

    @cached_property
    def lanes(self) -> dict[Edge, float]:
        """x of the lane of each edge that passes rows of other nodes."""
        tracks: dict[int, list[_Track]] = {gap: [] for gap in range(self.circuit.n_heads + 1)}
        chosen: dict[Edge, tuple[int, _Track]] = {}
        order = {"varying": 0, None: 1, "inert": 2, "constant": 3}
        for edge in sorted(self.circuit, key=lambda edge: (order[edge.kind], edge)):
            low, high = self.row_of[edge.source], self.row_of[edge.target]
            if high - low < 2:
                continue
            gap = min(self._free_gaps(low, high), key=lambda gap: self._detour(edge, gap, low, high, tracks[gap]))
            track = next((track for track in tracks[gap] if track.key == _look(edge)), None)
            if track is None:
                track = _Track(_look(edge), low, high)
                tracks[gap].append(track)
            track.high = max(track.high, high)
            chosen[edge] = (gap, track)
        for shared in tracks.values():
            _spread(shared)
        counts = {gap: max((track.place for track in shared), default=0) + 1 for gap, shared in tracks.items()}
        return {
            edge: self._gap_x(gap) + (track.place - (counts[gap] - 1) / 2) * min(7.0, 34 / counts[gap])
            for edge, (gap, track) in chosen.items()
        }

    def _gap_x(self, gap: int) -> float:
        return self.centre + (gap - self.circuit.n_heads / 2) * _PITCH

    def _free_gaps(self, low: int, high: int) -> list[int]:
        """Gaps between columns that no MLP between two rows stands in."""
        passes_mlp = any(self.rows[row][0].is_mlp for row in range(low + 1, high))
        return [gap for gap in range(self.circuit.n_heads + 1) if not (passes_mlp and self._gap_x(gap) == self.centre)]

    def _detour(self, edge: Edge, gap: int, low: int, high: int, tracks: list[_Track]) -> tuple[float, int]:
        """How far an edge bends to use a gap; crowded gaps seem farther."""
        x = self._gap_x(gap)
        distance = abs(x - self.x(edge.source)) + abs(x - self.x(edge.target))
        crowd = sum(track.key != _look(edge) and track.low < high and low < track.high for track in tracks)
        return (distance + 30 * crowd, gap)

    # -- text ----------------------------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        body = [*self._bands(), *self._nodes(inside=False), *self._edges(), *self._nodes(inside=True), *self._ports()]
        legend, height = self._legend(self.bottom + 34)
        name = f"circuit of {self.circuit.case}" if self.circuit.case else "circuit"
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(self.width)}" height="{_n(height)}" '
            f'viewBox="0 0 {_n(self.width)} {_n(height)}" role="img" aria-label="{_text(name)}" {_FONT}>',
            # A card of its own keeps the colours readable on light and dark pages.
            f'<rect x="0.5" y="0.5" width="{_n(self.width - 1)}" height="{_n(height - 1)}" rx="10" fill="{_CARD}" '
            f'stroke="{_LINE}"/>',
            *self._heading(),
            *body,
            *legend,
            "</svg>",
        ]
        return "\n".join(lines) + "\n"

    def _heading(self) -> Iterator[str]:
        circuit = self.circuit
        counts = [(len(circuit.of_kind(kind)), kind) for kind in ("varying", "constant", "inert")]
        kinds = ", ".join(f"{count} {kind}" for count, kind in counts if count)
        size = f"{len(circuit)} of {len(circuit.universe)} edges" + (f": {kinds}" if kinds else "")
        yield _label(20, 27, circuit.case or "circuit", size=15, weight=600, fill=_INK, anchor="start")
        yield _label(20, 45, size, size=11, fill=_SOFT, anchor="start")

    def _bands(self) -> Iterator[str]:
        for layer in range(self.circuit.n_layers):
            heads, mlp = 2 * layer + 1, 2 * layer + 2
            y, height = self.top(mlp) - 9, self.base(heads) - self.top(mlp) + 18
            yield (
                f'<rect x="14" y="{_n(y)}" width="{_n(self.width - 28)}" height="{_n(height)}" rx="8" fill="{_BAND}"/>'
            )
            yield _label(24, y + height / 2 + 4, f"layer {layer}", size=11, fill=_SOFT, anchor="start")

    def _nodes(self, *, inside: bool) -> Iterator[str]:
        for node, row in self.row_of.items():
            if (node in self.inside) != inside:
                continue
            x, y = self.x(node), self.middle[row]
            wide, tall = (_WIDE, _TALL) if inside else (_SMALL_WIDE, _SMALL_TALL)
            fill = f'fill="{_INK}"' if inside else f'fill="{_CARD}" stroke="{_LINE}"'
            yield f'<g data-node="{node}"><title>{_text(self._node_title(node))}</title>'
            yield (
                f'<rect x="{_n(x - wide / 2)}" y="{_n(y - tall / 2)}" width="{_n(wide)}" height="{_n(tall)}" '
                f'rx="{7 if inside else 6}" {fill}/>'
            )
            variables = self.circuit.roles[node].variables if node in self.circuit.roles else ()
            if inside and variables:
                yield _label(x, y - 5, str(node), size=12.5, weight=600, fill="#ffffff")
                yield _label(x, y + 8.5, _short(variables, 17), size=9.5, fill="#c9d2e6")
            else:
                size, colour = (12.5, "#ffffff") if inside else (9.5, _FAINT)
                yield _label(x, y + size / 3, str(node), size=size, weight=600 if inside else 400, fill=colour)
            yield "</g>"

    def _node_title(self, node: Node) -> str:
        role = self.circuit.roles.get(node)
        if node not in self.inside:
            return f"{node}: not in the circuit"
        lines = [str(node)]
        if role and role.variables:
            lines[0] += f": {', '.join(role.variables)}"
        if role and role.meaning:
            lines.append(role.meaning)
        return "\n".join(lines)

    def _edges(self) -> Iterator[str]:
        # Faint lines first, so that what varies lies on top.
        for kind in ("constant", "inert", None, "varying"):
            for edge in (edge for edge in self.circuit if edge.kind == kind):
                effect = "" if edge.effect is None else f"\neffect: {edge.effect:.1%} of outputs change"
                title = f"{edge}\n{_KIND_NAMES[kind]}{effect}"
                yield (
                    f'<g data-edge="{_text(str(edge))}"><title>{_text(title)}</title>'
                    f'<path d="{self._path(edge)}" fill="none" stroke="{_colour(edge)}" stroke-linecap="round" '
                    f"{_STROKES[kind]}/></g>"
                )

    def _port_x(self, target: Node, slot: str | None) -> float:
        return self.x(target) + {"q": -_PORT, "v": _PORT}.get(slot or "", 0.0)

    def _path(self, edge: Edge) -> str:
        low, high = self.row_of[edge.source], self.row_of[edge.target]
        start = (self.x(edge.source), self.middle[low] - _TALL / 2)
        stop = (self._port_x(edge.target, edge.slot), self.base(high) + 3)
        if edge not in self.lanes:
            return f"M{_p(*start)} {_bend(start, stop)}"
        lane = self.lanes[edge]
        enter, leave = (lane, self.base(low + 1)), (lane, self.top(high - 1))
        return f"M{_p(*start)} {_bend(start, enter)} V{_n(leave[1])} {_bend(leave, stop)}"

    def _ports(self) -> Iterator[str]:
        for target, slot in dict.fromkeys((edge.target, edge.slot) for edge in self.circuit):
            row = self.row_of[target]
            x, y = self._port_x(target, slot), self.base(row)
            colour = _COLOURS[slot]
            if slot is None:
                yield f'<circle cx="{_n(x)}" cy="{_n(y)}" r="4.5" fill="{colour}" stroke="{_CARD}" stroke-width="1.2"/>'
            else:
                yield f'<circle cx="{_n(x)}" cy="{_n(y)}" r="7" fill="{colour}" stroke="{_CARD}" stroke-width="1.2"/>'
                yield _label(x, y + 3, slot, size=9.5, weight=600, fill="#ffffff")

    def _legend(self, y: float) -> tuple[list[str], float]:
        """The lines of the legend, what occurs only, and the height of the picture."""
        items = []
        for kind in ("varying", "constant", "inert", None):
            if any(edge.kind == kind for edge in self.circuit):
                colour = _FAINT if kind == "constant" else _SOFT
                line = f'<path d="M0 0H28" stroke="{colour}" stroke-linecap="round" {_STROKES[kind]}/>'
                items.append((line, 36.0, _KIND_NAMES[kind]))
        for slot in ("q", "k", "v", None):
            if any(edge.slot == slot for edge in self.circuit):
                name = _SLOT_NAMES[slot]
                if slot is None and any(edge.target.is_head for edge in self.circuit if edge.slot is None):
                    name = "input of a head, an MLP or the logits"
                dot = f'<circle cx="6" cy="0" r="5" fill="{_COLOURS[slot]}"/>'
                items.append((dot, 18.0, name))
        lines, x = [], 20.0
        for drawing, indent, name in items:
            wide = indent + 5.6 * len(name) + 22
            if x > 20 and x + wide > self.width:
                x, y = 20.0, y + 20
            lines.append(f'<g transform="translate({_n(x)} {_n(y)})">{drawing}')
            lines.append(_label(indent, 3.8, name, size=10.5, fill=_SOFT, anchor="start") + "</g>")
            x += wide
        return lines, y + 22


def _colour(edge: Edge) -> str:
    return _FAINT if edge.kind == "constant" else _COLOURS[edge.slot]


def _look(edge: Edge) -> tuple[Node, str, str | None]:
    return (edge.source, _colour(edge), edge.kind)


def _spread(tracks: list[_Track]) -> None:
    """Give tracks that lie side by side different places, as few as will do."""
    done: list[_Track] = []
    for track in sorted(tracks, key=lambda track: (track.low, track.high)):
        taken = {other.place for other in done if other.high > track.low}
        track.place = next(place for place in range(len(tracks)) if place not in taken)
        done.append(track)


def _bend(start: tuple[float, float], stop: tuple[float, float]) -> str:
    """A curve that leaves and arrives upright."""
    half = (start[1] + stop[1]) / 2
    return f"C{_p(start[0], half)} {_p(stop[0], half)} {_p(*stop)}"


def _n(number: float) -> str:
    return f"{round(number, 1):g}"


def _p(x: float, y: float) -> str:
    return f"{_n(x)} {_n(y)}"


def _text(text: str) -> str:
    return escape(_UNPRINTABLE.sub("\ufffd", text))


def _short(names: Iterable[str], limit: int) -> str:
    """The first names that fit, and how many more there are."""
    names = [" ".join(name.split()) for name in names]
    for count in range(len(names), 0, -1):
        more = f" +{len(names) - count}" if count < len(names) else ""
        text = ", ".join(names[:count]) + more
        if len(text) <= limit:
            return text
    more = f" +{len(names) - 1}" if len(names) > 1 else ""
    return names[0][: limit - 1 - len(more)] + "…" + more


def _label(x: float, y: float, text: str, *, size: float, fill: str, weight: int = 400, anchor: str = "middle") -> str:
    bold = f' font-weight="{weight}"' if weight != 400 else ""
    place = f'x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}"{bold} fill="{fill}" text-anchor="{anchor}"'
    return f"<text {place}>{_text(text)}</text>"
