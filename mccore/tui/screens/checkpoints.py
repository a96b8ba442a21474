"""The checkpoints of a run: what each is, whether it is complete, what it is needed for; chat from one, delete one."""

from __future__ import annotations

import time
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Static

from mccore.errors import MccoreError
from mccore.host.terminal import one_line
from mccore.runs.removal import CheckpointRow, checkpoint_rows, delete_checkpoint
from mccore.runs.requests import request_checkpoint
from mccore.runs.rundir import RunDir
from mccore.tui.drawing.glyphs import Glyphs
from mccore.tui.screens.confirm import ConfirmScreen
from mccore.tui.screens.run_screen import RunScreen, ViewLine
from mccore.tui.widgets.keys import Keys
from mccore.tui.widgets.table import Table
from mccore.units import count, duration, size

REFRESH_SECONDS = 2.0
COLUMNS = ("stage", "step", "tokens", "size", "age", "is", "note")


class CheckpointsScreen(RunScreen):
    """A table of checkpoints, read again every few seconds."""

    VIEW: ClassVar[str] = "checkpoints"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "chat", "Chat", tooltip="Talk to the model of this checkpoint"),
        Binding("e", "evaluate", "Evaluate", tooltip="Measure what the Working Contexts of the model are worth"),
        Binding("C", "checkpoint", "Write one", tooltip="Write a checkpoint after this step"),
        Binding("delete", "delete", "Delete", tooltip="Delete this checkpoint, after a question"),
    ]

    def __init__(self, run: RunDir, glyphs: Glyphs) -> None:
        super().__init__(run, glyphs)
        self._rows: list[CheckpointRow] = []

    def compose(self) -> ComposeResult:
        yield ViewLine(self.run_dir, self.VIEW)
        yield Static("", id="checkpoint-status")
        yield Table(id="checkpoints", cursor_type="row")
        yield Keys()

    def on_mount(self) -> None:
        table = self.query_one(DataTable)
        table.add_columns(*COLUMNS)
        table.focus()
        self.reload()
        self.set_interval(REFRESH_SECONDS, self.reload)

    @work(thread=True, exclusive=True, group="checkpoints")
    def reload(self) -> None:
        """Read the directories again; checksums of small files are part of it, so not on the screen's own time."""
        if self.is_current:
            self.app.call_from_thread(self._show, checkpoint_rows(self.run_dir))

    def _show(self, rows: list[CheckpointRow]) -> None:
        table = self.query_one(DataTable)
        place = table.cursor_row
        self._rows = rows
        table.clear()
        for row in rows:
            table.add_row(*_cells(row), key=str(row.path))
        table.move_cursor(row=min(place, max(0, len(rows) - 1)))
        self._tell()

    def on_data_table_row_highlighted(self) -> None:
        self._tell()

    def _tell(self) -> None:
        """How many there are, and the whole note of the one under the cursor, which a narrow screen cuts."""
        row, total = self.chosen(), size(sum(row.bytes for row in self._rows))
        words = (
            f"{len(self._rows)} checkpoints, {total}"
            if self._rows
            else "no checkpoint yet; C asks a running stage for one"
        )
        note = f"  {row.name}: {row.problem or row.needed}" if row is not None and (row.problem or row.needed) else ""
        self.query_one("#checkpoint-status", Static).update(Text(words + one_line(note)))

    def chosen(self) -> CheckpointRow | None:
        """The checkpoint under the cursor."""
        place = self.query_one(DataTable).cursor_row
        return self._rows[place] if 0 <= place < len(self._rows) else None

    def on_data_table_row_selected(self) -> None:
        self.action_chat()

    def action_chat(self) -> None:
        row = self.chosen()
        if row is None:
            return
        if row.problem:
            self.notify(one_line(row.problem), severity="warning")
            return
        self.app.show_view(self.run_dir, "chat", (row.stage, row.step))  # type: ignore[attr-defined]

    def action_evaluate(self) -> None:
        self.action_view("evaluate")

    def action_checkpoint(self) -> None:
        if not self.run_dir.is_running():
            self.notify("it isn't running", severity="warning")
            return
        try:
            request_checkpoint(self.run_dir)
        except MccoreError as error:
            self.notify(one_line(error.message), severity="error")
        else:
            self.notify("a checkpoint is written after this step")

    def action_delete(self) -> None:
        row = self.chosen()
        if row is None:
            return
        question = f"Delete {row.name} ({size(row.bytes)})?"
        if row.needed:
            question = f"{row.name} is needed: {row.needed}. Delete it all the same?"

        def answered(yes: bool | None) -> None:
            if yes:
                try:
                    delete_checkpoint(self.run_dir, row, sure=True)
                except MccoreError as error:
                    self.notify(
                        one_line(f"{error.message} ({error.hint})" if error.hint else error.message), severity="error"
                    )
                self.reload()

        self.app.push_screen(ConfirmScreen(question), answered)


def _cells(row: CheckpointRow) -> list[str | Text]:
    state = Text("damaged" if row.problem else "complete", style="red" if row.problem else "green")
    if row.latest:
        state = Text("latest", style="bold green")
    return [
        row.stage,
        f"{row.step:,}",
        count(row.tokens) if row.tokens is not None else "",
        size(row.bytes),
        duration(max(0.0, time.time() - row.written)) if row.written else "",
        state,
        Text(one_line(row.problem or row.needed)),
    ]
