"""The token store: a corpus or a set of conversations as memory-mapped arrays of token ids, complete or absent.

A store is a directory:

    header.json      format version, key (what it was made from), dtype, and per split: counts, files with size and SHA-256
    <split>.tokens   token ids, little-endian, uint16 where the vocabulary fits and uint32 otherwise
    <split>.offsets  int64 [documents + 1]: where each document begins
    <split>.ids      the documents' ids, one JSON string a line
    <split>.mask     uint8 per token, 1 where it is trained on (conversations only)

It is written to a directory beside its final place, synced and renamed, so that a crash or a full disk leaves nothing that
looks like a store.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mccore.errors import DataError
from mccore.host.files import disk_hint, sync_directory
from mccore.host.json_file import parse_json, read_object
from mccore.host.regular import regular_descriptor

STORE_VERSION = 1
_HEADER = "header.json"


class Encoded(NamedTuple):
    """One document as token ids, and for conversations which of them are trained on."""

    id: str
    tokens: Sequence[int] | NDArray[Any]
    mask: Sequence[int] | NDArray[Any] | None = None


class TokenSplit:
    """One split of a store, memory-mapped. `tokens` [N], `offsets` [documents + 1], `mask` [N] or None."""

    def __init__(self, directory: Path, name: str, record: Mapping[str, Any], dtype: str) -> None:
        self.name = name
        self._ids_path = directory / f"{name}.ids"
        self.tokens: NDArray[Any] = _map(directory / f"{name}.tokens", dtype)
        self.offsets: NDArray[np.int64] = _map(directory / f"{name}.offsets", "<i8")
        self.mask: NDArray[np.uint8] | None = None
        if f"{name}.mask" in record["files"]:
            self.mask = _map(directory / f"{name}.mask", "u1")

    @property
    def documents(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document, its BOS included: int64 [documents]."""
        return np.diff(self.offsets)

    def ids(self) -> list[str]:
        """The documents' ids."""
        with os.fdopen(regular_descriptor(self._ids_path), encoding="utf-8") as file:
            return [parse_json(line) for line in file]


class TokenStore:
    """An opened store: `splits` by name, `key` as it was given to `build_store`."""

    def __init__(self, directory: Path, header: Mapping[str, Any]) -> None:
        self.directory = directory
        self.key: dict[str, Any] = header["key"]
        self.vocab_size: int = header["vocab_size"]
        self.splits = {
            name: TokenSplit(directory, name, record, header["dtype"]) for name, record in header["splits"].items()
        }
        self.nbytes = sum(file["bytes"] for record in header["splits"].values() for file in record["files"].values())

    def split(self, name: str) -> TokenSplit:
        """A split by name. Raises DataError when there is none or it is empty."""
        found = self.splits.get(name)
        if found is None or not found.documents:
            raise DataError(
                f"{self.directory} has no {name} documents",
                hint="the corpus must hold enough documents for both splits",
            )
        return found


def store_path(root: Path, key: Mapping[str, Any]) -> Path:
    """Where the store of `key` lives below the cache directory `root`."""
    text = json.dumps({"version": STORE_VERSION, **key}, sort_keys=True, ensure_ascii=False)
    return root / "tokens" / hashlib.sha256(text.encode()).hexdigest()[:24]


def open_store(directory: Path, *, checksums: bool = False) -> TokenStore:
    """Open a store. Raises DataError when it is absent, of another format, or its files haven't the recorded sizes; with
    `checksums`, which reads everything once, also when any content changed.
    """
    again = f"delete {directory} and run the encode stage again"
    try:
        header = read_object(directory / _HEADER)
        if header["version"] != STORE_VERSION:
            raise DataError(f"{directory} has format version {header['version']}, not {STORE_VERSION}", hint=again)
        for record in header["splits"].values():
            for name, expected in record["files"].items():
                path = directory / name
                size = path.stat().st_size
                if size != expected["bytes"]:
                    raise DataError(f"{path} has {size} bytes instead of {expected['bytes']}", hint=again)
                if checksums and _file_sha256(path) != expected["sha256"]:
                    raise DataError(f"{path} is damaged: its checksum is wrong", hint=again)
        return TokenStore(directory, header)
    except FileNotFoundError as error:
        raise DataError(f"there is no token store in {directory}: {error.filename} is missing", hint=again) from error
    except OSError as error:
        raise DataError(f"can't read {directory}: {error.strerror}", hint=again) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{directory / _HEADER} is damaged: {error}", hint=again) from error


def build_store(
    directory: Path, key: Mapping[str, Any], vocab_size: int, splits: Mapping[str, Iterable[Encoded]]
) -> TokenStore:
    """Write a store of these splits to `directory` and open it. `key` is recorded; see `store_path`.

    Raises DataError for ids outside the vocabulary and when the disk doesn't take it; nothing is left behind then.
    """
    dtype = "<u2" if vocab_size <= 2**16 else "<u4"
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=".part", dir=directory.parent))
        try:
            records = {
                name: _write_split(partial, name, documents, dtype, vocab_size) for name, documents in splits.items()
            }
            header = {
                "version": STORE_VERSION,
                "key": dict(key),
                "vocab_size": vocab_size,
                "dtype": dtype,
                "splits": records,
            }
            with open(partial / _HEADER, "w", encoding="utf-8") as file:
                json.dump(header, file, indent=1, ensure_ascii=False)
                _sync(file)
            sync_directory(partial)
            _move_into_place(partial, directory)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise DataError(f"can't write the token store {directory}: {error.strerror}", hint=disk_hint(error)) from error
    return open_store(directory)


def ensure_store(
    directory: Path,
    key: Mapping[str, Any],
    vocab_size: int,
    splits: Callable[[], Mapping[str, Iterable[Encoded]]],
) -> tuple[TokenStore, bool]:
    """The store in `directory`, and whether it was there already. A damaged one is built again; `splits` is called only to
    build.
    """
    if directory.exists():
        try:
            return open_store(directory, checksums=True), True
        except DataError:
            shutil.rmtree(directory, ignore_errors=True)
    return build_store(directory, key, vocab_size, splits()), False


def encode_documents(
    documents: Iterable[tuple[str, str]],
    encode_batch: Callable[[list[str]], tuple[NDArray[Any], NDArray[Any]]],
    *,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Encoded]:
    """Encode (id, text) pairs in order, batch by batch.

    `encode_batch` gives the ids of all its texts in one array [N] and the places where each begins and the last ends
    [texts + 1]; what it yields are views of that array. `progress` hears the number of documents done so far.
    """
    done = 0
    for batch in _batches(documents):
        tokens, offsets = encode_batch([text for _, text in batch])
        places = offsets.tolist()
        for (name, _), (start, end) in zip(batch, itertools.pairwise(places), strict=True):
            yield Encoded(name, tokens[start:end])
        done += len(batch)
        if progress is not None:
            progress(done)


def _batches(documents: Iterable[tuple[str, str]], chars: int = 2**21) -> Iterator[list[tuple[str, str]]]:
    """Documents in lists of about `chars` characters."""
    batch: list[tuple[str, str]] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document[1])
        if size >= chars:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Sink:
    """A file that hashes what is written to it."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._file = open(path, "wb", buffering=2**20)  # noqa: SIM115 - closed by `finish`
        self._hash = hashlib.sha256()
        self._bytes = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._bytes += len(data)

    def finish(self) -> dict[str, Any]:
        _sync(self._file)
        self._file.close()
        return {"bytes": self._bytes, "sha256": self._hash.hexdigest()}

    def close(self) -> None:
        self._file.close()


def _write_split(
    directory: Path, name: str, documents: Iterable[Encoded], dtype: str, vocab_size: int
) -> dict[str, Any]:
    offsets = array("q", [0])
    sinks: dict[str, _Sink] = {}
    try:
        sinks = {part: _Sink(directory / f"{name}.{part}") for part in ("tokens", "offsets", "ids")}
        for document in documents:
            ids = np.asarray(document.tokens, dtype=np.int64)
            if ids.size and not (ids.min() >= 0 and ids.max() < vocab_size):
                raise DataError(f"the document {document.id!r} has token ids outside the vocabulary of {vocab_size}")
            sinks["tokens"].write(ids.astype(dtype).tobytes())
            sinks["ids"].write((json.dumps(document.id) + "\n").encode())
            offsets.append(offsets[-1] + ids.size)
            if document.mask is not None:
                if "mask" not in sinks:
                    if len(offsets) > 2:
                        raise DataError(f"the document {document.id!r} has a mask, those before it have none")
                    sinks["mask"] = _Sink(directory / f"{name}.mask")
                mask = np.asarray(document.mask, dtype=np.uint8)
                if mask.size != ids.size:
                    raise DataError(f"the mask of {document.id!r} has {mask.size} entries for {ids.size} tokens")
                sinks["mask"].write(mask.tobytes())
            elif "mask" in sinks:
                raise DataError(f"the document {document.id!r} has no mask, those before it have one")
        sinks["offsets"].write(np.asarray(offsets, dtype="<i8").tobytes())
        files = {sink.name: sink.finish() for sink in sinks.values()}
    finally:
        for sink in sinks.values():
            sink.close()
    return {"documents": len(offsets) - 1, "tokens": offsets[-1], "files": files}


def _move_into_place(partial: Path, directory: Path) -> None:
    try:
        os.rename(partial, directory)
    except OSError:
        if not (directory / _HEADER).is_file():
            raise
        return  # another process built the same store meanwhile
    sync_directory(directory.parent)


def _map(path: Path, dtype: str) -> NDArray[Any]:
    if path.stat().st_size == 0:  # an empty file can't be mapped
        return np.zeros(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def _file_sha256(path: Path) -> str:
    with os.fdopen(regular_descriptor(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
