"""Workers of screens: what goes on while a screen is shown, and ends with it."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from textual.css.query import NoMatches
from textual.screen import Screen

__all__ = ["while_shown"]

Page = TypeVar("Page", bound=Screen[None])
Rest = ParamSpec("Rest")


def while_shown(worker: Callable[[Page], Awaitable[None]]) -> Callable[[Page], Awaitable[None]]:
    """Let a worker end in silence when its screen is taken down under it.

    A worker that waits for a thread or a process may wake after the screen's widgets are gone and before it is cancelled
    itself. What it asks for then isn't there, which is no fault. On a screen that stays, it is one and is raised.
    """

    @functools.wraps(worker)
    async def ending(page: Page) -> None:
        try:
            await worker(page)
        except NoMatches:
            if page.is_attached and page.is_running and page.display:  # `display` is False while a screen is removed
                raise

    return ending
