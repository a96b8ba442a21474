"""One run, live: progress, curves with their bands, the Working Context over its history, logs, alerts, samples."""

from __future__ import annotations

import asyncio
import math
import textwrap
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.events import Resize
from textual.widgets import Static

from mccore.api import Span
from mccore.events import METRICS
from mccore.host.terminal import one_line
from mccore.runs.live.watch import Pieces
from mccore.runs.rundir import RunDir
from mccore.tui import actions
from mccore.tui.drawing.canvas import Plot
from mccore.tui.drawing.glyphs import Glyphs
from mccore.tui.panels import Lines, LoadedPanel, StateView, load_panels
from mccore.tui.screens.panels import PanelList, PanelScreen
from mccore.tui.screens.run_screen import ViewLine
from mccore.tui.tail import LogTail
from mccore.tui.widgets.curves import CurveScreen
from mccore.tui.widgets.details import Details
from mccore.tui.widgets.keys import Keys
from mccore.tui.widgets.panel import Draw, PanelPane
from mccore.tui.words import headline, notes, progress_line
from mccore.tui.workers import while_shown

POLL_SECONDS = 0.25
TYPING_SECONDS = 0.02  # between two pieces while keys are pressed
DRAW_SECONDS = 0.4
PART_SECONDS = 0.03  # between two parts of the picture: more than a frame, so that each is painted by itself
KEY_SECONDS = 0.05  # that a key has for itself
PLOTS = 4
NARROW = 100  # columns below which details and plots take turns


class MonitorScreen(CurveScreen):
    """Watches a run. Everything it shows is read from the run's directory."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Runs", tooltip="Back to the list of runs"),
        Binding("p", "next_metrics", "Metrics", tooltip="Show the next four metrics"),
        Binding("v", "next_stage", "Stage", show=False, tooltip="Show the curves of another stage"),
        Binding("left_square_bracket", "scrub(-1)", show=False, tooltip="The Working Context one snapshot earlier"),
        Binding("right_square_bracket", "scrub(1)", show=False, tooltip="The Working Context one snapshot later"),
        Binding("t", "details", "Details", tooltip="Logs, alerts, samples and metrics in place of the plots"),
        Binding("P", "panels", "Panels", show=False, tooltip="Any panel, those of plugins too, over the whole screen"),
        Binding("o", "report", "Report", tooltip="Read the report of this run"),
        Binding("y", "copy", "Copy command", show=False, tooltip="Copy the command that goes on with this run"),
    ]

    def __init__(self, run: RunDir, glyphs: Glyphs) -> None:
        super().__init__(run, glyphs)
        self._glyphs = glyphs
        self._page = 0
        self._stage: str | None = None  # chosen by hand
        self._scrub = 0  # snapshots back from the newest
        self._panels: list[LoadedPanel] = []
        self._log = LogTail(run)
        self._due: deque[Callable[[], None]] = deque()  # parts of the picture that are old
        self._dirty = True

    def compose(self) -> ComposeResult:
        yield ViewLine(self.run_dir, self.VIEW)
        yield Static("", id="status")
        yield Static("", id="notes")
        with Container(id="plots"):
            for place in range(PLOTS):
                yield PanelPane(id=f"plot{place}")
        yield Container(id="wide")
        yield Details(self._glyphs, id="below")
        yield Keys()

    def on_mount(self) -> None:
        self._follow()

    def on_resize(self, event: Resize) -> None:
        self.set_class(event.size.width < NARROW, "-narrow")
        self._dirty = True

    # --- reading ------------------------------------------------------------------------------------------------------

    @work(exclusive=True, group="follow")
    @while_shown
    async def _follow(self) -> None:
        """Read on for ever: what may block in a thread, what takes the processor a few milliseconds at a time."""
        await asyncio.to_thread(self.watch.open)
        for part in self._parts()[:-1]:  # the details come with their tabs, which take longer to mount than all else
            part()
        while not self.query_one(Details).ready:
            await asyncio.sleep(0.01)
        self._refresh()
        self.call_after_refresh(self._load_panels)  # plugins' code, once the first picture is there
        self._draw_on()
        tail = -math.inf
        while True:
            if not self._is_watched():
                await asyncio.sleep(POLL_SECONDS)
                continue
            pieces, moved = await asyncio.to_thread(self._read)
            moved = self.watch.digest(pieces) or moved
            self._dirty = self._dirty or moved
            now = time.monotonic()
            if now - tail >= POLL_SECONDS:
                tail = now
                lines = await asyncio.to_thread(self._log.poll) if self.query_one(Details).has_log else []
                self.query_one(Details).add_log(lines)
                self.report_start()
                if not self._dirty and self.watch.outcome.state == "running":
                    self._show_status()
            await asyncio.sleep(self._pause(moved))

    def _read(self) -> tuple[Pieces, bool]:
        return self.watch.fetch(), self.watch.look()

    def _pause(self, moved: bool) -> float:
        """Until the next piece: a person who types goes first, then what there is to read."""
        if not moved:
            return POLL_SECONDS
        return TYPING_SECONDS if self.app.typing else 0.0  # type: ignore[attr-defined]

    @work(exclusive=True, group="draw")
    @while_shown
    async def _draw_on(self) -> None:
        """Draw what is new for ever, one part after the other: a key waits for one of them at most."""
        while True:
            await asyncio.sleep(PART_SECONDS if self._due else DRAW_SECONDS)
            if self._dirty and not self._due and self._is_watched():
                self._dirty = False
                self._due.extend(self._parts())
            if self._due and self.app.since_key() >= KEY_SECONDS:  # type: ignore[attr-defined]
                self._due.popleft()()

    def _parts(self) -> list[Callable[[], None]]:
        """What draws the parts of the picture."""
        plots = [partial(self._show_plot, place) for place in range(PLOTS)]
        return [self._show_status, *plots, self._show_wide, lambda: self.query_one(Details).show(self.watch.state)]

    def _refresh(self) -> None:
        """Draw everything at once."""
        self._dirty = False
        self._due.clear()
        for part in self._parts():
            part()

    def _is_watched(self) -> bool:
        return self.is_current or isinstance(self.app.screen, PanelScreen)

    # --- what is shown ------------------------------------------------------------------------------------------------

    @property
    def stage(self) -> str:
        """The stage whose curves are shown: the chosen one, else the running one, else the one with most points."""
        points: dict[str, int] = {}
        for (stage, _), trace in self.watch.state.traces.items():
            points[stage] = max(points.get(stage, 0), trace.points)
        wanted = (self._stage, self.watch.state.stage)
        return next((stage for stage in wanted if stage in points), None) or max(
            points, key=points.__getitem__, default=""
        )

    def _show_status(self) -> None:
        lines = [headline(self.watch, self._glyphs), progress_line(self.watch.state, self._glyphs)]
        self.query_one("#status", Static).update(Text("\n").join(lines))
        words, shown = notes(self.watch), self.query_one("#notes", Static)
        shown.update(
            Text.assemble(("; ".join(words), "yellow"))
        )  # a style of all of it would miss the theme's own yellow
        shown.display = bool(words)

    def metrics_of_stage(self) -> list[str]:
        """The metrics that can be plotted, the ones one looks at first in front."""
        own = [name for stage, name in self.watch.state.traces if stage == self.stage]
        return sorted(own, key=lambda name: METRICS[name].front or len(METRICS) if name in METRICS else len(METRICS))

    def panel_view(self) -> StateView:
        """What panels draw from."""
        state, name = self.watch.state, self.run_dir.name
        return StateView(name, self.stage, state, self._glyphs, self._view, self._scrub)

    def plots(self) -> list[str | LoadedPanel]:
        """What stands among the curves: metrics, and the panels that show some of them, in the metrics' places."""
        view = self.panel_view()
        own = [each for each in self._panels if each.panel and each.panel.place == "plot" and view.has(each.panel)]
        by_metric = {metric: each for each in reversed(own) if each.panel for metric in each.panel.reads}
        found: list[str | LoadedPanel] = [*(by_metric.get(name, name) for name in self.metrics_of_stage()), *own]
        return [each for place, each in enumerate(found) if each not in found[:place]]

    def show_curves(self) -> None:
        for place in range(PLOTS):
            self._show_plot(place)

    def _show_plot(self, place: int) -> None:
        """Draw what stands at this place of the page."""
        plots, view = self.plots(), self.panel_view()
        pages = max(1, math.ceil(len(plots) / PLOTS))
        shown = plots[(self._page % pages) * PLOTS :][:PLOTS]
        words = _no_curves if place == 0 and not plots else None
        self.query_one(f"#plot{place}", PanelPane).show(_drawing(shown[place], view) if place < len(shown) else words)

    def _show_wide(self) -> None:
        view = self.panel_view()
        for pane in self.query("#wide PanelPane").results(PanelPane):
            loaded = next(each for each in self._panels if pane.id == f"wide-{each.name}")
            pane.display = loaded.panel is not None and view.has(loaded.panel)
            pane.show(_drawing(loaded, view))
        self.query_one("#wide").display = any(pane.display for pane in self.query("#wide PanelPane"))

    def _load_panels(self) -> None:
        self._panels = load_panels(self.run_dir.path)
        wide = [each for each in self._panels if each.panel is not None and each.panel.place == "wide"]
        self.query_one("#wide").mount(*(PanelPane(id=f"wide-{each.name}") for each in wide))
        for each in self._panels:
            if each.panel is None:
                self.notify(
                    one_line(f"panel {each.name!r} can't be shown: {each.problem}"), severity="warning", timeout=10
                )
        self._refresh()

    # --- keys ---------------------------------------------------------------------------------------------------------

    def first_curve(self) -> Plot | None:
        names = self.metrics_of_stage()
        return Plot(self.watch.state.traces[self.stage, names[0]], view=self._view) if names else None

    def action_next_metrics(self) -> None:
        self._page += 1
        self.show_curves()

    def action_next_stage(self) -> None:
        stages = list(dict.fromkeys(stage for stage, _ in self.watch.state.traces))
        if stages:
            self._stage = stages[(stages.index(self.stage) + 1) % len(stages)]
            self._view.start, self._view.stop = -math.inf, math.inf
            self._refresh()

    def action_scrub(self, by: int) -> None:
        kept = self.watch.state.snapshots.get(self.stage, [])
        self._scrub = min(max(0, self._scrub - by), max(0, len(kept) - 1))
        self._show_wide()

    def action_panels(self) -> None:
        def chosen(place: int | None) -> None:
            if place is not None:
                self.app.push_screen(PanelScreen(self._panels[place], self.panel_view))

        self.app.push_screen(PanelList(self._panels), chosen)

    def action_details(self) -> None:
        self.toggle_class("-details")

    def action_report(self) -> None:
        from mccore.tui.pages.report import ReportScreen

        self.app.push_screen(ReportScreen(self.watch.run))

    def action_copy(self) -> None:
        words = actions.spelled(["run", "--resume", self.watch.run.name])
        self.app.copy_to_clipboard(words)
        self.notify(f"copied: {one_line(words)}")


def _no_curves(width: int, height: int) -> Lines:
    words = "no curves yet: they come with the first step of a stage that trains"
    return [[Span(line, "dim")] for line in textwrap.wrap(words, max(1, width))[:height]]


def _drawing(what: str | LoadedPanel, view: StateView) -> Draw:
    """What draws a metric or a panel."""
    if isinstance(what, str):
        return lambda width, height: view.plot(what, width, height)
    return lambda width, height: what.draw(view, width, height)
