"""Workers that wake when their screen is on its way out."""

from __future__ import annotations

import asyncio

import pytest
from textual import work
from textual.app import App, ComposeResult
from textual.css.query import NoMatches
from textual.screen import Screen
from textual.widgets import Static
from textual.worker import WorkerFailed

from mccore.tui.workers import while_shown


class Page(Screen[None]):
    """Its worker asks for a widget once `woken` is set, however the screen stands then."""

    def __init__(self) -> None:
        super().__init__()
        self.woken = asyncio.Event()
        self.asked = asyncio.Event()

    def compose(self) -> ComposeResult:
        yield Static(id="there")

    def on_mount(self) -> None:
        self._ask()

    @work
    @while_shown
    async def _ask(self) -> None:
        try:
            await asyncio.shield(self.woken.wait())
        finally:
            self.asked.set()
            self.query_one("#gone")


class Book(App[None]):
    def on_mount(self) -> None:
        self.push_screen(Page())


def test_a_worker_that_wakes_on_a_screen_being_removed_ends_in_silence() -> None:
    async def go() -> None:
        async with Book().run_test() as pilot:
            page = pilot.app.screen
            assert isinstance(page, Page)
            removed = pilot.app.pop_screen()
            page.woken.set()
            await removed
            assert page.asked.is_set()

    asyncio.run(go())


def test_what_a_screen_that_stays_lacks_is_a_fault() -> None:
    async def go() -> None:
        async with Book().run_test() as pilot:
            page = pilot.app.screen
            assert isinstance(page, Page)
            page.woken.set()
            await pilot.pause()

    with pytest.raises((WorkerFailed, NoMatches)):
        asyncio.run(go())
