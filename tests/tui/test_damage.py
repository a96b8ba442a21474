"""A run whose directory goes away, can't be written, is damaged, or is of a newer mccore: it is told, and the screen goes on."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from mccore.runs.rundir import RunDir
from mccore.tui.app import MonitorApp, make_monitor
from mccore.tui.screens.monitor import MonitorScreen
from mccore.tui.screens.runs import RunsScreen
from tests.tui.pilot import drive, until


def status(app: MonitorApp) -> str:
    return "\n".join(str(app.screen.query_one(name, Static).render()) for name in ("#status", "#notes"))


@pytest.fixture
def read_only(run: RunDir) -> Iterator[RunDir]:
    """A run that can be read and not written; where a superuser runs the tests, that isn't to be had."""
    os.chmod(run.path, 0o555)
    if os.access(run.path, os.W_OK):
        os.chmod(run.path, 0o755)
        pytest.skip("whoever runs this may write anywhere")
    yield run
    os.chmod(run.path, 0o755)


@pytest.mark.parametrize("key", ["2", "3", "4"])
def test_every_screen_outlives_its_run(root: Path, run: RunDir, key: str) -> None:
    app = make_monitor(root)

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(DataTable).row_count == 1, "the list")
        await pilot.press(key)
        shown = app.screen
        assert not isinstance(shown, RunsScreen)
        shutil.rmtree(run.path)
        await pilot.press("down", "up")
        await pilot.pause(0.5)
        assert app.screen is shown
        await pilot.press("escape", "escape")
        assert isinstance(app.screen, RunsScreen)
        await until(pilot, lambda: app.screen.query_one(DataTable).row_count == 0, "that it is gone")

    drive(app, steps)


def test_a_request_that_cannot_be_written_is_told(root: Path, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that is mounted to be read alone."""

    def refuse(path: Path, *arguments: object, **named: object) -> None:
        raise OSError(30, "Read-only file system")

    app = make_monitor(root, run)

    async def steps(pilot: Pilot[None]) -> None:
        with run.lock():
            screen = app.screen
            assert isinstance(screen, MonitorScreen)
            await until(pilot, lambda: screen.watch.outcome.state == "running", "the state")
            monkeypatch.setattr(Path, "touch", refuse)
            await pilot.press("C")
            await until(pilot, lambda: any("Read-only" in note.message for note in app._notifications), "the words")
            assert app.screen is screen

    drive(app, steps)


def test_a_run_that_cannot_be_written_is_shown(root: Path, read_only: RunDir) -> None:
    app = make_monitor(root, read_only)

    async def steps(pilot: Pilot[None]) -> None:
        screen = app.screen
        assert isinstance(screen, MonitorScreen)
        await until(pilot, screen.metrics_of_stage, "the curves")

    drive(app, steps)


def test_damaged_lines_and_events_of_a_newer_mccore_are_counted(root: Path, run: RunDir) -> None:
    with open(run.events_dir / "rank0.jsonl", "ab") as file:
        file.write(b'{"half\n\xff\xfe\n[]\n')
        newer = {"v": 99, "type": "step", "time": 1_700_000_300.0, "rank": 0, "stage": "base", "step": 201,
                 "tokens": 1, "metrics": {"loss": 0.5}, "data": {"steps": 400}}  # fmt: skip
        file.write(json.dumps(newer).encode() + b"\n")
    app = make_monitor(root, run)

    async def steps(pilot: Pilot[None]) -> None:
        screen = app.screen
        assert isinstance(screen, MonitorScreen)
        await until(pilot, lambda: "damaged lines: 3" in status(app), "the damage")
        assert "events of a newer mccore: 1" in status(app)
        assert screen.watch.state.metrics["loss"].value == 0.5
        assert screen.metrics_of_stage()

    drive(app, steps)


@pytest.mark.parametrize("content", ["{", "[]", "", '{"schema_version": 99, "recipe": "tiny"}'])
def test_a_configuration_that_cannot_be_read_hides_no_curve(root: Path, run: RunDir, content: str) -> None:
    (run.path / "run.json").write_text(content)
    app = make_monitor(root)

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(DataTable).row_count == 1, "the list")
        await pilot.press("enter")
        screen = app.screen
        assert isinstance(screen, MonitorScreen)
        await until(pilot, screen.metrics_of_stage, "the curves")
        assert screen.watch.state.metrics["loss"].step == 200
        if content[:1] != "{" or len(content) == 1:
            await until(pilot, lambda: "run.json is damaged" in status(app), "what is wrong")

    drive(app, steps)
