"""Whether everything mccore needs is there: the findings of `mccore doctor`, which runs in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Header, Static

from mccore.host.json_file import parse_json
from mccore.host.terminal import one_line, visible
from mccore.tui import actions
from mccore.tui.drawing.colours import CHECKS
from mccore.tui.widgets.keys import Keys
from mccore.tui.widgets.table import Table
from mccore.tui.workers import while_shown


class SetupScreen(Screen[None]):
    """A table of checks: what was looked at, how it is, what to do."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.pop_screen", "Back", tooltip="Back to the screen before"),
        Binding("r", "look", "Look again", tooltip="Run the checks again"),
        Binding("y", "copy", "Copy", tooltip="Copy what to do about the check under the cursor"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._checks: list[Mapping[str, Any]] = []

    def compose(self) -> ComposeResult:
        yield Header()
        yield Static("", id="setup-status")
        yield Table(id="checks", cursor_type="row")
        yield Static("", id="setup-hint")
        yield Keys()

    def on_mount(self) -> None:
        table = self.query_one(DataTable)
        table.add_columns("", "check", "finding")
        table.focus()
        self.action_look()

    def action_look(self) -> None:
        self._look()

    @work(exclusive=True, group="doctor")
    @while_shown
    async def _look(self) -> None:
        status = self.query_one("#setup-status", Static)
        status.update("looking, as `mccore doctor` does")
        code, said, errors = await actions.answer(["doctor", "--json"])
        try:
            checks = parse_json(said)["checks"]
            rows = [(str(each["state"]), str(each["name"]), str(each["detail"])) for each in checks]
        except (ValueError, KeyError, TypeError):
            status.update(Text.assemble((f"mccore doctor failed ({code}): {visible(errors)[-2000:]}", "red")))
            return
        self._checks = checks
        table = self.query_one(DataTable)
        table.clear()
        for state, name, detail in rows:
            table.add_row(Text(state, style=CHECKS.get(state, "")), Text(one_line(name)), Text(one_line(detail)))
        bad = sum(state != "ok" for state, _, _ in rows)
        status.update(f"{len(rows)} checks, {bad} to look at" if bad else f"{len(rows)} checks, all well")
        self._hint()

    def on_data_table_row_highlighted(self) -> None:
        self._hint()

    def _hint(self) -> None:
        self.query_one("#setup-hint", Static).update(Text.assemble((self._advice(), "yellow")))

    def _advice(self) -> str:
        place = self.query_one(DataTable).cursor_row
        if not 0 <= place < len(self._checks) or self._checks[place].get("state") == "ok":
            return ""
        return one_line(str(self._checks[place].get("hint", "")))

    def action_copy(self) -> None:
        if words := self._advice():
            self.app.copy_to_clipboard(words)
            self.notify("copied what to do")
        else:
            self.notify("there is nothing to do about this check")
