"""Curves of several runs in one plot, each with a colour and, in ASCII, a mark of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mccore.runs.live.comparison import BUDGETS, Budget, Curve
from mccore.runs.live.trace import smoothed
from mccore.tui.drawing.canvas import LABEL, Cell, Role, Scale, between, braille, format_value, row_of, value_at
from mccore.tui.drawing.glyphs import Glyphs
from mccore.units import count, duration

ROLES: tuple[Role, ...] = ("curve0", "curve1", "curve2", "curve3")  # as many curves as one can tell apart
MARKS = "*ox+"


@dataclass
class OverlayView:
    """How curves are laid over each other."""

    budget: Budget = "tokens"
    smooth: bool = False
    log: bool = False
    cursor: float | None = None  # a share of the width


def mark_of(place: int, glyphs: Glyphs) -> str:
    """What stands for the curve of a run in a legend."""
    return glyphs.bar if glyphs.braille else MARKS[place]


def spell_spent(spent: float, budget: Budget) -> str:
    """What was spent, as people read it."""
    return duration(spent) if budget == "seconds" else count(spent)


def overlay(
    curves: Sequence[Curve | None], view: OverlayView, width: int, height: int, glyphs: Glyphs
) -> list[list[Cell]]:
    """At most four curves as `height` rows of `width` cells; None has no place on the axis that is shown."""
    columns, rows = max(1, width - LABEL - 1), max(1, height - 2)
    grid = [[Cell() for _ in range(columns)] for _ in range(rows)]
    means = [None if each is None else smoothed(each.mean) if view.smooth else each.mean for each in curves]
    scale, last = _scale(means, log=view.log), max((each.spent[-1] for each in curves if each is not None), default=0.0)
    for place, (curve, mean) in enumerate(zip(curves, means, strict=True)):
        if curve is not None and mean is not None and last > 0:
            _draw(
                grid,
                [(at / last, scale.share(value)) for at, value in zip(curve.spent, mean, strict=True)],
                place,
                glyphs,
            )
    _draw_cursor(grid, view, glyphs)
    lines = []
    for row, cells in enumerate(grid):
        value = value_at(scale, 1 - (row + 0.5) / rows)
        label = f"{format_value(value):>{LABEL}}" if row in (0, rows // 2, rows - 1) else " " * LABEL
        lines.append([*(Cell(char, "axis") for char in label + glyphs.vertical), *cells])
    lines.append([Cell(char, "axis") for char in " " * LABEL + glyphs.corner + glyphs.horizontal * columns])
    left, right = spell_spent(0, view.budget), spell_spent(last, view.budget)
    words = left + f"{BUDGETS[view.budget]:^{max(0, columns - len(left) - len(right))}}" + right
    lines.append([Cell(char, "axis") for char in " " * (LABEL + 1) + words[:columns]])
    return [line[:width] for line in lines][: max(1, height)]


def value_under(curve: Curve, share: float, last: float) -> float | None:
    """The value of a curve at a share of the axis that ends at `last`; None where the run hadn't come so far."""
    wanted = share * last
    if not curve.spent or wanted > curve.spent[-1]:
        return None
    place = min(range(len(curve.spent)), key=lambda each: abs(curve.spent[each] - wanted))
    return curve.mean[place]


def _scale(means: Sequence[Sequence[float] | None], *, log: bool) -> Scale:
    values = [value for mean in means if mean is not None for value in mean if math.isfinite(value)]
    if not values:
        return Scale(0.0, 1.0, False)
    low, high = min(values), max(values)
    if low == high:
        low, high = low - abs(low) * 0.1 - 1e-9, high + abs(high) * 0.1 + 1e-9
    return Scale(low, high, log and low > 0)


def _draw(grid: list[list[Cell]], points: Sequence[tuple[float, float]], place: int, glyphs: Glyphs) -> None:
    """Draw a curve of points (share of the width, share of the height); later curves lie over earlier ones."""
    high, wide = (4, 2) if glyphs.braille else (1, 1)
    rows, columns = len(grid) * high, len(grid[0]) * wide
    dots: set[tuple[int, int]] = set()
    before: tuple[int, int] | None = None
    whole = Scale(0.0, 1.0, False)
    for across, up in points:
        now = (row_of(whole, up, rows), min(columns - 1, int(across * columns)))
        dots.update(between(before, now))
        before = now
    cells: dict[tuple[int, int], list[int]] = {}
    for row, column in dots:
        bits = cells.setdefault((row // high, column // wide), [0, 0])
        bits[column % wide] |= 1 << row % high
    for (row, column), bits in cells.items():
        grid[row][column] = Cell(braille(bits) if glyphs.braille else MARKS[place], ROLES[place])


def _draw_cursor(grid: list[list[Cell]], view: OverlayView, glyphs: Glyphs) -> None:
    if view.cursor is None:
        return
    column = min(len(grid[0]) - 1, int(view.cursor * len(grid[0])))
    for cells in grid:
        if not cells[column].char.strip():
            cells[column] = Cell(glyphs.cursor, "cursor")
