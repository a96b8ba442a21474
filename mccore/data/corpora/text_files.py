"""The text files that paths stand for: files as they are named, folders with all that is text below them.

What `walk` leaves out isn't a folder's text, nor is what can't be decoded or is too large. What is left out is told, so that
nobody wonders.
"""

from __future__ import annotations

import codecs
import fnmatch
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mccore.data.corpora.records import JSON_LINES, read_texts
from mccore.data.corpora.walk import Skipped, Walk
from mccore.errors import DataError
from mccore.host.text import PIECE, is_binary, open_regular, refuse_stdin, spell, text_pieces, unreadable

RECORDS = (".parquet", *JSON_LINES)
LARGEST = 8 * 10**6  # bytes of a file below a folder: larger ones are data rather than text to read


@dataclass(frozen=True)
class TextFile:
    """A file to read. `name` tells it from the others, and is the same wherever the folder lies; `size` in bytes."""

    path: Path
    name: str
    size: int


@dataclass(frozen=True)
class Choose:
    """Which files below folders are taken.

    include, exclude: glob patterns against a file's name and its path below the folder; a folder that is excluded isn't
    entered. largest: bytes, None without a limit. links: whether links to files are followed.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    largest: int | None = LARGEST
    links: bool = False

    def wants(self, relative: str, is_folder: bool) -> bool:
        """Whether a path below a folder is of interest."""
        if _matches(relative, self.exclude):
            return False
        return is_folder or not self.include or _matches(relative, self.include)


def find_text_files(paths: Sequence[Path], choose: Choose = Choose()) -> tuple[list[TextFile], list[Skipped]]:
    """The files of text that `paths` stand for, in a fixed order, and what was left out.

    Raises DataError for a path that doesn't exist, can't be read or is no text, and where no file is left.
    """
    files: list[TextFile] = []
    skipped: list[Skipped] = []
    taken: set[str] = set()  # names
    seen: set[Path] = set()
    for path in (Path(os.path.expanduser(path)) for path in paths):
        try:
            found = list(_below(path, choose, skipped)) if path.is_dir() else [_named(path)]
        except OSError as error:
            raise unreadable(error, path) from error
        for file in found:
            real = file.path.resolve()
            if real in seen:
                skipped.append(Skipped(file.name, "named twice"))
                continue
            name = file.name if file.name not in taken else spell(real.as_posix())
            seen.add(real)
            taken.add(name)
            files.append(TextFile(file.path, name, file.size))
    if not files:
        where = ", ".join(map(spell, paths))
        reasons = "; ".join(f"{each.name}: {each.why}" for each in skipped[:3])
        raise DataError(
            f"no file of text in {where}{f' ({reasons})' if reasons else ''}", hint="name the files themselves"
        )
    return files, skipped


def _named(path: Path) -> TextFile:
    refuse_stdin(path)
    if not path.exists():
        raise DataError(f"there is no {spell(path)}", hint="check the path")
    if why := _why_not_text(path):
        raise DataError(f"{spell(path)} is {why}", hint="give files of UTF-8 text, JSON Lines or parquet")
    return TextFile(path, _label(path), path.stat().st_size)


def _label(path: Path) -> str:
    """A path as it was given, where that says the same elsewhere; else its last part."""
    relative = os.path.normpath(path)
    if path.is_absolute() or relative.startswith(os.pardir):
        return spell(path.resolve().name)
    return "" if relative == os.curdir else spell(Path(relative).as_posix())


def _below(root: Path, choose: Choose, skipped: list[Skipped]) -> Iterator[TextFile]:
    top = _label(root)

    def name(below: str) -> str:
        return (top / Path(below)).as_posix()

    walk = Walk(root, wanted=choose.wants, unwanted="excluded", links=choose.links)
    for path, below in walk:
        if why := _why_not_file(path, choose.largest):
            walk.skipped.append(Skipped(below, why))
        else:
            yield TextFile(path, name(below), path.stat().st_size)
    skipped += [Skipped(name(each.name) + "/" * each.name.endswith("/"), each.why) for each in walk.skipped]


def _matches(relative: str, patterns: Sequence[str]) -> bool:
    base = relative.rpartition("/")[2]
    return any(fnmatch.fnmatchcase(relative, each) or fnmatch.fnmatchcase(base, each) for each in patterns)


def _why_not_file(path: Path, largest: int | None) -> str:
    if largest is not None and path.stat().st_size > largest:
        return f"larger than {largest:,} bytes"
    if not os.access(path, os.R_OK):
        return "not readable"
    return _why_not_text(path)


def _why_not_text(path: Path) -> str:
    """Why a file can't be read as text, as in `it is ...`; "" for one that can."""
    if is_records(path):
        return ""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_regular(path) as file:
        first = piece = file.read(PIECE)
        if not piece:
            return "empty"
        if is_binary(first):
            return "binary"
        try:
            while piece:
                decoder.decode(piece)
                piece = file.read(PIECE)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "not valid UTF-8"
    return ""


def is_records(path: Path) -> bool:
    """Whether a file holds a document per row or line."""
    return path.name.lower().endswith(RECORDS)


def read_documents(path: Path, field: str) -> Iterator[Iterator[str]]:
    """The documents of a file, each as pieces of text that are read one by one and end at line ends where lines aren't endless.

    A row of a parquet file or a line of a JSON Lines file, its text under `field`, is a document, nulls apart; another file
    is one. Raises DataError for what can't be read.
    """
    if is_records(path):
        for _, text in read_texts(path, field):
            if text is not None:
                yield iter((text,))
    else:
        yield text_pieces(path)
