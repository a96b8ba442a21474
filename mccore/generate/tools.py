"""The calculator as a model uses it: what stands between its marks is computed, and the result is written into the answer."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from mccore.generate.calculator import calculate

if TYPE_CHECKING:
    from mccore.data.tokenizer.tokenizer import Tokenizer


class ToolUse:
    """The tool's part of one answer: `follow` it token by token, `pending` are tokens that are written next."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.pending: deque[int] = deque()
        self._begin, self._end = tokenizer.special("python_start"), tokenizer.special("python_end")
        self._expression: list[int] | None = None  # tokens since python_start

    def follow(self, token: int) -> None:
        """The model wrote this token."""
        if token == self._begin:
            self._expression = []
        elif token == self._end and self._expression is not None:
            tokenizer = self.tokenizer
            result = calculate(tokenizer.decode(self._expression))
            self._expression = None
            if result is not None:
                start, end = tokenizer.special("output_start"), tokenizer.special("output_end")
                self.pending.extend((start, *tokenizer.encode(result), end))
        elif self._expression is not None:
            self._expression.append(token)
