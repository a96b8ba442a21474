"""What a data set holds at one commit: its files, their sizes and checksums, and which of them are which split."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST_NAME = 120


@dataclass(frozen=True)
class HubFile:
    """A file at a commit. `sha256` is known for large files, `git_oid` (git's own checksum) for those kept in git itself."""

    path: str
    size: int
    sha256: str | None
    git_oid: str

    @property
    def local_name(self) -> str:
        """Its name on this machine: by content, so that commits share what they have in common, and readable at the end."""
        name = _UNSAFE.sub("_", self.path.rsplit("/", 1)[-1])[-_LONGEST_NAME:]
        return f"{(self.sha256 or self.git_oid)[:16]}-{name}"

    def new_checksum(self) -> Checksum:
        """A running checksum of the kind this file is known by."""
        return Checksum(self)


class Checksum:
    """The checksum of bytes that come one after the other."""

    def __init__(self, file: HubFile) -> None:
        self._wanted = file.sha256 or file.git_oid
        self._hash = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)

    def update(self, data: bytes) -> None:
        """Count the next bytes in."""
        self._hash.update(data)

    @property
    def fits(self) -> bool:
        """Whether all bytes so far are the file."""
        return self._hash.hexdigest() == self._wanted


@dataclass(frozen=True)
class Listing:
    """The files of a data set at one commit. `asked` is the revision that led here; `splits` has the paths of each split, where
    they were asked for."""

    repository: str
    asked: str
    commit: str
    files: Mapping[str, HubFile]
    splits: Mapping[str, Sequence[str]] | None = None

    def of(self, paths: Sequence[str]) -> list[HubFile]:
        """The files of these paths. Raises KeyError for one that isn't there."""
        return [self.files[path] for path in paths]

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self) | {"files": [asdict(file) for file in self.files.values()]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Listing:
        """The inverse. Raises KeyError, TypeError or ValueError for anything else."""
        files = [HubFile(**file) for file in value["files"]]
        splits = value["splits"]
        return cls(
            str(value["repository"]),
            str(value["asked"]),
            str(value["commit"]),
            {file.path: file for file in files},
            {str(name): list(paths) for name, paths in splits.items()} if splits is not None else None,
        )
