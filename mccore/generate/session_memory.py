"""A conversation over a session: everything that was ever said stays in its history, and nothing is read twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mccore.data.conversation import Message
from mccore.data.tokenizer.chat_format import render_turn
from mccore.errors import UsageError
from mccore.generate.answer import Generation
from mccore.generate.engine import Engine
from mccore.generate.memory import View
from mccore.generate.sampling import Sampling
from mccore.megacontext.sessions.session import APPEND, Session

if TYPE_CHECKING:
    from mccore.data.tokenizer.tokenizer import Tokenizer


class HistoryContext:
    """Appends what is new to a session and lets the model answer from its Working Context.

    plain: for base models, which know of no turns: messages continue the text. system: what the history begins with already.
    """

    def __init__(
        self,
        engine: Engine,
        session: Session,
        *,
        plain: bool = False,
        system: str | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.engine, self.session, self.plain = engine, session, plain
        self.size = session.model.settings.budget
        self.system = system  # the system message that the history has
        self.on_progress = on_progress  # tokens that have gone into the tree, and how many there are to go
        self._known = 0  # messages of the conversation that are in the history

    def generate(self, system: str | None, messages: Sequence[Message], sampling: Sampling) -> tuple[View, Generation]:
        """See `Context.generate`. The message is in the history, and safe, before the answer begins; no message is too long."""
        tokenizer = self.engine.tokenizer
        if self.plain:
            begin = [] if self.session.tokens else [tokenizer.bos_id]
            ids = [*begin, *tokenizer.encode(str(messages[-1]["content"]))]
            stop: tuple[int, ...] | None = (tokenizer.bos_id,)
        else:
            ids, stop = self._turns(system, messages), None
        for start in range(0, len(ids), APPEND):
            if self.on_progress is not None:
                self.on_progress(start, len(ids))
            self.session.append(ids[start : start + APPEND])
        self.session.flush()
        generation = self.engine.continue_session(
            self.session,
            [],
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            seed=sampling.seed,
            stop=stop,
        )
        return View(ids), generation

    def replace_messages(self) -> None:
        """Take the messages that come with the next question for others than those so far: all of them go into the history."""
        self._known = 0

    def finish(self) -> None:
        """End the turn that is open, so that whatever comes next stands outside it."""
        if not self.plain:
            self.session.append(closing(self.session, self.engine.tokenizer))

    def _turns(self, system: str | None, messages: Sequence[Message]) -> list[int]:
        tokenizer, session = self.engine.tokenizer, self.session
        ids = closing(session, tokenizer)
        if not ids and begins_anew(session, tokenizer):
            ids = [tokenizer.bos_id]
        self._known = min(self._known, len(messages) - 1)  # a message without an answer was taken back
        for message in messages[self._known :]:
            content = message["content"]
            if message["role"] == "user" and system is not None and system != self.system:
                content = f"{system}\n\n{content}"
                self.system = system
            ids += render_turn(tokenizer, message["role"], content).ids
        self._known = len(messages) + 1
        return [*ids, tokenizer.special("assistant_start")]


def closing(session: Session, tokenizer: Tokenizer) -> list[int]:
    """The marks that end the turn a history breaks off in: a process may have died in the middle of any."""
    end = {name: tokenizer.special(name) for name in ("user_end", "assistant_start", "assistant_end")}
    match _last_mark(session, tokenizer):
        case "user_start":
            return list(end.values())
        case "user_end":
            return [end["assistant_start"], end["assistant_end"]]
        case "assistant_start":
            return [end["assistant_end"]]
        case _:
            return []


def begins_anew(session: Session, tokenizer: Tokenizer) -> bool:
    """Whether a conversation needs a <|bos|>: behind nothing, or behind a document."""
    if not session.tokens:
        return True
    newest = int(session.ids(session.tokens - 1, session.tokens)[0])
    return _last_mark(session, tokenizer) in (None, "bos") and newest != tokenizer.bos_id


def _last_mark(session: Session, tokenizer: Tokenizer) -> str | None:
    """The name of the newest mark of a turn, or of a beginning, in a history."""
    marks = {
        tokenizer.special(name): name for name in ("bos", "user_start", "user_end", "assistant_start", "assistant_end")
    }
    known = np.array(list(marks))
    stop = session.tokens
    while stop > 0:
        start = max(0, stop - APPEND)
        ids = session.ids(start, stop)
        found = np.flatnonzero(np.isin(ids, known))
        if len(found):
            return marks[int(ids[found[-1]])]
        stop = start
    return None


def require_unnamed(session: Session) -> None:
    """Raise UsageError for a session that has a place of its own, and keeps its history."""
    if session.directory is not None:
        raise UsageError(
            f"the session {session.directory.name!r} keeps its history",
            hint="leave with /quit and start another one with --session, or without",
        )
