"""Panels of plugins: loaded when a run is watched, faults contained, terminals safe."""

from __future__ import annotations

import time
from pathlib import Path
from textwrap import dedent

import pytest
from textual.pilot import Pilot
from textual.widgets import OptionList

from mccore import plugins
from mccore.cli import main
from mccore.runs.rundir import RunDir
from mccore.testing import example_view
from mccore.tui import panels
from mccore.tui.app import make_monitor
from mccore.tui.panels import LoadedPanel, load_panels
from mccore.tui.screens.monitor import MonitorScreen
from mccore.tui.screens.panels import PanelList, PanelScreen
from mccore.tui.widgets.panel import PanelPane
from tests.tui.pilot import drive, until

HEAD = """
    from mccore.api import Extension, Span
    from mccore.hookspecs import hookimpl

    class Panel:
        title, place, reads = "mine", "plot", ("loss",)
        def __init__(self, options, spec): pass
        def draw(self, view, width, height):
"""
TAIL = """
    @hookimpl
    def mccore_panel():
        return Extension(build=Panel, summary="mine")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`install(name, body)`: a distribution with one panel whose `draw` is that."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))

    def install(name: str, body: str, source: str = "") -> None:
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[mccore.panels]\n{name} = {name}\n")
        drawn = "".join(f"            {line}\n" for line in body.splitlines())
        (site / f"{name}.py").write_text(dedent(source) or dedent(HEAD + drawn) + dedent(TAIL))

    return install


def text(loaded: LoadedPanel) -> str:
    return "\n".join("".join(span[0] for span in line) for line in loaded.draw(example_view(), 60, 10))


def panel(run: RunDir, name: str) -> LoadedPanel:
    return next(each for each in load_panels(run.path) if each.name == name)


def test_the_built_in_ones_are_plugins(run: RunDir) -> None:
    assert {row.name for row in plugins.describe("panel")} >= {"controller", "lod_map", "residency", "swap_rate"}
    assert all(each.panel is not None for each in load_panels(run.path))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise ValueError('no\\x1b[2J')", "ValueError: no"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("return 3", "TypeError"),
        ("return ['a line']", "a line has str"),
        ("return [[Span('x', 'purple')]]", "no role 'purple'"),
        ("return [[(3,)]]", "a line has tuple"),
    ],
)
def test_what_goes_wrong_is_a_line_in_its_place(run: RunDir, install, body: str, words: str) -> None:
    install("bad_panel_" + str(abs(hash(body))), body)
    name = "bad_panel_" + str(abs(hash(body)))
    assert words in text(panel(run, name))


def test_one_that_hangs_is_given_up(run: RunDir, install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panels, "DRAW_SECONDS", 0.05)
    install("hanging_panel", "while True:\n    try: pass\n    except Exception: pass")
    loaded = panel(run, "hanging_panel")
    assert "longer than a second" in text(loaded)
    began = time.monotonic()
    assert "longer than a second" in text(loaded)
    assert time.monotonic() - began < 0.05 * 100


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise RuntimeError('broken')", "RuntimeError: broken"),
        ("x = 1", "has no hook mccore_panel"),
        (
            "from mccore.api import Extension\nfrom mccore.hookspecs import hookimpl\n@hookimpl\ndef mccore_panel():\n"
            "    return Extension(build=lambda o, s: 3, summary='x')\n",
            "lacks draw, place, reads, title",
        ),
    ],
)
def test_one_that_cannot_be_loaded_is_told(run: RunDir, install, source: str, words: str) -> None:
    name = f"unloadable_{abs(hash(source))}"
    install(name, "", source)
    assert words in text(panel(run, name))


def test_a_screen_goes_on_beside_a_faulty_panel(root: Path, run: RunDir, install) -> None:
    install("moody_panel", "raise ValueError('not \\x1b]0;today\\x07')")
    app = make_monitor(root, run)

    async def steps(pilot: Pilot[None]) -> None:
        screen = app.screen
        assert isinstance(screen, MonitorScreen)
        await until(pilot, lambda: any(isinstance(each, LoadedPanel) for each in screen.plots()), "the panels")
        picture = app.export_screenshot()
        assert "moody_panel" in picture.replace("&#160;", " ")
        assert not set("\x1b\x07") & set(picture)
        names = [each if isinstance(each, str) else each.name for each in screen.plots()]
        assert names[:4] == ["moody_panel", "swap_rate", "residency", "controller"]
        await pilot.press("m")
        assert screen._view.smooth

    drive(app, steps)


def test_the_map_is_a_panel_and_any_panel_has_a_screen(root: Path, run: RunDir) -> None:
    app = make_monitor(root, run)

    async def steps(pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query("#wide-lod_map"), "the map")
        assert app.screen.query_one("#wide-lod_map", PanelPane).display
        await pilot.press("P")
        assert isinstance(app.screen, PanelList)
        await until(pilot, lambda: app.screen.query_one(OptionList).option_count >= 4, "the list")
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(app.screen, PanelScreen), "its screen")
        await pilot.pause()
        assert "Working" in app.export_screenshot()
        await pilot.press("escape")
        assert isinstance(app.screen, MonitorScreen)

    drive(app, steps)


def test_a_panel_as_text(run: RunDir, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("MCCORE_BASE_DIR", str(root.parent))
    assert main(["monitor", "first", "--once", "--panel", "swap_rate", "--ascii"]) == 0
    told = capsys.readouterr().out
    assert "base/swap_rate" in told
    assert told.isascii()
    assert main(["monitor", "first", "--once", "--panel", "swaprate"]) == 2
    assert "did you mean swap_rate" in capsys.readouterr().err
    assert main(["monitor", "first", "--panel", "swap_rate"]) == 2
