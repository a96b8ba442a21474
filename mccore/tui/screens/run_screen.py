"""What the screens of one run have in common: a line that names them, and a digit for each."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.screen import Screen
from textual.widgets import Static

from mccore.host.terminal import one_line
from mccore.runs.rundir import RunDir
from mccore.tui.drawing.glyphs import Glyphs

# name -> (word of the line, tooltip); the digit is the place in this order
VIEWS: dict[str, tuple[str, str]] = {
    "monitor": ("Monitor", "Curves, the Working Context and alerts of this run"),
    "logs": ("Logs", "The logs of all stages and ranks"),
    "checkpoints": ("Checkpoints", "The checkpoints: what each is, chat from one, delete one"),
    "evaluate": ("Evaluate", "Results of all stages, with intervals and samples"),
    "chat": ("Chat", "Talk to the model of this run"),
    "setup": ("Setup", "Whether everything mccore needs is there"),
}
DIGITS: list[BindingType] = [
    Binding(str(place), f"view('{name}')", word, show=False, tooltip=meaning)
    for place, (name, (word, meaning)) in enumerate(VIEWS.items(), 1)
]


class RunScreen(Screen[None]):
    """A screen about one run. `VIEW` is its name among `VIEWS`."""

    VIEW: ClassVar[str] = "monitor"
    BINDINGS: ClassVar[list[BindingType]] = [
        *DIGITS,
        Binding("escape", "leave", "Back", tooltip="Back to the screen before"),
    ]

    def __init__(self, run: RunDir, glyphs: Glyphs) -> None:
        super().__init__()
        self.run_dir = run
        self.glyphs = glyphs

    def action_view(self, name: str) -> None:
        """Go to another screen of this run."""
        self.app.show_view(self.run_dir, name)  # type: ignore[attr-defined]

    def action_leave(self) -> None:
        """Go back."""
        self.app.pop_screen()


class ViewLine(Static):
    """The names of a run's screens with their digits; the present one stands out. A click goes there."""

    DEFAULT_CSS = "ViewLine { height: 1; background: $panel; }"

    def __init__(self, run: RunDir, view: str) -> None:
        super().__init__(id="views")
        self._run = run
        self._view = view
        self._ends: list[tuple[int, str]] = []

    def on_mount(self) -> None:
        line, self._ends = Text(), []
        for place, (name, (word, _)) in enumerate(VIEWS.items(), 1):
            line.append(f" {place} {word} ", style="reverse bold" if name == self._view else "")
            self._ends.append((len(line), name))
        line.append(f"  {one_line(self._run.name)}", style="bold")
        self.update(line)

    def on_click(self, event: Click) -> None:
        name = next((name for end, name in self._ends if event.x < end), None)
        if name is not None and name != self._view:
            self.screen.action_view(name)  # type: ignore[attr-defined]
