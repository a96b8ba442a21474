"""How a data set of the hub is named: `hf:OWNER/NAME[/CONFIG][@REVISION]#FIELD`, and the corpora that have names of their own."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mccore.errors import DataError

_FORM = "hf:OWNER/NAME[/CONFIG][@REVISION][#FIELD]"
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")


@dataclass(frozen=True)
class HubAddress:
    """A data set: `owner/name`, one of its configurations ("" is the default one), a branch, tag or commit, a column of text."""

    repository: str
    config: str = ""
    revision: str = "main"
    field: str = "text"

    def __str__(self) -> str:
        config = f"/{self.config}" if self.config else ""
        revision = f"@{self.revision}" if self.revision != "main" else ""
        return f"hf:{self.repository}{config}{revision}"


@dataclass(frozen=True)
class Shards:
    """A corpus of numbered parquet files at the root of a data set, of which the last is held out for validation."""

    address: HubAddress
    pattern: str
    last: int

    def names(self, count: int) -> tuple[list[str], list[str]]:
        """(files to train on, files to validate on): the first `count`, or all where it is 0. The held-out one is always the
        same, however many there are."""
        train = min(count or self.last, self.last)
        return [self.pattern.format(number) for number in range(train)], [self.pattern.format(self.last)]


NAMED: dict[str, Shards] = {
    "climbmix": Shards(HubAddress("karpathy/climbmix-400b-shuffle"), "shard_{:05d}.parquet", 6542),
    "fineweb_edu": Shards(HubAddress("karpathy/fineweb-edu-100b-shuffle"), "shard_{:05d}.parquet", 1822),
}


def is_remote(spec: str) -> bool:
    """Whether a corpus is on the hub."""
    return spec in NAMED or spec.startswith("hf:")


def parse_address(spec: str) -> HubAddress:
    """The address that `spec` spells. Raises DataError, which says the form."""
    if spec in NAMED:
        return NAMED[spec].address
    path, mark, field = spec.removeprefix("hf:").partition("#")
    path, at, revision = path.partition("@")
    owner, name, *rest = [*path.split("/", 2), ""] if path.count("/") else ["", "", ""]
    config = rest[0] if rest else ""
    fits = all(_PART.fullmatch(part) for part in (owner, name))
    if not spec.startswith("hf:") or not fits or "/" in config or (mark and not field):
        raise DataError(f"{spec!r} names no data set of the hub", hint=f"write {_FORM}")
    if at and not _REVISION.fullmatch(revision):
        raise DataError(f"{spec!r}: {revision!r} is no revision", hint="name a branch, a tag or a commit")
    return HubAddress(f"{owner}/{name}", config, revision or "main", field or "text")
