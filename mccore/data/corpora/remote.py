"""Corpora on the Hugging Face hub: read from the files on this machine, which are fetched when they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from mccore.data.corpora.document import SPLIT_SALT, Document, Progress, Split, check_split
from mccore.data.corpora.files import READER, FileCorpus, FoundFiles
from mccore.data.corpora.records import JSON_LINES, read_texts
from mccore.data.hub.address import NAMED, parse_address
from mccore.data.hub.library import Library
from mccore.data.hub.listing import HubFile, Listing
from mccore.errors import DataError
from mccore.units import size as in_words

_READABLE = (".parquet", *JSON_LINES, ".json", ".json.gz")


class HubCorpus(FileCorpus):
    """Documents of a data set of the hub; a document's id is `file:row`.

    What the data set itself holds out (its validation split, the last shard of the corpora that have names) is for validation.
    Where it holds nothing out, documents are split by the hash of their content, as those of local files are.
    """

    def __init__(self, spec: str, library: Library, *, shards: int = 0) -> None:
        self._address = parse_address(spec)
        self._library = library
        self.listing = library.listing(self._address, splits=spec not in NAMED)
        train, val = _chosen(spec, self.listing, shards)
        self._held_out: list[HubFile] = val
        self._by_path = {library.path_of(self.listing, file): file for file in [*train, *val]}
        paths = [library.path_of(self.listing, file) for file in train]
        super().__init__(spec, FoundFiles(library.root, paths), self._address.field, None)

    @property
    def files(self) -> list[HubFile]:
        """What is held out comes first: it is needed whatever is trained on."""
        return [*self._held_out, *(self._by_path[path] for path in self._files)]

    def fetch(self, progress: Progress, *, size: int | None = None) -> None:
        wanted, held = list(self._held_out), 0
        for path in self._files:
            if size is not None and held >= size:
                break
            wanted.append(self._by_path[path])
            held += self._by_path[path].size
        self._library.get(self.listing, wanted, progress)

    def _label(self, path: Path) -> str:
        return self._by_path[path].path

    def _read(self, path: Path, label: str) -> Iterator[tuple[str, str | None]]:
        self._library.get(self.listing, [self._by_path[path]], lambda done, total: None)
        return ((f"{label}:{row}", text) for row, text in read_texts(path, self._field))

    def documents(self, split: Split) -> Iterator[Document]:
        check_split(split)
        if not self._held_out:
            return super().documents(split)
        if split == "train":
            return (document for document, _ in self._distinct())
        return (
            Document(id, text)
            for file in self._held_out
            for id, text in self._read(self._library.path_of(self.listing, file), file.path)
            if text and text.strip()
        )

    @cached_property
    def _size(self) -> int:
        return sum(file.size for file in self.files)

    def _manifest(self) -> dict[str, Any]:
        """From the listing alone: what the files hold is known by their checksums before they are here."""
        digest = hashlib.sha256()
        for file in self.files:
            digest.update(f"{file.path}\0{file.sha256 or file.git_oid}\0".encode())
        return {
            "name": self.name, "split": SPLIT_SALT, "reader": READER, "field": self._field, "commit": self.listing.commit,
            "files": len(self.files), "held_out": len(self._held_out), "bytes": self._size, "sha256": digest.hexdigest(),
        }  # fmt: skip

    def describe(self) -> str:
        here = sum(self._library.has(self.listing, file) for file in self.files)
        return (
            f"{self.name}: {len(self.files)} files, {in_words(self._size)}, {here} of them on this machine; "
            f"commit {self.listing.commit[:12]}"
        )


def _chosen(spec: str, listing: Listing, shards: int) -> tuple[list[HubFile], list[HubFile]]:
    """(files to train on, files held out). Raises DataError for a data set that can't be read so."""
    if (named := NAMED.get(spec)) is not None:
        train, val = named.names(shards)
    else:
        train, val = _splits(spec, listing)
        train = train[: shards or None]
    try:
        return listing.of(train), listing.of(val)
    except KeyError as error:
        raise DataError(
            f"{spec}: {listing.repository} has no file {error.args[0]}",
            hint="`mccore data get --update` asks the hub anew",
        ) from error


def _splits(spec: str, listing: Listing) -> tuple[Sequence[str], Sequence[str]]:
    splits = listing.splits or {}
    if "train" not in splits:
        raise DataError(
            f"{spec} has no split 'train'; it has {', '.join(splits) or 'none'}",
            hint="name another configuration, or fetch its files and use parquet:PATH or jsonl:PATH",
        )
    train, val = splits["train"], splits.get("validation", [])
    if unread := next((path for path in [*train, *val] if not path.lower().endswith(_READABLE)), None):
        raise DataError(
            f"{spec}: {unread} isn't parquet or JSON Lines",
            hint="try @refs/convert/parquet, the hub's own copy as parquet",
        )
    return train, val
