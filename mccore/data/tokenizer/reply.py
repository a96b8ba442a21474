"""A model's reply as parts: prose, expressions it had evaluated, and what those gave."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from mccore.data.tokenizer.tokenizer import StreamDecoder, Tokenizer

PartType = Literal["text", "python", "python_output"]


class Piece(NamedTuple):
    """Some text of one kind: a whole part, or the part of it that is complete so far."""

    type: PartType
    text: str


class ReplyDecoder:
    """Turns the tokens of a reply into pieces of text as they come, never half a character.

    Tool markers switch the kind and give no text, so that they can't be taken for something the model said; any other
    special token inside a reply gives none either.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._type: PartType = "text"
        self._specials = frozenset(tokenizer.specials.values())
        self._switch: dict[int, PartType] = {
            tokenizer.special("python_start"): "python",
            tokenizer.special("python_end"): "text",
            tokenizer.special("output_start"): "python_output",
            tokenizer.special("output_end"): "text",
        }

    def feed(self, token: int) -> list[Piece]:
        """What is complete with one more token."""
        if token not in self._specials:
            return self._piece(self._decoder.feed(token))
        ended = self._piece(self._decoder.flush())
        self._type = self._switch.get(token, self._type)
        return ended

    def flush(self) -> list[Piece]:
        """The end of the reply: a replacement character where the last one was left unfinished."""
        return self._piece(self._decoder.flush())

    def _piece(self, text: str) -> list[Piece]:
        return [Piece(self._type, text)] if text else []


def split_reply(tokens: Iterable[int], tokenizer: Tokenizer) -> list[Piece]:
    """The parts of a whole reply, in order."""
    decoder = ReplyDecoder(tokenizer)
    return merge([piece for token in tokens for piece in decoder.feed(token)] + decoder.flush())


def merge(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbouring pieces of one type as one part."""
    parts: list[Piece] = []
    for piece in pieces:
        if parts and parts[-1].type == piece.type:
            parts[-1] = Piece(piece.type, parts[-1].text + piece.text)
        else:
            parts.append(piece)
    return parts


def prose(parts: Iterable[Piece]) -> str:
    """What a reply says, without its tool calls and their results."""
    return "".join(part.text for part in parts if part.type == "text").strip()
