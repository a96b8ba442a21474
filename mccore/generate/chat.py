"""A conversation with a model: its history, and the answer as it comes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mccore.data.conversation import Message, Part, validate_conversation
from mccore.data.tokenizer.reply import Piece, ReplyDecoder, merge
from mccore.errors import DataError, UsageError
from mccore.generate.answer import Finish
from mccore.generate.memory import Memory
from mccore.generate.sampling import Sampling
from mccore.host.files import write_theirs
from mccore.host.json_file import parse_json
from mccore.host.text import mend, read_text

if TYPE_CHECKING:
    from mccore.data.tokenizer.tokenizer import Tokenizer


_FORMAT = "mccore-chat"


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
    memory: Memory
    sampling: Sampling
    system: str | None = None
    messages: list[Message] = field(default_factory=list)
    turns: list[TurnStats] = field(default_factory=list)
    _files: set[str] = field(default_factory=set)  # that this conversation was saved to or loaded from

    def ask(self, text: str) -> Generator[Piece, None, None]:
        """Send a message and yield the answer piece by piece.

        Closing the iterator stops the answer; what was said so far stays in the history. A turn without an answer is
        withdrawn. Each answer draws from a random stream of its own, given by the seed and the number of the turn.
        """
        stats = TurnStats()
        started = time.monotonic()
        messages: list[Message] = [*self.messages, {"role": "user", "content": text}]
        sampling = replace(self.sampling, seed=self.sampling.seed + len(self.turns))
        view, generation = self.memory.generate(self.system, messages, sampling)
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
            stats.finish = generation.answer.finish
            stats.seconds = time.monotonic() - started
            if content := message_content(said):
                self.messages = [*messages, {"role": "assistant", "content": content}]

    def clear(self) -> None:
        """Forget the conversation, not the system message."""
        self.messages = []

    def save(self, path: Path, *, overwrite: bool = False) -> None:
        """Write the conversation as JSON, a new file for its owner alone. A file that this chat has written or read is replaced,
        another one only with `overwrite`. Raises UsageError, RunError when it can't be written."""
        record = {"format": _FORMAT, "version": 1, "system": self.system, "messages": self.messages}
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        mine = self.knows(path)
        # What isn't text (half a surrogate pair from a file that was loaded) becomes an escape, as JSON has it.
        write_theirs(path, text.encode("utf-8", "backslashreplace"), overwrite=overwrite or mine, private=True)
        self._files.add(os.path.realpath(path))

    def knows(self, path: Path) -> bool:
        """Whether this conversation was saved to that file, or loaded from it."""
        return os.path.realpath(path) in self._files

    def load(self, path: Path) -> None:
        """Replace the conversation by a saved one, or by a bare list of messages. Raises UsageError, DataError."""
        self.system, self.messages = read_conversation(path)
        self._files.add(os.path.realpath(path))


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
        content = parse_json(read_text(path))
    except DataError as error:
        raise UsageError(error.message, hint=error.hint) from error
    except ValueError as error:
        raise DataError(f"{path} holds no conversation: {error}") from error
    system: str | None = None
    messages = content
    if isinstance(content, dict):
        system, messages = content.get("system"), content.get("messages")
        if system is not None and not isinstance(system, str):
            raise DataError(f"{path}: the system message isn't text")
    system = None if system is None else mend(system)
    if messages == []:
        return system, []
    found = validate_conversation(messages, where=str(path), task="chat", id=path.name)["messages"]
    if found[0]["role"] == "system":
        system, found = str(found[0]["content"]), found[1:]
    return system, found
