"""Calls over time as an SVG of our own: a dot a call, time across, duration upward on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 190  # of one panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 70, 12, 26, 34
CELL = 2.0  # pixels: dots that would lie on each other are drawn once


@dataclass(frozen=True, slots=True)
class Series:
    """One panel: (x, y, whether it is drawn as good) each, and two x between which the ground is grey."""

    name: str
    points: Sequence[tuple[float, float, bool]]
    marks: tuple[float, float]


def draw(series: Sequence[Series], vertical: str, horizontal: str) -> str:
    """The panels below each other."""
    most = max(y for one in series for _, y, _ in one.points)
    least = min(y for one in series for _, y, _ in one.points if y > 0)
    decades = (math.floor(math.log10(least)), math.ceil(math.log10(most)))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT * len(series)}">',
        "<style>text { font: 11px sans-serif }</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT * len(series)}" fill="white"/>',
    ]
    for number, one in enumerate(series):
        parts += [
            f'<g transform="translate(0 {number * HEIGHT})">',
            *_panel(one, decades, vertical, horizontal),
            "</g>",
        ]
    return "\n".join([*parts, "</svg>", ""])


def _panel(one: Series, decades: tuple[int, int], vertical: str, horizontal: str) -> list[str]:
    end = max(x for x, _, _ in one.points)
    across, up = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def at_x(x: float) -> float:
        return LEFT + across * x / end

    def at_y(y: float) -> float:
        return TOP + up * (decades[1] - math.log10(max(y, 10.0 ** decades[0]))) / (decades[1] - decades[0])

    low, high = (at_x(mark) for mark in one.marks)
    parts = [
        f'<text x="{LEFT}" y="16" font-weight="bold">{escape(one.name)}</text>',
        f'<rect x="{low:.1f}" y="{TOP}" width="{high - low:.1f}" height="{up}" fill="#eee"/>',
        f'<g transform="rotate(-90 14 {TOP + up / 2})">',
        f'<text x="14" y="{TOP + up / 2}" text-anchor="middle">{escape(vertical)}</text></g>',
        f'<text x="{LEFT + across / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(horizontal)}</text>',
    ]
    for decade in range(decades[0], decades[1] + 1):
        y = at_y(10.0**decade)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10.0**decade:g}</text>')
    for second in range(0, int(end) + 1, 5):
        parts.append(f'<text x="{at_x(second):.1f}" y="{TOP + up + 14}" text-anchor="middle">{second}</text>')
    for good, color in ((True, "#2b6cb0"), (False, "#c53030")):
        cells = {(round(at_x(x) / CELL), round(at_y(y) / CELL)) for x, y, fine in one.points if fine is good}
        path = "".join(f"M{x * CELL:g} {y * CELL:g}h{CELL:g}" for x, y in sorted(cells))
        parts.append(f'<path d="{path}" stroke="{color}" stroke-width="{CELL:g}"/>')
    return parts
