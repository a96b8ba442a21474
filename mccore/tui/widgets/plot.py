"""A curve on the screen."""

from __future__ import annotations

from itertools import groupby

from rich.segment import Segment
from rich.style import Style
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from mccore.tui.canvas import Cell, Plot, cursor_value, draw, format_position, format_value
from mccore.tui.glyphs import Glyphs
from mccore.tui.widgets.panel import band_style

STYLES = {
    "": Style.null(),
    "line": Style(color="bright_cyan", bold=True),
    "range": Style(color="blue"),
    "axis": Style(color="bright_black"),
    "alert": Style(color="bright_red", bold=True),
    "cursor": Style(color="yellow"),
}


class PlotWidget(Widget):
    """Draws a `Plot` in whatever room it has, with its title and last value above."""

    DEFAULT_CSS = "PlotWidget { height: 1fr; min-height: 6; }"
    version = reactive(0)

    def __init__(self, title: str, glyphs: Glyphs, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._title = title
        self._glyphs = glyphs
        self._plot: Plot | None = None
        self._drawn: tuple[int, int, int, Style] | None = None
        self._rows: list[Strip] = []

    def rename(self, title: str) -> None:
        """Another title."""
        self._title = title

    def show(self, plot: Plot | None) -> None:
        """Draw this plot from now on."""
        self._plot = plot
        self.version += 1

    def render_line(self, y: int) -> Strip:
        key = (self.version, self.size.width, self.size.height, self.rich_style)
        if key != self._drawn:
            self._rows, self._drawn = filled(self._draw(), self), key
        return self._rows[y] if y < len(self._rows) else Strip.blank(self.size.width, self.rich_style)

    def _draw(self) -> list[Strip]:
        width, height = self.size
        plot = self._plot
        if plot is None or not plot.trace.buckets:
            return [Strip([Segment((f"{self._title}: no values yet" if self._title else "")[:width], STYLES["axis"])])]
        title = f"{self._title} {format_value(plot.trace.last)}"
        if (under := cursor_value(plot)) is not None:
            title += f"  at {format_position(under[0], plot.view.axis)}: {format_value(under[1])}"
        out = plot.band is not None and not plot.band[0] <= plot.trace.last <= plot.band[1]
        rows = [Strip([Segment(title[:width], STYLES["alert" if out else "line"])])]
        band = band_style(self.rich_style)
        return rows + [_strip(row, band) for row in draw(plot, width, height - 1, self._glyphs)]


def filled(rows: list[Strip], widget: Widget) -> list[Strip]:
    """Rows as wide as the widget, on its background."""
    base = widget.rich_style
    return [row.adjust_cell_length(widget.size.width, base).apply_style(base) for row in rows]


def _strip(cells: list[Cell], shade: Style) -> Strip:
    segments: list[Segment] = []
    for (role, band), group in groupby(cells, key=lambda cell: (cell.role, cell.band)):
        style = STYLES[role] + shade if band else STYLES[role]
        segments.append(Segment("".join(cell.char for cell in group), style))
    return Strip(segments)
