"""The characters that the monitor draws with: Unicode, or ASCII where the locale has nothing else."""

from __future__ import annotations

import locale
import os
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Glyphs:
    """One set of characters. `levels` goes from tokens to the coarsest gists."""

    braille: bool
    levels: str
    alert: str
    cursor: str
    horizontal: str
    vertical: str
    corner: str
    bar: str
    states: dict[str, str]


UNICODE = Glyphs(
    braille=True,
    levels="█▓▒░",
    alert="▲",
    cursor="│",
    horizontal="─",
    vertical="│",
    corner="└",
    bar="█",
    states={"running": "▶", "finished": "✓", "failed": "✗", "crashed": "✗", "stopped": "■", "interrupted": "■"},
)
ASCII = Glyphs(
    braille=False,
    levels="#+-.",
    alert="^",
    cursor="|",
    horizontal="-",
    vertical="|",
    corner="+",
    bar="#",
    states={"running": ">", "finished": "ok", "failed": "X", "crashed": "X", "stopped": "=", "interrupted": "="},
)


def _asks_for_ascii() -> bool:
    """Whether the locale was named C or POSIX. Python takes that for UTF-8 (PEP 538, PEP 540), so its encodings don't tell. One
    that isn't named at all, as in many containers, is left to Python."""
    named = os.environ.get("LC_ALL") or os.environ.get("LANG")
    return named in ("C", "POSIX") and sys.flags.utf8_mode == 1  # with an LC_CTYPE that says more it isn't in that mode


def choose_glyphs(ascii_only: bool | None = None) -> Glyphs:
    """ASCII when asked for, or when the locale or the output can't show more."""
    if ascii_only is None:
        encodings = (locale.getpreferredencoding(False), getattr(sys.stdout, "encoding", None) or "utf-8")
        ascii_only = _asks_for_ascii() or any("utf" not in encoding.lower() for encoding in encodings)
    return ASCII if ascii_only else UNICODE
