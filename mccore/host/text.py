"""The door by which text comes in: from files, standard input, arguments and names to clean str, by one rule.

| what comes | what it becomes |
|---|---|
| a byte order mark at the start | nothing |
| CRLF, a lone CR | LF |
| bytes that aren't UTF-8, in a file | DataError with file and line: a guess would be trained on |
| bytes that aren't UTF-8, from a person | U+FFFD: a slip must not end a conversation |
| halves of surrogate pairs | the character that a pair stands for; U+FFFD for a lone one |
| bytes of a file's name that aren't UTF-8 | `\\xe9`, wherever the name is shown, stored or hashed |

Text inside records (JSON Lines, parquet) is text already: its line ends are its own, only surrogates are mended.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mccore.errors import DataError
from mccore.host.regular import NotRegularError, regular_descriptor

PIECE = 2**20  # bytes that are read at once
_BEGINNING = 8192  # bytes in which a file that isn't text has a zero
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def mend(text: str) -> str:
    """`text` with pairs of surrogates as the characters they stand for and lone ones as U+FFFD: it can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def typed(text: str | bytes) -> str:
    """What a person wrote, whatever it is: bytes that aren't UTF-8 become U+FFFD."""
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogateescape") if _escaped(text) else mend(text).encode()
    return _with_lf(text.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace"))


def spell(name: str | os.PathLike[str]) -> str:
    """A file's name as text that can be shown, stored and hashed: bytes that aren't UTF-8 as `\\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def decode(data: bytes, source: str) -> str:
    """The text of a file's bytes. Raises DataError, naming `source` and the line, for what isn't UTF-8."""
    try:
        return _with_lf(data.removeprefix(codecs.BOM_UTF8).decode())
    except UnicodeDecodeError as error:
        at = error.start + (len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0)
        raise not_utf8(source, data[:2], line=data[:at].count(b"\n") + 1, byte=at) from error


def is_binary(start: bytes) -> bool:
    """Whether a file that begins so is no text: a zero early on, as programs, images and UTF-16 without a mark have it."""
    return b"\0" in start[:_BEGINNING] and not start.startswith(_UTF16)


def not_utf8(source: str, start: bytes, *, line: int | None = None, byte: int = 0) -> DataError:
    """The error for a text in another encoding. `source` names the line, or `line` and `byte` do; `start` are its first bytes."""
    encoding = " -f UTF-16" if start in _UTF16 else ""  # a byte order mark tells
    verdict = f"{source}: not valid UTF-8" if line is None else f"{source} isn't valid UTF-8 (line {line}, byte {byte})"
    return DataError(verdict + (" but UTF-16" if encoding else ""), hint=f"convert it: iconv{encoding} -t UTF-8")


def read_text(path: Path, *, most: int | None = None) -> str:
    """The text of a regular file of at most `most` bytes. Raises DataError for anything else and for what isn't UTF-8."""
    with open_regular(path) as file:
        try:
            data = file.read(-1 if most is None else most + 1)
        except OSError as error:
            raise unreadable(error, path) from error
    if most is not None and len(data) > most:
        raise DataError(f"{spell(path)} is larger than {most // 2**20} MiB", hint="give a smaller file")
    return decode(data, spell(path))


def text_pieces(path: Path) -> Iterator[str]:
    """A file's text in pieces, in bounded memory; they end at line ends where lines aren't endless. Raises as `read_text`."""
    source, lines, read, first, rest = spell(path), 1, 0, b"", ""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
    with open_regular(path) as file:
        more = True
        while more:
            try:
                piece = file.read(PIECE)
            except OSError as error:
                raise unreadable(error, path) from error
            more = bool(piece)
            first = first or piece[:2]
            try:
                text = rest + decoder.decode(piece, final=not more)
            except UnicodeDecodeError as error:
                line = lines + error.object[: error.start].count(b"\n")
                raise not_utf8(source, first, line=line, byte=max(0, read + error.start)) from error
            lines += piece.count(b"\n")
            read += len(piece)
            end = _end_of_line(text) if more else len(text)
            rest = text[end:]
            if end:
                yield text[:end]


def pieces_of(text: str, size: int) -> Iterator[str]:
    """A text in pieces of about `size` characters, which end at line ends where lines aren't endless; none of an empty one."""
    start = 0
    while len(text) - start > size:
        end = start + _end_of_line(text[start : start + size])
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


class TextFeed:
    """A text whose bytes come bit by bit, from a connection: clean pieces of it, which end at line ends where they can."""

    def __init__(self, source: str) -> None:
        self._source, self._read, self._rest = source, 0, ""
        self._decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)

    def feed(self, data: bytes, *, final: bool = False) -> str:
        """What is ready with some more bytes; with the `final` ones all the rest. Raises DataError for what isn't UTF-8."""
        try:
            text = self._rest + self._decoder.decode(data, final=final)
        except UnicodeDecodeError as error:
            where = f"{self._source}, near byte {self._read + error.start}"
            raise not_utf8(where, error.object[:2]) from error
        self._read += len(data)
        end = len(text) if final or "\n" not in text else _end_of_line(text)
        if not final and "\n" not in text and len(text) < PIECE:
            end = 0  # a line goes on
        self._rest = text[end:]
        return text[:end]


def is_clean(path: Path) -> bool:
    """Whether a file's bytes are its text as they are: no byte order mark, no line ends but LF."""
    with open_regular(path) as file:
        piece = file.read(PIECE)
        if piece.startswith(codecs.BOM_UTF8):
            return False
        while piece and b"\r" not in piece:
            piece = file.read(PIECE)
    return not piece


def open_regular(path: Path) -> BinaryIO:
    """A regular file to read bytes from: a FIFO or a device is refused, not waited for. Raises DataError."""
    try:
        return os.fdopen(regular_descriptor(path), "rb")
    except NotRegularError as error:
        raise _not_a_file(path, error.mode) from error
    except OSError as error:
        raise unreadable(error, path) from error


def _not_a_file(path: Path, mode: int) -> DataError:
    if stat.S_ISFIFO(mode):  # a named one, `<(...)`, or standard input by its name
        return DataError(
            f"{spell(path)} is a pipe, not a file: what comes out of it can be read only once",
            hint="write it to a file and name that: files are read more than once, and again when a run goes on",
        )
    kind = "a folder" if stat.S_ISDIR(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    return DataError(f"{spell(path)} is {kind}, not a file", hint="name a regular file")


def refuse_stdin(path: Path) -> None:
    """Raise DataError for `-`, where no file has that name: standard input could be read only once."""
    if path.name == "-" and not path.exists():
        raise DataError(
            "standard input isn't read here: files are read more than once", hint="write it to a file and name that"
        )


def unreadable(error: OSError | ValueError, path: str | os.PathLike[str]) -> DataError:
    """The error for a file that the system doesn't give."""
    name = spell(getattr(error, "filename", None) or path)
    why = getattr(error, "strerror", None) or error
    wrong = isinstance(error, ValueError) or error.errno in (
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENAMETOOLONG,
        errno.EINVAL,
    )
    hint = "check the path" if wrong else None
    return DataError(f"can't read {name}: {why}", hint=hint or "put it back, correct its permissions, or leave it out")


def open_stdin() -> None:
    """Let standard input follow the rules of this module from now on; call it before the first read."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        encoding = "utf-8-sig" if codecs.lookup(sys.stdin.encoding).name == "utf-8" else sys.stdin.encoding
        interactive = sys.stdin.isatty()  # `input` wants the terminal's own encoding
        sys.stdin.reconfigure(encoding=None if interactive else encoding, errors="replace", newline=None)


def stdin_text() -> str:
    """All of standard input."""
    open_stdin()
    return typed(sys.stdin.read())


def stdin_lines() -> Iterator[str]:
    """The lines of standard input as they come, without their ends."""
    open_stdin()
    for line in sys.stdin:
        yield typed(line.rstrip("\r\n"))


def _escaped(text: str) -> bool:
    """Whether the bytes that a str came from, where they weren't UTF-8, stand in it as Python's surrogate escapes alone."""
    halves = [character for character in text if "\ud800" <= character <= "\udfff"]
    return bool(halves) and all(character >= "\udc80" for character in halves) and max(halves) <= "\udcff"


def _with_lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _end_of_line(text: str) -> int:
    """Where to cut a text for reading on: after the last line end that a word follows, else after the last line end."""
    end = text.rfind("\n")
    while end >= 0 and text[end + 1 : end + 2].isspace():
        end = text.rfind("\n", 0, end)
    return end + 1 or text.rfind("\n") + 1 or len(text)
