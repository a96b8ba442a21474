"""The terminal side of a chat: lines in, answers out as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mccore.cli.chat import lines
from mccore.cli.chat.commands import Commands
from mccore.cli.chat.front import ChatFront
from mccore.cli.chat.lines import note
from mccore.data.tokenizer.reply import PartType, Piece
from mccore.errors import Interrupted
from mccore.generate.chat import ChatSession
from mccore.generate.memory import TextMemory
from mccore.host.terminal import echo_json, write_answer

if TYPE_CHECKING:
    from mccore.cli.chat.sessions import ChatHistory


class Terminal(ChatFront):
    """One conversation at a terminal, or through pipes: answers go to standard output, all else to standard error."""

    def __init__(
        self, session: ChatSession, source: dict[str, Any], as_json: bool, *, history: ChatHistory | None = None
    ) -> None:
        super().__init__(session, source, history=history)
        self.as_json = as_json
        self._before: PartType = "text"  # what the last piece of the answer was

    def answer_once(self, text: str) -> None:
        """Answer one message. Raises Interrupted when the user stopped it."""
        self._answer(text)
        if self.interrupted:
            raise Interrupted("interrupted")

    def converse(self, banner: str) -> None:
        """Answer line after line until the input ends or /quit."""
        if lines.is_interactive():
            note(banner)
            if isinstance(self.session.memory, TextMemory):
                note("a base model continues text; it was never taught to answer")
            note("/help lists commands, Ctrl-C stops an answer, Ctrl-D leaves")
        lines.converse(self._answer, Commands(self).table)

    def _answer(self, text: str) -> None:
        self._before = "text"
        text, pieces, stats = self.ask(text, self._show)
        if self.as_json:
            echo_json(self.record(text, pieces, stats), indent=None)
            return
        if self._before != "text":
            write_answer("]", dim=True)
        write_answer("\n")
        for remark in self.remarks(stats):
            note(f"({remark})")

    def _show(self, piece: Piece) -> None:
        """Write one piece; a tool call reads `[expression = result]`."""
        if self.as_json:
            return
        if self._before != piece.type:
            opening = {"python": "[", "python_output": " = ", "text": "]"}[piece.type]
            if self._before == "python_output" and piece.type == "python":
                opening = "] ["
            write_answer(opening, dim=True)
        self._before = piece.type
        write_answer(piece.text, dim=piece.type != "text")
