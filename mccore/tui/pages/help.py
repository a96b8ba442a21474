"""Every key of a screen, read from the screen itself, so that it is true."""

from __future__ import annotations

from typing import ClassVar

from rich.table import Table
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Static


class HelpScreen(ModalScreen[None]):
    """The bindings that are active on another screen."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,f1", "dismiss", "Close")]

    def __init__(self, about: Screen[object]) -> None:
        super().__init__()
        self._about = about

    def compose(self) -> ComposeResult:
        table = Table("key", "does", expand=True, box=None)
        # A screen's own keys first, then the application's, then those of a table or a text.
        rank = {self._about: 0, self.app: 1}
        for active in sorted(self._about.active_bindings.values(), key=lambda active: rank.get(active.node, 2)):
            binding = active.binding
            words = active.tooltip or binding.description
            if words and not binding.system:
                table.add_row(self.app.get_key_display(binding), words)
        with VerticalScroll(id="help"):
            yield Static(table)
