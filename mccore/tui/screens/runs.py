"""All runs: how each is doing, with a filter; the way to watch, start and delete them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Header, Input, Static

from mccore.errors import MccoreError
from mccore.host.terminal import one_line
from mccore.runs.removal import delete_run
from mccore.runs.rundir import RunDir, list_runs
from mccore.tui.glyphs import Glyphs
from mccore.tui.screens.confirm import ConfirmScreen
from mccore.tui.screens.run_screen import DIGITS
from mccore.units import count, duration, number

REFRESH_SECONDS = 2.0
COLUMNS = ("", "name", "recipe", "state", "stage", "step", "tokens", "loss", "age")


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
        self._runs: dict[str, RunDir] = {}

    def compose(self) -> ComposeResult:
        yield Header()
        yield Input(placeholder="filter", id="filter")
        yield Static("", id="empty")
        yield DataTable(id="runs", cursor_type="row")
        yield Footer()

    def on_mount(self) -> None:
        self.query_one("#filter").display = False
        table = self.query_one(DataTable)
        for name in COLUMNS:
            table.add_column(name, key=name)
        self.reload()
        table.focus()
        self.set_interval(REFRESH_SECONDS, self.reload)

    def reload(self) -> None:
        """Read the directory again; the cursor stays on its run."""
        if not self.is_current:
            return
        table = self.query_one(DataTable)
        chosen = self.chosen()
        wanted = self.query_one("#filter", Input).value.lower()
        try:
            runs = sorted(list_runs(self._root), key=lambda run: run.started, reverse=True)
            problem = ""
        except MccoreError as error:
            runs, problem = [], error.message
        rows = [(run, self._row(run)) for run in runs]
        rows = [(run, row) for run, row in rows if wanted in " ".join(map(str, row)).lower()]
        self._runs = {run.name: run for run, _ in rows}
        table.clear()
        for run, row in rows:
            table.add_row(*row, key=run.name)
        if chosen is not None and chosen.name in self._runs:
            table.move_cursor(row=list(self._runs).index(chosen.name))
        words = problem or ("" if rows else f"no runs in {self._root}; press n to start one")
        empty = self.query_one("#empty", Static)
        empty.update(Text(one_line(words)))
        empty.display = bool(words)

    def _row(self, run: RunDir) -> list[str | Text]:
        try:
            outcome, recipe = run.outcome(), run.config.recipe
            state, stage = outcome.state, outcome.stage or ""
        except (MccoreError, OSError) as error:  # one damaged run doesn't hide the others
            state, stage, recipe = "unreadable", "", one_line(str(error))[:40]
        step = run.last_event("step")
        colour = {"running": "green", "failed": "red", "crashed": "red", "unreadable": "red"}.get(state, "")
        mark = "*" if run.name in self._marked else " "
        return [
            mark + self._glyphs.states.get(state, " "),
            Text(one_line(run.name)),
            Text(one_line(recipe)),
            Text(state, style=colour),
            stage,
            count(step.step) if step and step.step is not None else "",
            count(step.tokens) if step and step.tokens is not None else "",
            number(step.metrics["loss"]) if step and "loss" in step.metrics else "",
            duration(max(0.0, time.time() - run.started)),
        ]

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
        self.reload()

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
            self.reload()

    def action_compare(self) -> None:
        from mccore.tui.screens.compare import CompareScreen

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
            try:
                delete_run(run)
            except MccoreError as error:
                self.notify(one_line(error.message), severity="error")
            self.reload()

        self.app.push_screen(ConfirmScreen(f"Delete {run.path} with its checkpoints?"), answered)
