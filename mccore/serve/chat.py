"""A conversation with a model: its history, what of it the model gets to see, and the answer as it comes.

How a history becomes the model's input is behind one seam, `Context`: `WindowContext` shows the newest turns that fit,
`TextContext` continues plain text for models that never learned turns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mccore.data.chat_format import render_for_completion, render_turn
from mccore.data.conversations import Message, Part, validate_conversation
from mccore.errors import DataError, UsageError
from mccore.files import write_atomic
from mccore.serve.engine import ContextOverflow, Engine, Finish, Generation, Prefix
from mccore.serve.reply import Piece, ReplyDecoder, merge

if TYPE_CHECKING:
    from mccore.data.tokenizer import Tokenizer

_FORMAT = "mccore-chat"


@dataclass
class Sampling:
    """How answers are drawn; see `Engine.generate`."""

    temperature: float = 0.6
    top_k: int = 50
    max_new_tokens: int = 256
    seed: int = 0


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


@dataclass
class TurnStats:
    """What one answer took: tokens shown to the model, tokens it wrote, wall time, and why it ended (None: was stopped)."""

    prompt_tokens: int = 0
    new_tokens: int = 0
    first_token_seconds: float = 0.0
    seconds: float = 0.0
    finish: Finish | None = None
    messages_left_out: int = 0
    tokens_left_out: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Speed after the first token; 0 before there is a second one."""
        spent = self.seconds - self.first_token_seconds
        return (self.new_tokens - 1) / spent if self.new_tokens > 1 and spent > 0 else 0.0


@dataclass
class ChatSession:
    """One conversation. `turns` has the statistics of every answer given."""

    tokenizer: Tokenizer
    context: Context
    sampling: Sampling
    system: str | None = None
    messages: list[Message] = field(default_factory=list)
    turns: list[TurnStats] = field(default_factory=list)

    def ask(self, text: str) -> Generator[Piece, None, None]:
        """Send a message and yield the answer piece by piece.

        Closing the iterator stops the answer; what was said so far stays in the history. A turn without an answer is
        withdrawn. Each answer draws from a random stream of its own, given by the seed and the number of the turn.
        """
        stats = TurnStats()
        started = time.monotonic()
        messages: list[Message] = [*self.messages, {"role": "user", "content": text}]
        sampling = Sampling(**{**vars(self.sampling), "seed": self.sampling.seed + len(self.turns)})
        view, generation = self.context.generate(self.system, messages, sampling)
        stats.prompt_tokens = len(view.ids)
        stats.messages_left_out, stats.tokens_left_out = view.messages_left_out, view.tokens_left_out
        self.turns.append(stats)
        decoder = ReplyDecoder(self.tokenizer)
        said: list[Piece] = []
        try:
            for token in generation:
                stats.new_tokens += 1
                stats.seconds = time.monotonic() - started
                stats.first_token_seconds = stats.first_token_seconds or stats.seconds
                for piece in decoder.feed(token):
                    said.append(piece)
                    yield piece
            for piece in decoder.flush():
                said.append(piece)
                yield piece
        finally:
            generation.close()
            stats.finish = generation.completion.finish
            stats.seconds = time.monotonic() - started
            if content := message_content(said):
                self.messages = [*messages, {"role": "assistant", "content": content}]

    def clear(self) -> None:
        """Forget the conversation, not the system message."""
        self.messages = []

    def save(self, path: Path) -> None:
        """Write the conversation as JSON. Raises RunError when it can't be written."""
        record = {"format": _FORMAT, "version": 1, "system": self.system, "messages": self.messages}
        write_atomic(path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")

    def load(self, path: Path) -> None:
        """Replace the conversation by a saved one, or by a bare list of messages. Raises UsageError, DataError."""
        self.system, self.messages = read_conversation(path)


def message_content(pieces: Sequence[Piece]) -> str | list[Part]:
    """The pieces of an answer as the content of a message: text alone as a str, tool use as parts; empty for nothing."""
    parts: list[Part] = []
    for piece in merge(pieces):
        # A result belongs to a call; what a model puts between the markers of its own accord is none.
        if piece.type != "python_output" or (parts and parts[-1]["type"] == "python"):
            parts.append({"type": piece.type, "text": piece.text})
    if all(part["type"] == "text" for part in parts):
        text = "".join(part["text"] for part in parts)
        return text if text.strip() else ""
    return parts


def read_conversation(path: Path) -> tuple[str | None, list[Message]]:
    """The system message and the messages of a saved conversation. Raises UsageError or DataError, naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} holds no conversation: {error}") from error
    system: str | None = None
    messages = content
    if isinstance(content, dict):
        system, messages = content.get("system"), content.get("messages")
        if system is not None and not isinstance(system, str):
            raise DataError(f"{path}: the system message isn't text")
    if messages == []:
        return system, []
    found = validate_conversation(messages, where=str(path), task="chat", id=path.name)["messages"]
    if found[0]["role"] == "system":
        system, found = str(found[0]["content"]), found[1:]
    return system, found
