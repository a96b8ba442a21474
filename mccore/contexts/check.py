"""Check a saved session or context through and through, and mend what can be mended.

Checksums tell which bytes aren't those that were written; levels and session.json must fit each other; and gists that are made
again from the rows below them tell whether what was written is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mccore.api import LevelSpec, RepairableTree, TreeBackend, TreeDamage, TreeSpec
from mccore.contexts.manifest import NOTE, ContextManifest, read_manifest
from mccore.errors import MccoreError
from mccore.megacontext.sessions.state import STATE, TREE, SessionError, SessionState, read_state
from mccore.megacontext.tree.overlay import lengths_at
from mccore.runs.checkpoints import file_sha256

if TYPE_CHECKING:
    from mccore.megacontext.sessions.model import SessionModel
    from mccore.megacontext.sessions.mounts import Trees
    from mccore.megacontext.tree.repair import Repair

SAMPLE = 64  # gists per level that are made again, unless all are
_CALL = 256  # gists made at once
_ROUNDING = 0.02  # relative error up to which two machines' roundings explain a difference


@dataclass(frozen=True)
class Problem:
    """Something that is wrong. Where it is in the tree: rows `[start, stop)` of a level, over tokens `[first, last)`, of the
    files `names`; where on disk: bytes of `path`."""

    what: str
    path: str
    level: int | None = None
    rows: tuple[int, int] | None = None
    tokens: tuple[int, int] | None = None
    names: tuple[str, ...] = ()
    bytes: tuple[int, int] | None = None


@dataclass
class Check:
    """What was checked. `gists`: made again; `rounded`: those that differ by rounding only; `remarks`: what wasn't checked."""

    directory: Path
    tokens: int = 0
    problems: list[Problem] = field(default_factory=list)
    gists: int = 0
    rounded: int = 0
    remarks: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        return {**asdict(self), "directory": str(self.directory), "sound": self.sound}


def check_context(directory: Path, trees: Trees, model: SessionModel | None, *, every_gist: bool = False) -> Check:
    """Check all that is stored in a saved session; with the model that made it, also gists: some, or every one.

    Nothing is written, and a writer isn't in the way. Raises SessionError where there is no session, RunError for files that
    can't be read at all.
    """
    check = Check(directory)
    state = manifest = None
    try:
        state = read_state(directory)
        manifest = read_manifest(state, directory)
    except SessionError as error:
        if not (directory / STATE).exists():
            raise
        what = error.message.removeprefix(f"{directory / STATE} is damaged: ")
        check.problems.append(Problem(what, str(directory / STATE)))
    try:
        backend, close = open_all(directory, state, trees, read_only=True)
    except MccoreError as error:
        check.problems.append(Problem(error.message, str(directory / TREE)))
        return check
    try:
        check.tokens = backend.length(0)
        damaged: list[TreeDamage] = []
        if isinstance(backend, RepairableTree):
            damaged = list(backend.damage())
        else:
            check.remarks.append(
                f"a {type(backend).__name__} keeps no checksums: whether its bytes are right can't be told"
            )
        if state is not None:
            check.problems += [_at(each, state.block_size, check.tokens, manifest) for each in damaged]
            check.problems += _misfits(state, backend, directory)
            check.problems += _lost_keys(state, directory)
            if model is None:
                check.remarks.append("gists weren't made again: the model that made them isn't here")
            else:
                _check_gists(check, backend, model, damaged, manifest, every_gist)
        else:
            check.problems += [
                Problem(each.what, str(each.path), each.level, (each.start, each.stop)) for each in damaged
            ]
    finally:
        close()
    return check


def repair_context(directory: Path, trees: Trees, model: SessionModel, *, truncate: bool = False) -> Repair:
    """Make damaged gists again, and keys and values that are lost; with `truncate` cut the history before the first token or
    gist that can't be saved, keeping a copy of the tree as it was.

    Raises SessionError for a damaged session.json or another model's session, RunError for one that is open elsewhere.
    """
    from mccore.megacontext.sessions.files import open_session, open_tree, save_session
    from mccore.megacontext.sessions.session import Session
    from mccore.megacontext.tree.repair import repair_tree

    state = read_state(directory)
    manifest = read_manifest(state, directory)
    backend, close = open_all(directory, state, trees, read_only=False, levels=model.encoder.spec().levels)
    try:
        done = repair_tree(backend, model.encoder, truncate=truncate)
    finally:
        close()
    if done.lost and not truncate:
        return done
    if done.tokens >= state.tokens:
        if done.restored or _lost_keys(state, directory):
            session, notes = open_session(model, directory, trees)
            session.read()
            save_session(session, directory, trees, notes=notes)
            session.close()
        return done
    notes = dict(state.notes)
    if manifest is not None:
        files = [each._replace(stop=min(each.stop, done.tokens)) for each in manifest.files if each.start < done.tokens]
        notes[NOTE] = manifest.model_copy(update={"files": files}).model_dump(mode="json")
    session = Session(model, open_tree(model, directory, state.base, trees), seed=state.seed)
    session.directory = directory
    if session.tokens:
        session.read()
    save_session(session, directory, trees, notes=notes)
    session.close()
    return done


# --- the tree ---------------------------------------------------------------------------------------------------------


def open_all(
    directory: Path, state: SessionState | None, trees: Trees, *, read_only: bool, levels: tuple[LevelSpec, ...] = ()
) -> tuple[TreeBackend, Any]:
    """A session's tree in spite of damage, its base before it where it has one, and what closes both."""
    from mccore.megacontext.sessions.mounts import mount

    own = trees(TreeSpec(levels, directory / TREE, read_only=read_only, salvage=True))
    if state is None or state.base is None:
        return own, own.close
    try:
        spec = TreeSpec(getattr(own, "levels", levels))
        mounted = mount(state.base, own, spec, state.block_size, trees)
    except BaseException:
        own.close()
        raise
    return _RepairableMount(mounted, own) if isinstance(own, RepairableTree) else mounted, mounted.close


class _RepairableMount:
    """A mounted session's whole tree, of which its own rows can be mended."""

    def __init__(self, whole: TreeBackend, own: RepairableTree) -> None:
        self.levels = own.levels
        self._whole, self._own = whole, own
        self._base = tuple(whole.length(level) - own.length(level) for level in range(len(own.levels)))
        self.length, self.read = whole.length, whole.read
        self.append, self.flush, self.close = whole.append, whole.flush, whole.close

    def damage(self) -> tuple[TreeDamage, ...]:
        return tuple(
            replace(each, start=each.start + self._base[each.level], stop=each.stop + self._base[each.level])
            for each in self._own.damage()
        )

    def restore(self, level: int, start: int, rows: np.ndarray[Any, Any]) -> bool:
        return self._own.restore(level, start - self._base[level], rows)

    def truncate(self, lengths: tuple[int, ...]) -> Path:
        return self._own.truncate(tuple(max(0, a - b) for a, b in zip(lengths, self._base, strict=True)))


def _at(damage: TreeDamage, block_size: int, tokens: int, manifest: ContextManifest | None) -> Problem:
    span = block_size**damage.level
    covered = (damage.start * span, min(damage.stop * span, tokens))
    return Problem(
        damage.what,
        str(damage.path),
        damage.level,
        (damage.start, damage.stop),
        covered,
        _names(manifest, covered),
        (damage.first_byte, damage.stop_byte),
    )


def _names(manifest: ContextManifest | None, tokens: tuple[int, int]) -> tuple[str, ...]:
    return () if manifest is None else tuple(file.name for file in manifest.between(*tokens))


def _misfits(state: SessionState, backend: TreeBackend, directory: Path) -> Iterator[Problem]:
    """What doesn't fit between the levels of a tree, and between it and session.json."""
    from mccore.megacontext.tree.cut import CutError, decode_runs

    tree, path = str(directory / TREE), str(directory / STATE)
    tokens, size = backend.length(0), state.block_size
    stored = len(getattr(backend, "levels", ())) or state.levels + 1
    if stored != state.levels + 1:
        yield Problem(f"the tree has {stored} levels, and {STATE} speaks of {state.levels + 1}", tree)
        return
    if tokens < state.tokens:
        yield Problem(f"the tree holds {tokens:,} tokens, and {STATE} speaks of {state.tokens:,}", tree)
    least = lengths_at(min(tokens, state.tokens), size, state.levels + 1)
    for level in range(1, state.levels + 1):
        there, most = backend.length(level), backend.length(level - 1) // size
        if there > most:
            yield Problem(f"there are {there:,} gists over what fills only {most:,}", tree, level, (most, there))
        elif there < least[level]:
            yield Problem("gists are missing", tree, level, (there, least[level]))
    try:
        cut = decode_runs(state.cut, size)
        coarsest = int(cut.level.max(initial=0))
        fits = cut.tokens == state.covered <= state.tokens and len(state.age) == len(cut) and coarsest <= state.levels
        if not fits:
            yield Problem(f"the cut covers {cut.tokens:,} tokens and doesn't fit the rest", path)
    except CutError as error:
        yield Problem(f"the cut is none: {error.message}", path)


def _lost_keys(state: SessionState, directory: Path) -> list[Problem]:
    """Whether keys and values are those that were saved: without them a session reads its context again."""
    if state.keys is None:
        return []
    path = directory / state.keys
    try:
        right = file_sha256(path) == state.keys_sha256
    except OSError as error:
        return [Problem(f"keys and values can't be read: {error.strerror}", str(path))]
    return [] if right else [Problem("keys and values don't match their checksum", str(path))]


# --- gists ------------------------------------------------------------------------------------------------------------


def _check_gists(
    check: Check,
    backend: TreeBackend,
    model: SessionModel,
    damaged: list[TreeDamage],
    manifest: ContextManifest | None,
    every: bool,
) -> None:
    """Make gists again, evenly spread over each level, or all, and compare; those that come from damaged rows aside."""
    size = model.block_size
    for level in range(1, model.levels + 1):
        there = min(backend.length(level), backend.length(level - 1) // size)
        indices = (
            np.arange(there) if every else np.unique(np.linspace(0, there - 1, min(there, SAMPLE)).astype(np.int64))
        )
        for found in damaged:
            if found.level == level:
                indices = indices[(indices < found.start) | (indices >= found.stop)]
            elif found.level == level - 1:
                indices = indices[((indices + 1) * size <= found.start) | (indices * size >= found.stop)]
        for start in range(0, len(indices), _CALL):
            part = indices[start : start + _CALL]
            below = np.concatenate([backend.read(level - 1, i * size, (i + 1) * size) for i in part.tolist()])
            stored = np.concatenate([backend.read(level, i, i + 1) for i in part.tolist()])
            made = model.encoder.encode(below, level)
            check.gists += len(part)
            differs = (made != stored).reshape(len(part), -1).any(axis=1)
            if not differs.any():
                continue
            one, other = model.encoder.from_rows(made), model.encoder.from_rows(stored)
            wrong = ((one - other).norm(dim=-1) > _ROUNDING * other.norm(dim=-1)).cpu().numpy()
            wrong |= ~np.isfinite(other.float().cpu().numpy()).all(axis=-1)
            check.rounded += int((differs & ~wrong).sum())
            for index in part[wrong].tolist():
                covered = (index * size**level, (index + 1) * size**level)
                check.problems.append(
                    Problem(
                        "the gist isn't the one of what lies below it",
                        str(check.directory / TREE),
                        level,
                        (index, index + 1),
                        covered,
                        _names(manifest, covered),
                    )
                )
