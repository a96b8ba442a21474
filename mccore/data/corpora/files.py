"""Corpora made of files: parquet, JSON Lines, text."""

from __future__ import annotations

import glob
import hashlib
import itertools
import json
import os
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
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
from mccore.data.corpora.records import JSON_LINES, open_parquet, read_texts
from mccore.data.corpora.walk import Skipped, Walk, count_reasons
from mccore.errors import DataError
from mccore.host.files import write_atomic
from mccore.host.json_file import read_object
from mccore.host.text import decode, is_binary, open_regular, refuse_stdin, spell, unreadable

READER = 2  # counts changes of how files become documents: caches of older ones are made again
# Duplicates are recognised among this many preceding documents; it bounds the memory of a pass to about 150 MB.
_DUPLICATE_WINDOW = 2**20

SUFFIXES = {
    "parquet": (".parquet",),
    "jsonl": JSON_LINES,
    "text": (".txt", ".md", ".rst"),
}


class FileCorpus(Corpus):
    """Documents from files; subclasses say how a file is read.

    Both splits have something whatever the number and the size of documents: a single one is cut in two. Nulls and empty
    texts are passed over and counted.
    """

    val_share = RECORD_VAL_SHARE

    def __init__(self, name: str, files: FoundFiles, field: str, cache_dir: Path | None) -> None:
        self.name = name
        self._found = files
        self._files = files.files
        self._field = field
        self._cache_dir = cache_dir

    @abstractmethod
    def _read(self, path: Path, label: str) -> Iterator[tuple[str, str | None]]:
        """(id, text or null) of one file's documents; `label` is its name inside the corpus."""

    def _split_key(self, document: Document, digest: bytes) -> str:
        """What decides the side: by default the content, so that equal texts can never be on both."""
        return digest.hex()

    def _label(self, path: Path) -> str:
        return spell(path.relative_to(self._found.root).as_posix())

    def _all(self) -> Iterator[tuple[str, str | None]]:
        """Everything in the files, as it is on disk: with nulls, empty texts and duplicates."""
        for path in self._files:
            yield from self._read(path, self._label(path))

    def _distinct(self) -> Iterator[tuple[Document, bytes]]:
        """Everything that isn't null, empty or a duplicate, in the order of the files, with its digest."""
        seen: dict[bytes, None] = {}
        for id, text in self._all():
            if text is None or not text.strip():
                continue
            digest = text_digest(text)
            if digest in seen:
                continue
            seen[digest] = None
            if len(seen) > _DUPLICATE_WINDOW:
                del seen[next(iter(seen))]
            yield Document(id, text), digest
        if not seen:
            raise DataError(f"the corpus {self.name!r} is empty", hint="give files that hold some text")

    def _keyed(self) -> Iterator[tuple[float, Document]]:
        """(hash share, document) of everything distinct."""
        for document, digest in self._distinct():
            yield hash_share(self._split_key(document, digest)), document

    @cached_property
    def _size(self) -> int:
        return sum(path.stat().st_size for path in self._files)

    @cached_property
    def _threshold(self) -> float | None:
        """The share below which a document is held out; None for a corpus of a single document.

        The usual share serves as soon as it has put something on both sides, which takes about 50 documents. Only a corpus
        that has too few for that is read to its end.
        """
        shares: set[float] = set()
        for share, _ in self._keyed():
            shares.add(share)
            if min(shares) < self.val_share <= max(shares):
                return self.val_share
        return val_threshold(shares, self.val_share) if len(shares) > 1 else None

    def documents(self, split: Split) -> Iterator[Document]:
        check_split(split)
        threshold = self._threshold
        if threshold is None:
            return iter([self._half(split)])
        return (document for share, document in self._keyed() if (share < threshold) == (split == "val"))

    def _half(self, split: Split) -> Document:
        """A part of the only document: its head to train on, its tail to validate on."""
        document, _ = next(self._distinct())
        head, tail = _cut(document.text, 1 - GROUP_VAL_SHARE)
        if not (head.strip() and tail.strip()):
            raise DataError(
                f"the corpus {self.name!r} holds only one document, too short to hold a part of it out",
                hint="give a longer text or more files",
            )
        return Document(f"{document.id}#head", head) if split == "train" else Document(f"{document.id}#tail", tail)

    def manifest(self) -> dict[str, Any]:
        try:
            return self._manifest()
        except OSError as error:
            raise unreadable(error, error.filename or self.name) from error

    def _manifest(self) -> dict[str, Any]:
        stats = [path.stat() for path in self._files]
        rows = [(spell(p.resolve()), s.st_size, s.st_mtime_ns) for p, s in zip(self._files, stats, strict=True)]
        key = text_digest(json.dumps([self.name, self._field, READER, rows])).hex()
        cached = self._cache_dir / "corpora" / f"{key}.json" if self._cache_dir else None
        if cached is not None and cached.is_file():
            try:
                return read_object(cached)
            except ValueError:
                pass  # a damaged cache entry is made again
        digest = hashlib.sha256()
        for path in self._files:
            digest.update(f"{self._label(path)}\0".encode())
            with open_regular(path) as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        manifest = {
            "name": self.name,
            "split": SPLIT_SALT,
            "reader": READER,
            "field": self._field,
            "files": len(self._files),
            "bytes": self._size,
            "sha256": digest.hexdigest(),
            **self._counts(),
        }
        if cached is not None:
            write_atomic(cached, json.dumps(manifest))
        return manifest

    def _counts(self) -> dict[str, Any]:
        """How many documents there are, and what was passed over: reading all of it also finds what can't be read."""
        documents = nulls = empty = 0
        for _, text in self._all():
            if text is None:
                nulls += 1
            elif text.strip():
                documents += 1
            else:
                empty += 1
        return {"documents": documents, "passed_over": {"null": nulls, "empty": empty}}

    def describe(self) -> str:
        left_out = ", ".join(f"{number:,} {why}" for why, number in count_reasons(self._found.skipped).items())
        return f"{self.name}: {len(self._files)} files, {self._size / 1e6:.1f} MB" + (
            f"; left out: {left_out}" if left_out else ""
        )


class ParquetCorpus(FileCorpus):
    """One document per row of parquet files; the id is `file:row`."""

    def __init__(self, name: str, files: FoundFiles, field: str, cache_dir: Path | None) -> None:
        super().__init__(name, files, field, cache_dir)
        for path in self._files:
            with open_parquet(path, field):
                pass  # a column that isn't there is said at once

    def _read(self, path: Path, label: str) -> Iterator[tuple[str, str | None]]:
        return ((f"{label}:{row}", text) for row, text in read_texts(path, self._field))


class JsonlCorpus(FileCorpus):
    """One document per line of JSON Lines files; the id is `file:line`."""

    def _read(self, path: Path, label: str) -> Iterator[tuple[str, str | None]]:
        return ((f"{label}:{line}", text) for line, text in read_texts(path, self._field))


class TextCorpus(FileCorpus):
    """One document per text file; the id is its path inside the corpus.

    Split by the first folder or file name below PATH, so that a folder with the chapters of a book stays together.
    """

    val_share = GROUP_VAL_SHARE

    def _read(self, path: Path, label: str) -> Iterator[tuple[str, str | None]]:
        with open_regular(path) as file:
            try:
                data = file.read()
            except OSError as error:
                raise unreadable(error, path) from error
        if is_binary(data):
            raise DataError(
                f"{spell(path)} is binary, not text", hint="leave it out; if it is UTF-16, convert it: iconv -f UTF-16"
            )
        yield label, decode(data, spell(path))

    def _split_key(self, document: Document, digest: bytes) -> str:
        return _top(document.id) if self._has_several_tops else document.id

    @cached_property
    def _has_several_tops(self) -> bool:
        """Whether more than one folder or file at the top holds text: an empty file beside a book isn't another book."""
        if len({_top(self._label(path)) for path in self._files}) < 2:
            return False
        tops = (_top(document.id) for document, _ in self._distinct())
        first = next(tops, None)
        return any(top != first for top in tops)


def _top(label: str) -> str:
    return label.split("/", 1)[0]


def _cut(text: str, share: float) -> tuple[str, str]:
    """`text` in two near `share` of its length: after the next blank line, else line end, else right there."""
    end = len(text.rstrip())
    start = min(int(end * share), end - 1)
    for separator in ("\n\n", "\n"):
        found = text.find(separator, start, end)
        if found >= 0:
            return text[: found + len(separator)], text[found + len(separator) :]
    return text[:start], text[start:]


class FoundFiles:
    """The files of a corpus: `root` is the folder that ids are relative to, `skipped` what was left out below it."""

    def __init__(self, root: Path, files: list[Path], skipped: Sequence[Skipped] = ()) -> None:
        self.root, self.files, self.skipped = root, files, skipped


def split_field(path: str) -> tuple[str, str]:
    """PATH#FIELD in two; a `#` that belongs to an existing file's name stays there."""
    head, mark, field = path.rpartition("#")
    if not mark or os.path.exists(os.path.expanduser(path)):
        return path, "text"
    return head, field or "text"


def find_files(kind: str, path: str) -> FoundFiles:
    """The files that a file's name, a folder or a glob pattern stands for, in the order of their names."""
    given = Path(os.path.expanduser(path))
    if "\0" in path:
        raise DataError(f"{path!r} holds a NUL character", hint="check the path of the corpus")
    if given.is_dir():
        walk = Walk(given, wanted=lambda name, is_folder: is_folder or name.lower().endswith(SUFFIXES[kind]))
        try:
            found = sorted(path for path, _ in walk)
        except OSError as error:
            raise unreadable(error, given) from error
        if not found:
            left_out = "; ".join(f"{each.name}: {each.why}" for each in itertools.islice(walk.skipped, 3))
            raise DataError(
                f"no {' or '.join(SUFFIXES[kind])} file in {spell(given)}{f' ({left_out})' if left_out else ''}",
                hint=f"name the files: {kind}:{spell(given)}/*.EXTENSION",
            )
        return FoundFiles(given, found, walk.skipped)
    if given.exists():
        open_regular(given).close()  # a FIFO or a device is refused
        return FoundFiles(given.parent, [given])
    refuse_stdin(given)
    if not glob.has_magic(str(given)):
        raise DataError(f"{spell(given)} doesn't exist", hint="check the path of the corpus")
    found = sorted(Path(p) for p in glob.glob(str(given), recursive=True) if Path(p).is_file())
    if not found:
        raise DataError(f"no file matches {spell(given)}", hint="check the pattern of the corpus")
    return FoundFiles(Path(*_until_magic(given.parts)), found)


def _until_magic(parts: tuple[str, ...]) -> Iterator[str]:
    """The folders before the first wildcard. A name that was escaped (`[[]1]`) is none."""
    for part in parts:
        plain = re.sub(r"\[([*?\[])\]", r"\1", part)
        if plain == part and glob.has_magic(part):
            return
        yield plain
