"""Everything on the screen in ASCII, in as many columns."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.app import App, ComposeResult
from textual.color import Color

from mccore.tui.drawing.ascii import AsciiFilter, ascii_of
from mccore.tui.drawing.colours import ON_LIGHT
from mccore.tui.widgets.choices import Choices
from tests.tui.pictures import contrast


@pytest.mark.parametrize(
    ("text", "plain"),
    [("╭─╮│▼ ▶", "+-+|v >"), ("Ünïcode naïve", "Unicode naive"), ("漢字", "????"), ("▓█░", "##."), ("plain", "plain")],
)
def test_marks_become_marks_like_them(text: str, plain: str) -> None:
    assert ascii_of(text) == plain


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Mn", "Me", "Mc", "Cf"])))
def test_no_column_is_lost(text: str) -> None:
    plain = ascii_of(text)
    assert plain.isascii()
    assert len(plain) == sum(cell_len(char) for char in text)


@pytest.mark.parametrize(
    ("named", "ascii_only"),
    [({"LC_ALL": "C"}, True), ({"LANG": "POSIX"}, True), ({"LC_ALL": "C.UTF-8"}, False), ({}, False)],
)
def test_a_locale_that_is_called_c_gets_ascii(named: dict[str, str], ascii_only: bool) -> None:
    code = "from mccore.tui.drawing.glyphs import ASCII, choose_glyphs; print(choose_glyphs() is ASCII)"
    plain = {
        name: value for name, value in os.environ.items() if name != "LANG" and not name.startswith(("LC_", "PYTHON"))
    }
    done = subprocess.run([sys.executable, "-c", code], env=plain | named, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(ascii_only)


def test_styles_stay() -> None:
    style = Style(bold=True)
    assert AsciiFilter().apply([Segment("─x", style)], Color(0, 0, 0)) == [Segment("-x", style)]


def test_what_is_chosen_is_told_by_its_mark() -> None:
    class Page(App[None]):
        def compose(self) -> ComposeResult:
            yield Choices(("one", "one"), ("two", "two", True))

    async def marks() -> list[str]:
        async with Page().run_test() as pilot:
            lines = pilot.app.query_one(Choices)
            return [lines.render_line(row).text[:3] for row in range(2)]

    assert asyncio.run(marks()) == ["[ ]", "[X]"]


@pytest.mark.parametrize("behind", [(224, 224, 224), (198, 198, 198)])  # a light background, and a band's shade on it
def test_named_colours_can_be_read_on_a_light_background(behind: tuple[int, int, int]) -> None:
    for number in range(1, 16):
        assert contrast(tuple(ON_LIGHT.ansi_colors[number]), behind) >= 3
