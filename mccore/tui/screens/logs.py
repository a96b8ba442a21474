"""The logs of a run: all stages and ranks as one text, with levels, search and following."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input, Static

from mccore.host.terminal import one_line
from mccore.runs.logs import LEVELS, LogBook, LogLine, Wanted
from mccore.runs.rundir import RunDir
from mccore.tui.drawing.glyphs import Glyphs
from mccore.tui.log_window import LogWindow
from mccore.tui.screens.run_screen import RunScreen, ViewLine
from mccore.tui.widgets.keys import Keys
from mccore.units import size

POLL_SECONDS = 0.25
STEP_SECONDS = 0.01  # between two pieces of a search
WHEEL_LINES = 3
SHIFT = 16  # columns that left and right move by
STYLES = {"error": Style(color="red"), "warning": Style(color="yellow"), "": Style.null()}
STAGE = Style(color="cyan", dim=True)
FOUND = Style(reverse=True)


class LogPane(Widget, can_focus=True):
    """Draws the lines of a `LogWindow`."""

    DEFAULT_CSS = "LogPane { height: 1fr; }"
    version = reactive(0)

    def __init__(self, window: LogWindow) -> None:
        super().__init__(id="lines")
        self.window = window
        self.column = 0  # of the text that is shown first

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.rich_style
        if y >= len(self.window.lines):
            return Strip.blank(width, base)
        strip = Strip(self._segments(self.window.lines[y]))
        return strip.crop(0, width).adjust_cell_length(width, base).apply_style(base)

    def _segments(self, line: LogLine) -> list[Segment]:
        text = one_line(line.text)[self.column :]
        name = [] if self.window.wanted.stage or len(self.window.book.files) < 2 else [Segment(f"{line.stage} ", STAGE)]
        marked = self.window.found is not None and line.start == self.window.found.start
        return [*name, Segment(text or " ", STYLES[line.level] + FOUND if marked else STYLES[line.level])]


class LogsScreen(RunScreen):
    """Reads the logs where it stands; a log of a gigabyte is as quick as one of a line."""

    VIEW: ClassVar[str] = "logs"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f", "follow", "Follow", tooltip="Go to the end and stay there"),
        Binding("slash", "search", "Search", tooltip="Look for a text, whatever its case"),
        Binding("n", "find(True)", "Next", show=False, tooltip="The next line with the text"),
        Binding("N", "find(False)", "Previous", show=False, tooltip="The line with the text before"),
        Binding("w", "level", "Level", tooltip="All lines, warnings and errors, or errors alone"),
        Binding("v", "stage", "Stage", tooltip="All stages, or one after another"),
        Binding("r", "rank", "Rank", show=False, tooltip="All lines, or those that name a rank"),
        Binding("up,k", "move(-1)", "Up", show=False, tooltip="One line up"),
        Binding("down,j", "move(1)", "Down", show=False, tooltip="One line down"),
        Binding("pageup,b", "page(-1)", "Page up", show=False, tooltip="One page up"),
        Binding("pagedown,space", "page(1)", "Page down", show=False, tooltip="One page down"),
        Binding("home,g", "start", "Start", show=False, tooltip="The first line"),
        Binding("end,G", "follow", "End", show=False, tooltip="The last line"),
        Binding("left", "shift(-1)", "Left", show=False, tooltip="Move the text to the right"),
        Binding("right", "shift(1)", "Right", show=False, tooltip="Move the text to the left"),
    ]

    def __init__(self, run: RunDir, glyphs: Glyphs) -> None:
        super().__init__(run, glyphs)
        self.window = LogWindow(LogBook(run))
        self._text = ""  # searched for

    def compose(self) -> ComposeResult:
        yield ViewLine(self.run_dir, self.VIEW)
        yield Static("", id="log-status")
        yield LogPane(self.window)
        yield Input(placeholder="search", id="log-search")
        yield Keys()

    def on_mount(self) -> None:
        self.query_one("#log-search").display = False
        self.query_one(LogPane).focus()
        self.window.book.refresh()
        self.set_interval(POLL_SECONDS, self._poll)
        self._steps = self.set_interval(STEP_SECONDS, self._step, pause=True)

    @on(events.Resize)
    def _fit(self) -> None:
        self.call_after_refresh(self._resize)

    def _resize(self) -> None:
        self.window.resize(self.query_one(LogPane).size.height)
        self._draw()

    def _poll(self) -> None:
        if self.is_current and self.window.poll():
            self._draw()

    def _step(self) -> None:
        if self.is_current and self.window.busy:
            self.window.step()
            self._draw()
        elif not self.window.busy:
            self._steps.pause()

    def _draw(self) -> None:
        window, words = self.window, []
        if window.busy:
            self._steps.resume()
        chosen = window.wanted
        words.append(chosen.stage or "all stages")
        words.append({"": "all lines", "warning": "warnings and errors", "error": "errors"}[chosen.level])
        if chosen.rank is not None:
            words.append(f"rank {chosen.rank}")
        words.append(f"{window.share:.0%} of {size(window.book.total)}")
        words += ["searching (escape stops)"] if window.busy else ["following"] if window.follow else []
        words += [one_line(window.book.problem or window.said)] if window.book.problem or window.said else []
        if not window.lines and not window.busy and not window.book.problem:
            words.append("no such lines")
        self.query_one("#log-status", Static).update(Text("  ".join(words)))
        self.query_one(LogPane).version += 1

    # --- keys ---------------------------------------------------------------------------------------------------------

    def action_follow(self) -> None:
        self.window.to_end()
        self._draw()

    def action_start(self) -> None:
        self.window.to_start()
        self._draw()

    def action_move(self, lines: int) -> None:
        self.window.move(lines)
        self._draw()

    def action_page(self, pages: int) -> None:
        self.action_move(pages * max(1, self.window.height - 1))

    def action_shift(self, by: int) -> None:
        lines = self.query_one(LogPane)
        lines.column = max(0, lines.column + by * SHIFT)
        self._draw()

    def action_search(self) -> None:
        box = self.query_one("#log-search", Input)
        box.display = True
        box.focus()

    @on(Input.Submitted, "#log-search")
    def _searched(self, event: Input.Submitted) -> None:
        self._text = event.value
        self._close_search()
        self.window.found = None
        self.window.find(self._text, forward=not self.window.follow)
        self._draw()

    def _close_search(self) -> None:
        self.query_one("#log-search").display = False
        self.query_one(LogPane).focus()

    def action_find(self, forward: bool) -> None:
        if not self._text:
            self.action_search()
            return
        self.window.find(self._text, forward=forward)
        self._draw()

    def action_level(self) -> None:
        chosen = self.window.wanted
        self._choose(level=LEVELS[(LEVELS.index(chosen.level) + 1) % len(LEVELS)])

    def action_stage(self) -> None:
        names = ["", *self.window.book.stages]
        self._choose(stage=names[(names.index(self.window.wanted.stage) + 1) % len(names)])

    def action_rank(self) -> None:
        ranks = [None, *self.window.book.ranks()]
        now = self.window.wanted.rank
        self._choose(rank=ranks[(ranks.index(now) + 1) % len(ranks)] if now in ranks else None)
        if len(ranks) == 1:
            self.notify("no line near the end names a rank")

    def _choose(self, **changes: object) -> None:
        self.window.choose(Wanted(**{**vars(self.window.wanted), **changes}))  # type: ignore[arg-type]
        self._draw()

    def action_leave(self) -> None:
        if self.query_one("#log-search").display:
            self._close_search()
        elif self.window.busy:
            self.window.cancel()
            self._draw()
        else:
            super().action_leave()

    def on_mouse_scroll_down(self) -> None:
        self.action_move(WHEEL_LINES)

    def on_mouse_scroll_up(self) -> None:
        self.action_move(-WHEEL_LINES)
