"""Every screen as text and styles, for tests that compare and people who look.

    python -m tests.tui.pictures            write what tests/tui/pictures/ has anew, after looking at the difference
    python -m tests.tui.pictures --svg DIR  write SVG files to look at

A picture is what a terminal would show: the characters, and below them the colours of each row. No font, path, clock, time zone
or version is in it, so it is the same on every machine.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import string
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from unittest import mock

from rich.color import ColorSystem
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region
from textual.pilot import Pilot
from textual.screen import Screen

from mccore.runs.rundir import RunDir
from mccore.tui.app import MonitorApp, make_monitor
from mccore.tui.screens.monitor import MonitorScreen
from mccore.tui.widgets.details import Details
from tests.tui.conftest import BEGAN, write_run
from tests.tui.pilot import until

FOLDER = Path(__file__).parent / "pictures"
SIZES = ((80, 24), (120, 40), (200, 60))
NOW = BEGAN + 3600.0
Ready = Callable[[Screen[object]], object]


def _shows(*words: str) -> Ready:
    """Whether a screen has these words on it."""
    return lambda screen: all(word in _text(screen) for word in words)


def _text(screen: Screen[object]) -> str:
    return "\n".join(strip.text for strip in screen._compositor.render_strips())


def _watched(screen: Screen[object]) -> bool:
    """Whether a run's curves, panels and logs are drawn."""
    return bool(
        isinstance(screen, MonitorScreen) and screen._panels and screen.query_one(Details)._logged and not screen._dirty
    )


LIST: tuple[tuple[str, Ready], ...] = (
    ("", _shows("broken", "second", "first")),
    ("down", _shows()),
    ("down", _shows()),
)
RUN = (*LIST, ("1", _watched))
# screen -> keys that lead to it, each with what is waited for
SCREENS: dict[str, tuple[tuple[str, Ready], ...]] = {
    "runs": LIST[:1],
    "monitor": RUN,
    "details": (*RUN, ("t", _watched)),
    "logs": (*LIST, ("2", _shows("first line"))),
    "checkpoints": (*LIST, ("3", _shows("no checkpoint yet"))),
    "evaluate": (*LIST, ("4", _shows("def f"))),
    "chat": (*LIST, ("5", _shows("12/64", "indentation"))),
    "setup": (*LIST[:1], ("6", _shows("telemetry otel", "3 checks"))),
    "launch": (*LIST[:1], ("n", _shows("$ mccore run tiny"))),
    "compare": (*LIST[:2], ("space", _shows()), ("down", _shows()), ("space", _shows()), ("c", _shows("0.5164"))),
    "report": (*RUN, ("o", _shows("Summary", "Nothing yet"))),
    "help": (*LIST[:1], ("question_mark", _shows("Start a run"))),
    "panels": (*RUN, ("P", _shows("residency", "lod_map"))),
    "question": (*LIST, ("delete", _shows("Delete"))),
    "unreadable": (*LIST[:1], ("1", _shows("damaged", "no curves yet"))),
}
LOOKS = {"dark": (False, "textual-dark"), "light": (False, "textual-light"), "ascii": (True, "textual-dark")}
SHOWN = ((SIZES[0], "ascii"), (SIZES[1], "light"), (SIZES[2], "dark"))  # sizes and looks
CHECKS = [
    {"name": "torch", "state": "ok", "detail": "2.11 on 2 cores", "hint": ""},
    {"name": "runs directory", "state": "warn", "detail": "93 % full", "hint": "delete old runs: mccore runs delete"},
    {"name": "telemetry otel", "state": "fail", "detail": "connection refused", "hint": "start the collector"},
]
PLAN = {
    "words": ["recipe      tiny: data > tokenizer > encode > base", "parameters  1.2M", "time        about 3m 20s"],
    "differs": {"model.depth": [4, 8]},
}
TALK = (
    {"type": "ready", "words": "first, base step 200"}, {"type": "piece", "text": "It takes away common indentation."},
    {"type": "context", "history": 18, "entries": 12, "budget": 64, "block_size": 4, "runs": [[1, 2], [0, 10]]},
    {"type": "answer", "remarks": []},
)  # fmt: skip


KEPT = ("runs", "monitor", "launch", "compare", "logs", "setup", "help", "unreadable")  # those that tests compare


@dataclass(frozen=True)
class Picture:
    """The rows of a screen."""

    rows: list[list[Segment]]
    box: Region  # what isn't set back behind a question

    @property
    def text(self) -> str:
        """The characters alone."""
        return "\n".join("".join(segment.text for segment in row).rstrip() for row in self.rows) + "\n"

    def styles(self) -> str:
        """For each row its styles by letters, each with how many columns it has; then what the letters stand for."""
        names: dict[str, str] = {}
        letters = [*string.ascii_letters, *string.digits]
        lines = []
        for row in self.rows:
            cells = [names.setdefault(_spelled(style), letters[len(names)]) for style, _ in cells_of(row)]
            lines.append(" ".join(f"{name}{len(list(group))}" for name, group in groupby(cells)))
        return "\n".join([*lines, "", *(f"{letter} {style}" for style, letter in names.items())]) + "\n"


def cells_of(row: list[Segment]) -> Iterator[tuple[Style, str]]:
    """A row column by column."""
    for segment in row:
        for char in segment.text:
            yield segment.style or Style.null(), char


def _spelled(style: Style) -> str:
    """A style in words: attributes, then colours as numbers."""
    words = [name for name in ("bold", "dim", "italic", "underline", "reverse") if getattr(style, name)]
    colours = [colour.get_truecolor().hex if colour is not None else "none" for colour in (style.color, style.bgcolor)]
    return " ".join([*words, *colours])


def sixteen(colour: object) -> tuple[int, int, int]:
    """What a terminal of sixteen colours makes of a colour."""
    return tuple(colour.downgrade(ColorSystem.STANDARD).get_truecolor())  # type: ignore[attr-defined, return-value]


def contrast(front: tuple[int, ...], back: tuple[int, ...]) -> float:
    """The contrast ratio of two colours (WCAG 2.2)."""
    lights = sorted((0.05 + sum(w * _linear(part) for w, part in zip((0.2126, 0.7152, 0.0722), each, strict=True))
                     for each in (front, back)), reverse=True)  # fmt: skip
    return lights[0] / lights[1]


def _linear(part: int) -> float:
    share = part / 255
    return share / 12.92 if share <= 0.03928 else ((share + 0.055) / 1.055) ** 2.4


def make_home(folder: Path) -> Path:
    """Runs to look at: one that was killed, one that is over, one that can't be read."""
    root = folder / "runs"
    root.mkdir()
    write_run(root)
    second = write_run(root, "second", 60)
    second.write_result("base", {"step": 60, "tokens": 30720, "loss": 2.25, "seconds": 30.0})
    second.report_dir.mkdir()
    (second.report_dir / "report.md").write_text("# Report\n\n## Summary\n\nLoss 2.25 after 30.7k tokens.\n")
    first = RunDir(root / "first")
    (first.report_dir).mkdir()
    (first.report_dir / "report.md").write_text(
        "# Report\n\n## Summary\n\nNothing yet.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"
    )
    (root / "broken").mkdir()
    (root / "broken" / "run.json").write_text("{")
    return root


async def _answer(arguments: list[str]) -> tuple[int, str, str]:
    if arguments[0] == "doctor":
        return 0, json.dumps({"checks": CHECKS}), ""
    return 0, json.dumps(PLAN if arguments[0] == "run" else {"options": [], "profiles": {}, "config": {}}), ""


async def _settle(pilot: Pilot[None], ready: Ready) -> None:
    """Wait until a screen has what it is to show, and then for what follows from it to be drawn."""
    await until(pilot, lambda: ready(pilot.app.screen), f"the screen {pilot.app.screen}")
    seen, same = "", 0
    while same < 3:
        await pilot.pause(0.05)
        now = _text(pilot.app.screen)
        same, seen = (same + 1 if now == seen else 0), now


def picture_of(app: MonitorApp) -> Picture:
    """What the app shows now."""
    box = app.screen.children[0].region if app.screen.is_modal else app.screen.region
    return Picture([list(strip) for strip in app.screen._compositor.render_strips()], box)


def take(app: MonitorApp, name: str, size: tuple[int, int], theme: str) -> tuple[Picture, str]:
    """A screen, and as SVG."""

    async def start(talk: object) -> None:
        for line in TALK[:1]:
            talk.take(line)  # type: ignore[attr-defined]
        talk.ask("What does textwrap.dedent do?")  # type: ignore[attr-defined]
        talk.status = "answering"  # type: ignore[attr-defined]
        for line in TALK[1:]:
            talk.take(line)  # type: ignore[attr-defined]

    async def go() -> tuple[Picture, str]:
        async with app.run_test(size=size) as pilot:
            app.theme = theme
            for key, ready in SCREENS[name]:
                await pilot.press(*filter(None, [key]))
                await _settle(pilot, ready)
            return picture_of(app), app.export_screenshot(title=name)

    with (
        mock.patch("mccore.tui.actions.answer", _answer),
        mock.patch("mccore.tui.conversation.RunTalk.start", start),
        mock.patch("mccore.tui.conversation.RunTalk._send", return_value=True),
        mock.patch("mccore.tui.screens.launch.settings", _few_settings),
        mock.patch(
            "mccore.tui.screens.launch.names", lambda kind: ["noop", "otel"] if kind == "telemetry" else ["tiny"]
        ),
        mock.patch("time.time", return_value=NOW),
    ):
        return asyncio.run(go())


def _few_settings() -> list[object]:
    """Settings that stand for all: a picture doesn't change with each that is added."""
    from mccore.config.inputs import SettingInput

    return [
        SettingInput("seed", "start of every random number", "0", "number", bounds="at least 0"),
        SettingInput("model.depth", "layers; the one dial of size", "4", "number", bounds="above 0"),
        SettingInput("data.corpus", "where text comes from", "stdlib", "text"),
    ]


def make_root(folder: Path) -> Path:
    """The runs of a folder as a relative path, made when they aren't there; the folder becomes the working directory."""
    os.chdir(folder)
    os.environ["TZ"] = "UTC"
    time.tzset()
    if not Path("runs").exists():
        make_home(folder)
    return Path("runs")


def files_of(name: str, size: tuple[int, int], look: str, picture: Picture) -> dict[str, str]:
    """What of a picture is kept: its text but for the light theme, where it is that of the dark one, and styles of one size."""
    stem = f"{name}-{size[0]}-{look}"
    kept = {f"{stem}.txt": picture.text} if look != "light" else {}
    return kept | ({f"{stem}.styles": picture.styles()} if size == SIZES[1] and look != "ascii" else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--svg", type=Path, help="write pictures to look at into this directory")
    parser.add_argument("--only", nargs="*", default=KEPT)
    asked = parser.parse_args()
    svg = asked.svg.absolute() if asked.svg else None
    with tempfile.TemporaryDirectory() as folder:
        for name, (size, look) in itertools.product(asked.only, SHOWN):
            ascii_only, theme = LOOKS[look]
            picture, drawn = take(make_monitor(make_root(Path(folder)), ascii_only=ascii_only), name, size, theme)
            if svg is not None:
                svg.mkdir(parents=True, exist_ok=True)
                (svg / f"{name}-{size[0]}-{look}.svg").write_text(drawn)
                continue
            FOLDER.mkdir(exist_ok=True)
            for file, text in files_of(name, size, look, picture).items():
                (FOLDER / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
