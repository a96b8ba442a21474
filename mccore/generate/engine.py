"""Cached generation: one prompt as a stream, or many of different lengths side by side, with the calculator tool; from
prompts that are read anew, or from sessions that hold a history.

Rows of a batch end at the same column: shorter prompts are padded on the left, the padding is hidden from attention and
positions count from each row's own first token, so a row gets the tokens it would get alone. Each row draws from a random
stream of its own, named by seed and row, so it doesn't matter which other rows are there or when they end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from mccore.errors import CheckpointError
from mccore.generate.answer import Completion, ContextOverflow, Finish, Generation, Prefix, Row
from mccore.generate.calculator import calculate
from mccore.generate.readers import Reader, SessionRows, TokenRows
from mccore.generate.sampling import choose

if TYPE_CHECKING:
    from mccore.data.tokenizer.tokenizer import Tokenizer
    from mccore.megacontext.sessions.session import Session
    from mccore.model.gpt import GPT


class Engine:
    """Generation from `model` with `tokenizer`. `max_tokens` limits prompt and answer together; default: the trained length."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, *, max_tokens: int | None = None, tools: bool = True) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens or model.config.max_seq_len
        self.tools = tools
        self._end = frozenset((tokenizer.special("assistant_end"), tokenizer.special("bos")))
        self._python_start = tokenizer.special("python_start")
        self._python_end = tokenizer.special("python_end")
        self._output_start = tokenizer.special("output_start")
        self._output_end = tokenizer.special("output_end")

    def generate(
        self,
        ids: Sequence[int],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 0,
        seed: int = 0,
        stop: Collection[int] | None = None,
        prefix: Prefix | None = None,
    ) -> Generation:
        """Continue `ids` token by token, tool output included.

        temperature 0 takes the likeliest token, else tokens are drawn among the `top_k` likeliest (0: all), the same for
        the same seed. Ends before a token of `stop` (default: assistant_end and bos). `prefix` keeps what was read for the
        next call. Raises ContextOverflow when the prompt fills the context, ValueError for an empty prompt.
        """
        row = self._row(0, ids, max_new_tokens, seed)

        def start() -> Reader:
            return TokenRows(self.model, [ids], row.limit, self.max_tokens, prefix)

        steps = self._decode([row], start, temperature, top_k, self._end if stop is None else stop)
        return Generation(row, steps)

    def continue_session(
        self,
        session: Session,
        ids: Sequence[int],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 0,
        seed: int = 0,
        stop: Collection[int] | None = None,
    ) -> Generation:
        """Append `ids` to a session and go on from there, as `generate` does; no length is too long.

        The session refocuses before it answers. What was generated is in its history, also when the generation is closed
        before its end; the stop token isn't. Raises what `Session.read` does.
        """
        row = Row(0, len(ids), max_new_tokens, "length", random.Random(f"{seed}:0"))

        def start() -> Reader:
            return SessionRows([session], [ids], [row.completion])

        steps = self._decode([row], start, temperature, top_k, self._end if stop is None else stop)
        return Generation(row, steps)

    def continue_sessions(
        self,
        sessions: Sequence[Session],
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 0,
        seed: int = 0,
        stop: Collection[int] | None = None,
    ) -> list[Completion]:
        """`continue_session` for many at once, one pass of the model per token; row i draws from stream i of the seed."""
        rows = [
            Row(i, len(ids), max_new_tokens, "length", random.Random(f"{seed}:{i}")) for i, ids in enumerate(prompts)
        ]

        def start() -> Reader:
            return SessionRows(sessions, prompts, [row.completion for row in rows])

        return self._finish(rows, start, temperature, top_k, stop)

    def generate_batch(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 0,
        seed: int = 0,
        stop: Collection[int] | None = None,
    ) -> list[Completion]:
        """Continue every prompt; the same arguments and errors as `generate`. Row i draws from stream i of the seed."""
        rows = [self._row(i, ids, max_new_tokens, seed) for i, ids in enumerate(prompts)]

        def start() -> Reader:
            return TokenRows(self.model, prompts, max(row.limit for row in rows), self.max_tokens, None)

        return self._finish(rows, start, temperature, top_k, stop)

    def _finish(
        self,
        rows: list[Row],
        start: Callable[[], Reader],
        temperature: float,
        top_k: int,
        stop: Collection[int] | None,
    ) -> list[Completion]:
        """Run `rows` to their ends, with nobody watching."""
        if rows:
            for _ in self._decode(list(rows), start, temperature, top_k, self._end if stop is None else stop):
                pass
        return [row.completion for row in rows]

    def _row(self, index: int, ids: Sequence[int], max_new_tokens: int, seed: int) -> Row:
        if not ids:
            raise ValueError("a prompt needs at least one token")
        room = self.max_tokens - len(ids)
        if room <= 0:
            raise ContextOverflow(
                f"a prompt of {len(ids)} tokens leaves no room for an answer in a context of {self.max_tokens}",
                hint="shorten the prompt",
            )
        full: Finish = "length" if max_new_tokens <= room else "context"
        return Row(index, len(ids), min(max_new_tokens, room), full, random.Random(f"{seed}:{index}"))

    def _decode(
        self,
        rows: list[Row],
        start: Callable[[], Reader],
        temperature: float,
        top_k: int,
        stop: Collection[int],
    ) -> Iterator[list[tuple[int, int]]]:
        """Run `rows` to their ends; each step yields the (row, token) pairs it added."""
        for row in rows:
            if row.limit <= 0:
                row.completion.finish = row.full
        if all(row.completion.finish for row in rows):
            return
        reader = start()
        try:
            logits = reader.prefill()
            if not torch.isfinite(logits).all():
                raise CheckpointError(
                    "the model's output is not a number", hint="use an earlier checkpoint; training diverged"
                )
            while True:
                draws = [0.0 if row.queue or not temperature else row.draws.random() for row in rows]
                sampled = choose(logits, draws, temperature, top_k)
                took = [self._take(row, token, stop) for row, token in zip(rows, sampled, strict=True)]
                added = [
                    (row.index, row.completion.tokens[-1]) for row, goes_on in zip(rows, took, strict=True) if goes_on
                ]
                keep = [slot for slot, row in enumerate(rows) if row.completion.finish is None]
                if keep and len(keep) < len(rows):
                    reader.keep(keep)
                rows = [rows[slot] for slot in keep]
                yield added
                if not rows:
                    return
                logits = reader.step([row.completion.tokens[-1] for row in rows])
        finally:
            reader.close()

    def _take(self, row: Row, sampled: int, stop: Collection[int]) -> bool:
        """Add the next token to a row: tool output if some is due, else the sampled one. False when the row just ended."""
        done = row.completion
        forced = bool(row.queue)
        token = row.queue.popleft() if forced else sampled
        if not forced and token in stop:
            done.finish = "stop"
            return False
        done.tokens.append(token)
        done.forced.append(forced)
        if self.tools and not forced:
            self._follow_tool(row, token)
        if len(done.tokens) >= row.limit:
            done.finish = row.full
        return True

    def _follow_tool(self, row: Row, token: int) -> None:
        if token == self._python_start:
            row.expression = []
        elif token == self._python_end and row.expression is not None:
            result = calculate(self.tokenizer.decode(row.expression))
            row.expression = None
            if result is not None:
                row.queue.extend((self._output_start, *self.tokenizer.encode(result), self._output_end))
        elif row.expression is not None:
            row.expression.append(token)
