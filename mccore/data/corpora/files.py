"""Corpora made of files: parquet, JSON Lines, text."""

from __future__ import annotations

import glob
import gzip
import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from mccore.data.corpora.document import (
    GROUP_VAL_SHARE,
    RECORD_VAL_SHARE,
    SPLIT_SALT,
    Corpus,
    Document,
    Split,
    check_split,
    hash_share,
    text_digest,
    val_threshold,
)
from mccore.errors import DataError
from mccore.host.files import write_atomic

# Smaller sources are read once in advance, to make sure that both splits get something.
_SMALL_BYTES = 32 * 2**20
# Duplicates are recognised among this many preceding documents; it bounds the memory of a pass to about 150 MB.
_DUPLICATE_WINDOW = 2**20

SUFFIXES = {
    "parquet": (".parquet",),
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz"),
    "text": (".txt", ".md", ".rst"),
}


class FileCorpus(Corpus):
    """Documents from files; subclasses say how a file is read."""

    val_share = RECORD_VAL_SHARE

    def __init__(self, name: str, root: Path, files: list[Path], field: str, cache_dir: Path | None) -> None:
        self.name = name
        self._root = root
        self._files = files
        self._field = field
        self._cache_dir = cache_dir

    @abstractmethod
    def _read(self, path: Path, label: str) -> Iterator[Document]:
        """The documents of one file; `label` is its name inside the corpus."""

    def _split_key(self, document: Document, digest: bytes) -> str:
        """What decides the side: by default the content, so that equal texts can never be on both."""
        return digest.hex()

    def _label(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _all(self) -> Iterator[Document]:
        """Everything in the files, as it is on disk: with empty documents and duplicates."""
        for path in self._files:
            try:
                yield from self._read(path, self._label(path))
            except OSError as error:
                raise DataError(f"can't read {path}: {error.strerror}", hint="put it back, or mend its disk") from error

    def _keyed(self) -> Iterator[tuple[float, Document]]:
        """(hash share, document) of everything that isn't empty or a duplicate, in the order of the files."""
        seen: dict[bytes, None] = {}
        found = False
        for document in self._all():
            if not document.text.strip():
                continue
            digest = text_digest(document.text)
            if digest in seen:
                continue
            seen[digest] = None
            if len(seen) > _DUPLICATE_WINDOW:
                del seen[next(iter(seen))]
            found = True
            yield hash_share(self._split_key(document, digest)), document
        if not found:
            raise DataError(f"the corpus {self.name!r} is empty", hint="give files that hold some text")

    @cached_property
    def _size(self) -> int:
        return sum(path.stat().st_size for path in self._files)

    @cached_property
    def _threshold(self) -> float:
        if self._size > _SMALL_BYTES:
            return self.val_share
        shares = [share for share, _ in self._keyed()]
        if len(set(shares)) < 2:
            raise DataError(
                f"the corpus {self.name!r} holds only one document, which can't be both trained on and held out",
                hint="give more documents; a single long text can be cut in two as text:FILE",
            )
        return val_threshold(shares, self.val_share)

    def documents(self, split: Split) -> Iterator[Document]:
        check_split(split)
        threshold = self._threshold
        return (document for share, document in self._keyed() if (share < threshold) == (split == "val"))

    def _count(self) -> int:
        return sum(1 for _ in self._all())

    def manifest(self) -> dict[str, Any]:
        stats = [path.stat() for path in self._files]
        rows = [(str(p.resolve()), s.st_size, s.st_mtime_ns) for p, s in zip(self._files, stats, strict=True)]
        key = text_digest(json.dumps([self.name, self._field, rows])).hex()
        cached = self._cache_dir / "corpora" / f"{key}.json" if self._cache_dir else None
        if cached is not None and cached.is_file():
            try:
                return dict(json.loads(cached.read_text("utf-8")))
            except ValueError:
                pass  # a damaged cache entry is made again
        digest = hashlib.sha256()
        for path in self._files:
            digest.update(f"{self._label(path)}\0".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        manifest = {
            "name": self.name,
            "split": SPLIT_SALT,
            "field": self._field,
            "files": len(self._files),
            "documents": self._count(),
            "bytes": self._size,
            "sha256": digest.hexdigest(),
        }
        if cached is not None:
            write_atomic(cached, json.dumps(manifest))
        return manifest

    def describe(self) -> str:
        return f"{self.name}: {len(self._files)} files, {self._size / 1e6:.1f} MB"


class ParquetCorpus(FileCorpus):
    """One document per row of parquet files, streamed through `datasets`; the id is `file:row`."""

    def __init__(self, name: str, root: Path, files: list[Path], field: str, cache_dir: Path | None) -> None:
        super().__init__(name, root, files, field, cache_dir)
        self._rows: dict[Path, Iterable[dict[str, Any]]] = {}
        for path in files:
            self._check_column(path)

    def _check_column(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            schema = pq.read_schema(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path} isn't a readable parquet file: {error}", hint="fetch or write it again") from error
        if self._field not in schema.names:
            raise DataError(
                f"{path} has no column {self._field!r}; it has {', '.join(schema.names) or 'none'}",
                hint="name the column of the text: parquet:PATH#COLUMN",
            )
        kind = schema.field(self._field).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise DataError(
                f"the column {self._field!r} of {path} holds {kind}, not text", hint="name another: parquet:PATH#COLUMN"
            )

    def _read(self, path: Path, label: str) -> Iterator[Document]:
        import pyarrow as pa

        try:
            for index, row in enumerate(self._stream(path)):
                text = row[self._field]
                if text is None:
                    raise DataError(f"row {index} of {path} has no {self._field!r}", hint="drop empty rows")
                yield Document(f"{label}:{index}", text)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path} is damaged: {error}", hint="fetch or write it again") from error

    def _stream(self, path: Path) -> Iterable[dict[str, Any]]:
        """The file's rows, which can be gone through any number of times."""
        if path not in self._rows:
            from datasets import load_dataset

            # `datasets` takes a name for a glob pattern, so a file called "a[1].parquet" must be escaped.
            names = [glob.escape(str(path))]
            self._rows[path] = load_dataset(
                "parquet", data_files=names, split="train", streaming=True, columns=[self._field]
            )
        return self._rows[path]

    def _count(self) -> int:
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(path).num_rows for path in self._files)


class JsonlCorpus(FileCorpus):
    """One document per line of JSON Lines files; the id is `file:line`.

    Read line by line here rather than through `datasets`, whose JSON reader infers one schema for unrelated keys and can't
    say which line is wrong.
    """

    def _read(self, path: Path, label: str) -> Iterator[Document]:
        for number, value in read_json_lines(path):
            where = f"{path}, line {number}"
            if not isinstance(value, dict):
                raise DataError(f"{where}: not a JSON object", hint='each line must be like {"text": "..."}')
            if self._field not in value:
                raise DataError(
                    f"{where}: no key {self._field!r}; it has {', '.join(map(repr, value)) or 'none'}",
                    hint="name the key of the text: jsonl:PATH#KEY",
                )
            text = value[self._field]
            if not isinstance(text, str):
                raise DataError(f"{where}: the value of {self._field!r} isn't a string", hint="quote it as JSON text")
            yield Document(f"{label}:{number}", text)


class TextCorpus(FileCorpus):
    """One document per text file; the id is its path inside the corpus.

    Split by the first folder or file name below PATH, so that a folder with the chapters of a book stays together. A corpus
    of a single file is cut at a blank line near its end.
    """

    val_share = GROUP_VAL_SHARE

    def _read(self, path: Path, label: str) -> Iterator[Document]:
        data = path.read_bytes()
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise DataError(
                f"{path} isn't valid UTF-8 (line {line}, byte {error.start})", hint="convert it: iconv -t UTF-8"
            ) from error
        if len(self._files) > 1:
            yield Document(label, text)
            return
        cut = _cut_position(text, 1 - self.val_share)
        yield Document(f"{label}#head", text[:cut])
        if cut < len(text):
            yield Document(f"{label}#tail", text[cut:])

    def _split_key(self, document: Document, digest: bytes) -> str:
        return document.id.split("/", 1)[0] if self._has_several_tops else document.id

    @cached_property
    def _has_several_tops(self) -> bool:
        return len({self._label(path).split("/", 1)[0] for path in self._files}) > 1

    def documents(self, split: Split) -> Iterator[Document]:
        if len(self._files) > 1:
            return super().documents(split)
        check_split(split)
        return self._half(split)

    def _half(self, split: Split) -> Iterator[Document]:
        halves = [document for _, document in self._keyed()]
        if len(halves) < 2:
            raise DataError(
                f"the corpus {self.name!r} is too short to hold a part of it out",
                hint="give a longer text or more files",
            )
        yield halves[0 if split == "train" else 1]


def _cut_position(text: str, share: float) -> int:
    """Where to cut `text` near `share` of its length: after the next blank line, else line end, else right there."""
    start = int(len(text) * share)
    for separator in ("\n\n", "\n"):
        found = text.find(separator, start)
        if found >= 0 and text[found:].strip():
            return found + len(separator)
    return start


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number from 1, value) of a JSON Lines file, gzipped or not; blank lines are passed over.

    DataError names the file and the line that isn't UTF-8 or JSON.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {number}: not valid UTF-8", hint="convert it: iconv -t UTF-8") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {number}: not valid JSON ({error.msg}, column {error.colno})",
            hint="write one complete JSON value per line",
        ) from error
    except (EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged after line {number}: {error}", hint="fetch or write it again") from error


def split_field(path: str) -> tuple[str, str]:
    """PATH#FIELD in two; a `#` that belongs to an existing file's name stays there."""
    head, mark, field = path.rpartition("#")
    if not mark or Path(path).expanduser().exists():
        return path, "text"
    return head, field or "text"


def find_files(kind: str, path: str) -> tuple[Path, list[Path]]:
    """(folder that ids are relative to, files in the order of their names) for a file, a folder or a glob pattern."""
    given = Path(path).expanduser()
    if given.is_file():
        return given.parent, [given]
    if given.is_dir():
        found = sorted(p for p in given.rglob("*") if p.is_file() and p.name.lower().endswith(SUFFIXES[kind]))
        if not found:
            raise DataError(
                f"no {' or '.join(SUFFIXES[kind])} file in {given}", hint=f"name the files: {kind}:{given}/*.EXTENSION"
            )
        return given, found
    if not glob.has_magic(str(given)):
        raise DataError(f"{given} doesn't exist", hint="check the path of the corpus")
    found = sorted(Path(p) for p in glob.glob(str(given), recursive=True) if Path(p).is_file())
    if not found:
        raise DataError(f"no file matches {given}", hint="check the pattern of the corpus")
    return Path(*_until_magic(given.parts)), found


def _until_magic(parts: tuple[str, ...]) -> Iterator[str]:
    for part in parts:
        if glob.has_magic(part):
            return
        yield part
