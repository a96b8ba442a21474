"""What of the hub is on this machine: listings and files below one folder, shared by all runs.

A branch is asked for once: from then on the data set is the commit it led to, for every run, with or without a network, until
someone asks anew (`mccore data get --update`). Text must not change under runs that are compared or resumed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from mccore.data.hub.address import HubAddress, parse_address
from mccore.data.hub.client import find_splits, look_up
from mccore.data.hub.download import Patience, fetch_file, part_of
from mccore.data.hub.listing import HubFile, Listing
from mccore.errors import DataError, Interrupted
from mccore.host import paths
from mccore.host.files import write_atomic
from mccore.host.json_file import read_object
from mccore.host.regular import regular_descriptor
from mccore.units import size

WORKERS = 8  # files that come side by side
_TICK = 0.2  # seconds between two looks at what came
_RESERVE = 1 << 28  # bytes of a disk that downloads leave free

Progress = Callable[[int, int], None]
"""Is called with the bytes that are there and those wanted, and raises what is to end the download."""


@dataclass(frozen=True)
class Kept:
    """A data set on this machine: how much of it is there. `wanted` files belong to its configuration's splits."""

    address: HubAddress
    listing: Listing
    complete: int
    bytes: int
    partial: int


class Library:
    """The data sets below a folder."""

    def __init__(self, root: Path, *, workers: int = WORKERS, patience: Patience | None = None) -> None:
        self.root = root
        self._workers = workers
        self._patience = patience or Patience()

    # --- what there is ------------------------------------------------------------------------------------------------

    def listing(self, address: HubAddress, *, update: bool = False, splits: bool = False) -> Listing:
        """What a data set holds: as known on this machine, or asked from the hub for the first time or with `update`.

        `splits`: also which files are which split, for data sets whose files have no names that are known. Raises
        HubUnavailable, or DataError for what doesn't exist.
        """
        path = self._listing_path(address)
        known = None if update else _read_listing(path)
        found = known or look_up(address)
        if splits and found.splits is None:
            found = replace(found, splits=find_splits(address, found.commit))
        if found is not known:
            write_atomic(path, json.dumps({"address": _spelled(address), **found.to_json()}))
        return found

    def path_of(self, listing: Listing, file: HubFile) -> Path:
        """Where a file is once it is there."""
        return self._folder(listing.repository) / "files" / file.local_name

    def has(self, listing: Listing, file: HubFile) -> bool:
        """Whether a file is there as a whole."""
        return self.path_of(listing, file).is_file()

    def kept(self) -> list[Kept]:
        """All data sets of which something is known here, by name."""
        found = []
        for path in sorted(self.root.glob("*/listings/*.json")):
            listing, address = _read_listing(path), _read_address(path)
            if listing is None or address is None:
                continue
            here = [self.path_of(listing, file) for file in listing.files.values()]
            sizes = [file.stat().st_size for file in here if file.is_file()]
            partial = [part_of(file).stat().st_size for file in here if part_of(file).is_file()]
            found.append(Kept(address, listing, len(sizes), sum(sizes), sum(partial)))
        return found

    # --- fetching -----------------------------------------------------------------------------------------------------

    def get(self, listing: Listing, files: Sequence[HubFile], progress: Progress) -> None:
        """Bring `files` here, several side by side; those that are here aren't asked for again.

        Whatever `progress` raises ends it, as does the first file that won't come. What came of the others is kept. Raises
        DataError before the first byte where the disk hasn't the room.
        """
        missing = [file for file in dict.fromkeys(files) if not self.has(listing, file)]
        total = sum(file.size for file in dict.fromkeys(files))
        parts = {file: self._part_size(listing, file) for file in missing}
        self._check_room(listing, sum(file.size - parts[file] for file in missing))
        counter = _Counter(total - sum(file.size - parts[file] for file in missing))
        if not missing:
            progress(total, total)
            return
        with ThreadPoolExecutor(self._workers, thread_name_prefix="hub") as pool:
            futures = [
                pool.submit(fetch_file, listing, file, self.path_of(listing, file), counter.add, self._patience)
                for file in missing
            ]
            try:
                _watch(futures, lambda: progress(counter.value, total))
            finally:
                counter.ended = True  # the others stop at their next block
                pool.shutdown(cancel_futures=True)
        progress(total, total)

    def _part_size(self, listing: Listing, file: HubFile) -> int:
        try:
            return min(part_of(self.path_of(listing, file)).stat().st_size, file.size)
        except FileNotFoundError:
            return 0

    def _check_room(self, listing: Listing, needed: int) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free - _RESERVE
        if needed and needed > free:
            raise DataError(
                f"{listing.repository}: {size(needed)} are still to come, and the disk of {self.root} has room for "
                f"{size(max(free, 0))}",
                hint="free some space, choose another disk with MCCORE_BASE_DIR, or take fewer shards (data.shards)",
            )

    # --- looking after it ---------------------------------------------------------------------------------------------

    def damaged(self, listing: Listing, progress: Progress) -> Iterator[HubFile]:
        """The files here whose bytes aren't what the listing says; all are read."""
        here = [file for file in listing.files.values() if self.has(listing, file)]
        total, done = sum(file.size for file in here), 0
        for file in here:
            checksum, length = file.new_checksum(), 0
            with os.fdopen(regular_descriptor(self.path_of(listing, file)), "rb") as content:
                while block := content.read(1 << 20):
                    checksum.update(block)
                    length += len(block)
                    progress(done + length, total)
            done += file.size
            if length != file.size or not checksum.fits:
                yield file

    def discard(self, listing: Listing, file: HubFile) -> None:
        """Take one file away; it can be fetched again."""
        self.path_of(listing, file).unlink(missing_ok=True)

    def remove(self, repository: str) -> int:
        """Take a data set away, with what has come of files that aren't complete. Returns the bytes freed."""
        folder = self._folder(repository)
        freed = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)
        return freed

    def _folder(self, repository: str) -> Path:
        return self.root / repository.replace("/", "--")

    def _listing_path(self, address: HubAddress) -> Path:
        name = f"{address.config or 'default'}@{address.revision}".replace("/", "--")
        return self._folder(address.repository) / "listings" / f"{name}.json"


def open_library(cache_dir: Path | None = None) -> Library:
    """The library of this machine, below the cache directory."""
    return Library((cache_dir or paths.cache_dir()) / "hub")


class _Counter:
    """Bytes that came, counted by many threads."""

    def __init__(self, value: int) -> None:
        self.value, self.ended = value, False
        self._lock = threading.Lock()

    def add(self, more: int) -> None:
        with self._lock:
            self.value += more
        if self.ended:
            raise Interrupted("the download was stopped; what has come is kept")


def _watch(futures: Sequence[Future[None]], tick: Callable[[], None]) -> None:
    """Wait for all, or for the first that fails, whose error is raised."""
    left: set[Future[None]] = set(futures)
    while left:
        done, left = wait(left, timeout=_TICK, return_when="FIRST_EXCEPTION")
        for future in done:
            future.result()
        tick()


def _spelled(address: HubAddress) -> str:
    return str(replace(address, field="text"))


def _read_listing(path: Path) -> Listing | None:
    try:
        return Listing.from_json(read_object(path))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not known, or damaged: it is asked for again


def _read_address(path: Path) -> HubAddress | None:
    try:
        return parse_address(str(read_object(path)["address"]))
    except (OSError, ValueError, KeyError, TypeError, DataError):
        return None
