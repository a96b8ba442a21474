"""The session behind a chat: opened by name, saved after every answer, branched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mccore.errors import UsageError
from mccore.host import paths
from mccore.host.terminal import echo

if TYPE_CHECKING:
    from mccore.generate.engine import Engine
    from mccore.generate.memory import SessionMemory
    from mccore.megacontext.sessions.model import SessionModel
    from mccore.megacontext.sessions.session import Session
    from mccore.runtime.sessions import TreeBuilder


@dataclass(frozen=True)
class SessionChoice:
    """What a user asked of the session on the command line."""

    name: str | None = None
    context: str | None = None
    wc_length: int | None = None
    refocus_interval: int | None = None
    allocator: str | None = None
    search: str | None = None

    @property
    def given(self) -> bool:
        """Whether anything was asked."""
        return any(value is not None for value in vars(self).values())


def warn_of_missing_search(model: SessionModel) -> None:
    """One line for a user whose allocator shows what a search finds, where nothing searches."""
    from mccore.runtime.sessions import missing_search

    lacking = missing_search(model)
    if lacking is not None:
        echo(f"({lacking})", err=True)


def saved_model(choice: SessionChoice, stage: str | None) -> tuple[str | None, str | None, Path | None]:
    """The run, the stage and, where it is known, the checkpoint that a session or a context was made with.

    A session goes by the run it names, or, where that was renamed or is gone, by its model's identity. Where there is no such
    session yet, or nothing is known of it, all that comes back is `stage`. Raises UsageError for a context whose model isn't
    here, SessionError for one that can't be read.
    """
    from mccore.contexts.manifest import checkpoint_of, find_context, find_model
    from mccore.megacontext.sessions.state import STATE, read_state
    from mccore.runtime.sessions import session_directory

    directory = None if choice.name is None else session_directory(choice.name)
    if directory is not None and (directory / STATE).exists():
        state = read_state(directory)
        run, noted = (state.notes.get(name) for name in ("run", "stage"))
        if isinstance(run, str) and (paths.runs_dir() / run / "run.json").is_file():
            return run, stage or (noted if isinstance(noted, str) else None), None
    elif choice.context is not None:
        directory = find_context(choice.context)
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
class History:
    """The session of a chat, and where it is kept."""

    memory: SessionMemory
    model: SessionModel
    trees: TreeBuilder
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
            save_session(self.session, self.session.directory, self.trees, notes=self._notes())

    def branch(self, name: str) -> Path:
        """Go on in a copy of that name; the session that was left stays as it is. Raises UsageError, SessionError, RunError."""
        from mccore.megacontext.sessions.files import open_session, save_session
        from mccore.runtime.sessions import session_directory

        directory = session_directory(name)
        if directory.exists():
            raise UsageError(f"there is a session {name!r} already", hint="choose another name")
        self.save()
        save_session(self.session, directory, self.trees, notes=self._notes())
        copy, _ = open_session(self.model, directory, self.trees)
        self.session.close()
        self.memory.session = copy
        return directory

    def clear(self) -> None:
        """Begin anew. Raises UsageError for a session that is kept."""
        from mccore.generate.memory import SessionMemory
        from mccore.runtime.sessions import session_in_memory

        require_unnamed(self.session)
        old = self.memory
        old.session.close()
        self.memory = SessionMemory(
            old.engine, session_in_memory(self.model, self.trees), plain=old.plain, on_progress=old.on_progress
        )

    def close(self) -> None:
        """Let go of the session. What was answered has been saved."""
        self.session.close()

    def _notes(self) -> dict[str, Any]:
        return {**self.notes, "system": self.memory.system}


def open_history(
    engine: Engine, checkpoint: Path, choice: SessionChoice, plain: bool, source: dict[str, Any]
) -> History:
    """The session that was asked for. Raises UsageError for a model without MegaContext, SessionError, RunError."""
    from mccore.config import Choice
    from mccore.generate.memory import SessionMemory
    from mccore.megacontext.sessions.files import create_session, open_session
    from mccore.megacontext.sessions.state import STATE
    from mccore.runs.checkpoints import read_meta
    from mccore.runtime.sessions import Overrides, context_model, session_directory, session_in_memory

    overrides = Overrides(
        allocator=None if choice.allocator is None else Choice(name=choice.allocator),
        wc_length=choice.wc_length,
        refocus_interval=choice.refocus_interval,
        search=choice.search,
    )
    model, trees = context_model(checkpoint, engine.model, read_meta(checkpoint), engine.model.device, overrides)
    warn_of_missing_search(model)
    directory = None if choice.name is None else session_directory(choice.name)
    notes: dict[str, Any] = dict(source)
    if directory is not None and (directory / STATE).exists():
        if choice.context is not None:
            raise UsageError(
                f"the session {choice.name!r} exists, and a context comes before everything that was said",
                hint="leave --context away, or begin another session",
            )
        session, notes = open_session(model, directory, trees)
        echo(f"(session {choice.name!r}: {session.tokens:,} tokens of history)", err=True)
    elif choice.context is not None:
        from mccore.contexts.manifest import find_context
        from mccore.megacontext.sessions.files import mount_context

        session = mount_context(model, find_context(choice.context), trees, directory)
    elif directory is not None:
        session = create_session(model, directory, trees)
    else:
        session = session_in_memory(model, trees)
    system = notes.pop("system", None)
    memory = SessionMemory(engine, session, plain=plain, system=system if isinstance(system, str) else None)
    return History(memory, model, trees, {**notes, **source})


def require_unnamed(session: Session) -> None:
    """Raise UsageError for a session that has a place of its own, and keeps its history."""
    if session.directory is not None:
        raise UsageError(
            f"the session {session.directory.name!r} keeps its history",
            hint="leave with /quit and start another one with --session, or without",
        )
