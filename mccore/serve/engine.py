"""Cached generation: one prompt as a stream, or many of different lengths side by side, with the calculator tool; from
prompts that are read anew, or from sessions that hold a history.

Rows of a batch end at the same column: shorter prompts are padded on the left, the padding is hidden from attention and
positions count from each row's own first token, so a row gets the tokens it would get alone. Each row draws from a random
stream of its own, named by seed and row, so it doesn't matter which other rows are there or when they end.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from mccore.errors import CheckpointError, MccoreError
from mccore.serve.calculator import calculate

if TYPE_CHECKING:
    from mccore.data.tokenizer import Tokenizer
    from mccore.megacontext.session import Session
    from mccore.model.gpt import GPT
    from mccore.model.kv_cache import KVCache

Finish = Literal["stop", "length", "context"]

PREFILL_CHUNK = 1024  # columns of one prefill pass: bounds the attention mask of padded batches
_HIDDEN = -1e30  # finite: a padding query that sees nothing at all would turn into NaN


class ContextOverflow(MccoreError):
    """A prompt leaves no room in the model's context for an answer."""


@dataclass
class Completion:
    """What a model added to one prompt. `forced[i]` marks tokens that a tool wrote; the stop token is not among `tokens`.

    `finish`: "stop" (a stop token), "length" (as many tokens as asked for), "context" (no room left), None while it runs.
    """

    tokens: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    finish: Finish | None = None


class Generation(Iterator[int]):
    """The tokens of one answer as they come; `completion` holds them so far and says in the end why it ended."""

    def __init__(self, row: _Row, steps: Iterator[list[tuple[int, int]]]) -> None:
        self.completion = row.completion
        self._steps = steps

    def __next__(self) -> int:
        for added in self._steps:
            if added:
                return added[0][1]
        raise StopIteration

    def close(self) -> None:
        """Stop here: what was generated stays, and a session it came from holds all of it."""
        if isinstance(self._steps, Generator):
            self._steps.close()


class Prefix:
    """The tokens a model has read for one conversation and their keys and values, to be reused by the next prompt."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.cache: KVCache | None = None

    def reuse(self, ids: Sequence[int]) -> int:
        """How many leading tokens of `ids` needn't be read again; the cache is cut back to them."""
        if self.cache is None:
            return 0
        most = min(len(self.ids), len(ids) - 1)  # the last token is always read: its output is what comes next
        same = next((i for i in range(most) if self.ids[i] != ids[i]), most)
        self.cache.truncate(same)
        del self.ids[same:]
        return same


@dataclass
class _Row:
    """One row of a running batch: its random stream, its tool state and what it has produced."""

    index: int
    prompt_length: int
    limit: int
    full: Finish  # why it ends when it reaches the limit
    draws: random.Random
    completion: Completion = field(default_factory=Completion)
    queue: deque[int] = field(default_factory=deque)  # tool output still to be written
    expression: list[int] | None = None  # tokens since python_start


class Engine:
    """Generation from `model` with `tokenizer`. `context` limits prompt and answer together; default: the trained length."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, *, context: int | None = None, tools: bool = True) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.context = context or model.config.max_seq_len
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

        def start() -> _Reader:
            return _Batch(self.model, [ids], row.limit, self.context, prefix)

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
        row = _Row(0, len(ids), max_new_tokens, "length", random.Random(f"{seed}:0"))

        def start() -> _Reader:
            return _Sessions([session], [ids], [row.completion])

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
            _Row(i, len(ids), max_new_tokens, "length", random.Random(f"{seed}:{i}")) for i, ids in enumerate(prompts)
        ]

        def start() -> _Reader:
            return _Sessions(sessions, prompts, [row.completion for row in rows])

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

        def start() -> _Reader:
            return _Batch(self.model, prompts, max(row.limit for row in rows), self.context, None)

        return self._finish(rows, start, temperature, top_k, stop)

    def _finish(
        self,
        rows: list[_Row],
        start: Callable[[], _Reader],
        temperature: float,
        top_k: int,
        stop: Collection[int] | None,
    ) -> list[Completion]:
        """Run `rows` to their ends, with nobody watching."""
        if rows:
            for _ in self._decode(list(rows), start, temperature, top_k, self._end if stop is None else stop):
                pass
        return [row.completion for row in rows]

    def _row(self, index: int, ids: Sequence[int], max_new_tokens: int, seed: int) -> _Row:
        if not ids:
            raise ValueError("a prompt needs at least one token")
        room = self.context - len(ids)
        if room <= 0:
            raise ContextOverflow(
                f"a prompt of {len(ids)} tokens leaves no room for an answer in a context of {self.context}",
                hint="shorten the prompt",
            )
        full: Finish = "length" if max_new_tokens <= room else "context"
        return _Row(index, len(ids), min(max_new_tokens, room), full, random.Random(f"{seed}:{index}"))

    def _decode(
        self,
        rows: list[_Row],
        start: Callable[[], _Reader],
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

    def _take(self, row: _Row, sampled: int, stop: Collection[int]) -> bool:
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

    def _follow_tool(self, row: _Row, token: int) -> None:
        if token == self._python_start:
            row.expression = []
        elif token == self._python_end and row.expression is not None:
            result = calculate(self.tokenizer.decode(row.expression))
            row.expression = None
            if result is not None:
                row.queue.extend((self._output_start, *self.tokenizer.encode(result), self._output_end))
        elif row.expression is not None:
            row.expression.append(token)


class _Reader(Protocol):
    """The model's side of a running batch: reads tokens, gives logits fp32 [B, V]."""

    def prefill(self) -> Tensor:
        """Logits after the prompts."""
        ...

    def step(self, tokens: list[int]) -> Tensor:
        """Logits after one more token of every row."""
        ...

    def keep(self, slots: list[int]) -> None:
        """Drop all rows but these."""
        ...

    def close(self) -> None:
        """The end, whatever the reason."""
        ...


class _Sessions:
    """Rows that are sessions: their prompts go into histories, and so does every token of their completions."""

    def __init__(
        self, sessions: Sequence[Session], prompts: Sequence[Sequence[int]], completions: Sequence[Completion]
    ) -> None:
        from mccore.megacontext.session_batch import SessionBatch

        self._batch = SessionBatch(sessions)
        self._completions = list(completions)
        for session, ids in zip(sessions, prompts, strict=True):
            session.append(ids)
        self._begins = [session.tokens for session in sessions]

    def prefill(self) -> Tensor:
        for session in self._batch.sessions:
            session.refocus_next()  # what was asked decides what deserves detail
            session.watch()
        return torch.stack([session.read() for session in self._batch.sessions])

    def step(self, tokens: list[int]) -> Tensor:
        return self._batch.step(tokens)

    def keep(self, slots: list[int]) -> None:
        sessions = self._batch.sessions
        self._batch.keep(slots)
        for slot in set(range(len(sessions))) - set(slots):
            self._catch_up(sessions[slot], slot)
        self._begins = [self._begins[slot] for slot in slots]
        self._completions = [self._completions[slot] for slot in slots]

    def close(self) -> None:
        self._batch.release()
        for slot, session in enumerate(self._batch.sessions):
            self._catch_up(session, slot)

    def _catch_up(self, session: Session, slot: int) -> None:
        """The last tokens of a completion, which nothing had to be read after."""
        session.append(self._completions[slot].tokens[session.tokens - self._begins[slot] :])


class _Batch:
    """Rows of token ids that lie side by side: cache, padding and positions."""

    def __init__(
        self, model: GPT, prompts: Sequence[Sequence[int]], limit: int, context: int, prefix: Prefix | None
    ) -> None:
        self.model = model
        self.prefix = prefix
        self.copies = 1
        if len(prompts) > 1 and all(prompt == prompts[0] for prompt in prompts[1:]):
            self.copies = len(prompts)  # read once, copied to every row
            prompts = prompts[:1]
        columns = max(map(len, prompts))
        pads = [columns - len(prompt) for prompt in prompts]
        device = model.device
        self.tokens = torch.tensor([[0] * pad + list(prompt) for pad, prompt in zip(pads, prompts, strict=True)])
        self.tokens = self.tokens.to(device)  # [B, columns]
        self.padding: Tensor | None = torch.tensor(pads, device=device).unsqueeze(1) if any(pads) else None  # [B, 1]
        if prefix is None:
            self.cache = model.new_cache(len(prompts), columns + limit)
        else:
            if prefix.cache is None:
                prefix.cache = model.new_cache(1, min(context, PREFILL_CHUNK), grow=True)
            self.tokens = self.tokens[:, prefix.reuse(prompts[0]) :]
            self.cache = prefix.cache

    @torch.inference_mode()
    def prefill(self) -> Tensor:
        """Read the prompts; logits after their last tokens, fp32 [B, V]."""
        chunks = torch.split(self.tokens, PREFILL_CHUNK, dim=1)
        hidden = [self._read(chunk) for chunk in chunks][-1]
        logits = self.model.logits(hidden)
        if self.copies > 1:
            self.cache = self.cache.expand(self.copies)
            logits = logits.expand(self.copies, -1)
        return logits

    @torch.inference_mode()
    def step(self, tokens: list[int]) -> Tensor:
        """Read one more token of every row; logits after it, fp32 [B, V]."""
        return self.model.logits(self._read(torch.tensor(tokens, device=self.model.device).unsqueeze(1)))

    @torch.inference_mode()
    def keep(self, slots: list[int]) -> None:
        """Drop all rows but these."""
        index = torch.tensor(slots, device=self.model.device)
        cache = self.cache
        cache.keys, cache.values = cache.keys[:, index], cache.values[:, index]
        cache.embeddings = cache.embeddings[index]
        if self.padding is not None:
            self.padding = self.padding[index]

    def close(self) -> None:
        """Nothing is held that outlives the batch."""

    def _read(self, tokens: Tensor) -> Tensor:
        """Hidden state [B, D] of the last of `tokens` [B, T], which follow the cached ones."""
        start, count = self.cache.length, tokens.size(1)
        columns = torch.arange(start, start + count, device=tokens.device)
        if self.padding is None:
            hidden = self.model.hidden(tokens, positions=columns, cache=self.cache)
        else:
            seen = torch.arange(start + count, device=tokens.device)
            bias = torch.where(seen < self.padding, _HIDDEN, 0.0)  # [B, cached + T]
            hidden = self.model.hidden(
                tokens,
                positions=(columns - self.padding).clamp(min=0),
                attn_bias=bias[:, None, None, :],
                smear_mask=(columns > self.padding).float(),  # a row's first token has none before it
                cache=self.cache,
            )
        if self.prefix is not None:
            self.prefix.ids.extend(tokens[0].tolist())
        return hidden[:, -1]


@torch.inference_mode()
def choose(logits: Tensor, draws: Sequence[float], temperature: float, top_k: int) -> list[int]:
    """One token per row of logits [B, V]: the likeliest at temperature 0, else the one that the row's draw in [0, 1) hits
    in the cumulative distribution of the `top_k` likeliest (0: all)."""
    if temperature < 0:
        raise ValueError(f"temperature must not be negative, got {temperature}")
    if temperature == 0:
        return logits.argmax(dim=-1).tolist()
    ids: Tensor | None = None
    if 0 < top_k < logits.size(-1):
        logits, ids = logits.topk(top_k, dim=-1)
    cumulative = torch.softmax(logits.double() / temperature, dim=-1).cumsum(dim=-1)
    level = torch.tensor(draws, dtype=torch.float64, device=logits.device).unsqueeze(1) * cumulative[:, -1:]
    pick = torch.searchsorted(cumulative, level, right=True).clamp_(max=logits.size(-1) - 1)
    return (pick if ids is None else ids.gather(1, pick)).squeeze(1).tolist()
