"""Plots as rows of characters: pure functions, tested without a terminal.

A plot is a grid of cells. Each cell has a character and a role (`line`, `range`, `axis`, `alert`, `cursor`), which a
widget turns into a colour. With braille a cell has 2 x 4 dots, in ASCII one character.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from mccore.runs.live.trace import Axis, Trace, smoothed
from mccore.tui.drawing.glyphs import Glyphs

Role = Literal["", "line", "range", "axis", "alert", "cursor", "curve0", "curve1", "curve2", "curve3"]
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # braille, by row and column of the cell
_LEFT, _RIGHT = (
    [sum(_DOTS[row][side] for row in range(4) if bits >> row & 1) for bits in range(16)] for side in (0, 1)
)
LABEL = 9  # columns of the numbers at the left


@dataclass(frozen=True)
class Cell:
    """One character of a plot, what it stands for, and whether it lies in the band of the metric."""

    char: str = " "
    role: Role = ""
    band: bool = False


BLANK, IN_BAND = Cell(), Cell(band=True)


@dataclass
class PlotView:
    """What of a curve is shown: the axis, its window, and whether it is smoothed or logarithmic."""

    axis: Axis = "step"
    start: float = -math.inf
    stop: float = math.inf
    smooth: bool = False
    log: bool = False
    cursor: float | None = None  # a share of the width


@dataclass
class Plot:
    """A curve to draw, the band of its metric, and times at which an alert began."""

    trace: Trace
    band: tuple[float, float] | None = None
    alerts: Sequence[float] = ()
    view: PlotView = field(default_factory=PlotView)


@dataclass(frozen=True)
class Scale:
    """From values to rows: linear or logarithmic between two ends."""

    low: float
    high: float
    log: bool

    def share(self, value: float) -> float:
        """Where a value lies between the ends, 0 at the bottom."""
        if self.log:
            value, low, high = (math.log(max(each, 1e-12)) for each in (value, self.low, self.high))
        else:
            low, high = self.low, self.high
        return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.5


def scale_of(plot: Plot) -> Scale:
    """The ends of the value axis: all that is in the window, and the ends of the band that lie near."""
    view = plot.view
    buckets = list(plot.trace.extremes(view.axis, view.start, view.stop))
    if not buckets:
        return Scale(0.0, 1.0, False)
    low, high = min(bucket.low for bucket in buckets), max(bucket.high for bucket in buckets)
    spread = high - low or abs(high) or 1.0
    for end in plot.band or ():
        if math.isfinite(end) and low - spread <= end <= high + spread:
            low, high = min(low, end), max(high, end)
    if low == high:
        low, high = low - abs(low) * 0.1 - 1e-9, high + abs(high) * 0.1 + 1e-9
    return Scale(low, high, view.log and low > 0)


def window_of(plot: Plot) -> tuple[float, float]:
    """The ends of the time axis that are drawn."""
    buckets = list(plot.trace.extremes(plot.view.axis, plot.view.start, plot.view.stop))
    if not buckets:
        return 0.0, 1.0
    first, last = buckets[0].at(plot.view.axis), buckets[-1].at(plot.view.axis)
    return (first, last) if last > first else (first - 0.5, last + 0.5)


def ends_of(plot: Plot) -> tuple[float, float]:
    """Where the whole curve begins and ends on its axis, whatever of it is shown."""
    buckets, axis = plot.trace.buckets, plot.view.axis
    return (buckets[0].at(axis), buckets[-1].at(axis)) if buckets else (0.0, 0.0)


def draw(plot: Plot, width: int, height: int, glyphs: Glyphs) -> list[list[Cell]]:
    """The plot as `height` rows of `width` cells: numbers at the left, the time axis at the bottom."""
    columns, rows = max(1, width - LABEL - 1), max(1, height - 2)
    grid = [[BLANK] * columns for _ in range(rows)]
    scale, (first, last) = scale_of(plot), window_of(plot)
    _shade_band(grid, plot, scale)
    _draw_curve(grid, plot, scale, (first, last), glyphs)
    _mark(grid, plot, (first, last), glyphs)
    lines = []
    for row, cells in enumerate(grid):
        value = value_at(scale, 1 - (row + 0.5) / rows)
        label = f"{format_value(value):>{LABEL}}" if row in (0, rows // 2, rows - 1) else " " * LABEL
        lines.append([*(Cell(char, "axis") for char in label + glyphs.vertical), *cells])
    lines.append(_axis_line(plot, columns, (first, last), glyphs))
    lines.append(_axis_numbers(columns, (first, last), plot.view.axis))
    return [line[:width] for line in lines][: max(1, height)]


def format_value(value: float) -> str:
    """A number in at most nine characters."""
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:.2e}"


def cursor_value(plot: Plot) -> tuple[float, float] | None:
    """The position and the mean of the bucket under the cursor."""
    if plot.view.cursor is None:
        return None
    first, last = window_of(plot)
    wanted = first + plot.view.cursor * (last - first)
    buckets = list(plot.trace.extremes(plot.view.axis, plot.view.start, plot.view.stop))
    if not buckets:
        return None
    nearest = min(buckets, key=lambda bucket: abs(bucket.at(plot.view.axis) - wanted))
    return nearest.at(plot.view.axis), nearest.mean


def _shade_band(grid: list[list[Cell]], plot: Plot, scale: Scale) -> None:
    if plot.band is None or not plot.trace.buckets:
        return
    rows = len(grid)
    for row in range(rows):
        value = value_at(scale, 1 - (row + 0.5) / rows)
        if plot.band[0] <= value <= plot.band[1]:
            grid[row] = [IN_BAND] * len(grid[row])


def _draw_curve(grid: list[list[Cell]], plot: Plot, scale: Scale, window: tuple[float, float], glyphs: Glyphs) -> None:
    view, (first, last) = plot.view, window
    high, wide = (4, 2) if glyphs.braille else (1, 1)
    rows, columns = len(grid) * high, len(grid[0]) * wide
    means = [bucket.mean for bucket in plot.trace.buckets]
    means = smoothed(means) if view.smooth else means
    # The dots of each column as the bits of a number: a long run has hundreds of buckets, and each spans many dots.
    ranges, lines = [0] * columns, [0] * columns
    before: tuple[int, int] | None = None
    row_at = rows_of(scale, rows)
    for bucket, mean in zip(plot.trace.buckets, means, strict=True):
        at = bucket.at(view.axis)
        if not view.start <= at <= view.stop:
            continue
        column = min(columns - 1, int((at - first) / (last - first) * columns))
        row = row_at(mean)
        if not view.smooth and bucket.low < bucket.high:
            ranges[column] |= bits_between(row_at(bucket.high), row_at(bucket.low))
        if before is not None and before[1] == column:
            lines[column] |= bits_between(*sorted((before[0], row)))
        else:
            for point in between(before, (row, column)):
                lines[point[1]] |= 1 << point[0]
        before = (row, column)
    _set(grid, ranges, lines, glyphs)


def bits_between(first: int, last: int) -> int:
    """The bits from `first` to `last`."""
    return (2 << last) - (1 << first)


def _set(grid: list[list[Cell]], ranges: list[int], lines: list[int], glyphs: Glyphs) -> None:
    high, wide = (4, 2) if glyphs.braille else (1, 1)
    ones = (1 << high) - 1
    for place in range(len(grid[0])):
        columns = range(place * wide, (place + 1) * wide)
        both = [ranges[column] | lines[column] for column in columns]
        line = lines[columns[0]] | lines[columns[-1]]
        if not any(both):
            continue
        for row, cells in enumerate(grid):
            bits = [each >> row * high & ones for each in both]
            if not any(bits):
                continue
            is_line = bool(line >> row * high & ones)
            char = braille(bits) if glyphs.braille else "*" if is_line else ":"
            cells[place] = Cell(char, "line" if is_line else "range", cells[place].band)


def braille(bits: list[int]) -> str:
    """The character with these dots in its two columns, from the top."""
    return chr(0x2800 + _LEFT[bits[0]] + _RIGHT[bits[1]])


def between(before: tuple[int, int] | None, now: tuple[int, int]) -> Iterable[tuple[int, int]]:
    """The dots of a straight line, the first one left out."""
    if before is None:
        return [now]
    steps = max(abs(now[0] - before[0]), abs(now[1] - before[1]), 1)
    return [
        (
            round(before[0] + (now[0] - before[0]) * each / steps),
            round(before[1] + (now[1] - before[1]) * each / steps),
        )
        for each in range(1, steps + 1)
    ]


def _mark(grid: list[list[Cell]], plot: Plot, window: tuple[float, float], glyphs: Glyphs) -> None:
    if plot.view.cursor is None:
        return
    column = min(len(grid[0]) - 1, int(plot.view.cursor * len(grid[0])))
    for cells in grid:
        if not cells[column].char.strip():
            cells[column] = Cell(glyphs.cursor, "cursor", cells[column].band)


def _axis_line(plot: Plot, columns: int, window: tuple[float, float], glyphs: Glyphs) -> list[Cell]:
    line = [Cell(char, "axis") for char in " " * LABEL + glyphs.corner + glyphs.horizontal * columns]
    first, last = window
    for at in plot.alerts:
        if first <= at <= last:
            column = min(columns - 1, int((at - first) / (last - first) * columns))
            line[LABEL + 1 + column] = Cell(glyphs.alert, "alert")
    return line


def _axis_numbers(columns: int, window: tuple[float, float], axis: Axis) -> list[Cell]:
    left, right = (format_position(at, axis) for at in window)
    middle = f"{axis:^{max(0, columns - len(left) - len(right))}}"
    text = " " * (LABEL + 1) + (left + middle + right)[:columns]
    return [Cell(char, "axis") for char in text]


def format_position(at: float, axis: Axis) -> str:
    """A position on the time axis as people read it."""
    if axis == "time":
        import time

        return time.strftime("%H:%M:%S", time.localtime(at))
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(at) >= limit:
            return f"{at / (1e3 if unit == 'k' else limit):.4g}{unit}"
    return str(round(at))


def rows_of(scale: Scale, rows: int) -> Callable[[float], int]:
    """`row_of` for many values of one scale: a curve has hundreds of buckets, and is drawn while a person waits."""
    low, spread = scale.low, scale.high - scale.low
    if scale.log or spread <= 0:
        return lambda value: row_of(scale, value, rows)

    def row_at(value: float) -> int:
        share = (value - low) / spread
        row = int((1 - (0.0 if share < 0 else 1.0 if share > 1 else share)) * rows)
        return row if row < rows else rows - 1

    return row_at


def row_of(scale: Scale, value: float, rows: int) -> int:
    """The row of a value, 0 at the top."""
    return min(rows - 1, int((1 - scale.share(value)) * rows))


def value_at(scale: Scale, share: float) -> float:
    """The value at a share of the height, 0 at the bottom."""
    if scale.log:
        low, high = math.log(scale.low), math.log(scale.high)
        return math.exp(low + share * (high - low))
    return scale.low + share * (scale.high - scale.low)
