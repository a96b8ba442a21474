"""What of a conversation a model gets to see, behind one seam, `Memory`.

`WindowMemory` shows the newest turns that fit. `TextMemory` continues plain text, for models that never learned turns.
`SessionMemory` appends what is new to a session: everything that was ever said stays in its history, and nothing is read
twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mccore.data.conversation import Message
from mccore.data.tokenizer.chat_format import render_for_completion, render_turn
from mccore.generate.answer import ContextOverflow, Prefix, Request
from mccore.generate.engine import Engine, Generation
from mccore.generate.sampling import Sampling
from mccore.megacontext.sessions.history import APPEND
from mccore.megacontext.sessions.session import Session

if TYPE_CHECKING:
    from mccore.data.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class View:
    """What the model is shown: ids, and what was left out of them: whole messages, tokens of the newest message."""

    ids: list[int]
    messages_left_out: int = 0
    tokens_left_out: int = 0


class Memory(Protocol):
    """Turns a history into an answer. `room` is the most tokens a prompt may have; `size` that of prompt and answer."""

    size: int

    def generate(self, system: str | None, messages: Sequence[Message], sampling: Sampling) -> tuple[View, Generation]:
        """Begin the answer to the last of `messages`, which is the user's. Raises ContextOverflow when nothing fits."""
        ...


class WindowMemory:
    """Shows the newest whole turns that fit, the system message always. What is unchanged since the last answer isn't
    read again."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.size = engine.max_tokens
        self._prefix = Prefix()

    def generate(self, system: str | None, messages: Sequence[Message], sampling: Sampling) -> tuple[View, Generation]:
        room = prompt_room(self.size, sampling.max_new_tokens)
        view = fit_window(self.engine.tokenizer, system, messages, room)
        return view, self.engine.stream(Request(view.ids, sampling, prefix=self._prefix))


class TextMemory:
    """Continues the last message as the beginning of a document: for base models, which know of no turns."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.size = engine.max_tokens

    def generate(self, system: str | None, messages: Sequence[Message], sampling: Sampling) -> tuple[View, Generation]:
        tokenizer = self.engine.tokenizer
        ids = tokenizer.encode(str(messages[-1]["content"]))
        cut = max(0, len(ids) + 1 - prompt_room(self.size, sampling.max_new_tokens))
        view = View([tokenizer.bos_id, *ids[cut:]], len(messages) - 1, cut)
        return view, self.engine.stream(Request(view.ids, sampling, stop=(tokenizer.bos_id,)))


class SessionMemory:
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
        self.size = session.model.options.wc_length
        self.system = system  # the system message that the history has
        self.on_progress = on_progress  # tokens that have gone into the tree, and how many there are to go
        self._known = 0  # messages of the conversation that are in the history

    def generate(self, system: str | None, messages: Sequence[Message], sampling: Sampling) -> tuple[View, Generation]:
        """See `Memory.generate`. The message is in the history, and safe, before the answer begins; no message is too long."""
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
        return View(ids), self.engine.stream(Request((), sampling, self.session, stop))

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


def prompt_room(size: int, max_new_tokens: int) -> int:
    """Tokens that a prompt may take of a context of `size`: all but the answer's, for which at most a quarter is kept."""
    return size - max(1, min(max_new_tokens, size // 4))


def fit_window(tokenizer: Tokenizer, system: str | None, messages: Sequence[Message], room: int) -> View:
    """The ids that ask for an answer to the last of `messages`, in at most `room` tokens.

    Oldest exchanges are left out first, whole; when the last message alone is too long, its beginning is. Raises
    ContextOverflow when the system message leaves no room.
    """
    head: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    overhead = 2 + (len(tokenizer.encode(f"{system}\n\n")) if system is not None else 0)  # bos, assistant_start
    total, start = overhead, len(messages)
    while start > 0:  # walk back over the turns that fit; what is kept begins with a user's
        content: Any = messages[start - 1]["content"]
        total += len(render_turn(tokenizer, messages[start - 1]["role"], content).ids)
        if total > room:
            break
        start -= 1
    if start < len(messages) and messages[start]["role"] != "user":
        start += 1
    while start < len(messages):
        # Rendering decides: joined to the first turn, the system message may take a token more or less than alone.
        ids = render_for_completion(tokenizer, [*head, *messages[start:]])
        if len(ids) <= room:
            return View(ids, messages_left_out=start)
        start += 2
    return _cut_message(tokenizer, system, messages, room)


def _cut_message(tokenizer: Tokenizer, system: str | None, messages: Sequence[Message], room: int) -> View:
    before = [tokenizer.bos_id, tokenizer.special("user_start")]
    if system is not None:
        before += tokenizer.encode(f"{system}\n\n")
    after = [tokenizer.special("user_end"), tokenizer.special("assistant_start")]
    ids = tokenizer.encode(str(messages[-1]["content"]))
    keep = room - len(before) - len(after)
    if keep <= 0:
        raise ContextOverflow(
            f"the system message of {len(before) - 2} tokens leaves no room for a message",
            hint="shorten the system message",
        )
    cut = max(0, len(ids) - keep)
    return View([*before, *ids[cut:], *after], len(messages) - 1, cut)


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
