"""Several runs laid over each other: one plot over what they had spent, and what each had to spend to come equally far."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Header, Static

from mccore.api import Span
from mccore.events import METRICS
from mccore.host.terminal import one_line
from mccore.runs.live.comparison import BUDGETS, LOSSES, Curve, common_value, curve, reached, stages_with
from mccore.runs.live.watch import RunWatch
from mccore.runs.rundir import RunDir
from mccore.tui.drawing.colours import STYLES
from mccore.tui.drawing.glyphs import Glyphs
from mccore.tui.drawing.overlay import ROLES, OverlayView, mark_of, overlay, spell_spent, value_under
from mccore.tui.panels import Lines, spans_of
from mccore.tui.widgets.keys import Keys
from mccore.tui.widgets.panel import PanelPane
from mccore.tui.widgets.table import Table
from mccore.tui.workers import while_shown
from mccore.units import number

MOST_RUNS = len(ROLES)
POLL_SECONDS = 0.5
AXES = tuple(BUDGETS)


class CompareScreen(Screen[None]):
    """A metric of up to four runs, and a table: what was spent to reach the lowest loss that all have reached, last values."""

    DEFAULT_CSS = """
    CompareScreen #overlay { height: 1fr; min-height: 8; }
    CompareScreen #values { height: 1fr; min-height: 5; }
    CompareScreen #compared { height: 1; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.pop_screen", "Back", tooltip="Back to the list of runs"),
        Binding("x", "axis", "Axis", tooltip="Steps, tokens, FLOPs, training time or MC effective steps"),
        Binding("p", "metric(1)", "Metric", tooltip="The next metric"),
        Binding("v", "stage", "Stage", tooltip="Another stage"),
        Binding("l", "log", "Log", tooltip="Logarithmic values"),
        Binding("m", "smooth", "Smooth", tooltip="Smooth the curves"),
        Binding("comma", "move(-1)", show=False, tooltip="Move the cursor that reads values to the left"),
        Binding("full_stop", "move(1)", show=False, tooltip="Move the cursor that reads values to the right"),
    ]

    def __init__(self, runs: Sequence[RunDir], glyphs: Glyphs) -> None:
        super().__init__()
        self._watches = [RunWatch(run) for run in runs[:MOST_RUNS]]
        self._left_out = max(0, len(runs) - MOST_RUNS)
        self._glyphs = glyphs
        self._stage = 0  # place among those that any run has
        self._metric = "loss"
        self.view = OverlayView()

    def compose(self) -> ComposeResult:
        yield Header()
        yield Static("", id="compared")
        yield PanelPane(id="overlay")
        yield Table(id="values", cursor_type="row")
        yield Keys()

    def on_mount(self) -> None:
        self.sub_title = "comparison"
        table = self.query_one(DataTable)
        table.add_columns("", *(self._named(place) for place in range(len(self._watches))))
        table.focus()
        self._follow()

    @work(exclusive=True, group="compare")
    @while_shown
    async def _follow(self) -> None:
        """Read on for ever, in pieces: what may block in a thread."""
        for watch in self._watches:
            await asyncio.to_thread(watch.open)
        self._draw()
        while True:
            moved = [await self._read(watch) for watch in self._watches]
            if any(moved):
                self._draw()
            await asyncio.sleep(0 if any(watch.catching_up for watch in self._watches) else POLL_SECONDS)

    async def _read(self, watch: RunWatch) -> bool:
        pieces = await asyncio.to_thread(watch.fetch)
        return watch.digest(pieces)

    # --- what is shown ------------------------------------------------------------------------------------------------

    @property
    def stage(self) -> str:
        """The stage whose curves are compared."""
        stages = self._stages()
        return stages[self._stage % len(stages)] if stages else ""

    def curves(self) -> list[Curve | None]:
        """The curve of each run, in their order."""
        return [curve(watch.state, self.stage, self._metric, self.view.budget) for watch in self._watches]

    def _stages(self) -> list[str]:
        return stages_with([watch.state for watch in self._watches], self._metric)

    def _metrics(self) -> list[str]:
        """What can be compared: metrics of the stage, the ones one looks at first in front."""
        stage = self.stage
        found = {name for watch in self._watches for at, name in watch.state.traces if at == stage} - {LOSSES[0]}
        return sorted(
            found, key=lambda name: (METRICS[name].front or len(METRICS) if name in METRICS else len(METRICS), name)
        )

    def _named(self, place: int) -> Text:
        name = one_line(self._watches[place].run.name)
        return Text.assemble((f"{mark_of(place, self._glyphs)} ", STYLES[ROLES[place]]), name)

    def _draw(self) -> None:
        curves = self.curves()
        known = METRICS.get(self._metric)
        unit = f" [{known.unit}]" if known and known.unit != "1" else ""
        words = f"{one_line(self.stage) or 'no stage'}/{one_line(self._metric)}{unit} over {BUDGETS[self.view.budget]}"
        if missing := [one_line(each.run.name) for each, own in zip(self._watches, curves, strict=True) if own is None]:
            words += f"; not told by {', '.join(missing)}"
        words += f"; {self._left_out} more marked, four fit" if self._left_out else ""
        self.query_one("#compared", Static).update(Text(words))
        self.query_one("#overlay", PanelPane).show(lambda width, height: self._plot(curves, width, height))
        self._fill(curves)

    def _plot(self, curves: Sequence[Curve | None], width: int, height: int) -> Lines:
        if not any(curves):
            return [[Span("no values yet", "axis")]]
        legend = list(self._legend(curves))
        rows = [spans_of(row) for row in overlay(curves, self.view, width, height - 1, self._glyphs)]
        return [legend, *rows]

    def _legend(self, curves: Sequence[Curve | None]) -> Iterator[Span]:
        last = max((each.spent[-1] for each in curves if each is not None), default=0.0)
        for place, own in enumerate(curves):
            value = None
            if own is not None:
                at = self.view.cursor
                value = own.mean[-1] if at is None else value_under(own, at, last)
            words = number(value) if value is not None else "-"
            yield Span(
                f"{mark_of(place, self._glyphs)} {one_line(self._watches[place].run.name)} {words}  ", ROLES[place]
            )
        if self.view.cursor is not None:
            yield Span(f"at {spell_spent(self.view.cursor * last, self.view.budget)}", "cursor")

    def _fill(self, curves: Sequence[Curve | None]) -> None:
        table = self.query_one(DataTable)
        place = table.cursor_row
        table.clear()
        for label, cells in [*self._spent_rows(), *self._last_rows()]:
            table.add_row(Text(one_line(label)), *(Text(cell) for cell in cells))
        table.move_cursor(row=min(place, max(0, table.row_count - 1)))

    def _spent_rows(self) -> Iterator[tuple[str, list[str]]]:
        """On every axis what each run had to spend to reach the lowest loss that all have reached, and what it has spent."""
        losses = [curve(watch.state, self.stage, "loss", "step") for watch in self._watches]
        goal = common_value([each for each in losses if each is not None])
        for budget, words in BUDGETS.items():
            own = [curve(watch.state, self.stage, "loss", budget) for watch in self._watches]
            spent = [None if each is None else each.spent[-1] for each in own]
            yield f"{words} so far", [_cell(each, budget) for each in spent]
            if goal is not None and len(self._watches) > 1:
                needed = [None if each is None else reached(each, goal) for each in own]
                yield f"{words} to loss {number(goal)}", [_cell(each, budget) for each in needed]

    def _last_rows(self) -> Iterator[tuple[str, list[str]]]:
        names = list(dict.fromkeys(name for watch in self._watches for name in watch.state.metrics))
        for name in names:
            values = [watch.state.metrics.get(name) for watch in self._watches]
            yield f"last {name}", [number(last.value) if last else "" for last in values]

    # --- keys ---------------------------------------------------------------------------------------------------------

    def action_axis(self) -> None:
        self.view.budget = AXES[(AXES.index(self.view.budget) + 1) % len(AXES)]
        self._draw()

    def action_metric(self, by: int) -> None:
        metrics = self._metrics()
        if metrics:
            place = metrics.index(self._metric) + by if self._metric in metrics else 0
            self._metric = metrics[place % len(metrics)]
            self._draw()

    def action_stage(self) -> None:
        self._stage += 1
        self._draw()

    def action_log(self) -> None:
        self.view.log = not self.view.log
        self._draw()

    def action_smooth(self) -> None:
        self.view.smooth = not self.view.smooth
        self._draw()

    def action_move(self, columns: int) -> None:
        at = 0.5 if self.view.cursor is None else self.view.cursor + columns * 0.02
        self.view.cursor = min(1.0, max(0.0, at))
        self._draw()


def _cell(spent: float | None, budget: str) -> str:
    return "" if spent is None else spell_spent(spent, budget)  # type: ignore[arg-type]
