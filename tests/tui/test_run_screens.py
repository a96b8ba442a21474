"""The screens of one run: logs, checkpoints, setup, and the way from one to the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from mccore.runs.checkpoints import SUMS_FILE
from mccore.runs.rundir import RunDir
from mccore.tui.app import make_monitor
from mccore.tui.screens.checkpoints import CheckpointsScreen
from mccore.tui.screens.confirm import ConfirmScreen
from mccore.tui.screens.logs import LogPane, LogsScreen
from mccore.tui.screens.monitor import MonitorScreen
from mccore.tui.screens.runs import RunsScreen
from mccore.tui.screens.setup import SetupScreen
from tests.support.checkpoints import write_checkpoint
from tests.tui.pilot import drive, until

Steps = Pilot[None]


def text_of(screen: object, selector: str) -> str:
    return str(screen.query_one(selector, Static).render())  # type: ignore[attr-defined]


def test_a_digit_leads_to_each_screen_and_escape_back(root: Path, run: RunDir) -> None:
    app = make_monitor(root)

    async def steps(pilot: Steps) -> None:
        await pilot.press("2")
        assert isinstance(app.screen, LogsScreen)
        await pilot.press("3")
        assert isinstance(app.screen, CheckpointsScreen)
        await pilot.press("1")
        assert isinstance(app.screen, MonitorScreen)
        await pilot.press("2", "escape")
        assert isinstance(app.screen, MonitorScreen)
        await pilot.press("6")
        assert isinstance(app.screen, SetupScreen)
        await pilot.press("escape", "escape")
        assert isinstance(app.screen, RunsScreen)
        assert len(app.screen_stack) == 1  # none is left behind
        await pilot.press("enter")
        await pilot.click("#views", offset=(15, 0))
        assert isinstance(app.screen, LogsScreen)

    drive(app, steps)


def test_logs_are_followed_filtered_and_searched(root: Path, run: RunDir) -> None:
    run.log_path("mid").write_text("error: of mid\n" + "".join(f"mid {number}\n" for number in range(300)))
    os.utime(run.log_path("base"), (1, 1))
    app = make_monitor(root)

    async def steps(pilot: Steps) -> None:
        await pilot.press("2")
        screen = app.screen
        assert isinstance(screen, LogsScreen)
        window = screen.window
        await until(pilot, lambda: window.lines and window.lines[-1].text == "mid 299", "the end")
        assert "following" in text_of(screen, "#log-status")
        await pilot.press("slash", *"MID 7", "enter")
        await until(pilot, lambda: window.found and window.found.text == "mid 79", "what is found")
        await pilot.press("N")
        await until(pilot, lambda: window.found and window.found.text == "mid 78", "the one before")
        await pilot.press("w", "w")
        await until(pilot, lambda: [line.text for line in window.lines] == ["error: of mid"], "the error")
        await pilot.press("w", "v")
        assert window.wanted.stage == "base"
        await pilot.press("home")
        await until(pilot, lambda: window.lines and window.lines[0].text == "first line", "the start")
        picture = app.export_screenshot()
        assert not set("\x1b\x9b\u202e\x07") & set(picture)
        await pilot.press("G")
        assert window.follow

    drive(app, steps)


def test_a_log_of_a_gigabyte_costs_no_memory(tmp_path: Path) -> None:
    """In a process of its own, whose memory is measured; the file is sparse but for its ends."""
    run = RunDir(tmp_path / "runs" / "big")
    run.log_path("base").parent.mkdir(parents=True)
    with open(run.log_path("base"), "wb") as file:
        file.write(b"first\n")
        file.seek(10**9)
        file.write(b"\nneedle\nlast\n")
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from mccore.runs.logs import LogBook\n"
        "from mccore.runs.rundir import RunDir\n"
        "from mccore.tui.log_window import LogWindow\n"
        f"window = LogWindow(LogBook(RunDir(Path({str(run.path)!r}))))\n"
        "window.book.refresh()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "window.resize(60)\n"
        "seen = [line.text for line in window.lines][-2:]\n"
        "window.find('needle', forward=False); window.to_start(); window.move(30)\n"
        "print(seen, window.lines[0].text, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("['needle', 'last']")
    assert int(done.stdout.split()[-1]) < 20_000, "KiB"


def test_checkpoints_say_what_they_are_and_go_after_a_question(root: Path, run: RunDir) -> None:
    old, new = write_checkpoint(run, "base", 10), write_checkpoint(run, "base", 20)
    cut = write_checkpoint(run, "base", 30)
    (cut / SUMS_FILE).unlink()
    app = make_monitor(root)

    async def steps(pilot: Steps) -> None:
        await pilot.press("3")
        screen = app.screen
        assert isinstance(screen, CheckpointsScreen)
        table = screen.query_one(DataTable)
        await until(pilot, lambda: table.row_count == 3, "the rows")
        cells = [[str(cell) for cell in table.get_row_at(row)] for row in range(3)]
        assert [row[5] for row in cells] == ["complete", "latest", "damaged"]
        assert "resumed run goes on from it" in cells[1][6]
        assert "SHA256SUMS is missing" in cells[2][6]
        await pilot.press("delete", "enter")  # enter is no
        assert old.exists()
        await pilot.press("delete", "y")
        await until(pilot, lambda: not old.exists() and table.row_count == 2, "the deletion")
        await pilot.press("delete")
        assert isinstance(app.screen, ConfirmScreen)
        assert "needed" in app.export_screenshot()
        await pilot.press("y")
        await until(pilot, lambda: not new.exists() and table.row_count == 1, "the second")
        with run.lock():
            await pilot.press("delete", "y")
            await pilot.pause()
            assert cut.exists()

    drive(app, steps)


def test_setup_shows_what_the_doctor_finds(root: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "ok": False,
        "checks": [
            {"name": "torch", "state": "ok", "detail": "2.11", "hint": ""},
            {"name": "runs\x1b]0;x\x07", "state": "fail", "detail": "full", "hint": "free some space"},
        ],
    }

    async def answer(arguments: list[str]) -> tuple[int, str, str]:
        assert arguments == ["doctor", "--json"]
        return 1, json.dumps(found), ""

    monkeypatch.setattr("mccore.tui.actions.answer", answer)
    app = make_monitor(root)

    async def steps(pilot: Steps) -> None:
        await pilot.press("6")
        screen = app.screen
        table = screen.query_one(DataTable)
        await until(pilot, lambda: table.row_count == 2, "the checks")
        assert "2 checks, 1 to look at" in text_of(screen, "#setup-status")
        await pilot.press("down")
        await until(pilot, lambda: text_of(screen, "#setup-hint") == "free some space", "the advice")
        assert "\x1b" not in app.export_screenshot()

    drive(app, steps)


def test_a_doctor_that_cannot_speak_is_told(root: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(arguments: list[str]) -> tuple[int, str, str]:
        return 2, "", "no such command"

    monkeypatch.setattr("mccore.tui.actions.answer", answer)
    app = make_monitor(root)

    async def steps(pilot: Steps) -> None:
        await pilot.press("6")
        await until(pilot, lambda: "no such command" in text_of(app.screen, "#setup-status"), "the failure")

    drive(app, steps)


def test_lines_move_sideways(root: Path, run: RunDir) -> None:
    run.log_path("base").write_text("0123456789" * 30 + "\n")
    app = make_monitor(root)

    async def steps(pilot: Steps) -> None:
        await pilot.press("2", "right", "right")
        assert app.screen.query_one(LogPane).column == 32
        await pilot.press("left", "left", "left")
        assert app.screen.query_one(LogPane).column == 0

    drive(app, steps)
