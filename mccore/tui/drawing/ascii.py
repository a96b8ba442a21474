"""Everything on the screen in ASCII: also what the library draws its own frames, marks and scroll bars with."""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

_LIKE = {
    "-": "─━╌╍┄┅═▔▁╴╶╸╺…–—",
    "|": "│┃║▏▕▎▊╎┆▌▐",
    "+": "┌┐└┘├┤┬┴┼╭╮╰╯╔╗╚╝╠╣╦╩╬┏┓┗┛",
    "#": "█▉▋▇▆▅▄▃▂▀▓■▪●◉⬤",
    ".": "░▒·•○◌⭘",
    "v": "▼▾⌄↓",
    "^": "▲▴⌃↑",
    ">": "▶▸►→⏵❯",
    "<": "◀◂◄←",
    "X": "✓✗✘×",
    "'": "‘’",
    '"': "“”",
}
_TABLE = {ord(char): plain for plain, chars in _LIKE.items() for char in chars}


class AsciiFilter(LineFilter):
    """Puts ASCII in the place of every other character, as many columns of it."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The segments in ASCII."""
        return [
            segment if segment.text.isascii() else Segment(ascii_of(segment.text), segment.style, segment.control)
            for segment in segments
        ]


def ascii_of(text: str) -> str:
    """A text in ASCII of the same width: letters without their accents, marks like those that stood there, else `?`."""
    return "".join(char if char.isascii() else _like(char) for char in text)


def _like(char: str) -> str:
    width = cell_len(char)
    if plain := _TABLE.get(ord(char)):
        return plain.ljust(width)[:width]
    if 0x2500 <= ord(char) <= 0x259F or 0x1FB00 <= ord(char) <= 0x1FBAF:  # other lines and blocks
        return ("+" if ord(char) < 0x2580 else "#").ljust(width)[:width]
    base = unicodedata.normalize("NFKD", char).encode("ascii", "ignore").decode()
    return base if len(base) == width else "?" * width
