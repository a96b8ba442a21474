"""The application: which screens there are and how one comes from one to the other.

`make_monitor` is the one way to make it, for the command and for tests. The application knows run directories alone. Leaving it
leaves every run alive.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.dom import DOMNode
from textual.events import Event, InputEvent, MouseMove
from textual.screen import Screen

from mccore.runs.rundir import RunDir
from mccore.tui.drawing.colours import ON_LIGHT
from mccore.tui.drawing.glyphs import Glyphs, choose_glyphs
from mccore.tui.screens.run_screen import RunScreen
from mccore.tui.screens.runs import RunsScreen

TYPING_SECONDS = 0.5  # after a key until work in the background goes on at full speed


if TYPE_CHECKING:
    from textual.filter import LineFilter

    from mccore.tui.conversation import RunTalk


@dataclass(frozen=True)
class Places:
    """Where the monitor looks for runs, and the characters that it draws with."""

    root: Path
    glyphs: Glyphs


class MonitorApp(App[None]):
    """The monitor. Start it with `make_monitor(...).run()`."""

    TITLE = "mccore monitor"
    CSS_PATH = "monitor.tcss"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit", tooltip="Leave the monitor; runs go on"),
        Binding("question_mark,f1", "help", "Help", tooltip="Every key of this screen"),
        Binding("ctrl+s", "save_screenshot", "Screenshot", show=False, tooltip="Save this screen as SVG"),
        Binding("d", "toggle_theme", "Dark/light", show=False, tooltip="Switch between dark and light"),
    ]

    def __init__(self, places: Places, run: RunDir | None = None) -> None:
        super().__init__(ansi_color=False)
        self.places = places
        self._first = run
        self._talks: dict[tuple[Path, tuple[str, int] | None], RunTalk] = {}
        self._pressed = 0.0

    @property
    def typing(self) -> bool:
        """Whether a person pressed a key a moment ago: then reading goes slowly."""
        return self.since_key() < TYPING_SECONDS

    def since_key(self) -> float:
        """Seconds since a person last pressed a key, or clicked."""
        return time.monotonic() - self._pressed

    def get_default_screen(self) -> Screen[None]:
        """The list of runs, below all other screens."""
        return RunsScreen(self.places.root, self.places.glyphs)

    async def on_event(self, event: Event) -> None:
        if isinstance(event, InputEvent) and not isinstance(event, MouseMove):
            self._pressed = time.monotonic()
        await super().on_event(event)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """What every line passes on its way to the terminal."""
        filters = super().get_line_filters()
        if self.places.glyphs.braille:
            return filters
        from mccore.tui.drawing.ascii import AsciiFilter

        return [*filters, AsciiFilter()]

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """What the command palette offers: all that the keys of a screen do, and what the library brings."""
        for binding, node, words in self._offered(screen).values():
            run = partial(self.run_action, binding.action, node)
            yield SystemCommand(binding.description or words, f"{words} ({self.get_key_display(binding)})", run)
        yield from super().get_system_commands(screen)

    def _offered(self, screen: Screen[object]) -> dict[str, tuple[Binding, DOMNode, str]]:
        """What keys of a screen do, each once by its action, with the place that does it and its meaning."""
        return {
            active.binding.action: (active.binding, active.node, active.tooltip or active.binding.description)
            for active in screen.active_bindings.values()
            if active.enabled and not active.binding.system and (active.tooltip or active.binding.description)
        }

    def on_mount(self) -> None:
        self.ansi_theme_light = ON_LIGHT
        if self._first is not None:
            self.attach(self._first)
        self.call_after_refresh(keep_what_is_there)

    def attach(self, run: RunDir) -> None:
        """Show a run."""
        from mccore.tui.screens.monitor import MonitorScreen  # screens are imported when they are opened

        self.push_screen(MonitorScreen(run, self.places.glyphs))

    def show_view(self, run: RunDir, name: str, about: tuple[str, int] | None = None) -> None:
        """Show one of the screens of a run (`run_screen.VIEWS`); the monitor stays below the others. `about`: stage and step."""
        if name == "setup":
            from mccore.tui.screens.setup import SetupScreen

            self.push_screen(SetupScreen())
            return
        beside = isinstance(self.screen, RunScreen)  # else one comes from the list
        over = beside and getattr(self.screen, "VIEW", "") != "monitor"
        if name == "monitor":
            if over:
                self.pop_screen()
            elif not beside:
                self.attach(run)
            return
        if not beside:
            self.attach(run)
        made = self._make_view(run, name, about)
        if over:
            self.switch_screen(made)
        else:
            self.push_screen(made)

    def _make_view(self, run: RunDir, name: str, about: tuple[str, int] | None) -> RunScreen:
        """A screen of a run. Imported here: most of them aren't opened in most sittings."""
        if name == "logs":
            from mccore.tui.screens.logs import LogsScreen

            return LogsScreen(run, self.places.glyphs)
        if name == "chat":
            from mccore.tui.conversation import RunTalk
            from mccore.tui.screens.chat import ChatScreen

            key = (run.path, about)
            talk = self._talks[key] = self._talks.get(key) or RunTalk(run, about)
            return ChatScreen(talk, self.places.glyphs)
        if name == "evaluate":
            from mccore.tui.screens.evaluate import EvaluateScreen

            return EvaluateScreen(run, self.places.glyphs)
        from mccore.tui.screens.checkpoints import CheckpointsScreen

        return CheckpointsScreen(run, self.places.glyphs)

    def launch(self) -> None:
        """Show the form that starts a run."""
        from mccore.tui.screens.launch import LaunchScreen

        self.push_screen(LaunchScreen(self.places.root))

    async def on_unmount(self) -> None:
        """End the models that were talked to: they belong to this sitting."""
        for talk in self._talks.values():
            await talk.close()

    def action_help(self) -> None:
        from mccore.tui.pages.help import HelpScreen

        self.push_screen(HelpScreen(self.screen))

    def action_toggle_theme(self) -> None:
        self.theme = "textual-light" if self.theme == "textual-dark" else "textual-dark"

    def action_save_screenshot(self) -> None:
        try:
            path = self.save_screenshot()
        except OSError as error:
            self.notify(f"can't save the screenshot: {error.strerror}", severity="error")
        else:
            self.notify(f"saved {path}")


def keep_what_is_there() -> None:
    """Collect garbage again, where the command has put that off, but leave out what was imported and built until now: looking
    through all of it takes as long as several frames, and none of it goes away."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def make_monitor(root: Path, run: RunDir | None = None, *, ascii_only: bool | None = None) -> MonitorApp:
    """The monitor over the runs in `root`, attached to `run` where one is given."""
    return MonitorApp(Places(root, choose_glyphs(ascii_only)), run)
