"""Rows of a task that lives on the hub: which files hold which split, and the rows as they are in them."""

from __future__ import annotations

import fnmatch
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mccore.data.conversation import Split, check_conversation_split
from mccore.data.corpora.document import Progress, hash_share, val_threshold
from mccore.data.corpora.records import read_rows
from mccore.data.hub.address import HubAddress
from mccore.data.hub.library import open_library
from mccore.data.hub.listing import HubFile
from mccore.errors import DataError

HELD_OUT_SHARE = 0.02  # of the rows for training, where a data set has no validation split of its own

Row = dict[str, Any]


@dataclass(frozen=True)
class HubTable:
    """A data set and, for each split, a pattern of its files' names. Without one for `val`, rows for training are held out by
    the hash of their place, so that the published test split stays what it is."""

    repository: str
    files: Mapping[Split, str]

    def rows(self, split: Split, *, seed: int = 0, limit: int | None = None) -> list[tuple[str, Row]]:
        """(id, row) of a split in an order fixed by `seed`; the files are fetched where they aren't here.

        Raises DataError for a split that the data set doesn't have.
        """
        check_conversation_split(split)
        found = self._held_out(split) if "val" not in self.files and split != "test" else list(self._all(split))
        random.Random(f"{self.repository}:{seed}").shuffle(found)
        return found[:limit]

    def _all(self, split: Split) -> Iterator[tuple[str, Row]]:
        library, listing = open_library(), self._listing()
        for file in self._files_of(split):
            library.get(listing, [file], lambda done, total: None)
            for number, row in read_rows(library.path_of(listing, file)):
                yield f"{file.path}:{number}", row

    def _held_out(self, split: Split) -> list[tuple[str, Row]]:
        """One side of the rows for training; both have some, however few there are."""
        shared = [(hash_share(id), id, row) for id, row in self._all("train")]
        threshold = val_threshold((share for share, _, _ in shared), HELD_OUT_SHARE)
        return [(id, row) for share, id, row in shared if (share < threshold) == (split == "val")]

    def _files_of(self, split: Split) -> list[HubFile]:
        pattern = self.files.get(split)
        if pattern is None:
            raise DataError(f"{self.repository} has no {split} split", hint="use it for evaluation only")
        listing = self._listing()
        paths = sorted(fnmatch.filter(listing.files, pattern))
        if not paths:
            raise DataError(
                f"{self.repository} has no file {pattern}",
                hint=f"`mccore data get --update hf:{self.repository}` asks the hub anew",
            )
        return listing.of(paths)

    def _listing(self) -> Any:
        return open_library().listing(HubAddress(self.repository))

    def check(self) -> None:
        """Raise DataError where the data set, or a file of it, isn't to be had; asks the hub once."""
        for split in self.files:
            self._files_of(split)

    def fetch(self, progress: Progress) -> None:
        """Bring all its files here."""
        files = [file for split in self.files for file in self._files_of(split)]
        open_library().get(self._listing(), files, progress)

    def fingerprint(self) -> dict[str, Any]:
        """What identifies its content."""
        listing = self._listing()
        return {"repository": listing.repository, "commit": listing.commit}
