"""Sessions on disk: saved at any moment, opened by another process, and going on with the same bits.

A session's directory:

    tree/                     the history and its gists, in a tree backend that keeps files
    session.json              the focus, what belongs to it, and whose session it is: the newest state that counts; where it is
                              mounted on another session, which one
    keys-<n>.safetensors      keys and values of the Working Context and the last logits, so that nothing is read again

`save` flushes the tree, writes the keys under a new name and then replaces session.json, so that a crash at any moment leaves
the last state or the new one. Tokens that were flushed later than it are there after a crash: they are unread.

A session is a conversation: its directory is made 0700, and its files 0600. A context, built in a directory of its own, is
readable like the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from pydantic import JsonValue

from mccore.host.files import is_private, private_folder, write_atomic
from mccore.host.json_file import read_regular
from mccore.megacontext.focus.state import FocusState
from mccore.megacontext.sessions.model import SessionModel
from mccore.megacontext.sessions.mounts import MountedTree, Trees, mount, open_shared, refer
from mccore.megacontext.sessions.session import Session
from mccore.megacontext.sessions.state import STATE, TREE, BaseReference, SessionError, SessionState, read_state
from mccore.megacontext.tree.cut import CutError, decode_runs, encode_runs
from mccore.megacontext.tree.edits import sharpen_tail
from mccore.megacontext.tree.overlay import lengths_at
from mccore.megacontext.tree.tree import Tree

_COPY_BYTES = 2**24


def create_session(model: SessionModel, directory: Path, trees: Trees, *, seed: int = 0) -> Session:
    """A new session whose tree lives in `directory`. Raises SessionError where there is one already, RunError."""
    if (directory / STATE).exists():
        raise SessionError(f"there is a session in {directory} already", hint="open it, or choose another name")
    private_folder(directory)
    session = Session(model, open_tree(model, directory, None, trees), seed=seed)
    try:
        if session.tokens:
            raise SessionError(
                f"{directory} holds a history of {session.tokens} tokens and doesn't say whose: a copy was interrupted, or "
                f"{STATE} is lost",
                hint="restore the directory from a copy, or remove it",
            )
        session.directory = directory
        save_session(session, directory, trees)
    except BaseException:
        session.tree.close()
        raise
    return session


def mount_context(
    model: SessionModel, path: Path, trees: Trees, directory: Path | None = None, *, seed: int = 0
) -> Session:
    """A new session that begins with what is saved in `path`, focus and, where settings agree, keys and values included.

    Nothing is copied: the base is read where it is, beside any number of others, and never written. The session lives in
    `directory`, or in memory. Raises SessionError for another model's context or a damaged one, for one whose tree can't be
    shared, and where there is a session in `directory` already; RunError.
    """
    if directory is not None and (directory / STATE).exists():
        raise SessionError(f"there is a session in {directory} already", hint="open it, or choose another name")
    state = read_state(path)
    _check_model(state, model, path)
    spec = model.encoder.spec()
    base = open_shared(path, spec, model.block_size, trees)
    try:
        reference = refer(path, base, state.tokens, spec, model.block_size)
    finally:
        base.close()
    if directory is not None:
        private_folder(directory)
    tree = open_tree(model, directory, reference, trees)
    try:
        if tree.tokens > state.tokens:
            raise SessionError(f"{directory} isn't empty", hint="choose another place for the session")
        session = Session(model, tree, seed=seed)
        _restore(session, state, path)
        if directory is not None:
            session.directory = directory
            save_session(session, directory, trees)
    except BaseException:
        tree.close()
        raise
    return session


def open_tree(model: SessionModel, directory: Path | None, reference: BaseReference | None, trees: Trees) -> Tree:
    """The tree of a session that lives in `directory`, or in memory: its own rows, behind those of its base if it has one."""
    own = trees(model.encoder.spec(None if directory is None else directory / TREE))
    try:
        if reference is None:
            return Tree(own, model.encoder)
        mounted = mount(reference, own, model.encoder.spec(), model.block_size, trees)
    except BaseException:
        own.close()
        raise
    try:
        return Tree(mounted, model.encoder)
    except BaseException:
        mounted.close()
        raise


def save_session(
    session: Session,
    directory: Path,
    trees: Trees,
    *,
    notes: Mapping[str, JsonValue] | None = None,
    keys: bool = True,
) -> None:
    """Write a session's state, so that `open_session` goes on from here.

    Into the directory that it lives in, or, as a copy that lives on its own, into another one, which must be empty. What a
    session is mounted on isn't copied with it.
    notes: what the caller wants to find again. keys: store keys and values too; without them the Working Context is read again
    after opening, and logits are equal within rounding instead of bit for bit. Raises SessionError, RunError.
    """
    session.flush()
    if session.directory is None or session.directory != directory:
        _copy_tree(session, directory, trees, session.tokens)
    cut, model, private = session.focus.cut, session.model, is_private(directory)
    name = digest = None
    if (
        keys
        and session.reading.logits is not None
        and session.working_context.cache.length == session.working_context.entries == len(cut)
    ):
        content = _pack_keys(session)
        digest = hashlib.sha256(content).hexdigest()
        name = f"keys-{digest[:12]}.safetensors"
        write_atomic(directory / name, content, private=private)
    state = SessionState(
        model=model.identity,
        block_size=model.block_size,
        levels=model.levels,
        stored=str(model.encoder.stored),
        budget=model.options.wc_length,
        kv_policy=model.options.kv_policy,
        tokens=session.tokens,
        covered=session.covered,
        cut=encode_runs(cut),
        age=session.focus.age.tolist(),
        recent=[(a.tolist(), b.tolist()) for a, b in session.focus.recent],
        since=session.reading.since,
        refocuses=session.refocuses,
        seed=session.seed,
        keys=name,
        keys_sha256=digest,
        base=session.tree.backend.reference if isinstance(session.tree.backend, MountedTree) else None,
        notes=dict(notes or {}),
    )
    write_atomic(directory / STATE, state.model_dump_json(indent=1) + "\n", private=private)
    for old in directory.glob("keys-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)


def branch_session(session: Session, directory: Path, trees: Trees, tokens: int) -> Session:
    """A new session in `directory`, empty or not there, whose history is the first `tokens` of another one's.

    Gists aren't made again. A branch at the end goes on from the same focus, keys and values; one further back focuses anew.
    Raises ValueError for tokens that the session hasn't got, SessionError where it is mounted on more of them, RunError.
    """
    if not 0 <= tokens <= session.tokens:
        raise ValueError(f"a session of {session.tokens} tokens can't branch at {tokens}")
    model, backend = session.model, session.tree.backend
    reference = backend.reference if isinstance(backend, MountedTree) else None
    if reference is not None and tokens < reference.tokens:
        raise SessionError(
            f"a session that begins with {reference.tokens:,} tokens of a context can't branch at {tokens:,}",
            hint="begin a new session",
        )
    if tokens == session.tokens:
        save_session(session, directory, trees)
        return open_session(model, directory, trees)[0]
    session.flush()
    _copy_tree(session, directory, trees, tokens)
    tree = open_tree(model, directory, reference, trees)
    try:
        branch = Session(model, tree, seed=session.seed)
        branch.directory = directory
        save_session(branch, directory, trees)
    except BaseException:
        tree.close()
        raise
    return branch


def open_session(model: SessionModel, directory: Path, trees: Trees) -> tuple[Session, dict[str, JsonValue]]:
    """A saved session and its notes. What was in the tree and hadn't been read is unread.

    With another budget or policy than it was saved with, its Working Context is read again. Raises SessionError for another
    model's session or a damaged one, RunError for one that is open elsewhere.
    """
    state = read_state(directory)
    _check_model(state, model, directory)
    tree = open_tree(model, directory, state.base, trees)
    try:
        session = Session(model, tree, seed=state.seed)
        _restore(session, state, directory)
    except BaseException:
        tree.close()
        raise
    session.directory = directory
    return session, state.notes


def _restore(session: Session, state: SessionState, directory: Path) -> None:
    path = directory / STATE
    if session.tokens < state.tokens:
        raise SessionError(
            f"{directory / TREE} holds {session.tokens} tokens, and {path} speaks of {state.tokens}",
            hint="restore the directory from a copy",
        )
    try:
        cut = decode_runs(state.cut, state.block_size)
    except CutError as error:
        raise SessionError(f"{path} is damaged: {error.message}", hint="restore the directory from a copy") from error
    if cut.tokens != state.covered or state.covered > state.tokens:
        raise SessionError(
            f"{path} is damaged: its cut covers {cut.tokens} tokens", hint="restore the directory from a copy"
        )
    model = session.model
    recent = tuple((_nodes(expanded), _nodes(collapsed)) for expanded, collapsed in state.recent)
    focus = FocusState(cut, np.array(state.age, dtype=np.int32), recent)
    sharpened = sharpen_tail(cut, min(model.recent_tokens, cut.tokens))
    if len(sharpened) != len(cut):
        focus = FocusState(sharpened, np.zeros(len(sharpened), dtype=np.int32))
    session.restore(focus, since=state.since, refocuses=state.refocuses)
    same = state.budget == model.options.wc_length and state.kv_policy == model.options.kv_policy
    if same and state.keys is not None and len(sharpened) == len(cut):
        _unpack_keys(session, directory / state.keys, state.keys_sha256)


def _check_model(state: SessionState, model: SessionModel, directory: Path) -> None:
    if state.model != model.identity:
        raise SessionError(
            f"the session in {directory} is of another model than this one",
            hint="its gists mean nothing to another model: open it with the run, stage and step that it was made with",
        )
    wrong = (state.block_size, state.levels, state.stored) != (
        model.block_size,
        model.levels,
        str(model.encoder.stored),
    )
    if wrong:
        raise SessionError(
            f"the session in {directory} has blocks of {state.block_size}, {state.levels} levels and gists of {state.stored}; "
            f"this model makes blocks of {model.block_size}, {model.levels} levels and gists of {model.encoder.stored}",
            hint="restore the directory from a copy, or start a new session",
        )


def _copy_tree(session: Session, directory: Path, trees: Trees, tokens: int) -> None:
    """The session's rows over its first `tokens`, those of its base left out, into a new tree under `directory`."""
    if directory.exists() and any(directory.iterdir()):
        raise SessionError(f"{directory} isn't empty", hint="choose another place for the copy")
    private_folder(directory)
    source, encoder = session.tree.backend, session.model.encoder
    spec = encoder.spec(directory / TREE)
    lengths = lengths_at(tokens, encoder.block_size, len(spec.levels))
    if isinstance(source, MountedTree):
        lengths = tuple(length - base for length, base in zip(lengths, source.base_lengths, strict=True))
        source = source.own
    copy = trees(spec)
    try:
        for level, rows in enumerate(spec.levels):
            row_bytes = max(1, int(np.prod(rows.shape, dtype=np.int64)) * np.dtype(rows.dtype).itemsize)
            step = max(1, _COPY_BYTES // row_bytes)
            for start in range(0, lengths[level], step):
                copy.append(level, source.read(level, start, min(lengths[level], start + step)))
    finally:
        copy.close()


def _pack_keys(session: Session) -> bytes:
    logits = session.reading.logits
    assert logits is not None
    tensors = {**session.working_context.cache.tensors(), "logits": logits}
    return safetensors.torch.save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})


@torch.inference_mode()
def _unpack_keys(session: Session, path: Path, digest: str | None) -> None:
    """Fill the cache from a file; a file that isn't what was written is left alone, and the context will be read again."""
    count = len(session.focus.cut)
    shapes = _key_shapes(session, count)
    most = 2**20 + 8 * sum(int(np.prod(shape, dtype=object)) for shape in shapes.values())
    try:
        content = read_regular(path, max_bytes=most)
        if hashlib.sha256(content).hexdigest() != digest:
            return
        tensors = safetensors.torch.load(content)
    except (OSError, ValueError, safetensors.SafetensorError):
        return
    bias = tensors.get("key_bias")
    if bias is not None:
        learned = session.model.nets.bias
        shapes["key_bias"] = (1, count, 0 if learned is None else learned.weights.size(-1))
    wrong = {name: tuple(tensor.shape) for name, tensor in tensors.items()} != shapes
    if wrong or not all(tensor.is_floating_point() for tensor in tensors.values()):
        return
    session.working_context.cache.fill(tensors)
    session.resume(tensors["logits"].to(session.model.gpt.device))


def _key_shapes(session: Session, count: int) -> dict[str, tuple[int, ...]]:
    """What the tensors of a keys file are like for a Working Context of `count` entries."""
    cache = session.working_context.cache
    return {
        "keys": _with_length(cache.keys, 3, count),
        "values": _with_length(cache.values, 3, count),
        "embeddings": _with_length(cache.embeddings, 1, count),
        "logits": (session.model.gpt.config.vocab_ids,),
    }


def _with_length(tensor: torch.Tensor, axis: int, length: int) -> tuple[int, ...]:
    return (*tensor.shape[:axis], length, *tensor.shape[axis + 1 :])


def _nodes(pairs: Any) -> np.ndarray:
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)
