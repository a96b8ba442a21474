"""The door by which text goes out to a terminal: no byte of a stranger's can move a cursor, change a title or turn a line around.

Everything mccore prints passes `visible`: control, escape and bidirectional characters are shown as what they are. Colours are
added afterwards, to parts that were made by `style`. Output that programs read (`--json`, an answer in a pipe) keeps its
content: JSON escapes such characters, and a pipe gets plain text as it is.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any, TextIO

_BIDI = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_LINES = (0x2028, 0x2029)  # which some terminals take for line ends
_VISIBLE: dict[int, int | str] = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
_VISIBLE |= {0x7F: 0x2421} | {code: f"\\x{code:02x}" for code in range(0x80, 0xA0)}
_VISIBLE |= {code: f"\\u{code:04x}" for code in (*_BIDI, *_LINES)}
_VISIBLE |= dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)
_VISIBLE |= {0xDC00 + byte: f"\\x{byte:02x}" for byte in range(0x80, 0x100)}  # bytes of a name that isn't UTF-8
_IN_JSON = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), *_BIDI, *_LINES, *range(0xD800, 0xE000))}
_COLOURS = {"red": 31, "green": 32, "yellow": 33}


def visible(text: str) -> str:
    """`text` with what a terminal would obey shown instead: `␛` for escape, `\\x9b`, `\\u202e`. Line ends and tabs stay."""
    return text if text.isprintable() else text.translate(_VISIBLE)  # what is printable has none of these


def one_line(text: str) -> str:
    """`visible`, and line ends and tabs shown too: for a name within a line or a table."""
    return text if text.isprintable() else visible(text.replace("\n", "␊").replace("\t", "␉"))


@dataclass(frozen=True)
class Styled:
    """Text and how it should look where a terminal can show it."""

    text: str
    codes: tuple[int, ...]

    def render(self, colour: bool) -> str:
        """The text made visible, within its codes where `colour` is on."""
        shown = visible(self.text)
        return f"\x1b[{';'.join(map(str, self.codes))}m{shown}\x1b[0m" if colour and self.codes and shown else shown


def style(text: str, *, fg: str | None = None, bold: bool = False, dim: bool = False) -> Styled:
    """A part of a line in a colour (red, green, yellow), bold or dim."""
    codes = [1] if bold else []
    codes += [2] if dim else []
    codes += [_COLOURS[fg]] if fg else []
    return Styled(text, tuple(codes))


def echo(*parts: object, err: bool = False, nl: bool = True) -> None:
    """Print parts, one after the other, to standard output or standard error."""
    stream = sys.stderr if err else sys.stdout
    if stream is None:  # closed before we were started
        return
    colour = stream.isatty()
    text = "".join(part.render(colour) if isinstance(part, Styled) else visible(str(part)) for part in parts)
    _write(stream, text + "\n" if nl else text)


def echo_json(value: Any, *, indent: int | None = 2) -> None:
    """Print a value as JSON: any reader gets the same value, and no terminal obeys what is in it."""
    echo_json_text(to_json(value, indent=indent))


def echo_json_text(text: str) -> None:
    """Print a JSON text that is made already, as `echo_json` does."""
    if sys.stdout is not None:
        _write(sys.stdout, text.translate(_IN_JSON) + "\n")


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON that is readable and safe to print: what a terminal would obey is written as an escape."""
    return json.dumps(value, indent=indent, ensure_ascii=False, default=str).translate(_IN_JSON)


def write_answer(text: str, *, dim: bool = False) -> None:
    """Write a text as it is where a program reads it, visible where a terminal does; no line end is added."""
    if sys.stdout is None:
        return
    plain = text.translate(_SURROGATES)
    _write(sys.stdout, style(text, dim=dim).render(colour=True) if sys.stdout.isatty() else plain)


class StatusLine:
    """One line of standard error that is written again and again; nothing where that is no terminal."""

    def __init__(self) -> None:
        self.shown = sys.stderr is not None and sys.stderr.isatty()

    def show(self, text: str) -> None:
        """Replace the line."""
        if self.shown:
            _write(sys.stderr, f"\r\x1b[K{one_line(text)}")

    def clear(self) -> None:
        """Take the line away."""
        if self.shown:
            _write(sys.stderr, "\r\x1b[K")


_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
    except UnicodeEncodeError:  # a terminal without UTF-8 gets question marks
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()
