"""Sessions that begin with the history of another: its rows are read where they are, and theirs are kept apart.

Any number of sessions, in any number of processes, mount one saved session or context, and nothing of it is copied or written.
What a mounted session keeps of it is a reference: the place, the number of tokens, and a digest of the gists and tokens of the
shortest cut over them. A gist comes from all that lies below it, so other tokens are noticed without reading them all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mccore.api import SharedTree, TreeBackend, TreeSpec
from mccore.errors import MccoreError
from mccore.megacontext.sessions.state import TREE, BaseReference, SessionError, read_state
from mccore.megacontext.tree.overlay import OverlayTree, lengths_at

MOST_MOUNTS = 64  # sessions that begin with one another

Trees = Callable[[TreeSpec], TreeBackend]  # builds a backend, with files where the spec has a directory


class MountedTree(OverlayTree):
    """An overlay over a saved session that it alone has open: both are closed together."""

    def __init__(self, base: TreeBackend, own: TreeBackend, reference: BaseReference, lengths: tuple[int, ...]) -> None:
        super().__init__(base, own, lengths)
        self.reference = reference
        self.own = own
        self._base = base

    def close(self) -> None:
        """Close `own`, and the base as well."""
        try:
            super().close()
        finally:
            self._base.close()


def open_shared(
    directory: Path, spec: TreeSpec, block_size: int, trees: Trees, above: tuple[Path, ...] = ()
) -> TreeBackend:
    """The tree of a saved session, to be read beside whoever else has it open.

    spec: the levels of the model; above: the sessions that are mounted on it. Raises SessionError for a session that isn't
    there, is mounted on itself or has a backend that can't share, RunError.
    """
    directory = directory.resolve()
    if directory in above or len(above) >= MOST_MOUNTS:
        raise SessionError(
            f"{directory} is damaged: what it is mounted on leads back to it", hint="restore the directory from a copy"
        )
    state = read_state(directory)
    backend = trees(replace(spec, directory=directory / TREE, read_only=True))
    if not isinstance(backend, SharedTree):
        backend.close()
        raise SessionError(
            f"{directory} can't be mounted: its tree, a {type(backend).__name__}, can be open only once",
            hint="choose the `disk` tree for contexts",
        )
    if state.base is None:
        return backend
    try:
        return mount(state.base, backend, spec, block_size, trees, (*above, directory))
    except BaseException:
        backend.close()
        raise


def refer(directory: Path, backend: TreeBackend, tokens: int, spec: TreeSpec, block_size: int) -> BaseReference:
    """The reference to the first `tokens` of a saved session whose tree is `backend`."""
    levels = len(spec.levels)
    return BaseReference(
        path=BaseReference.name_of(directory), tokens=tokens, digest=digest(backend, tokens, block_size, levels)
    )


def mount(
    reference: BaseReference,
    own: TreeBackend,
    spec: TreeSpec,
    block_size: int,
    trees: Trees,
    above: tuple[Path, ...] = (),
) -> MountedTree:
    """The tree that goes on from `reference` with the rows of `own`. Raises SessionError when the base is gone or another."""
    path = reference.place
    if not path.is_dir():
        raise SessionError(
            f"this session begins with the context in {path}, which isn't there",
            hint="put it back where it was; its tokens are nowhere else",
        )
    base = open_shared(path, spec, block_size, trees, above)
    lengths = lengths_at(reference.tokens, block_size, len(spec.levels))
    try:
        short = any(base.length(level) < length for level, length in enumerate(lengths))
        if short or digest(base, reference.tokens, block_size, len(lengths)) != reference.digest:
            raise SessionError(
                f"the context in {path} isn't the one that this session begins with any more: its first "
                f"{reference.tokens:,} tokens were others",
                hint="put the one back that was there",
            )
        return MountedTree(base, own, reference, lengths)
    except BaseException:
        base.close()
        raise


def digest(backend: TreeBackend, tokens: int, block_size: int, levels: int) -> str:
    """SHA-256 of the rows of the shortest cut over the first `tokens`: as many as a number has digits, not tokens.

    Raises SessionError for a tree that hasn't got them.
    """
    lengths = lengths_at(tokens, block_size, levels)
    found = hashlib.sha256(str(lengths).encode())
    for level, length in enumerate(lengths):
        first = lengths[level + 1] * block_size if level + 1 < levels else 0
        try:
            found.update(backend.read(level, first, length).tobytes())
        except (IndexError, MccoreError) as error:
            raise SessionError(
                f"a tree of {backend.length(0)} tokens lacks rows [{first}, {length}) of level {level}",
                hint="open and close the session that it belongs to: what is missing is made again",
            ) from error
    return found.hexdigest()
