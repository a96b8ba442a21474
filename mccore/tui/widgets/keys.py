"""The line of keys at the bottom of a screen."""

from __future__ import annotations

from textual.screen import Screen
from textual.widgets import Footer

__all__ = ["Keys"]


class Keys(Footer):
    """The library makes all its keys again whenever focus moves; each is a widget with styles of its own. This makes them again
    when they are others than before."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: list[tuple[str, str, bool]] | None = None

    def bindings_changed(self, screen: Screen[object]) -> None:
        active = screen.active_bindings.values()
        shown = [(each.binding.key, each.binding.description, each.enabled) for each in active if each.binding.show]
        if not screen.app.app_focus or not self.is_attached or screen is not self.screen or shown == self._shown:
            return
        self._shown = shown
        super().bindings_changed(screen)
