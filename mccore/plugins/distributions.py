"""What is installed, read one distribution at a time, so that the worst package can only spoil its own row.

`importlib.metadata.entry_points()` reads everything installed at once and stops at the first package that is half removed,
not UTF-8 or malformed. Here each file is read by itself; what can't be read is a `Fault`, never an exception.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from typing import NamedTuple


class Entry(NamedTuple):
    """One entry point: its group, its name and what it names; a `problem` where the line isn't one."""

    group: str
    name: str
    value: str
    problem: str = ""


@dataclass(frozen=True)
class Installed:
    """One distribution as far as it can be read: what is missing is empty. `problem` says what couldn't be read."""

    name: str
    version: str = ""
    summary: str = ""
    requires: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    entries: tuple[Entry, ...] = field(default=())
    problem: str = ""


def installed(groups: frozenset[str]) -> list[Installed]:
    """Distributions with entry points in these groups, the first on the path of each name. Never raises for what is installed.

    What is left of an older version, a directory without METADATA, doesn't hide the one that is installed.
    """
    found: dict[str, Installed] = {}
    read: dict[str, metadata.Distribution] = {}
    for distribution in _distributions():
        name = _folder_name(distribution)
        key = re.sub(r"[-_.]+", "-", name).lower()
        if not name or name.startswith("~"):  # pip renames what it is about to remove to ~ame
            continue
        if key in found and (_stated_name(read[key]) or not _stated_name(distribution)):
            continue
        read[key] = distribution
        try:
            text = distribution.read_text("entry_points.txt") or ""
        except Exception as error:
            # Whether it has a plugin can't be told: it is nobody's fault until someone asks for it.
            found[key] = Installed(name, problem=f"its entry_points.txt can't be read: {type(error).__name__}")
            continue
        entries = tuple(dict.fromkeys(_parse_entries(text, groups)))
        found[key] = _read_metadata(distribution, name, entries) if entries else Installed(name)
    return [each for each in found.values() if each.entries]


def _distributions() -> Iterator[metadata.Distribution]:
    try:
        yield from metadata.distributions()
    except Exception:  # a finder of someone else's that fails in the middle: what came before it counts
        return


def _folder_name(distribution: metadata.Distribution) -> str:
    """The name of a distribution by its directory, which is there even where its METADATA isn't."""
    path = getattr(distribution, "_path", None)
    stem = getattr(path, "name", "").removesuffix(".dist-info").removesuffix(".egg-info")
    if stem:
        return str(stem.partition("-")[0])
    return _stated_name(distribution)


def _stated_name(distribution: metadata.Distribution) -> str:
    """The name in a distribution's METADATA, empty where there is none."""
    try:
        return str(distribution.metadata["Name"] or "")
    except Exception:
        return ""


def _read_metadata(distribution: metadata.Distribution, name: str, entries: tuple[Entry, ...]) -> Installed:
    try:
        stated = distribution.metadata
        fields = {
            key: stated.get_all(key) or [] for key in ("Name", "Version", "Summary", "Requires-Dist", "Provides-Extra")
        }
    except Exception:
        fields = {}
    if not fields.get("Name"):
        problem = f"its METADATA is missing or can't be read: {name} is half installed or half removed"
        return Installed(name, entries=entries, problem=problem)
    first = {key: str(values[0]) if values else "" for key, values in fields.items()}
    return Installed(
        name=first["Name"],
        version=first["Version"],
        summary=" ".join(first["Summary"].split()),
        requires=tuple(map(str, fields["Requires-Dist"])),
        extras=tuple(map(str, fields["Provides-Extra"])),
        entries=entries,
    )


def _parse_entries(text: str, groups: frozenset[str]) -> Iterator[Entry]:
    """The entry points of some groups; a line of theirs that isn't one comes with its problem, others' lines are passed over."""
    group = ""
    for line in (line.strip() for line in text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1].strip()
        elif line and not line.startswith(("#", ";")) and group in groups:
            name, equals, value = (part.strip() for part in line.partition("="))
            problem = (
                ""
                if equals and name and value
                else f"the line {line[:80]!r} of its entry_points.txt isn't NAME = MODULE: it must name a module"
            )
            yield Entry(group, name or line[:80], value, problem)
