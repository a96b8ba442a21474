"""Any panel on a screen of its own, and the list to choose it from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen, Screen
from textual.widgets import Header, OptionList
from textual.widgets.option_list import Option

from mccore.host.terminal import one_line
from mccore.tui.panels import LoadedPanel, StateView
from mccore.tui.widgets.keys import Keys
from mccore.tui.widgets.panel import PanelPane

DRAW_SECONDS = 0.5


class PanelList(ModalScreen[int]):
    """The panels that are installed; gives the place of the chosen one."""

    DEFAULT_CSS = """
    PanelList { align: center middle; }
    PanelList Vertical { width: 70; max-width: 100%; height: auto; max-height: 80%; }
    PanelList Vertical { border: thick $primary; background: $surface; }
    PanelList OptionList { height: auto; max-height: 16; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "dismiss", "Close", tooltip="Close the list")]

    def __init__(self, panels: Sequence[LoadedPanel]) -> None:
        super().__init__()
        self._panels = panels

    def compose(self) -> ComposeResult:
        with Vertical():
            yield OptionList(*(Option(_words(each)) for each in self._panels))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_index)


class PanelScreen(Screen[None]):
    """One panel over the whole screen. `view` gives what it draws from, which the screen below keeps up."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.pop_screen", "Back", tooltip="Back to the screen before"),
    ]

    def __init__(self, panel: LoadedPanel, view: Callable[[], StateView]) -> None:
        super().__init__()
        self._panel = panel
        self._view = view

    def compose(self) -> ComposeResult:
        yield Header()
        yield PanelPane()
        yield Keys()

    def on_mount(self) -> None:
        self.title = one_line(self._panel.name)
        self._show()
        self.set_interval(DRAW_SECONDS, self._show)

    def _show(self) -> None:
        self.query_one(PanelPane).show(lambda width, height: self._panel.draw(self._view(), width, height))


def _words(panel: LoadedPanel) -> Text:
    name = Text(one_line(panel.name), style="bold")
    if panel.problem:
        return name.append(f"  {one_line(panel.problem)}", style="red")
    return name.append(f"  {one_line(panel.panel.title) if panel.panel else ''}", style="not bold")
