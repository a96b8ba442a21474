"""The report of a run, as it was written last."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Header, MarkdownViewer

from mccore.host.json_file import BadJson, read_regular
from mccore.host.terminal import visible
from mccore.runs.rundir import RunDir
from mccore.tui.widgets.keys import Keys
from mccore.tui.widgets.markdown import show_markdown
from mccore.tui.workers import while_shown


class ReportScreen(Screen[None]):
    """Shows `report/report.md`, with its headings at the left."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.pop_screen", "Back", tooltip="Back to the screen before")
    ]

    def __init__(self, run: RunDir) -> None:
        super().__init__()
        self._path = run.report_dir / "report.md"

    def compose(self) -> ComposeResult:
        yield Header()
        yield MarkdownViewer("", show_table_of_contents=self.app.size.width >= 100, open_links=False)
        yield Keys()

    def on_mount(self) -> None:
        self.sub_title = self._path.parent.parent.name
        self._show()

    @work(exclusive=True)
    @while_shown
    async def _show(self) -> None:
        try:
            text = visible((await asyncio.to_thread(read_regular, self._path)).decode("utf-8", "replace"))
        except FileNotFoundError:
            text = f"There is no report yet. `mccore report {self._path.parent.parent.name}` writes one."
        except (OSError, BadJson) as error:
            text = f"The report can't be read: {visible(str(error))}"
        viewer = self.query_one(MarkdownViewer)
        viewer.focus()
        await show_markdown(viewer.document, text)
