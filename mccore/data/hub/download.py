"""One file of the hub onto this machine: resumed at the byte it stopped at, checked against its checksum, never half there.

Bytes go into `NAME.part`, which is locked while a process writes it. Its name changes when all bytes are there and the checksum
fits; until then nothing reads it. A process that finds another at it waits for that one's result.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mccore.data.hub.client import HubUnavailable, open_file
from mccore.data.hub.listing import HubFile, Listing
from mccore.errors import DataError
from mccore.host.files import NO_LOCKS, disk_hint, share_file, sync_directory

_READ = 1 << 20
_LOCK_SECONDS = 0.1

Received = Callable[[int], None]
"""Is told how many bytes came, negative where they were thrown away; raises what is to end the download."""


@dataclass(frozen=True)
class Patience:
    """How often in a row a file may fail without a new byte, and how many seconds the first wait takes; it doubles."""

    attempts: int = 6
    first_wait: float = 1.0
    longest_wait: float = 60.0

    def wait(self, failures: int, asked: float | None) -> float:
        """Seconds before the next attempt: what the server asked for, else longer each time, and not all at once."""
        own = self.first_wait * 2 ** (failures - 1) * random.uniform(0.8, 1.2)
        return min(max(own, asked or 0.0), self.longest_wait)


def fetch_file(
    listing: Listing, file: HubFile, target: Path, received: Received, patience: Patience | None = None
) -> None:
    """Bring `file` to `target`; nothing where it is there already.

    Raises DataError for what won't come, a full disk and wrong bytes, HubUnavailable where the hub gave out.
    """
    patience = patience or Patience()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target, received) as part:
            if part is not None:
                _fill(listing, _Part(file, part), received, patience)
                share_file(Path(part.name))
                os.fsync(part.fileno())
                os.replace(part.name, target)
                sync_directory(target.parent)
    except OSError as error:
        hint = disk_hint(error, "fetch it again: what has come is kept")
        raise DataError(f"can't write {target}: {error.strerror}", hint=hint) from error


def part_of(target: Path) -> Path:
    """Where the bytes of a file are while it isn't complete."""
    return target.with_name(target.name + ".part")


@contextlib.contextmanager
def _locked(target: Path, received: Received) -> Iterator[BinaryIO | None]:
    """The part file, locked; None once the file is complete, by another process perhaps."""
    part = part_of(target)
    while not target.exists():
        with open(part, "ab+") as file:
            if not _lock(file, received) or not _is_still(file, part):
                continue  # whoever had it is done, or has given up
            if target.exists():
                break
            yield file
            return
    yield None


def _lock(file: BinaryIO, received: Received) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            return True
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        received(0)  # may be asked to end
        time.sleep(_LOCK_SECONDS)
        return False
    return True


def _is_still(file: BinaryIO, part: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(part))
    except FileNotFoundError:
        return False


class _Part:
    """The bytes of a file that have come, with their checksum."""

    def __init__(self, file: HubFile, raw: BinaryIO) -> None:
        self.file, self.raw = file, raw
        self.checksum, self.have = file.new_checksum(), 0
        if os.fstat(raw.fileno()).st_size > file.size:  # not of this file
            raw.truncate(0)
        raw.seek(0)
        while block := raw.read(_READ):
            self._count(block)

    def _count(self, block: bytes) -> None:
        self.checksum.update(block)
        self.have += len(block)

    @property
    def missing(self) -> int:
        """Bytes that are still to come."""
        return self.file.size - self.have

    def append(self, block: bytes) -> None:
        """The next bytes, written through to the system: a process that is killed keeps them."""
        self.raw.write(block)
        self.raw.flush()
        self._count(block)

    def restart(self) -> None:
        """Throw away what has come."""
        self.raw.truncate(0)
        self.checksum, self.have = self.file.new_checksum(), 0


def _fill(listing: Listing, part: _Part, received: Received, patience: Patience) -> None:
    """Bring a part file to the whole. Bytes that don't fit the checksum are thrown away and fetched once more."""
    for _ in range(2):
        _receive(listing, part, received, patience)
        if part.checksum.fits:
            return
        received(-part.have)
        part.restart()
    raise DataError(
        f"{listing.repository}/{part.file.path}: what comes isn't what the hub lists: twice its checksum was another",
        hint="a mirror or a proxy is at fault: use another HF_ENDPOINT",
    )


def _receive(listing: Listing, part: _Part, received: Received, patience: Patience) -> None:
    """Append what is missing, over as many connections as it takes."""
    failures = 0
    while part.missing:
        before = part.have
        try:
            with open_file(listing, part.file, part.have) as (start, blocks):
                if start != part.have:  # a server without ranges
                    received(-part.have)
                    part.restart()
                    before = 0
                for block in blocks:
                    fitting = block[: part.missing]
                    part.append(fitting)
                    received(len(fitting))
            if part.missing:
                raise HubUnavailable(
                    f"{listing.repository}/{part.file.path}: the connection ended {part.missing:,} bytes early",
                    hint="try again later; what has come is kept",
                )
        except HubUnavailable as error:
            failures = 1 if part.have > before else failures + 1
            if failures >= patience.attempts:
                raise
            _sleep(patience.wait(failures, error.retry_after), received)


def _sleep(seconds: float, received: Received) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        received(0)
        time.sleep(min(left, 0.2))
