"""Contexts: saved sessions that hold files of text, for other sessions to start from. What is in one, without torch.

A context is a session's directory (see `megacontext.session_files`) whose notes say under `context` which files its tokens come
from and which model made its gists.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from mccore.config import TRAINING_STAGES, validate_stored
from mccore.errors import MccoreError
from mccore.host import paths
from mccore.megacontext.sessions.state import STATE, TREE, SessionError, SessionState, read_state
from mccore.runs.checkpoints import checkpoint_path, identity_of, list_checkpoints, read_meta, step_of
from mccore.runs.rundir import RunDir, list_runs

NOTE = "context"  # what it is called among a session's notes


class FileRange(NamedTuple):
    """A file of a context: its tokens `[start, stop)`, its size in bytes, the documents in it."""

    name: str
    start: int
    stop: int
    bytes: int
    documents: int


class Origin(BaseModel):
    """The model that made a context's gists, as a person names it."""

    model_config = ConfigDict(frozen=True)

    run: str
    stage: str
    step: int


class ContextManifest(BaseModel):
    """What a context says of itself. `skipped` counts what was left out, by reason; `created` is ISO 8601 in UTC."""

    model_config = ConfigDict(extra="forbid")

    origin: Origin
    created: str
    mccore: str
    files: list[FileRange]
    skipped: dict[str, int]

    def between(self, start: int, stop: int) -> list[FileRange]:
        """The files that have tokens in `[start, stop)`."""
        first = bisect.bisect_right(self.files, start, key=lambda file: file.stop)
        last = bisect.bisect_left(self.files, stop, key=lambda file: file.start)
        return self.files[first:last]


def read_manifest(state: SessionState, directory: Path) -> ContextManifest | None:
    """The manifest among a saved session's notes; None for a session that isn't a context. Raises SessionError."""
    if NOTE not in state.notes:
        return None
    try:
        manifest = validate_stored(ContextManifest, state.notes[NOTE])
        if any(not 0 <= file.start <= file.stop <= state.tokens for file in manifest.files):
            raise ValueError("a file lies outside the history")
        return manifest
    except ValueError as error:
        raise SessionError(
            f"{directory / STATE} is damaged: its list of files can't be read: {error}",
            hint="restore the directory from a copy, or build the context again",
        ) from error


def find_context(selector: str | Path) -> Path:
    """The directory of a context or saved session: a path, or a session's name. Raises SessionError when there is none."""
    path = paths.expand(selector)
    named = paths.sessions_dir() / selector if path.name == str(selector) else path
    for directory in (path, named):
        if (directory / STATE).is_file():
            return directory
    if (path / TREE).exists():
        raise SessionError(
            f"{path} isn't finished: it has a tree and no {STATE}",
            hint="give the command that was building it again: it goes on from there",
        )
    raise SessionError(
        f"there is no context or session in {path}", hint="make one: mccore context build PATH --out DIR"
    )


@dataclass(frozen=True)
class Description:
    """What is known of a saved session by looking at its files. `rows` per level, those of its base included; `bytes` without the
    base; `here` is where its model's checkpoint is, None when it isn't there; `mounted_by` are sessions with a name."""

    directory: Path
    state: SessionState
    manifest: ContextManifest | None
    rows: list[int]
    bytes: int
    here: Origin | None
    mounted_by: list[str]

    def to_json(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        state, manifest = self.state, self.manifest
        return {
            "path": str(self.directory),
            "kind": "context" if manifest else "session",
            "tokens": state.tokens,
            "unread": state.tokens - state.covered,
            "block_size": state.block_size,
            "rows": self.rows,
            "stored": state.stored,
            "bytes": self.bytes,
            "bytes_per_token": self.bytes / state.tokens if state.tokens else None,
            "wc_length": state.budget,
            "entries": sum(count for _, count in state.cut),
            "kv_policy": state.kv_policy,
            "model": state.model,
            "made_by": manifest.origin.model_dump() if manifest else None,
            "model_here": self.here.model_dump() if self.here else None,
            "created": manifest.created if manifest else None,
            "files": [file._asdict() for file in manifest.files] if manifest else [],
            "skipped": manifest.skipped if manifest else {},
            "mounted_on": state.base.model_dump() if state.base else None,
            "mounted_by": self.mounted_by,
        }


def describe_context(directory: Path) -> Description:
    """What is in a saved session or context. Raises SessionError for what isn't one, or is damaged."""
    state = read_state(directory)
    manifest = read_manifest(state, directory)
    rows = [state.tokens // state.block_size**level for level in range(state.levels + 1)]
    mounted_by = sorted(name for name, base in _bases() if base == directory.resolve())
    return Description(directory, state, manifest, rows, disk_bytes(directory), find_model(state.model), mounted_by)


def _bases() -> Iterator[tuple[str, Path]]:
    """The sessions with a name that are mounted on something, and where that is."""
    for path in paths.sessions_dir().glob(f"*/{STATE}"):
        try:
            base = read_state(path.parent).base
        except MccoreError:
            continue  # damaged: not what was asked for
        if base is not None:
            yield path.parent.name, base.place


def disk_bytes(directory: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


# --- which model ------------------------------------------------------------------------------------------------------


def find_model(identity: str) -> Origin | None:
    """The checkpoint of an identity, among the runs there are."""
    return next((origin for origin, found in _identities() if found == identity), None)


def checkpoint_of(origin: Origin) -> Path:
    """The directory of a checkpoint that `find_model` found."""
    return checkpoint_path(RunDir.open(origin.run).checkpoint_dir(origin.stage), origin.step)


def _identities() -> Iterator[tuple[Origin, str]]:
    for run in list_runs():
        for stage in reversed(TRAINING_STAGES):
            try:
                checkpoints = list_checkpoints(run.checkpoint_dir(stage))
            except MccoreError:
                continue  # not for us to read
            for checkpoint in reversed(checkpoints):
                try:
                    identity = identity_of(checkpoint, read_meta(checkpoint).tokenizer)
                except MccoreError:
                    continue  # a checkpoint that is broken or going away is no model that is here
                yield Origin(run=run.name, stage=stage, step=step_of(checkpoint)), identity
