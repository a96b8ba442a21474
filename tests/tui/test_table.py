"""Tables that are painted while rows are added."""

from __future__ import annotations

import asyncio

from textual.app import App, ComposeResult

from mccore.tui.widgets.table import Table


def test_a_row_that_was_painted_before_it_was_measured_is_not_cut() -> None:
    class Page(App[None]):
        def compose(self) -> ComposeResult:
            yield Table()

    async def painted() -> tuple[str, str]:
        async with Page().run_test() as pilot:
            table = pilot.app.query_one(Table)
            table.add_columns("a", "b")
            table.add_row("a row", "before it")
            await pilot.pause()
            table.clear()
            table.add_row("x", "longer than its title")
            early = pilot.app.export_screenshot()  # paints, before the table had a moment to measure
            await pilot.pause()
            return early, pilot.app.export_screenshot()

    early, late = asyncio.run(painted())
    assert "its&#160;title" not in early, "it was painted too late to show anything"
    assert "its&#160;title" in late
