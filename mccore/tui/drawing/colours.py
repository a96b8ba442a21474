"""Colours of the monitor: of what is drawn, of states, and of the sixteen names on a light background."""

from __future__ import annotations

from rich.style import Style
from rich.terminal_theme import TerminalTheme

# Names of colours as they can be read on a light background, with a shade behind them too.
ON_LIGHT = TerminalTheme(
    (224, 224, 224),
    (30, 30, 30),
    [
        (20, 20, 20), (165, 20, 20), (15, 95, 25), (120, 75, 0), (25, 60, 170), (125, 25, 125), (0, 85, 105), (70, 70, 70),
    ],
    [
        (105, 105, 105), (165, 15, 15), (15, 95, 25), (120, 75, 0), (25, 60, 170), (125, 25, 125), (0, 85, 105), (40, 40, 40),
    ],
)  # fmt: skip

# What a drawing calls its parts.
STYLES = {
    "": Style.null(),
    "strong": Style(bold=True),
    "dim": Style(color="bright_black"),
    "good": Style(color="green"),
    "warning": Style(color="yellow"),
    "bad": Style(color="bright_red"),
    "line": Style(color="bright_cyan", bold=True),
    "range": Style(color="blue"),
    "axis": Style(color="bright_black"),
    "alert": Style(color="bright_red", bold=True),
    "cursor": Style(color="yellow"),
    "edited": Style(color="yellow", bold=True, reverse=True),
    "curve0": Style(color="bright_cyan", bold=True),
    "curve1": Style(color="yellow", bold=True),
    "curve2": Style(color="bright_magenta", bold=True),
    "curve3": Style(color="bright_green", bold=True),
    "level0": Style(color="bright_green"),
    "level1": Style(color="cyan"),
    "level2": Style(color="blue"),
    "level3": Style(color="bright_black"),
}
BANDS = (Style(bgcolor="grey23"), Style(bgcolor="grey78"))  # behind what is in its band, on dark and on light

# How runs, a run in a list, and checks stand; stages one after another.
STATES = {"running": "bold green", "finished": "bold cyan", "failed": "bold red", "crashed": "bold red"}
LISTED_STATES = {"running": "green", "failed": "red", "crashed": "red", "unreadable": "red"}
CHECKS = {"ok": "green", "warn": "yellow", "fail": "bold red"}
SERIES = ("cyan", "green", "yellow", "magenta", "blue", "red")
