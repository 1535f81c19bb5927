"""Charts of the study as small SVGs: a row a method, dots for models, bars for medians or intervals.

Written without a plotting library, as the drawings of circuits are: the same figures give the same bytes, no date is in
them, and fonts are the reader's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

PALETTE = ("#2f6fe0", "#dd7a16", "#219653", "#7b54c4")
_INK, _SOFT, _LINE = "#1f2a44", "#66708a", "#dde2ec"
_FONT = "font-family=\"ui-sans-serif, system-ui, 'Segoe UI', Helvetica, Arial, sans-serif\""
_WIDTH, _LEFT, _RIGHT, _TOP, _LANE, _GAP = 760, 190, 24, 74, 15, 9


@dataclass(frozen=True)
class Series:
    """Some values of one row, in one colour."""

    name: str
    """What the legend calls it; series of one name have one colour in all rows."""
    values: Sequence[float] = ()
    """A pale dot each."""
    mark: float | None = None
    """A filled diamond: the median, say."""
    interval: tuple[float, float] | None = None
    """A bar behind the diamond."""
    reference: float | None = None
    """A hollow diamond: somebody else's figure."""


@dataclass(frozen=True)
class Axis:
    """The horizontal axis."""

    label: str
    least: float
    most: float
    ticks: Sequence[float]
    is_log: bool = False

    def place(self, value: float) -> float:
        """Pixels from the left."""
        assert self.least <= value <= self.most, f"{value} is not on the axis from {self.least} to {self.most}"
        scale = math.log if self.is_log else float
        share = (scale(value) - scale(self.least)) / (scale(self.most) - scale(self.least))
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def strip_chart(title: str, axis: Axis, rows: Sequence[tuple[str, Sequence[Series]]], legend: str = "") -> str:
    """The SVG text of a chart: a labelled row for each of `rows` with a lane for each of its series.

    `legend` says in words what dots and diamonds are; colours are named before it where there are several.
    """
    names = list(dict.fromkeys(series.name for _, lanes in rows for series in lanes))
    colours = {name: PALETTE[place % len(PALETTE)] for place, name in enumerate(names)}
    heights = [len(lanes) * _LANE + _GAP for _, lanes in rows]
    bottom = _TOP + sum(heights)
    parts = [*_ticks(axis, bottom), _text(_LEFT, 22, title, size=15, weight="600")]
    parts += _legend(names if len(names) > 1 else [], colours, legend)
    top = float(_TOP)
    for (label, lanes), height in zip(rows, heights, strict=True):
        middle = top + height / 2
        parts.append(_text(_LEFT - 10, middle + 4, label, anchor="end"))
        for place, series in enumerate(lanes):
            parts += _lane(series, axis, top + _GAP / 2 + (place + 0.5) * _LANE, colours[series.name])
        top += height
        parts.append(f'<path d="M{_LEFT} {_number(top)}H{_WIDTH - _RIGHT}" stroke="{_LINE}"/>')
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, bottom + 36, axis.label, anchor="middle", colour=_SOFT))
    height = bottom + 48
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    body = "\n".join(parts)
    return f'{head} {_FONT}>\n<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n'


def _lane(series: Series, axis: Axis, y: float, colour: str) -> list[str]:
    parts = []
    if series.values:
        # One path of dots (lines without length, with round ends) takes a fifth of as many circles.
        dots = "".join(f"M{_number(axis.place(value))} {_number(y)}h0" for value in sorted(series.values))
        parts.append(
            f'<path d="{dots}" stroke="{colour}" stroke-width="6" stroke-linecap="round" stroke-opacity="0.3"/>'
        )
    if series.interval is not None:
        low, high = map(axis.place, series.interval)
        parts.append(
            f'<path d="M{_number(low)} {_number(y)}H{_number(high)}" stroke="{colour}" stroke-width="3" '
            'stroke-linecap="round" stroke-opacity="0.55"/>'
        )
    for value, fill in ((series.reference, "#ffffff"), (series.mark, colour)):
        if value is not None:
            diamond = f"M{_number(axis.place(value))} {_number(y - 6)}l6 6l-6 6l-6 -6z"
            parts.append(f'<path d="{diamond}" fill="{fill}" stroke="{colour}" stroke-width="1.6"/>')
    return parts


def _ticks(axis: Axis, bottom: float) -> list[str]:
    parts = []
    for tick in axis.ticks:
        x = _number(axis.place(tick))
        parts.append(f'<path d="M{x} {_TOP - 4}V{_number(bottom + 4)}" stroke="{_LINE}"/>')
        parts.append(_text(axis.place(tick), bottom + 18, f"{tick:g}", anchor="middle", colour=_SOFT))
    return parts


def _legend(names: Sequence[str], colours: dict[str, str], legend: str) -> list[str]:
    parts, x = [], float(_LEFT)
    for name in names:
        parts.append(f'<path d="M{_number(x + 5)} 37l5 5l-5 5l-5 -5z" fill="{colours[name]}"/>')
        parts.append(_text(x + 15, 46, name, size=12))
        x += 32 + 6.4 * len(name)
    parts.append(_text(_LEFT, 63 if names else 46, legend, size=12, colour=_SOFT))
    return parts


def _text(
    x: float, y: float, text: str, *, size: int = 13, anchor: str = "start", colour: str = _INK, weight: str = "400"
) -> str:
    place = f'x="{_number(x)}" y="{_number(y)}" font-size="{size}" fill="{colour}"'
    return f'<text {place} text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
