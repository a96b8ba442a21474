"""The text files that paths stand for: files as they are named, folders with all that is text below them.

A folder's hidden files, caches, virtual environments and installed packages aren't its text, nor is what can't be decoded or
is too large. What is left out is told, so that nobody wonders.
"""

from __future__ import annotations

import codecs
import fnmatch
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mccore.data.corpora.files import read_json_lines
from mccore.errors import DataError

RECORDS = (".parquet", ".jsonl", ".ndjson", ".jsonl.gz")
LARGEST = 8 * 10**6  # bytes of a file below a folder: larger ones are data rather than text to read
_PIECE = 2**20  # bytes that are read at once
_BEGINNING = 8192  # bytes in which a file that isn't text has a zero
_INSTALLED = {"node_modules", "__pycache__", "site-packages"}


@dataclass(frozen=True)
class TextFile:
    """A file to read. `name` tells it from the others, and is the same wherever the folder lies; `size` in bytes."""

    path: Path
    name: str
    size: int


@dataclass(frozen=True)
class Skipped:
    """A file or folder that is left out, and why."""

    name: str
    why: str


def find_text_files(
    paths: Sequence[Path], *, include: Sequence[str] = (), exclude: Sequence[str] = (), largest: int = LARGEST
) -> tuple[list[TextFile], list[Skipped]]:
    """The files of text that `paths` stand for, in a fixed order, and what was left out.

    include, exclude: glob patterns for what lies below folders, against a file's name and its path below the folder; a folder
    that is excluded isn't entered. largest: bytes of a file below a folder. Links below folders aren't followed.

    Raises DataError for a path that doesn't exist, can't be read or is no text, and where no file is left.
    """
    files: list[TextFile] = []
    skipped: list[Skipped] = []
    taken: set[str] = set()  # names
    seen: set[Path] = set()
    for path in (path.expanduser() for path in paths):
        try:
            found = list(_below(path, include, exclude, largest, skipped)) if path.is_dir() else [_named(path)]
        except OSError as error:
            raise unreadable(error, path) from error
        for file in found:
            real = file.path.resolve()
            if real in seen:
                skipped.append(Skipped(file.name, "named twice"))
                continue
            name = file.name if file.name not in taken else real.as_posix()
            seen.add(real)
            taken.add(name)
            files.append(TextFile(file.path, name, file.size))
    if not files:
        where = ", ".join(map(str, paths))
        reasons = "; ".join(f"{each.name}: {each.why}" for each in skipped[:3])
        raise DataError(
            f"no file of text in {where}{f' ({reasons})' if reasons else ''}", hint="name the files themselves"
        )
    return files, skipped


def _named(path: Path) -> TextFile:
    if not path.exists():
        raise DataError(f"there is no {path}", hint="check the path")
    if why := _why_not_text(path):
        raise DataError(f"{path} is {why}", hint="give files of UTF-8 text, JSON Lines or parquet")
    return TextFile(path, _label(path), path.stat().st_size)


def _label(path: Path) -> str:
    """A path as it was given, where that says the same elsewhere; else its last part."""
    relative = os.path.normpath(path)
    if path.is_absolute() or relative.startswith(os.pardir):
        return path.resolve().name
    return "" if relative == os.curdir else Path(relative).as_posix()


def _below(
    root: Path, include: Sequence[str], exclude: Sequence[str], largest: int, skipped: list[Skipped]
) -> Iterator[TextFile]:
    top = _label(root)

    def fail(error: OSError) -> None:
        raise error  # os.walk would go on without what it can't read

    def matches(relative: str, patterns: Sequence[str]) -> bool:
        base = relative.rpartition("/")[2]
        return any(fnmatch.fnmatchcase(relative, each) or fnmatch.fnmatchcase(base, each) for each in patterns)

    for place, folders, names in os.walk(root, onerror=fail):
        relative = Path(place).relative_to(root)
        kept = []
        for folder in sorted(folders):
            below = (relative / folder).as_posix()
            if why := "excluded" if matches(below, exclude) else _why_not_folder(Path(place, folder)):
                skipped.append(Skipped((top / Path(below)).as_posix() + "/", why))
            else:
                kept.append(folder)
        folders[:] = kept  # os.walk goes on with these, in this order
        for name in sorted(names):
            below, path = (relative / name).as_posix(), Path(place, name)
            label = (top / Path(below)).as_posix()
            if matches(below, exclude) or (include and not matches(below, include)):
                skipped.append(Skipped(label, "excluded"))
            elif why := _why_not_file(path, largest):
                skipped.append(Skipped(label, why))
            else:
                yield TextFile(path, label, path.stat().st_size)


def _why_not_folder(path: Path) -> str:
    if path.name.startswith("."):
        return "hidden"
    if path.is_symlink():
        return "a link"
    if (path / "pyvenv.cfg").is_file():
        return "a virtual environment"
    if path.name in _INSTALLED:
        return "installed or made by a program"
    return "a cache" if (path / "CACHEDIR.TAG").is_file() else ""


def _why_not_file(path: Path, largest: int) -> str:
    if path.name.startswith("."):
        return "hidden"
    if path.is_symlink():
        return "a link"
    if not path.is_file():
        return "not a file"
    size = path.stat().st_size
    if size > largest:
        return f"larger than {largest:,} bytes"
    if not os.access(path, os.R_OK):
        return "not readable"
    return _why_not_text(path)


def _why_not_text(path: Path) -> str:
    """Why a file can't be read as text, as in `it is ...`; "" for one that can."""
    if is_records(path):
        return ""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        first = piece = file.read(_PIECE)
        if not piece:
            return "empty"
        if b"\0" in first[:_BEGINNING]:
            return "binary"
        try:
            while piece:
                decoder.decode(piece)
                piece = file.read(_PIECE)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "not valid UTF-8"
    return ""


def is_records(path: Path) -> bool:
    """Whether a file holds a document per row or line."""
    return path.name.lower().endswith(RECORDS)


def read_documents(path: Path, field: str) -> Iterator[Iterator[str]]:
    """The documents of a file, each as pieces of text that are read one by one and end at line ends where lines aren't endless.

    A row of a parquet file or a line of a JSON Lines file, its text under `field`, is a document; another file is one.
    Raises DataError for what can't be read.
    """
    if is_records(path):
        for text in record_texts(path, field):
            yield iter((text,))
    else:
        yield _pieces(path)


def _pieces(path: Path) -> Iterator[str]:
    rest = ""
    try:
        with path.open("r", encoding="utf-8-sig", errors="replace", newline="") as file:
            while piece := file.read(_PIECE):
                text = rest + piece
                end = text.rfind("\n") + 1 or len(text)
                rest = text[end:]
                yield text[:end]
    except OSError as error:
        raise unreadable(error, path) from error
    if rest:
        yield rest


def record_texts(path: Path, field: str) -> Iterator[str]:
    """The texts of a parquet or JSON Lines file. Raises DataError for one that can't be read or has no text there."""
    return _parquet_texts(path, field) if path.name.lower().endswith(".parquet") else _json_texts(path, field)


def _json_texts(path: Path, field: str) -> Iterator[str]:
    try:
        for number, value in read_json_lines(path):
            text = value.get(field) if isinstance(value, dict) else None
            if not isinstance(text, str):
                raise DataError(
                    f"{path}, line {number}: no text under {field!r}", hint="name the key of the text with --field"
                )
            if not _is_unicode(text):
                raise DataError(
                    f"{path}, line {number}: half of a surrogate pair, which stands for no character",
                    hint="write it again from the text that it came from",
                )
            yield text
    except OSError as error:
        raise unreadable(error, path) from error


def _is_unicode(text: str) -> bool:
    """Whether a string can be written as UTF-8. JSON can hold halves of characters by their numbers."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parquet_texts(path: Path, field: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        if field not in file.schema_arrow.names:
            raise DataError(
                f"{path} has no column {field!r}; it has {', '.join(file.schema_arrow.names)}",
                hint="name the column of the text with --field",
            )
        for batch in file.iter_batches(batch_size=1024, columns=[field]):
            for text in batch.column(0).to_pylist():
                if not isinstance(text, str):
                    raise DataError(f"a row of {path} has no text in {field!r}", hint="drop empty rows")
                yield text
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} isn't a readable parquet file: {error}", hint="fetch or write it again") from error


def unreadable(error: OSError, path: Path) -> DataError:
    """The error for a file that the system doesn't give."""
    return DataError(
        f"can't read {error.filename or path}: {error.strerror}",
        hint="put it back, correct its permissions, or leave it out",
    )
