"""The session behind a chat: opened by name, saved after every answer, branched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mccore.errors import UsageError
from mccore.host import paths
from mccore.host.terminal import echo

if TYPE_CHECKING:
    from mccore.generate.engine import Engine
    from mccore.generate.memory import SessionMemory
    from mccore.megacontext.sessions.session import Session
    from mccore.runtime.sessions import Sessions


class SessionPlace(NamedTuple):
    """Where a user wants the conversation: in the session of a name, behind a saved context, or both."""

    name: str | None = None
    context: str | None = None

    @property
    def source(self) -> dict[str, str]:
        """What an answer says of it beside the model."""
        return {} if self.name is None else {"session": self.name}


def saved_model(place: SessionPlace, stage: str | None) -> tuple[str | None, str | None, Path | None]:
    """The run, the stage and, where it is known, the checkpoint that a session or a context was made with.

    A session goes by the run it names, or, where that was renamed or is gone, by its model's identity. Where there is no such
    session yet, or nothing is known of it, all that comes back is `stage`. Raises UsageError for a context whose model isn't
    here, SessionError for one that can't be read.
    """
    from mccore.contexts.manifest import checkpoint_of, find_context, find_model
    from mccore.megacontext.sessions.state import STATE, read_state
    from mccore.runtime.sessions import session_directory

    directory = None if place.name is None else session_directory(place.name)
    if directory is not None and (directory / STATE).exists():
        state = read_state(directory)
        run, noted = (state.notes.get(name) for name in ("run", "stage"))
        if isinstance(run, str) and (paths.runs_dir() / run / "run.json").is_file():
            return run, stage or (noted if isinstance(noted, str) else None), None
    elif place.context is not None:
        directory = find_context(place.context)
        state = read_state(directory)
    else:
        return None, stage, None
    origin = find_model(state.model)
    if origin is None:
        raise UsageError(
            f"the model that made {directory} isn't among the runs here",
            hint="put its run back, or name the run that has it: mccore chat RUN",
        )
    return origin.run, origin.stage, checkpoint_of(origin)


@dataclass
class ChatHistory:
    """The session of a chat, and where it is kept."""

    memory: SessionMemory
    sessions: Sessions
    notes: dict[str, Any]

    @property
    def session(self) -> Session:
        """The session that the chat goes on in now."""
        return self.memory.session

    def save(self) -> None:
        """Keep what was said, where the session has a place. Raises SessionError, RunError."""
        from mccore.megacontext.sessions.files import save_session

        self.memory.finish()
        if self.session.directory is not None:
            save_session(self.session, self.session.directory, self.sessions.trees, notes=self._notes())

    def branch(self, name: str) -> Path:
        """Go on in a copy of that name; the session that was left stays as it is. Raises UsageError, SessionError, RunError."""
        from mccore.megacontext.sessions.files import open_session, save_session
        from mccore.runtime.sessions import session_directory

        directory = session_directory(name)
        if directory.exists():
            raise UsageError(f"there is a session {name!r} already", hint="choose another name")
        self.save()
        save_session(self.session, directory, self.sessions.trees, notes=self._notes())
        copy, _ = open_session(self.sessions.model, directory, self.sessions.trees)
        self.session.close()
        self.memory.session = copy
        return directory

    def clear(self) -> None:
        """Begin anew. Raises UsageError for a session that is kept."""
        from mccore.generate.memory import SessionMemory

        require_unnamed(self.session)
        old = self.memory
        old.session.close()
        self.memory = SessionMemory(old.engine, self.sessions.new(), plain=old.plain, on_progress=old.on_progress)

    def close(self) -> None:
        """Let go of the session. What was answered has been saved."""
        self.session.close()

    def _notes(self) -> dict[str, Any]:
        return {**self.notes, "system": self.memory.system}


def open_history(
    engine: Engine, sessions: Sessions, place: SessionPlace, plain: bool, source: Mapping[str, Any]
) -> ChatHistory:
    """The session that was asked for. Raises UsageError where a context comes too late, SessionError, RunError."""
    from mccore.generate.memory import SessionMemory
    from mccore.megacontext.sessions.files import create_session, open_session
    from mccore.megacontext.sessions.state import STATE
    from mccore.runtime.sessions import session_directory

    model, trees = sessions.model, sessions.trees
    directory = None if place.name is None else session_directory(place.name)
    made_by = {name: source[name] for name in ("run", "stage")}
    notes: dict[str, Any] = dict(made_by)
    if directory is not None and (directory / STATE).exists():
        if place.context is not None:
            raise UsageError(
                f"the session {place.name!r} exists, and a context comes before everything that was said",
                hint="leave --context away, or begin another session",
            )
        session, notes = open_session(model, directory, trees)
        echo(f"(session {place.name!r}: {session.tokens:,} tokens of history)", err=True)
    elif place.context is not None:
        from mccore.contexts.manifest import find_context
        from mccore.megacontext.sessions.files import mount_context

        session = mount_context(model, find_context(place.context), trees, directory)
    elif directory is not None:
        session = create_session(model, directory, trees)
    else:
        session = sessions.new()
    system = notes.pop("system", None)
    memory = SessionMemory(engine, session, plain=plain, system=system if isinstance(system, str) else None)
    return ChatHistory(memory, sessions, {**notes, **made_by})


def require_unnamed(session: Session) -> None:
    """Raise UsageError for a session that has a place of its own, and keeps its history."""
    if session.directory is not None:
        raise UsageError(
            f"the session {session.directory.name!r} keeps its history",
            hint="leave with /quit and start another one with --session, or without",
        )
