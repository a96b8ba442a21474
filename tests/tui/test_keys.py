"""The line of keys is made again when there are other keys, and not otherwise."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Button
from textual.widgets._footer import FooterKey

from mccore.tui.widgets.keys import Keys
from tests.tui.pilot import until


class Stop(Button):
    BINDINGS: ClassVar[list[BindingType]] = [Binding("s", "stop", "Stop it")]


def test_keys_are_made_again_when_there_are_others() -> None:
    class Page(App[None]):
        def compose(self) -> ComposeResult:
            yield Button("one", id="one")
            yield Button("two", id="two")
            yield Stop("three", id="three")
            yield Keys()

    async def steps() -> None:
        async with Page().run_test() as pilot:
            app, keys = pilot.app, pilot.app.query_one(Keys)
            await until(pilot, lambda: keys.children, "the keys")
            made = list(keys.children)
            app.query_one("#two").focus()
            app.screen.refresh_bindings()
            await pilot.pause()
            assert list(keys.children) == made
            app.query_one("#three").focus()
            await until(
                pilot,
                lambda: "Stop it" in [child.description for child in keys.query(FooterKey)],
                "the key of its own",
            )

    asyncio.run(steps())
