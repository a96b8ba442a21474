"""Driving the monitor by keys."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from textual.pilot import Pilot

from mccore.tui.app import MonitorApp


def drive(app: MonitorApp, steps: Callable[[Pilot[None]], Awaitable[None]], size: tuple[int, int] = (120, 40)) -> None:
    """Run the app and `steps` in it."""

    async def go() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await steps(pilot)

    asyncio.run(go())


async def until(pilot: Pilot[None], condition: Callable[[], object], what: str) -> None:
    """Wait for something that happens in the background."""
    for _ in range(600):
        if condition():
            return
        await pilot.pause(0.05)
    pytest.fail(f"waited in vain for: {what}")
