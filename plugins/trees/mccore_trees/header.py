"""`tree.json`: the format of a disk tree and the type of each level's rows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mccore.api import LevelSpec, read_json
from mccore.errors import RunError
from mccore_trees.files import open_file, sync_directory, write_at
from mccore_trees.rows import RowType

FORMAT_VERSION = 1
_FORMAT = "mccore tree"


def write_header(path: Path, types: list[RowType]) -> None:
    """Write the header in one piece, and wait until the disk has it. Raises OSError."""
    text = json.dumps({"format": _FORMAT, "version": FORMAT_VERSION, "levels": _describe(types)}, indent=2)
    temporary = path.with_suffix(".json.tmp")
    temporary.unlink(missing_ok=True)  # of a process that died
    with open_file(temporary) as file:
        write_at(file, f"{text}\n".encode(), 0)
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)


def read_header(path: Path) -> tuple[LevelSpec, ...]:
    """The levels that are stored. Raises RunError for what isn't the header of a tree of this version, OSError."""
    try:
        header = read_json(path)
        version = header["version"]
        levels = tuple(LevelSpec(tuple(level["shape"]), level["dtype"]) for level in header["levels"])
        known = header["format"] == _FORMAT
        if known and version == FORMAT_VERSION:
            known = _describe([RowType(at, level) for at, level in enumerate(levels)]) == header["levels"]
    except (ValueError, KeyError, TypeError, OverflowError):
        known = False
    if not known:
        raise RunError(f"{path} isn't the header of a tree", hint="restore it from a copy, or choose another directory")
    if version != FORMAT_VERSION:
        raise RunError(
            f"{path} is of format version {version}, and this is version {FORMAT_VERSION}",
            hint="use the version of mccore-trees that wrote it",
        )
    return levels


def check_levels(directory: Path, stored: tuple[LevelSpec, ...], types: list[RowType]) -> None:
    """Raise RunError unless the levels that are stored have rows of these types."""
    there = _describe([RowType(level, each) for level, each in enumerate(stored)])
    asked = _describe(types)
    if there == asked:
        return
    level = next(
        (at for at, (one, other) in enumerate(zip(there, asked, strict=False)) if one != other),
        min(len(there), len(asked)),
    )
    named = [str(levels[level]) if level < len(levels) else "no such level" for levels in (there, asked)]
    raise RunError(
        f"the tree in {directory} stores other rows than asked for: level {level} has {named[0]} instead of {named[1]}",
        hint="the model, its width or its levels changed: use another directory, or the model that wrote it",
    )


def _describe(types: list[RowType]) -> list[dict[str, Any]]:
    return [{"shape": list(rows.shape), "dtype": rows.dtype.str} for rows in types]
