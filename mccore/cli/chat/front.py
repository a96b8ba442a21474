"""What every front of a chat has in common: asking, stopping an answer, keeping the session, what is said of an answer."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from mccore.data.tokenizer.reply import Piece, merge
from mccore.errors import DataError, Interrupted, UsageError
from mccore.generate.chat import ChatSession, TurnStats
from mccore.host.terminal import StatusLine
from mccore.host.text import read_text, spell

if TYPE_CHECKING:
    from mccore.cli.chat.sessions import ChatHistory
    from mccore.megacontext.sessions.session import Session

MAX_FILE_BYTES = 16 * 2**20
MAX_HISTORY_FILE_BYTES = 1 << 30  # of a file that goes into a session, which has no end
REPORTED = 2**17  # tokens of a message from which reading it is worth a progress line


class ChatFront:
    """One conversation of a person or a program with a model. `history`: where it has a session of its own."""

    def __init__(self, session: ChatSession, source: dict[str, Any], *, history: ChatHistory | None = None) -> None:
        self.session, self.source, self.history = session, source, history
        self.on_answer: Callable[[TurnStats], None] = lambda stats: None
        self.interrupted = False
        self._attached: list[tuple[str, str]] = []  # files to go with the next message: name, text
        if history is not None:
            history.memory.on_progress = self._read_on

    def ask(self, text: str, show: Callable[[Piece], None]) -> tuple[str, list[Piece], TurnStats]:
        """The message as it was sent, with the attached files before it, and what was answered; `show` gets each piece as it
        comes. Ctrl-C stops the answer, which is kept as far as it came."""
        for name, content in reversed(self._attached):
            text = f"Here is a part of {name}:\n\n{content}\n\n{text}"
        pieces: list[Piece] = []
        with self._interrupts():
            answer = self.session.ask(text)
            try:
                for piece in answer:
                    pieces.append(piece)
                    show(piece)
                    if self.interrupted:
                        break
            finally:
                answer.close()
                if self.history is not None:
                    self.history.save()
        self._attached.clear()
        stats = self.session.turns[-1]
        self.on_answer(stats)
        return text, pieces, stats

    def attach(self, path: Path) -> str:
        """Put a text file before the next message; returns a remark. Raises UsageError for what isn't one."""
        most = MAX_FILE_BYTES if self.history is None else MAX_HISTORY_FILE_BYTES
        try:
            content = read_text(path, most=most)
        except DataError as error:
            raise UsageError(error.message, hint=error.hint) from error
        self._attached.append((spell(path.name), content.strip("\n")))
        return f"{path.name}: {len(content):,} characters go with the next message"

    def clear(self) -> None:
        """Forget what was said. Raises UsageError for a session that is kept."""
        if self.history is not None:
            self.history.clear()
            self.session.memory = self.history.memory
        self.session.clear()
        self._attached.clear()

    def remarks(self, stats: TurnStats) -> Iterator[str]:
        """What a person should know of an answer beside its text."""
        if self.interrupted:
            yield "stopped"
        elif stats.new_tokens == 0:
            kept = "the message was taken back" if self.history is None else "the message stays in the session"
            yield f"no answer; {kept}"
        elif stats.finish == "length":
            yield f"cut off after {stats.new_tokens} tokens; --max-new-tokens allows more"
        elif stats.finish == "context":
            yield f"cut off: the model's context of {self.session.memory.size} tokens is full"
        if stats.messages_left_out:
            yield f"the oldest {stats.messages_left_out} messages no longer fit and were left out"
        if stats.tokens_left_out:
            yield f"the message was too long: its first {stats.tokens_left_out} tokens were left out"

    def record(self, text: str, pieces: list[Piece], stats: TurnStats) -> dict[str, Any]:
        """An answer as JSON has it."""
        return {
            **self.source,
            "prompt": text,
            "reply": "".join(piece.text for piece in pieces if piece.type == "text"),
            "parts": [piece._asdict() for piece in merge(pieces)],
            "finish": stats.finish or "interrupted",
            "prompt_tokens": stats.prompt_tokens,
            "new_tokens": stats.new_tokens,
            "messages_left_out": stats.messages_left_out,
            "tokens_left_out": stats.tokens_left_out,
            "seconds": round(stats.seconds, 3),
            "sampling": vars(self.session.sampling),
            **({} if self.history is None else {"context": context_record(self.history.session)}),
        }

    def _read_on(self, done: int, total: int) -> None:
        """A part of a long message has been read. Raises Interrupted where the user doesn't want to wait for the rest."""
        if self.interrupted:
            raise Interrupted(f"stopped: {done:,} of {total:,} tokens are in the history")
        if total >= REPORTED:
            StatusLine().show(f"(reading: {done:,} of {total:,} tokens)")

    @contextlib.contextmanager
    def _interrupts(self) -> Iterator[None]:
        """Ctrl-C asks the answer to stop; a second one, while the model is still busy, interrupts it by force."""
        self.interrupted = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask_to_stop(signum: int, frame: FrameType | None) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        before = signal.signal(signal.SIGINT, ask_to_stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def context_record(session: Session) -> dict[str, Any]:
    """The Working Context after an answer. `seen`: runs [start, stop, level], the finest the answer saw of the history.
    `looked_up`: [start, stop, source], tokens that were likely because they stood at `source` before."""
    return {
        "tokens": session.tokens,
        "entries": session.entries,
        "budget": session.model.options.wc_length,
        "refocuses": session.refocuses,
        "seen": session.seen(),
        "looked_up": [list(each) for each in session.spoken()],
    }
