"""What a cost does as something grows: each point a row of the table, each cost a line of the plot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from tests.benchmarks.harness import Row, Target, row

WIDTH, HEIGHT = 900, 235  # of one panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 70, 390, 26, 34
COLORS = ("#2b6cb0", "#c53030", "#2f855a", "#b7791f", "#6b46c1", "#2c7a7b", "#97266d", "#4a5568")

Points = dict[float, float]


class Curves:
    """Points over one quantity, such as entries; costs of one unit share a panel."""

    def __init__(self, over: str) -> None:
        self._over = over
        self.rows: list[Row] = []
        self._panels: dict[str, dict[str, Points]] = {}

    def add(
        self,
        what: str,
        at: float,
        values: Sequence[float],
        unit: str = "",
        against: str = "",
        target: Target | None = None,
    ) -> None:
        """A point: the median of some values, whose quartiles stand in the table."""
        found = row(f"{what}, {at:,} {self._over}", against, values, target, unit)
        self.rows.append(found)
        panel = unit.strip() or f"ratio to {against}"
        self._panels.setdefault(panel, {}).setdefault(what, {})[at] = found.value

    def save(self, file: Path | None) -> list[Row]:
        """Draw all where that was asked for; the rows, those of one cost beside each other."""
        if file is not None:
            file.write_text(draw(self._panels, self._over))
        first = {item.what.rsplit(", ", 1)[0]: None for item in self.rows}
        return [item for what in first for item in self.rows if item.what.rsplit(", ", 1)[0] == what]


def draw(panels: dict[str, dict[str, Points]], over: str) -> str:
    """The panels below each other, both scales logarithmic."""
    height = HEIGHT * len(panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
        "<style>text { font: 11px sans-serif }</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
    ]
    for number, (unit, curves) in enumerate(panels.items()):
        parts += [f'<g transform="translate(0 {number * HEIGHT})">', *_panel(unit, curves, over), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


class _Scale:
    """Places of values between two decades."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        logs = [math.log10(value) for value in values if value > 0] or [0.0]
        self.low = math.floor(min(logs))
        self.high = max(math.ceil(max(logs)), self.low + 1)
        self._begin, self._end = begin, end

    def at(self, value: float) -> float:
        place = (math.log10(max(value, 10.0**self.low)) - self.low) / (self.high - self.low)
        return self._begin + (self._end - self._begin) * place

    @property
    def decades(self) -> list[float]:
        return [10.0**power for power in range(self.low, self.high + 1)]


def _panel(unit: str, curves: dict[str, Points], over: str) -> list[str]:
    across = _Scale([x for points in curves.values() for x in points], LEFT, WIDTH - RIGHT)
    up = _Scale([y for points in curves.values() for y in points.values()], HEIGHT - BOTTOM, TOP)
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts = [
        f'<g transform="rotate(-90 14 {middle})">',
        f'<text x="14" y="{middle}" text-anchor="middle">{escape(unit)}</text></g>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(over)}</text>',
    ]
    for value in up.decades:
        y = up.at(value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in across.decades:
        parts.append(f'<text x="{across.at(value):.1f}" y="{HEIGHT - 20}" text-anchor="middle">{value:,.0f}</text>')
    for number, (what, points) in enumerate(curves.items()):
        color, places = COLORS[number % len(COLORS)], [(across.at(x), up.at(y)) for x, y in sorted(points.items())]
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        parts.append(f'<path d="M{line}" stroke="{color}" fill="none"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}"/>' for x, y in places]
        label = TOP + 8 + 15 * number
        parts.append(f'<text x="{WIDTH - RIGHT + 12}" y="{label}" fill="{color}">{escape(what)}</text>')
    return parts
