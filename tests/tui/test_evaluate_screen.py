"""Results on a screen, and measuring now."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from mccore.runs.requests import take_evaluation_request
from mccore.runs.rundir import RunDir
from mccore.tui.app import make_monitor
from mccore.tui.screens.evaluate import EvaluateScreen
from tests.tui.conftest import ESCAPES
from tests.tui.pilot import drive, until


def test_results_and_samples_are_shown_and_no_escape_gets_through(root: Path, run: RunDir) -> None:
    run.write_result("base", {"step": 200, "tokens": 1000, "loss": 2.25})
    app = make_monitor(root)

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("4")
        screen = app.screen
        assert isinstance(screen, EvaluateScreen)
        await until(pilot, lambda: "2.2500" in screen.page and "def f" in screen.page, "the page")
        assert not set("\x1b\x9b\u202e\x07") & set(screen.page)
        assert ESCAPES[0] not in app.export_screenshot()
        run.write_result("mid", {"step": 7, "loss": 1.125})
        await until(pilot, lambda: "1.1250" in screen.page, "the new result")

    drive(app, steps)


def test_a_running_stage_is_asked_and_a_run_that_is_over_is_measured(
    root: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    async def answer(arguments: list[str]) -> tuple[int, str, str]:
        asked.append(arguments)
        return (0, "condition  NLL", "") if len(asked) == 1 else (2, "", "error: trained without MegaContext")

    monkeypatch.setattr("mccore.tui.actions.answer", answer)
    app = make_monitor(root)

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("4")
        with run.lock():
            await pilot.press("e")
            await until(pilot, lambda: take_evaluation_request(run), "the request")
        assert asked == []
        shown = app.screen.query_one("#measured", Static)
        for words in ("condition  NLL", "without MegaContext"):
            await pilot.press("e")
            await until(pilot, lambda words=words: words in str(shown.render()), "what was measured")
        assert asked == [["eval", "context", str(run.path)]] * 2

    drive(app, steps)
