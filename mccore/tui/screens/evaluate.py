"""What the stages of a run have found, with intervals and samples, in the report's own words; measure now."""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Markdown, Static

from mccore.errors import MccoreError
from mccore.events import Event
from mccore.host.terminal import one_line, visible
from mccore.report.results import render_results
from mccore.runs.live.watch import RunWatch
from mccore.runs.requests import request_evaluation
from mccore.runs.rundir import RunDir
from mccore.tui import actions
from mccore.tui.drawing.glyphs import Glyphs
from mccore.tui.screens.run_screen import RunScreen, ViewLine
from mccore.tui.widgets.keys import Keys
from mccore.tui.widgets.markdown import show_markdown
from mccore.tui.workers import while_shown

REFRESH_SECONDS = 2.0


class EvaluateScreen(RunScreen):
    """The results as a page. It is read again while the run goes on."""

    VIEW: ClassVar[str] = "evaluate"
    DEFAULT_CSS = """
    EvaluateScreen #page { height: 1fr; }
    EvaluateScreen #measured { height: auto; max-height: 14; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "e", "evaluate", "Evaluate now", tooltip="Measure the model: a running stage after its step, else at once"
        ),
        Binding("r", "reload", "Reload", tooltip="Read the results again"),
    ]

    def __init__(self, run: RunDir, glyphs: Glyphs) -> None:
        super().__init__(run, glyphs)
        self.page = ""  # what is shown
        self._watch = RunWatch(run)
        self._measuring = False

    def compose(self) -> ComposeResult:
        yield ViewLine(self.run_dir, self.VIEW)
        yield Static("", id="measured")
        with VerticalScroll(id="page"):
            yield Markdown("", open_links=False)
        yield Keys()

    def on_mount(self) -> None:
        self.query_one("#measured").display = False
        self.query_one("#page").focus()
        self._follow()

    @work(exclusive=True, group="results")
    @while_shown
    async def _follow(self) -> None:
        """Read in a thread, now and then; a page that hasn't changed isn't drawn again."""
        await asyncio.to_thread(self._watch.open)
        while True:
            if self.is_current:
                await self._read()
                await self._read_on()
            await asyncio.sleep(0.0 if self.is_current and self._watch.catching_up else REFRESH_SECONDS)

    async def _read(self) -> None:
        state = self._watch.state
        kept: list[Event] = [*state.evaluations.values(), *state.samples]
        page = visible(await asyncio.to_thread(render_results, self.run_dir, kept))
        if page != self.page:
            self.page = page
            await show_markdown(self.query_one(Markdown), page)

    async def _read_on(self) -> None:
        """Take what the files have more, for a moment: a long history comes in between two looks at the results."""
        until = time.monotonic() + REFRESH_SECONDS
        while self._watch.digest(await asyncio.to_thread(self._watch.fetch)) and time.monotonic() < until:
            await asyncio.sleep(0)

    @work
    @while_shown
    async def action_reload(self) -> None:
        await self._read_on()
        await self._read()

    def action_evaluate(self) -> None:
        if self.run_dir.is_running():
            try:
                request_evaluation(self.run_dir)
            except MccoreError as error:
                self.notify(one_line(error.message), severity="error")
            else:
                self.notify("the stage that trains measures its model after this step")
        elif self._measuring:
            self.notify("it is measuring", severity="warning")
        else:
            self._measure()

    @work(group="measure")
    @while_shown
    async def _measure(self) -> None:
        """`mccore eval context` in a process of its own: the run is over, so nobody else measures."""
        self._measuring = True
        shown = self.query_one("#measured", Static)
        shown.display = True
        shown.update("measuring, as `mccore eval context` does")
        try:
            code, said, errors = await actions.answer(["eval", "context", str(self.run_dir.path)])
        finally:
            self._measuring = False
        words = visible(said if code == 0 else errors).strip()
        shown.update(Text.assemble((words or f"it ended with exit code {code}", "" if code == 0 else "red")))
