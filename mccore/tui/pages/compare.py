"""Several runs laid over each other: a metric of each, on one axis, and their last values in a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Header

from mccore.host.terminal import one_line
from mccore.runs.live.watch import RunWatch
from mccore.runs.rundir import RunDir
from mccore.tui.canvas import Plot, PlotView
from mccore.tui.glyphs import Glyphs
from mccore.tui.widgets.plot import PlotWidget
from mccore.units import number

METRIC = "loss"
AXES = ("step", "tokens", "time")
MOST_RUNS = 4  # plots that fit one below the other


class CompareScreen(Screen[None]):
    """One plot a run with the same metric, and a table of what each measured last."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.pop_screen", "Back"),
        Binding("x", "axis", "Axis", tooltip="Steps, tokens or time"),
        Binding("l", "log", "Log", tooltip="Logarithmic values"),
        Binding("s", "smooth", "Smooth"),
    ]

    def __init__(self, runs: Sequence[RunDir], glyphs: Glyphs) -> None:
        super().__init__()
        self._watches = [RunWatch(run) for run in runs[:MOST_RUNS]]
        self._glyphs = glyphs
        self._view = PlotView()

    def compose(self) -> ComposeResult:
        yield Header()
        with Vertical(id="overlay"):
            for number_, watch in enumerate(self._watches):
                yield PlotWidget(one_line(watch.run.name), self._glyphs, id=f"plot{number_}")
        yield DataTable(id="values", cursor_type="row")
        yield Footer()

    def on_mount(self) -> None:
        for watch in self._watches:
            watch.open()
        table = self.query_one(DataTable)
        table.add_columns("metric", *(one_line(watch.run.name) for watch in self._watches))
        self._refresh()
        self.set_interval(0.25, self._poll)

    def _poll(self) -> None:
        moved = [watch.poll(0.01) for watch in self._watches]
        if any(moved):
            self._refresh()

    def _refresh(self) -> None:
        for number_, watch in enumerate(self._watches):
            stage = next((s for s, name in watch.state.traces if name == METRIC), None)
            trace = watch.state.traces.get((stage or "", METRIC))
            self.query_one(f"#plot{number_}", PlotWidget).show(Plot(trace, view=self._view) if trace else None)
        table = self.query_one(DataTable)
        table.clear()
        names = list(dict.fromkeys(name for watch in self._watches for name in watch.state.metrics))
        for name in names:
            values = [watch.state.metrics.get(name) for watch in self._watches]
            table.add_row(Text(one_line(name)), *(number(last.value) if last else "" for last in values))

    def action_axis(self) -> None:
        self._view.axis = AXES[(AXES.index(self._view.axis) + 1) % len(AXES)]
        self._refresh()

    def action_log(self) -> None:
        self._view.log = not self._view.log
        self._refresh()

    def action_smooth(self) -> None:
        self._view.smooth = not self._view.smooth
        self._refresh()
