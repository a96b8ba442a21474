"""The one reader of records, rows of parquet and lines of JSON Lines files: for corpora, tokenizers, contexts, conversations.

Whatever is in a file, a reader of it gets records or a DataError with the file and the row or line. What a library raises while
it reads is the file's fault (`damaged`) unless the system refused (`can't read`): no list of a library's exceptions is kept.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mccore.errors import DataError, MccoreError
from mccore.host.text import mend, not_utf8, open_regular, spell, unreadable

JSON_LINES = (".jsonl", ".ndjson", ".jsonl.gz")  # names of such files; their bytes say whether they are packed
MOST_LINE = 2**30  # bytes of one line: a file without line ends would take all memory
_BOM = b"\xef\xbb\xbf"


def is_parquet(path: Path) -> bool:
    """Whether a file is parquet by its name."""
    return path.name.lower().endswith(".parquet")


def read_texts(path: Path, field: str) -> Iterator[tuple[int, str | None]]:
    """(row from 0 or line from 1, text under `field`) of a parquet or JSON file; None where there is a null.

    Raises DataError for a file that can't be read, and for one whose records hold something else there.
    """
    return _parquet_texts(path, field) if is_parquet(path) else _json_texts(path, field)


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row from 0 or line from 1, record) of a parquet or JSON file. Raises DataError for a file that can't be read."""
    if not is_parquet(path):
        for number, value in read_json_values(path):
            if not isinstance(value, dict):
                raise DataError(f"{spell(path)}, line {number}: not a JSON object", hint="write one object per line")
            yield number, value
        return
    import pyarrow.parquet as pq

    row = 0
    with blaming(path, lambda: f" after row {row}"), open_regular(path) as file:
        for batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                yield row, record
                row += 1


@contextlib.contextmanager
def blaming(path: Path, place: Callable[[], str]) -> Iterator[None]:
    """Turn whatever a library raises inside into a DataError about the file, or about what the system refused."""
    try:
        yield
    except MccoreError:
        raise
    except MemoryError as error:
        raise DataError(f"not enough memory to read {spell(path)}{place()}", hint="split the file") from error
    except OSError as error:
        if error.errno:
            raise unreadable(error, path) from error
        raise _damaged(path, place(), error) from error
    except Exception as error:
        raise _damaged(path, place(), error) from error


def _damaged(path: Path, place: str, error: Exception) -> DataError:
    why = " ".join(mend(str(error)).split())[:300] or type(error).__name__
    return DataError(f"{spell(path)} is damaged{place}: {why}", hint="fetch or write it again")


# --- JSON -----------------------------------------------------------------------------------------------------------------


def read_json_values(path: Path, on_bad: Callable[[DataError], None] | None = None) -> Iterator[tuple[int, Any]]:
    """(line from 1, value) of a JSON Lines file, gzipped or not; of a `.json` file (number from 1, element of its array).

    Blank lines are passed over, lines may end in LF, CRLF or CR. Numbers too long for an int stay text. A line that is no
    JSON is an error, or goes to `on_bad`, after which reading goes on.
    """
    number = 0
    with blaming(path, lambda: f" after line {number}"), _open_plain(path) as file:
        if path.name.lower().removesuffix(".gz").endswith(".json") and (values := _whole(file)) is not None:
            yield from enumerate(values, start=1)
            return
        for number, line in _lines(file, path):
            try:
                value = _parse_line(line, f"{spell(path)}, line {number}", line[:2])
            except DataError as error:
                if on_bad is None:
                    raise
                on_bad(error)
                continue
            yield number, value


@contextlib.contextmanager
def _open_plain(path: Path) -> Iterator[BinaryIO]:
    """A file's bytes, unpacked where they are gzip's, whatever the name says."""
    with open_regular(path) as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if not packed:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked, io.BufferedReader(unpacked) as buffered:  # type: ignore[type-var]
            yield buffered


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(MOST_LINE + 1):
        if len(line) > MOST_LINE:
            raise DataError(
                f"{spell(path)}, line {number + 1}: longer than {MOST_LINE >> 30} GiB", hint="write a value per line"
            )
        if number == 0:
            line = line.removeprefix(_BOM)
        # A value on one line holds no raw CR, so that a CR within it ends a line too.
        for piece in line.rstrip(b"\r\n").split(b"\r"):
            number += 1
            if piece.strip():
                yield number, piece


def _whole(file: BinaryIO) -> list[Any] | None:
    """The elements of a file that is one JSON value; None for one that holds a value per line. Leaves the file at its start."""
    data = file.read(MOST_LINE + 1)
    if len(data) <= MOST_LINE:
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(data.removeprefix(_BOM).decode(), parse_int=_integer)
            is_conversation = isinstance(value, list) and all(
                isinstance(item, dict) and "role" in item for item in value
            )
            return value if isinstance(value, list) and not is_conversation else [value]
    file.seek(0)
    return None


def _parse_line(line: bytes, where: str, start: bytes) -> Any:
    try:
        return json.loads(line.decode(), parse_int=_integer)
    except UnicodeDecodeError as error:
        raise not_utf8(where, start) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: not valid JSON ({error.msg}, column {error.colno})",
            hint="write one complete JSON value per line",
        ) from error
    except RecursionError as error:
        raise DataError(f"{where}: nested too deeply", hint="write one flat JSON value per line") from error


def _integer(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:  # thousands of digits, which Python doesn't turn into a number
        return digits


def _json_texts(path: Path, field: str) -> Iterator[tuple[int, str | None]]:
    for number, value in read_json_values(path):
        where = f"{spell(path)}, line {number}"
        if not isinstance(value, dict):
            raise DataError(f"{where}: not a JSON object", hint='each line must be like {"text": "..."}')
        if field not in value:
            keys = mend(", ".join(map(repr, value))) or "none"
            raise DataError(
                f"{where}: no key {field!r}; it has {keys}", hint="name the key of the text: #KEY, or --field"
            )
        text = value[field]
        if text is not None and not isinstance(text, str):
            raise DataError(f"{where}: the value of {field!r} isn't a string", hint="quote it as JSON text")
        yield number, None if text is None else mend(text)


# --- parquet --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_parquet(path: Path, field: str) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile` whose column `field` is text. Raises DataError."""
    import pyarrow.parquet as pq

    with open_regular(path) as file:
        try:
            opened = pq.ParquetFile(file, pre_buffer=False)  # a buffer would keep the whole file until its end
            schema = opened.schema_arrow
        except Exception as error:
            why = " ".join(str(error).split())[:300]
            raise DataError(
                f"{spell(path)} isn't a readable parquet file: {why}", hint="fetch or write it again"
            ) from error
        if field not in schema.names:
            raise DataError(
                f"{spell(path)} has no column {field!r}; it has {', '.join(schema.names) or 'none'}",
                hint="name the column of the text: #COLUMN, or --field",
            )
        kind = schema.types[schema.names.index(field)]
        if not _holds_text(kind):
            raise DataError(
                f"the column {field!r} of {spell(path)} holds {kind}, not text",
                hint="name another: #COLUMN, or --field",
            )
        yield opened


def _holds_text(kind: Any) -> bool:
    import pyarrow.types as types

    if types.is_dictionary(kind):  # what pandas and polars make of categories
        kind = kind.value_type
    return any(is_one(kind) for is_one in (types.is_string, types.is_large_string, types.is_string_view, types.is_null))


def _parquet_texts(path: Path, field: str) -> Iterator[tuple[int, str | None]]:
    row = 0
    with blaming(path, lambda: f" after row {row}"), open_parquet(path, field) as file:
        for batch in file.iter_batches(batch_size=1024, columns=[field]):
            column = batch.column(0)
            try:
                texts = column.to_pylist()
            except UnicodeDecodeError as error:  # Arrow checks neither when it writes nor when it reads
                raise DataError(
                    f"row {row + _first_bad(column)} of {spell(path)}: the text isn't valid UTF-8",
                    hint="write the column again as UTF-8",
                ) from error
            for text in texts:
                yield row, text
                row += 1


def _first_bad(column: Any) -> int:
    for index, value in enumerate(column):
        try:
            value.as_py()
        except UnicodeDecodeError:
            return index
    return 0
