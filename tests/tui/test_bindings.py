"""Help is true: every key that a screen lists exists, has words, and does something."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.command import CommandPalette
from textual.pilot import Pilot
from textual.widgets import DataTable, OptionList

from mccore.runs.rundir import RunDir
from mccore.tui.app import MonitorApp, make_monitor
from mccore.tui.pages.help import HelpScreen
from mccore.tui.screens.checkpoints import CheckpointsScreen
from tests.tui.pilot import drive, until

SCREENS = {
    "runs": (), "launch": ("n",), "compare": ("c",), "monitor": ("1",), "logs": ("2",), "checkpoints": ("3",),
    "evaluate": ("4",), "setup": ("6",), "report": ("1", "o"),
}  # fmt: skip


@pytest.fixture
def app(root: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> MonitorApp:
    async def answer(arguments: list[str]) -> tuple[int, str, str]:
        return 0, '{"checks": [], "words": [], "differs": {}}', ""

    monkeypatch.setattr("mccore.tui.actions.answer", answer)
    return make_monitor(root)


@pytest.mark.parametrize("screen", SCREENS)
def test_every_key_of_a_screen_has_words_and_an_action(app: MonitorApp, screen: str) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(DataTable).row_count, "the list")
        for key in SCREENS[screen]:
            await pilot.press(key)
            await pilot.pause()
        shown = app.screen
        own = [active for active in shown.active_bindings.values() if not active.binding.system]
        assert own
        for active in own:
            binding = active.binding
            assert active.tooltip or binding.description, f"{binding.key} has no words"
            name = binding.action.partition("(")[0].rpartition(".")[2]
            places, attribute = (active.node, shown, app), f"action_{name}"
            assert any(hasattr(place, attribute) for place in places), f"{binding.key} does {binding.action}"
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)

    drive(app, steps, (120, 60))


@pytest.mark.parametrize("screen", SCREENS)
def test_the_palette_offers_all_that_keys_do(app: MonitorApp, screen: str) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(DataTable).row_count, "the list")
        for key in SCREENS[screen]:
            await pilot.press(key)
            await pilot.pause()
        offered = {command.help for command in app.get_system_commands(app.screen)}
        words: dict[str, set[str]] = {}  # of what one can do, by any of its keys
        for active in app.screen.active_bindings.values():
            if not active.binding.system:
                words.setdefault(active.binding.action, set()).add(active.tooltip or active.binding.description)
        assert len(words) > 3
        for action, meanings in words.items():
            assert any(meaning in each for meaning in meanings for each in offered), action

    drive(app, steps, (120, 60))


def test_a_screen_is_reached_by_the_palette(app: MonitorApp) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(DataTable).row_count, "the list")
        await pilot.press("ctrl+p")
        await until(pilot, lambda: isinstance(app.screen, CommandPalette), "the palette")
        await pilot.press(*"checkp")
        found = app.screen.query_one("CommandList", OptionList)
        await until(pilot, lambda: found.option_count, "what fits")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, CheckpointsScreen), "the screen")

    drive(app, steps)


def test_two_keys_of_a_screen_never_mean_the_same_key(app: MonitorApp) -> None:
    from mccore.tui.screens.chat import ChatScreen
    from mccore.tui.screens.checkpoints import CheckpointsScreen
    from mccore.tui.screens.evaluate import EvaluateScreen
    from mccore.tui.screens.logs import LogsScreen
    from mccore.tui.screens.monitor import MonitorScreen
    from mccore.tui.screens.run_screen import RunScreen

    for screen in (ChatScreen, CheckpointsScreen, EvaluateScreen, LogsScreen, MonitorScreen):
        keys = [key for own in screen.BINDINGS for key in own.key.split(",")]
        assert len(keys) == len(set(keys)), screen
        inherited = {key for each in RunScreen.BINDINGS for key in each.key.split(",")} - {"escape"}
        assert inherited.isdisjoint(keys), screen
