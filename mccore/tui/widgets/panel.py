"""A rectangle of lines on the screen, from the monitor itself or from a plugin."""

from __future__ import annotations

from collections.abc import Callable

from rich.segment import Segment
from rich.style import Style
from textual.events import Click, MouseScrollDown, MouseScrollUp
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from mccore.api import Span
from mccore.host.terminal import one_line
from mccore.tui.drawing.colours import BANDS, STYLES
from mccore.tui.panels import Lines

Draw = Callable[[int, int], Lines]  # width, height


class PanelPane(Widget):
    """Draws lines in whatever room it has, anew when `show` is called or its size changes."""

    DEFAULT_CSS = "PanelPane { height: 1fr; min-height: 4; }"
    version = reactive(0)

    class Touched(Message):
        """A click on a column, or a turn of the wheel there: -1 towards the person, 1 away."""

        def __init__(self, pane: PanelPane, column: int, turn: int) -> None:
            super().__init__()
            self.pane = pane
            self.column = column
            self.turn = turn

        @property
        def control(self) -> PanelPane:
            return self.pane

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._draw: Draw | None = None
        self._drawn: tuple[int, int, int] | None = None
        self._rows: list[Strip] = []
        self._base = Style.null()

    def show(self, draw: Draw | None) -> None:
        """Draw by this function from now on; nothing for None."""
        self._draw = draw
        self.version += 1

    def on_click(self, event: Click) -> None:
        self.post_message(self.Touched(self, event.x, 0))

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        event.stop()
        self.post_message(self.Touched(self, event.x, 1))

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        event.stop()
        self.post_message(self.Touched(self, event.x, -1))

    def render_line(self, y: int) -> Strip:
        width, height = self.size
        key = (self.version, width, height)
        if key != self._drawn:
            base = self._base = self.rich_style
            lines = self._draw(width, height) if self._draw is not None and width > 0 and height > 0 else []
            self._rows = [strip_of(line, width, base) for line in lines]
            self._drawn = key
        return self._rows[y] if y < len(self._rows) else Strip.blank(width, self._base)

    def notify_style_update(self) -> None:
        self._drawn = None  # the theme may have changed
        super().notify_style_update()


def band_style(base: Style) -> Style:
    """The background of a band on a widget's own."""
    red, green, blue = base.bgcolor.get_truecolor() if base.bgcolor is not None else (0, 0, 0)
    return BANDS[red + green + blue > 3 * 128]


def strip_of(line: object, width: int, base: Style) -> Strip:
    """A line of spans, cut or filled to a width. What a terminal would obey is shown instead."""
    shade = band_style(base)
    segments = [
        Segment(one_line(text), STYLES[role] + shade if band else STYLES[role])
        for text, role, band in (Span(*span) for span in line)  # type: ignore[attr-defined]
    ]
    return Strip(segments).crop(0, width).adjust_cell_length(width, base).apply_style(base)
