"""A document and its corpus, and on which side of the split it is.

A split never leaks: exact duplicates are dropped, and what is closely related is kept on one side (files of a package or
folder). Which side a document is on depends on a hash alone, so adding files doesn't move the ones that were there.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from mccore.errors import DataError

Split = Literal["train", "val"]

Progress = Callable[[int, int], None]
"""Is called with the bytes that are here and those wanted, and raises what is to end it."""

# Chosen among eight so that the stdlib's validation packages are varied and about 5 % of its bytes on Python 3.11 to 3.13.
SPLIT_SALT = "mccore-split-6"

GROUP_VAL_SHARE = 0.06  # of packages and folders: few and large

RECORD_VAL_SHARE = 0.02  # of records in jsonl and parquet files: many and small


@dataclass(frozen=True)
class Document:
    """One text. `id` is unique in its corpus and stays the same when other documents come or go."""

    id: str
    text: str


class Corpus(ABC):
    """A named source of documents."""

    name: str

    @abstractmethod
    def documents(self, split: Split) -> Iterator[Document]:
        """The documents of one split, in an order that is the same at every call."""

    def fetch(self, progress: Progress, *, size: int | None = None) -> None:  # noqa: B027  # nothing to do is a default
        """Bring what isn't on this machine yet: all of it, or `size` bytes of what is trained on, and all that is held out.

        Raises DataError for what won't come. Nothing to do for a corpus that is here.
        """

    @abstractmethod
    def manifest(self) -> dict[str, Any]:
        """What identifies the content, JSON-able: a key for caches of anything made from it. May take a pass over the files."""

    @abstractmethod
    def describe(self) -> str:
        """One line for people."""


def hash_share(key: str) -> float:
    """A number in [0, 1) fixed by `key`: which part of a split something belongs to."""
    digest = hashlib.blake2b(f"{SPLIT_SALT}:{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def val_threshold(shares: Iterable[float], val_share: float) -> float:
    """`val_share`, moved just enough that at least one of `shares` lies below it and one doesn't."""
    ordered = sorted(set(shares))
    if len(ordered) < 2:
        return val_share
    return min(max(val_share, (ordered[0] + ordered[1]) / 2), ordered[-1])


def check_split(split: str) -> None:
    """DataError unless `split` is one that corpora have."""
    if split not in get_args(Split):
        raise DataError(f"unknown split {split!r} of a corpus", hint="use train or val")


def text_digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
