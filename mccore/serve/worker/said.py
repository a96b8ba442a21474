"""What a model says, token by token, as pieces of text for a client: never half a character, nothing of a stop text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mccore.data.tokenizer.reply import Piece, ReplyDecoder

if TYPE_CHECKING:
    from mccore.data.tokenizer.tokenizer import Tokenizer


class Said:
    """The pieces of one answer. `stop`: texts that end it; the answer has none of them."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._decoder = ReplyDecoder(tokenizer)
        self._stop = [text for text in stop if text]
        self._held = ""  # prose that may be the beginning of a stop text
        self.stopped = False
        self.pieces: list[Piece] = []

    def feed(self, token: int) -> list[Piece]:
        """What may be shown with one more token; `stopped` says whether a stop text is complete."""
        return self._pass(self._decoder.feed(token))

    def flush(self) -> list[Piece]:
        """The end of the answer: what was held back, unless it ended with a stop text."""
        pieces = self._pass(self._decoder.flush())
        if self._held and not self.stopped:
            pieces.append(Piece("text", self._held))
            self.pieces.append(pieces[-1])
        self._held = ""
        return pieces

    def _pass(self, pieces: list[Piece]) -> list[Piece]:
        shown: list[Piece] = []
        for piece in pieces:
            if self.stopped:
                break
            shown += self._prose(piece.text) if piece.type == "text" else [*self._release(), piece]
        self.pieces += shown
        return shown

    def _release(self) -> list[Piece]:
        held, self._held = self._held, ""
        return [Piece("text", held)] if held else []

    def _prose(self, text: str) -> list[Piece]:
        text = self._held + text
        ends = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if ends:
            self.stopped, self._held = True, ""
            text = text[: min(ends)]
            return [Piece("text", text)] if text else []
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        text = text[: len(text) - keep]
        return [Piece("text", text)] if text else []


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that a stop text begins with."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
