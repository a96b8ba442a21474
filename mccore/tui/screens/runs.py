"""All runs: how each is doing, with a filter; the way to watch, start and delete them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Header, Input, Static

from mccore.errors import MccoreError
from mccore.events.metrics import language_loss
from mccore.host.terminal import one_line
from mccore.runs.rundir import RunDir, list_runs
from mccore.tui.drawing.colours import LISTED_STATES
from mccore.tui.drawing.glyphs import Glyphs
from mccore.tui.screens.confirm import ConfirmScreen
from mccore.tui.screens.run_screen import DIGITS
from mccore.tui.widgets.keys import Keys
from mccore.tui.widgets.table import Table
from mccore.tui.workers import while_shown
from mccore.units import count, duration, number

REFRESH_SECONDS = 2.0
COLUMNS = ("", "name", "recipe", "state", "stage", "step", "tokens", "loss", "age", "note")


@dataclass(frozen=True)
class RunRow:
    """A run and what is told of it, in the order of the columns from the second on."""

    run: RunDir
    state: str
    words: tuple[str, ...]


class RunsScreen(Screen[None]):
    """A table of runs, the newest first."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *DIGITS,
        Binding("enter", "attach", "Watch", tooltip="Watch this run"),
        Binding("n", "launch", "New run", tooltip="Start a run"),
        Binding("slash", "filter", "Filter", tooltip="Show runs whose name, recipe or state has this text"),
        Binding("c", "compare", "Compare", tooltip="Compare the marked runs, or the two newest"),
        Binding("space", "mark", "Mark", tooltip="Mark this run for a comparison"),
        Binding("delete", "delete", "Delete", tooltip="Delete this run's directory, after a question"),
    ]

    def __init__(self, root: Path, glyphs: Glyphs) -> None:
        super().__init__()
        self._root = root
        self._glyphs = glyphs
        self._marked: set[str] = set()
        self._runs: dict[str, RunDir] = {}  # those that are shown
        self._known: dict[Path, RunDir] = {}  # they remember what they found
        self._rows: list[RunRow] = []
        self._problem = ""

    def compose(self) -> ComposeResult:
        yield Header()
        yield Input(placeholder="filter", id="filter")
        yield Static("", id="empty")
        yield Table(id="runs", cursor_type="row")
        yield Keys()

    def on_mount(self) -> None:
        self.query_one("#filter").display = False
        table = self.query_one(DataTable)
        for name in COLUMNS:
            table.add_column(name, key=name)
        table.focus()
        self.reload()
        self.set_interval(REFRESH_SECONDS, self.reload)

    def on_screen_resume(self) -> None:
        """It is shown again. The first time comes before there are columns."""
        if self.is_mounted:
            self.reload()

    @work(exclusive=True, group="runs")
    @while_shown
    async def reload(self) -> None:
        """Read the directory again, in a thread."""
        if self.is_current:
            self._rows, self._problem = await asyncio.to_thread(self._read)
            self._show()

    def _read(self) -> tuple[list[RunRow], str]:
        try:
            there = {run.path: self._known.get(run.path, run) for run in list_runs(self._root)}
        except MccoreError as error:
            return [], error.message
        self._known = there
        return [_row_of_run(run) for run in sorted(there.values(), key=lambda run: run.started, reverse=True)], ""

    def _show(self) -> None:
        """Show the rows that pass the filter. The cursor stays on its run, and only what changed is drawn."""
        table = self.query_one(DataTable)
        chosen = self.chosen()
        wanted = self.query_one("#filter", Input).value.lower()
        rows = [row for row in self._rows if wanted in " ".join(row.words).lower()]
        before, self._runs = self._runs, {row.run.name: row.run for row in rows}
        cells = {row.run.name: self._cells(row) for row in rows}
        if list(before) != list(self._runs):
            table.clear()
            for name, each in cells.items():
                table.add_row(*each, key=name)
            if chosen is not None and chosen.name in self._runs:
                table.move_cursor(row=list(self._runs).index(chosen.name))
        else:
            for name, each in cells.items():
                for column, cell in zip(COLUMNS, each, strict=True):
                    if table.get_cell(name, column) != cell:
                        table.update_cell(name, column, cell)
        words = self._problem or ("" if rows else f"no runs in {self._root}; press n to start one")
        empty = self.query_one("#empty", Static)
        empty.update(Text(one_line(words)))
        empty.display = bool(words)

    def _cells(self, row: RunRow) -> list[Text]:
        mark = "*" if row.run.name in self._marked else " "
        colour = LISTED_STATES.get(row.state, "")
        first = Text(mark + self._glyphs.states.get(row.state, " "))
        return [first, *(Text(word, style=colour if word == row.state else "") for word in row.words)]

    def chosen(self) -> RunDir | None:
        """The run under the cursor."""
        table = self.query_one(DataTable)
        if not table.row_count or table.cursor_row is None:
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        return self._runs.get(str(key))

    def on_data_table_row_selected(self) -> None:
        self.action_attach()

    def on_input_changed(self) -> None:
        self._show()

    def on_input_submitted(self) -> None:
        self.query_one(DataTable).focus()

    def action_attach(self) -> None:
        run = self.chosen()
        if run is not None:
            self.app.attach(run)  # type: ignore[attr-defined]

    def action_view(self, name: str) -> None:
        run = self.chosen()
        if run is not None or name == "setup":
            self.app.show_view(run, name)  # type: ignore[attr-defined]

    def action_launch(self) -> None:
        self.app.launch()  # type: ignore[attr-defined]

    def action_filter(self) -> None:
        box = self.query_one("#filter", Input)
        box.display = not box.display
        box.value = "" if not box.display else box.value
        (box if box.display else self.query_one(DataTable)).focus()

    def action_mark(self) -> None:
        run = self.chosen()
        if run is not None:
            self._marked ^= {run.name}
            self._show()

    def action_compare(self) -> None:
        from mccore.tui.pages.compare import CompareScreen

        chosen = [run for name, run in self._runs.items() if name in self._marked] or list(self._runs.values())[:2]
        if chosen:
            self.app.push_screen(CompareScreen(chosen, self._glyphs))

    def action_delete(self) -> None:
        run = self.chosen()
        if run is None:
            return
        if run.is_running():
            self.notify("stop it first: it is running", severity="warning")
            return

        def answered(yes: bool | None) -> None:
            if not yes:
                return
            from mccore.runs.removal import delete_run

            try:
                delete_run(run)
            except MccoreError as error:
                self.notify(one_line(error.message), severity="error")
            self.reload()

        self.app.push_screen(ConfirmScreen(f"Delete {run.path} with its checkpoints?"), answered)


def _row_of_run(run: RunDir) -> RunRow:
    try:
        outcome, recipe = run.outcome(), str(run.facts.get("recipe") or "")
        state, stage, note = outcome.state, outcome.stage or "", outcome.message
    except (MccoreError, OSError) as error:  # one damaged run doesn't hide the others
        state, stage, recipe, note = "unreadable", "", "", str(error)
    step = run.last_event("step")
    loss = language_loss(step.metrics) if step else None
    words = (
        run.name,
        recipe,
        state,
        stage,
        count(step.step) if step and step.step is not None else "",
        count(step.tokens) if step and step.tokens is not None else "",
        number(loss) if loss is not None else "",
        duration(max(0.0, time.time() - run.started)),
        note,
    )
    return RunRow(run, state, tuple(map(one_line, words)))
