"""Sessions that are open: found where the server says they live, the least recently used ones saved and closed."""

from __future__ import annotations

import contextlib
import shutil
from collections import OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from mccore.errors import MccoreError
from mccore.megacontext.sessions.files import (
    branch_session,
    create_session,
    mount_context,
    open_session,
    save_session,
)
from mccore.megacontext.sessions.state import STATE, SessionError

if TYPE_CHECKING:
    from mccore.megacontext.sessions.session import Session
    from mccore.runtime.sessions import Sessions


class Tail(BaseModel):
    """Tokens of an answer that a worker which died had told, behind the first `start` tokens of the history."""

    start: int
    ids: list[int]


class SessionAddress(BaseModel):
    """Where a session lives, and how much of its history counts.

    root: the conversation's directory. state: the folder in it that holds the session; spare: a name for another one, where
    the history has to be cut back. tokens: what counts of the history, None for all there is. source: the session that a new
    one begins with, up to its `tokens`.
    """

    model_config = ConfigDict(extra="forbid")

    session: str
    root: Path
    state: str
    spare: str
    tokens: int | None = None
    tail: Tail | None = None
    source: SessionAddress | None = None
    notes: dict[str, str] = Field(default_factory=dict)


@dataclass(eq=False)
class Held:
    """An open session; `users` are jobs that work with it now."""

    session: Session
    state: str
    users: int = 0


Taking = Generator[Callable[[], Any] | None, Any, Held]
Opening = Generator[Callable[[], Any] | None, Any, "Session"]


class Shelf:
    """The open sessions of one model.

    context: what new sessions are mounted on. most: sessions that stay open while nobody uses them; most_bytes: of their keys and
    values.
    """

    def __init__(self, sessions: Sessions, context: Path | None, *, most: int, most_bytes: int) -> None:
        self.sessions, self.context = sessions, context
        self.most, self.most_bytes = most, most_bytes
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._opening: set[str] = set()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values that open sessions hold."""
        return sum(held.session.working_context.nbytes for held in self._held.values())

    def take(self, place: SessionAddress) -> Taking:
        """The session of a place, opened where it isn't, for one more user: `give_back` ends that.

        Steps, as those of a job: files are opened beside the loop. A history that goes beyond what counts, as one does whose
        answer or upload broke off, is cut back to it. Raises SessionError for a damaged session, RunError where it can't be
        read or written.
        """
        while place.session in self._opening:  # by another job
            yield None
        held = self._held.get(place.session)
        if held is None:
            held = Held((yield from self._open(place)), place.state)
            self._held[place.session] = held
        try:
            self._fit(held, place)
        except BaseException:
            self.forget(place.session)
            raise
        self._held.move_to_end(place.session)
        held.users += 1
        return held

    def give_back(self, place: SessionAddress) -> None:
        """A user of `take` is done; what is too much is saved and closed."""
        held = self._held.get(place.session)
        if held is not None:
            held.users -= 1
        self.trim()

    def trim(self) -> None:
        """Save and close the least recently used sessions that nobody uses, until the rest may stay."""
        idle = [name for name, held in self._held.items() if not held.users]
        nbytes = self.nbytes
        for name in idle:
            if len(idle) <= self.most and nbytes <= self.most_bytes:
                return
            nbytes -= self._held[name].session.working_context.nbytes
            idle = idle[1:]
            with contextlib.suppress(MccoreError):  # without its keys it is read again, its history is there
                self._save(self._held[name])
            self.forget(name)

    def forget(self, session: str) -> None:
        """Close a session without saving its keys and values: its history stays."""
        held = self._held.pop(session, None)
        if held is not None:
            with contextlib.suppress(MccoreError):
                held.session.close()

    def close(self) -> list[str]:
        """Save and close all; why that failed, for each that it failed for."""
        failed = []
        for name, held in self._held.items():
            try:
                self._save(held)
                held.session.close()
            except MccoreError as error:
                failed.append(f"{name}: {error.message}")
        self._held.clear()
        return failed

    def _save(self, held: Held) -> None:
        session = held.session
        assert session.directory is not None
        save_session(session, session.directory, self.sessions.trees)

    def _open(self, place: SessionAddress) -> Opening:
        """Open it beside the loop; as the branch of another one, which the loop may be using, here."""
        directory, trees = place.root / place.state, self.sessions.trees
        if place.source is None or (directory / STATE).exists():
            self._opening.add(place.session)
            try:
                session: Session = yield partial(self._open_alone, place)
                return session
            finally:
                self._opening.discard(place.session)
        shutil.rmtree(directory, ignore_errors=True)  # a process may have died while it was made
        source = yield from self.take(place.source.model_copy(update={"tokens": None}))
        try:
            return branch_session(source.session, directory, trees, place.source.tokens or 0)
        finally:
            self.give_back(place.source)

    def _open_alone(self, place: SessionAddress) -> Session:
        directory, model, trees = place.root / place.state, self.sessions.model, self.sessions.trees
        if (directory / STATE).exists():
            return open_session(model, directory, trees)[0]
        if place.tokens:
            raise SessionError(f"the history of {place.session} is gone from the disk")
        shutil.rmtree(directory, ignore_errors=True)  # a process may have died while it was made
        if self.context is not None:
            return mount_context(model, self.context, trees, directory)
        return create_session(model, directory, trees)

    def _fit(self, held: Held, place: SessionAddress) -> None:
        """Let the history be what counts of it, and no more."""
        if place.tokens is None or held.session.tokens == place.tokens:
            return
        keep = place.tokens if place.tail is None else place.tail.start
        if held.session.tokens < keep:
            raise SessionError(
                f"the history of {place.session} has lost tokens: {held.session.tokens:,} of {place.tokens:,} are left"
            )
        if held.session.tokens > keep:
            directory = place.root / place.spare
            shutil.rmtree(directory, ignore_errors=True)
            shorter = branch_session(held.session, directory, self.sessions.trees, keep)
            held.session.close()
            held.session, held.state = shorter, place.spare
        if place.tail is not None:
            held.session.append(place.tail.ids)
            held.session.flush()


def read_place(value: Any) -> SessionAddress:
    """A place as the server sent it."""
    return SessionAddress.model_validate(value)
