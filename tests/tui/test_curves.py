"""Keys and mouse over curves."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.pilot import Pilot

from mccore.runs.rundir import RunDir
from mccore.tui.app import make_monitor
from mccore.tui.widgets.curves import CurveScreen
from tests.tui.pilot import drive, until


def test_keys_change_the_view(root: Path, run: RunDir) -> None:
    app = make_monitor(root, run)

    async def steps(pilot: Pilot[None]) -> None:
        screen = app.screen
        assert isinstance(screen, CurveScreen)
        await until(pilot, screen.first_curve, "the curves")
        await pilot.press("x", "l", "m", "comma")
        assert (screen._view.axis, screen._view.log, screen._view.smooth) == ("tokens", True, True)
        assert screen._view.cursor == 0.5
        await pilot.press("plus")
        narrow = screen._view.stop - screen._view.start
        await pilot.press("minus", "minus", "minus")
        assert screen._view.stop == float("inf") or screen._view.stop - screen._view.start > narrow
        await pilot.click("#plot0", offset=(30, 4))
        under = screen._view.cursor
        assert under is not None
        assert under < 0.5
        await pilot.press("plus", "plus", "less_than_sign")
        left = screen._view.start
        await pilot.press("greater_than_sign")
        assert screen._view.start > left
        await pilot.press(*["less_than_sign"] * 20)
        assert screen._view.start == pytest.approx(512)  # tokens of the first step
        await pilot.press("left_square_bracket")
        assert screen._scrub == 1
        await pilot.press("right_square_bracket", "right_square_bracket")
        assert screen._scrub == 0

    drive(app, steps)
