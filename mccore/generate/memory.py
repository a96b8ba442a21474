"""What of a conversation a model gets to see, behind one seam, `Context`.

`WindowContext` shows the newest turns that fit, `TextContext` continues plain text for models that never learned turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mccore.data.conversation import Message
from mccore.data.tokenizer.chat_format import render_for_completion, render_turn
from mccore.generate.answer import ContextOverflow, Generation, Prefix
from mccore.generate.engine import Engine
from mccore.generate.sampling import Sampling

if TYPE_CHECKING:
    from mccore.data.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class View:
    """What the model is shown: ids, and what was left out of them: whole messages, tokens of the newest message."""

    ids: list[int]
    messages_left_out: int = 0
    tokens_left_out: int = 0


class Context(Protocol):
    """Turns a history into an answer. `room` is the most tokens a prompt may have; `size` that of prompt and answer."""

    size: int

    def generate(self, system: str | None, messages: Sequence[Message], sampling: Sampling) -> tuple[View, Generation]:
        """Begin the answer to the last of `messages`, which is the user's. Raises ContextOverflow when nothing fits."""
        ...


class WindowContext:
    """Shows the newest whole turns that fit, the system message always. What is unchanged since the last answer isn't
    read again."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.size = engine.context
        self._prefix = Prefix()

    def generate(self, system: str | None, messages: Sequence[Message], sampling: Sampling) -> tuple[View, Generation]:
        room = prompt_room(self.size, sampling.max_new_tokens)
        view = fit_window(self.engine.tokenizer, system, messages, room)
        return view, _generate(self.engine, view.ids, sampling, prefix=self._prefix)


class TextContext:
    """Continues the last message as the beginning of a document: for base models, which know of no turns."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.size = engine.context

    def generate(self, system: str | None, messages: Sequence[Message], sampling: Sampling) -> tuple[View, Generation]:
        tokenizer = self.engine.tokenizer
        ids = tokenizer.encode(str(messages[-1]["content"]))
        cut = max(0, len(ids) + 1 - prompt_room(self.size, sampling.max_new_tokens))
        view = View([tokenizer.bos_id, *ids[cut:]], len(messages) - 1, cut)
        return view, _generate(self.engine, view.ids, sampling, stop=(tokenizer.bos_id,))


def _generate(engine: Engine, ids: list[int], sampling: Sampling, **options: Any) -> Generation:
    return engine.generate(
        ids,
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        seed=sampling.seed,
        **options,
    )


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
            hint="shorten it with /system",
        )
    cut = max(0, len(ids) - keep)
    return View([*before, *ids[cut:], *after], len(messages) - 1, cut)
