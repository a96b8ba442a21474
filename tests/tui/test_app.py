"""The monitor driven by keys, over runs that were written by hand, and over a real launcher."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import DataTable, Input, RichLog, Static, TabbedContent

from mccore.events import Event
from mccore.runs.requests import take_checkpoint_request
from mccore.runs.rundir import RunDir
from mccore.tui.app import MonitorApp, make_monitor
from mccore.tui.pages.help import HelpScreen
from mccore.tui.screens.launch import LaunchScreen
from mccore.tui.screens.monitor import MonitorScreen
from mccore.tui.screens.runs import RunsScreen
from tests.tui.conftest import ESCAPES, write_run
from tests.tui.pilot import drive, until

SIZES = [(80, 24), (120, 40), (200, 60)]


def status(app: MonitorApp) -> str:
    """The lines below the names of the screens."""
    return "\n".join(str(app.screen.query_one(name, Static).render()) for name in ("#status", "#notes"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_every_screen_shows_and_nothing_of_a_stranger_reaches_the_terminal(
    root: Path, run: RunDir, size: tuple[int, int], ascii_only: bool
) -> None:
    app = make_monitor(root, ascii_only=ascii_only)
    shown: list[str] = []

    async def steps(pilot: Pilot[None]) -> None:
        for keys in ((), ("enter",), ("t",), ("question_mark",), ("escape",), ("escape",), ("c",)):
            await pilot.press(*keys)
            await pilot.pause()
            shown.append(app.export_screenshot())

    drive(app, steps, size)
    assert len(set(shown)) >= 4  # runs, one run, help, comparison; a wide screen has the details beside the plots
    for picture in shown:
        assert not set("\x1b\x9b\u202e\x07") & set(picture)


def test_watching_a_run(root: Path, run: RunDir) -> None:
    app = make_monitor(root, run)

    async def steps(pilot: Pilot[None]) -> None:
        screen = app.screen
        assert isinstance(screen, MonitorScreen)
        await until(pilot, screen.metrics_of_stage, "the first picture")
        assert screen.metrics_of_stage()[:4] == ["loss", "swap_rate", "residency", "controller_duration"]
        assert "crashed" in status(app)
        tabs = screen.query_one(TabbedContent)
        for tab, rows in (("alerts", 1), ("metrics", 6)):
            tabs.active = f"tab-{tab}"
            await until(pilot, lambda tab=tab, rows=rows: screen.query_one(f"#{tab}", DataTable).row_count == rows, tab)
        tabs.active = "tab-samples"
        await until(pilot, lambda: screen.query_one("#samples", RichLog).lines, "the samples")
        await until(pilot, lambda: screen.query_one("#log", RichLog).lines, "the log")
        assert screen.watch.state.metrics["loss"].step == 200

    drive(app, steps)


def test_a_run_that_grows_is_followed(root: Path, run: RunDir) -> None:
    app = make_monitor(root, run)

    async def steps(pilot: Pilot[None]) -> None:
        screen = app.screen
        assert isinstance(screen, MonitorScreen)
        with open(run.events_dir / "rank0.jsonl", "a") as file:
            event = Event("step", 1_700_000_300.0, 0, "base", 201, 201 * 512, {"loss": 0.125}, {"steps": 400})
            file.write(event.to_json() + "\n")
        await until(pilot, lambda: screen.watch.state.metrics["loss"].value == 0.125, "the new step")
        await until(pilot, lambda: "201/400" in status(app), "the status line")

    drive(app, steps)


def test_stopping_asks_first_and_makes_the_stop_file(root: Path, run: RunDir) -> None:
    app = make_monitor(root, run)

    async def steps(pilot: Pilot[None]) -> None:
        with run.lock():
            screen = app.screen
            assert isinstance(screen, MonitorScreen)
            await until(pilot, lambda: screen.watch.outcome.state == "running", "the state")
            await pilot.press("s")
            await pilot.press("n")
            assert not run.stop_requested()
            await pilot.press("s", "enter")  # enter is no
            assert not run.stop_requested()
            await pilot.press("s", "y")
            await until(pilot, run.stop_requested, "the stop file")
            await pilot.press("C")
            await until(pilot, lambda: take_checkpoint_request(run), "the checkpoint request")

    drive(app, steps)


def test_a_failure_shows_what_failed_and_what_to_do(root: Path, run: RunDir) -> None:
    ended = Event("stage.end", 1_700_000_400.0, 1, "base", data={
        "outcome": "failed", "message": "boom", "traceback": f"Traceback\n  in ruin {ESCAPES}", "hint": "mend it"
    })  # fmt: skip
    (run.events_dir / "rank1.jsonl").write_text(ended.to_json() + "\n")
    app = make_monitor(root, run)

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "base failed: boom" in status(app), "the failure")
        assert "r goes on" in status(app)
        tabs = app.screen.query_one(TabbedContent)
        assert tabs.get_tab("tab-failure").display
        words = str(app.screen.query_one("#failure", Static).render())
        assert "base failed on rank 1" in words
        assert "in ruin" in words
        assert "mend it" in words
        assert "\x1b" not in words

    drive(app, steps)


def test_a_band_is_as_light_as_the_theme(root: Path, run: RunDir) -> None:
    app = make_monitor(root, run)
    shown: dict[str, str] = {}

    async def steps(pilot: Pilot[None]) -> None:
        screen = app.screen
        assert isinstance(screen, MonitorScreen)
        await until(pilot, screen.metrics_of_stage, "the first picture")
        for theme in ("textual-dark", "textual-light"):
            app.theme = theme
            await pilot.pause()
            shown[theme] = app.export_screenshot()

    drive(app, steps)
    assert "#3a3a3a" in shown["textual-dark"]
    assert "#3a3a3a" not in shown["textual-light"]
    assert "#c6c6c6" in shown["textual-light"]


def test_what_ranks_use_of_the_machine(root: Path, run: RunDir) -> None:
    for rank in (0, 1):
        metrics = {"process_cpu": 1.5 + rank, "process_memory": 2.0**30, "gpu_utilisation": 0.25, "gpu_power": 301.0}
        event = Event(
            "resources", 1_700_000_210.0, rank, "base", 200, None, metrics, {"pid": 7, "host": "h", "gpu": "G"}
        )
        with open(run.events_dir / f"rank{rank}.jsonl", "a") as file:
            file.write(event.to_json() + "\n")
    app = make_monitor(root, run)

    async def steps(pilot: Pilot[None]) -> None:
        app.screen.query_one(TabbedContent).active = "tab-machine"
        table = app.screen.query_one("#machine", DataTable)
        await until(pilot, lambda: table.row_count == 2, "both ranks")
        cells = [str(cell) for cell in table.get_row_at(1)]
        assert cells[:4] == ["1", "h", "7", "2.50"]
        assert "25%" in cells
        assert "301 W" in cells

    drive(app, steps)


def test_a_directory_that_vanishes_is_told_and_the_screen_goes_on(root: Path, run: RunDir) -> None:
    app = make_monitor(root, run)

    async def steps(pilot: Pilot[None]) -> None:
        shutil.rmtree(run.path)
        await until(pilot, lambda: "gone" in status(app) or "can't" in status(app), "the problem")
        await pilot.press("escape")
        assert isinstance(app.screen, RunsScreen)

    drive(app, steps)


def test_the_list_filters_marks_and_deletes(root: Path, run: RunDir) -> None:
    write_run(root, "other", 20)
    (root / "broken").mkdir()
    (root / "broken" / "run.json").write_text("{")
    app = make_monitor(root)

    async def steps(pilot: Pilot[None]) -> None:
        table = app.screen.query_one(DataTable)
        await until(pilot, lambda: table.row_count == 3, "the list")
        await pilot.press("slash", *"oth")
        await until(pilot, lambda: table.row_count == 1, "the filter")
        await pilot.press("enter")
        await pilot.press("delete", "y")
        await until(pilot, lambda: not (root / "other").exists(), "the deletion")
        app.screen.query_one("#filter", Input).value = ""
        await until(pilot, lambda: table.row_count == 2, "the rest")

    drive(app, steps)


def test_help_lists_the_keys_of_the_screen(root: Path, run: RunDir) -> None:
    app = make_monitor(root, run)

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        picture = app.export_screenshot()
        for words in ("Stop", "checkpoint", "Logarithmic"):
            assert words in picture

    drive(app, steps, (120, 50))


def test_launching_shows_the_plan_refuses_and_starts(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A real launcher: its run fails at once for want of data, in the words of the command."""
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path))
    app = make_monitor(root)

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("n")
        screen = app.screen
        assert isinstance(screen, LaunchScreen)
        plan = screen.query_one("#plan", Static)
        await until(
            pilot, lambda: "mccore run tiny" in str(plan.render()) and "parameters" in str(plan.render()), "the plan"
        )
        screen.query_one("#search", Input).value = "data.corpus"
        table = screen.query_one("#settings", DataTable)
        await until(pilot, lambda: table.row_count == 1, "the search")
        table.focus()
        await pilot.pause()
        screen.query_one("#value", Input).value = "text:/nowhere-at-all"
        await until(pilot, lambda: screen.form.sets == {"data.corpus": "text:/nowhere-at-all"}, "the setting")
        await pilot.press("f5")
        await until(pilot, lambda: "nowhere-at-all doesn't exist" in str(plan.render()), "the refusal")

    drive(app, steps)


def loaded_by(program: str) -> set[str]:
    """The modules that are loaded after `program`, in which `pilot` drives the monitor."""
    code = (
        "import asyncio, sys, pathlib\n"
        "from mccore.tui.app import make_monitor\n"
        "from mccore.runs.rundir import RunDir\n"
        f"async def go():\n{program}"
        "asyncio.run(go())\n"
        "print('MODULES', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return {name.partition(".")[0] for name in done.stdout.rpartition("MODULES ")[2].split()}


HEAVY = {"torch", "numpy", "matplotlib", "pyarrow", "datasets"}
OTHER_PLUGINS = {"mccore_allocators", "mccore_trees", "mccore_telemetry", "mccore_recipes"}


def test_neither_torch_nor_plugin_code_but_panels_is_imported(root: Path, run: RunDir) -> None:
    """The list and the form import no plugin at all. Watching a run imports the panels, and nothing else of plugins."""
    loaded = loaded_by(
        f"    app = make_monitor(pathlib.Path({str(root)!r}))\n"
        "    async with app.run_test(size=(120, 40)) as pilot:\n"
        "        await pilot.press('n')\n"
        "        await pilot.pause()\n"
    )
    assert loaded & (HEAVY | OTHER_PLUGINS | {"mccore_panels"}) == set()
    loaded = loaded_by(
        f"    app = make_monitor(pathlib.Path({str(root)!r}), RunDir(pathlib.Path({str(run.path)!r})))\n"
        "    async with app.run_test(size=(120, 40)) as pilot:\n"
        "        for key in '123':\n"
        "            await pilot.press(key)\n"
        "            await pilot.pause(0.1)\n"
    )
    assert loaded & (HEAVY | OTHER_PLUGINS) == set()
    assert "mccore_panels" in loaded
