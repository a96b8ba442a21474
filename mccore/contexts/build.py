"""Build a context: files of text into the disk tree of a session, in bounded memory, to be gone on with after any interruption.

The tokens of a list of files are always the same, so a build that was interrupted needs no record of how far it came: the next
one makes the tokens again, compares them with those that are in the tree, and appends from where they end.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mccore.contexts.manifest import NOTE, ContextManifest, FileRange, Origin, disk_bytes
from mccore.data.corpora.text_files import TextFile, is_records, read_documents
from mccore.data.corpora.walk import Skipped, count_reasons
from mccore.errors import Interrupted, MccoreError
from mccore.host.files import write_atomic
from mccore.host.json_file import read_object
from mccore.megacontext.sessions.state import STATE, TREE, SessionError

if TYPE_CHECKING:
    from mccore.data.tokenizer.tokenizer import Tokenizer
    from mccore.megacontext.sessions.model import SessionModel
    from mccore.megacontext.sessions.session import Session
    from mccore.runtime.sessions import Sessions

UNFINISHED = "build.json"  # is there from the first token to the last
_FORMAT = "mccore context build"
_CHARACTERS, _TEXTS = 2**18, 1024  # that are encoded at once
_FLUSH = 2**17  # tokens between two flushes: what a kill or a power cut can cost

Progress = Callable[[int, int], None]
"""Hears how many tokens are in the tree, and how many bytes of the files they come from."""


@dataclass
class Built:
    """A finished build. `kept` tokens were there already, from one that was interrupted."""

    directory: Path
    tokens: int
    kept: int
    documents: int
    files: int
    text_bytes: int
    rows: list[int]  # per level
    bytes: int  # on disk
    seconds: float
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True)
class ContextSource:
    """The files of a context. `skipped` were left out; `field` is the column or key of the text in files of records."""

    files: Sequence[TextFile]
    skipped: Sequence[Skipped] = ()
    field: str = "text"


def build_context(
    sessions: Sessions,
    tokenizer: Tokenizer,
    source: ContextSource,
    directory: Path,
    origin: Origin,
    *,
    on_progress: Progress | None = None,
) -> Built:
    """Read the files of `source` into a new context in `directory`, or go on with one that was interrupted there.

    Raises SessionError for a directory with anything else in it or with other tokens than those of these files, FocusError
    when they don't fit the model's Working Context, DataError, RunError, and Interrupted on Ctrl-C: what was built stays.
    """
    from mccore.megacontext.sessions.files import save_session

    began = time.perf_counter()
    _claim(directory, sessions.model)
    session = sessions.new(directory / TREE)
    session.directory = directory
    kept = session.tokens
    reading = _Reading(source, tokenizer)
    try:
        for at in _append_all(session, reading, directory):
            if on_progress is not None:
                on_progress(at, reading.bytes)
        session.read()
        manifest = _manifest(source, reading, origin)
        save_session(session, directory, sessions.trees, notes={NOTE: manifest.model_dump(mode="json")})
        tokens, rows = session.tokens, [session.tree.backend.length(n) for n in range(sessions.model.levels + 1)]
        session.close()
    except KeyboardInterrupt:
        tokens = session.tokens
        session.close()
        raise Interrupted(
            f"interrupted with {tokens:,} tokens in {directory}",
            hint="they are kept: the same command goes on from there",
        ) from None
    except BaseException:
        with contextlib.suppress(MccoreError):  # the first error counts
            session.close()
        raise
    (directory / UNFINISHED).unlink(missing_ok=True)
    return Built(
        directory=directory,
        tokens=tokens,
        kept=kept,
        documents=sum(file.documents for file in reading.ranges),
        files=len(source.files),
        text_bytes=sum(file.size for file in source.files),
        rows=rows,
        bytes=disk_bytes(directory),
        seconds=time.perf_counter() - began,
        skipped=list(source.skipped),
    )


def _manifest(source: ContextSource, reading: _Reading, origin: Origin) -> ContextManifest:
    return ContextManifest(
        origin=origin,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        mccore=metadata.version("mccore"),
        files=reading.ranges,
        skipped=count_reasons(source.skipped),
    )


def _append_all(session: Session, reading: _Reading, directory: Path) -> Iterator[int]:
    """Append what the session lacks; yields how many tokens have been read. Raises SessionError where it has others."""
    from mccore.megacontext.focus.state import check_fits

    model, kept = session.model, session.tokens
    at = flushed = 0
    for ids in reading.pieces():
        known = min(len(ids), max(0, kept - at))
        if not np.array_equal(session.ids(at, at + known), ids[:known]):
            raise _changed(directory)
        session.append(ids[known:])
        at += len(ids)
        check_fits(at, model.limits(at), model.recent_tokens)
        if session.tokens - flushed >= _FLUSH:
            session.flush()
            flushed = session.tokens
        yield at
    if at < kept:
        raise _changed(directory)


def _claim(directory: Path, model: SessionModel) -> None:
    """Make the directory that of an unfinished build of this model. Raises SessionError where it is something else's."""
    if (directory / STATE).exists():
        raise SessionError(
            f"there is a context or a session in {directory} already", hint="choose another --out, or delete it first"
        )
    marker = directory / UNFINISHED
    if marker.exists():
        try:
            found = read_object(marker)
            ours, same = found["format"] == _FORMAT, found["model"] == model.identity
        except (OSError, ValueError, KeyError, TypeError):
            ours = same = False
        if not (ours and same):
            what = "of another model than this one" if ours else f"damaged: {marker} can't be read"
            raise SessionError(
                f"the unfinished context in {directory} is {what}", hint="delete the directory, or choose another --out"
            )
    elif directory.exists() and any(directory.iterdir()):
        raise SessionError(f"{directory} isn't empty", hint="choose another --out")
    else:
        write_atomic(marker, json.dumps({"format": _FORMAT, "model": model.identity}) + "\n")


def _changed(directory: Path) -> SessionError:
    return SessionError(
        f"{directory} holds an unfinished context of other files, or these have changed since",
        hint="give the paths and options that it was begun with, or delete the directory",
    )


class _Reading:
    """Files as tokens. `ranges` are those that are through, `bytes` about how much of all the files has been read."""

    def __init__(self, source: ContextSource, tokenizer: Tokenizer) -> None:
        self.files, self.tokenizer, self.field = source.files, tokenizer, source.field
        self.ranges: list[FileRange] = []
        self.bytes = 0

    def pieces(self) -> Iterator[NDArray[np.int64]]:
        """The tokens of all files in order, some at a time."""
        tokens = [0] * len(self.files)
        documents = [0] * len(self.files)
        batch: list[tuple[int, str, bool]] = []
        characters = 0

        def encode() -> NDArray[np.int64]:
            ids, offsets = self.tokenizer.encode_batch_to_array([text for _, text, _ in batch])
            parts: list[NDArray[np.int32]] = []
            for (at, _, begins), start, stop in zip(batch, offsets[:-1], offsets[1:], strict=True):
                if begins:
                    parts.append(np.array([self.tokenizer.bos_id], dtype=np.int32))
                    documents[at] += 1
                parts.append(ids[start:stop])
                tokens[at] += int(stop - start) + begins
            batch.clear()
            return np.concatenate(parts).astype(np.int64)

        before = 0
        for index, file in enumerate(self.files):
            read = 0
            for text, begins in self._texts(file):
                batch.append((index, text, begins))
                characters += len(text)
                read += len(text)
                if characters >= _CHARACTERS or len(batch) >= _TEXTS:
                    characters = 0
                    self.bytes = before + min(read, file.size)
                    yield encode()
            before += file.size
        self.bytes = before
        if batch:
            yield encode()
        start = 0
        for file, count, number in zip(self.files, tokens, documents, strict=True):
            self.ranges.append(FileRange(file.name, start, start + count, file.size, number))
            start += count

    def _texts(self, file: TextFile) -> Iterator[tuple[str, bool]]:
        """Pieces of text, and whether a document begins with them. A document is headed by the name of its file."""
        for number, document in enumerate(read_documents(file.path, self.field), start=1):
            which = f", document {number}" if is_records(file.path) else ""
            head = f"File: {file.name}{which}\n\n"
            for text in document:
                yield head + text, bool(head)
                head = ""
