"""The form that starts a run: every setting has a widget, and a refusal stands beside what it is about."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, Select, SelectionList, Static, Switch

from mccore.tui.app import MonitorApp, make_monitor
from mccore.tui.form import group_of, settings
from mccore.tui.screens.launch import LaunchScreen
from mccore.tui.widgets.settings import Settings
from tests.tui.pilot import drive, until

PLAN = json.dumps({"words": ["recipe      tiny"], "differs": {"model.depth": [4, 8]}})
OPTION = {
    "path": "keep",
    "description": "tokens",
    "default": "64",
    "widget": "number",
    "bounds": "at least 0",
    "choices": [],
}


@pytest.fixture
def app(root: Path, monkeypatch: pytest.MonkeyPatch) -> MonitorApp:
    """A monitor whose commands answer at once, without a process."""

    async def answer(arguments: list[str]) -> tuple[int, str, str]:
        if arguments[0] == "run":
            return 0, PLAN, ""
        found = {
            "options": [OPTION],
            "profiles": {"h100": {}},
            "config": {"megacontext": {"allocator": {"name": "spans"}}},
        }
        return 0, json.dumps(found), ""

    monkeypatch.setattr("mccore.tui.actions.answer", answer)
    monkeypatch.setattr("mccore.tui.screens.launch.DEBOUNCE_SECONDS", 0)
    return make_monitor(root)


async def form_of(pilot: Pilot[None]) -> LaunchScreen:
    await pilot.press("n")
    screen = pilot.app.screen
    assert isinstance(screen, LaunchScreen)
    table = screen.query_one("#settings", DataTable)
    await until(pilot, lambda: table.row_count >= len(settings()), "the settings")
    return screen


def test_settings_of_every_group_and_kind_are_reached_and_given_and_taken_back(app: MonitorApp) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        screen = await form_of(pilot)
        editor, table = screen.query_one(Settings), screen.query_one("#settings", DataTable)
        value, choice = editor.query_one("#value", Input), editor.query_one("#choice", Select)
        kinds = {(group_of(each.path), each.widget): each for each in settings()}  # one of each group and widget
        assert len(kinds) > 25
        for each in kinds.values():
            table.move_cursor(row=table.get_row_index(each.path))
            await until(
                pilot, lambda each=each: editor._chosen is not None and editor._chosen.path == each.path, each.path
            )
            assert (value.display, choice.display) == (not each.choices, bool(each.choices))
            text = each.choices[-1] if each.choices else "7"
            if each.choices:
                choice.value = text
            else:
                value.value = text
            await until(
                pilot, lambda each=each, text=text: screen.form.sets == {each.path: text}, f"{each.path}={text}"
            )
            if each.choices:
                choice.value = Select.NULL
            else:
                value.value = ""
            await until(pilot, lambda: screen.form.sets == {}, f"{each.path} taken back")

    drive(app, steps)


def test_plugins_bring_their_options(app: MonitorApp) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        screen = await form_of(pilot)
        table = screen.query_one("#settings", DataTable)

        def shown() -> set[str]:
            return {str(key.value) for key in table.rows if ".options." in str(key.value)}

        screen.query_one("#megacontext", Switch).value = True
        await until(pilot, lambda: shown() == {"megacontext.allocator.options.keep"}, "the recipe's allocator")
        screen.query_one("#tree", Select).value = "disk"
        screen.query_one("#telemetry", SelectionList).select("otel")
        both = {"megacontext.tree.options.keep", "telemetry.otel.options.keep"}
        await until(pilot, lambda: shown() == {"megacontext.allocator.options.keep", *both}, "three")
        for path in both:
            screen.form.sets[path] = "3"
        screen.query_one("#telemetry", SelectionList).deselect("otel")
        await until(pilot, lambda: screen.form.sets == {"megacontext.tree.options.keep": "3"}, "what belonged to it")
        profile = screen.query_one("#profile", Select)
        profile.value = "h100"
        await until(pilot, lambda: screen.form.profile == "h100", "the profile")
        assert "--gpu h100" in " ".join(screen.form.arguments())

    drive(app, steps)


def test_filling_the_table_again_chooses_nothing_and_shows_what_was_loaded(
    app: MonitorApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugins' answers fill it while a person types."""

    async def steps(pilot: Pilot[None]) -> None:
        screen = await form_of(pilot)
        editor, table = screen.query_one(Settings), screen.query_one("#settings", DataTable)
        value, chosen = screen.query_one("#value", Input), []
        table.move_cursor(row=table.get_row_index("model.depth"))
        await until(pilot, lambda: editor._chosen is not None and editor._chosen.path == "model.depth", "the row")
        with monkeypatch.context() as watched:
            watched.setattr(editor, "_choose", chosen.append)
            for typed in ("1", "12"):
                value.value = typed
                screen._show_settings()
                await until(pilot, lambda typed=typed: screen.form.sets == {"model.depth": typed}, "what was typed")
            assert chosen == []
        assert value.value == "12"
        screen.form.sets["model.depth"] = "7"  # as a preset does
        screen._show_settings()
        await until(pilot, lambda: value.value == "7", "the loaded value")

    drive(app, steps)


def test_the_plan_says_in_what_it_differs(app: MonitorApp) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        screen = await form_of(pilot)
        plan = screen.query_one("#plan", Static)
        await until(pilot, lambda: "model.depth 4 > 8" in str(plan.render()), "the difference")

    drive(app, steps)


def test_a_refusal_stands_beside_the_setting_and_the_widget(root: Path) -> None:
    """With the real command."""
    app = make_monitor(root)

    async def steps(pilot: Pilot[None]) -> None:
        screen = await form_of(pilot)
        table, problem = screen.query_one("#settings", DataTable), screen.query_one("#setting-problem", Static)
        table.move_cursor(row=table.get_row_index("model.depth"))
        editor = screen.query_one(Settings)
        await until(pilot, lambda: editor._chosen is not None and editor._chosen.path == "model.depth", "the row")
        screen.query_one("#value", Input).value = "-3"
        await until(pilot, lambda: problem.display and "model.depth" in str(problem.render()), "the refusal")
        assert "greater than" in str(problem.render())
        assert screen.query_one("#start").disabled
        screen.query_one("#value", Input).value = ""
        screen.query_one("#ranks", Input).value = "0"
        ranks = screen.query_one("#ranks-problem", Static)
        await until(pilot, lambda: ranks.display and "nproc" in str(ranks.render()), "the other")
        assert not problem.display
        screen.query_one("#ranks", Input).value = ""
        await until(pilot, lambda: not ranks.display and not screen.query_one("#start").disabled, "the end of it")

    drive(app, steps)
