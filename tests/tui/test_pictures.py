"""Every screen looks as it did when somebody last looked at it, and everything on it can be read.

`python -m tests.tui.pictures` writes the pictures anew, with `--svg DIR` as SVG. Look at them before the difference is kept.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.style import Style

from mccore.tui.app import make_monitor
from tests.tui import pictures
from tests.tui.pictures import (
    FOLDER,
    KEPT,
    LOOKS,
    SHOWN,
    Picture,
    cells_of,
    contrast,
    files_of,
    make_root,
    sixteen,
    take,
)

READABLE = 3.0  # contrast of large text (WCAG 2.2); what is set back on purpose, as axes are, has less
SET_BACK = 1.5
OFF = "X"  # of a list of marks: one that isn't set is hardly seen
PLAIN = "|+#_└├┌┐┘┤┬┴┼╭╮╰╯▁▂▃▄▅▆▇█▔▏▎▊▐▌━─│╸╺╹╻▀░▒▓"  # frames, and blocks that are a colour themselves


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    before, zone = Path.cwd(), os.environ.get("TZ")
    yield make_root(tmp_path_factory.mktemp("pictures"))
    os.chdir(before)
    os.environ.pop("TZ")
    if zone is not None:
        os.environ["TZ"] = zone
    time.tzset()


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize(("size", "look"), SHOWN)
def test_a_screen_looks_as_before_and_can_be_read(root: Path, name: str, size: tuple[int, int], look: str) -> None:
    ascii_only, theme = LOOKS[look]
    picture, _ = take(make_monitor(root, ascii_only=ascii_only), name, size, theme)
    for file, text in files_of(name, size, look, picture).items():
        assert text == (FOLDER / file).read_text(encoding="utf-8"), f"{file}: see {pictures.__name__}"
    assert {len("".join(segment.text for segment in row)) for row in picture.rows} == {size[0]}
    if ascii_only:
        assert picture.text.isascii()
    assert unreadable(picture) == {}
    assert unreadable(picture, colours=16) == {}


def unreadable(picture: Picture, colours: int = 2**24) -> dict[str, str]:
    """Words that can't be told from what is behind them, with their colours."""
    found = {}
    box = picture.box
    for row in picture.rows[box.y : box.bottom]:
        cells = list(cells_of(row))[box.x : box.right]
        for style, group in itertools.groupby(cells, key=lambda cell: cell[0]):
            words = "".join(char for _, char in group).strip(f" {PLAIN}")
            if not words or words == OFF:
                continue
            front, back = colours_of(style, colours)
            if colours == 16:
                if front == back:
                    found[words] = f"{front} on {back}"
            elif contrast(front, back) < (SET_BACK if style.dim or is_grey(front) else READABLE):
                found[words] = f"{front} on {back}: {contrast(front, back):.1f}"
    return found


def colours_of(style: Style, colours: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The colour of the characters and that behind them."""
    assert style.color is not None
    assert style.bgcolor is not None
    own = sixteen if colours == 16 else lambda colour: tuple(colour.get_truecolor())
    front, back = own(style.color), own(style.bgcolor)
    return (back, front) if style.reverse else (front, back)


def is_grey(colour: tuple[int, ...]) -> bool:
    return max(colour) - min(colour) < 40
