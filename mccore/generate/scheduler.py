"""A running batch: requests join it between two tokens, and leave when they end.

Rows of a batch end at the same column: shorter prompts are padded on the left, the padding is hidden from attention and
positions count from each row's own first token, so a row gets the tokens it would get alone. Each row draws from a random
stream of its own, so it doesn't matter which other rows are there or when they end.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mccore.errors import CheckpointError
from mccore.generate.answer import Answer, Finish, Request, TokenLogprobs
from mccore.generate.readers import Reader, SessionRows, TokenRows
from mccore.generate.sampling import choose
from mccore.generate.tools import ToolUse
from mccore.megacontext.sessions.reading import RowsFailed

if TYPE_CHECKING:
    from mccore.model.gpt import GPT


@dataclass(eq=False)
class Running:
    """A request on its way, of at most `limit` tokens; `full` is why it ends there. `tool` is None for a model without."""

    request: Request
    answer: Answer
    limit: int
    full: Finish
    stop: Collection[int]
    tool: ToolUse | None

    def __post_init__(self) -> None:
        self.draws = random.Random(f"{self.request.sampling.seed}:{self.request.stream}")

    @property
    def forced(self) -> bool:
        """Whether the next token is the tool's."""
        return bool(self.tool and self.tool.pending)

    @property
    def goes_on(self) -> bool:
        """Whether the answer hasn't ended."""
        return self.answer.finish is None and self.answer.error is None

    def draw(self) -> float:
        """The next number of the stream, where one is needed."""
        return 0.0 if self.forced or not self.request.sampling.temperature else self.draws.random()

    def take(self, sampled: int) -> int | None:
        """Add the next token: tool output if some is due, else the sampled one. None where that ends the answer."""
        answer, forced = self.answer, self.forced
        token = self.tool.pending.popleft() if self.tool and forced else sampled
        if not forced and token in self.stop:
            answer.finish, answer.stopped_by = "stop", token
            return None
        answer.tokens.append(token)
        answer.forced.append(forced)
        if self.tool and not forced:
            self.tool.follow(token)
        if len(answer.tokens) >= self.limit:
            answer.finish = self.full
        return token


@dataclass(eq=False)
class _Batch:
    """Rows that are read together. `logits` [B, V] come after their newest tokens, None while these are unread."""

    reader: Reader
    rows: list[Running]
    logits: Tensor | None = None


class Scheduler:
    """Generation for any number of requests, one token of each per `step`. max_rows: more wait for others to end."""

    def __init__(self, model: GPT, *, max_rows: int | None = None) -> None:
        self.model = model
        self.max_rows = max_rows
        self._waiting: deque[Running] = deque()
        self._batches: list[_Batch] = []
        self._errors: list[Exception] = []  # of requests that have ended with one, since the last step

    def add(self, running: Running) -> Answer:
        """Let a request join at the next step. Raises ValueError for a session that is answering already."""
        session = running.request.session
        if session is not None and any(other.request.session is session for other in self._all()):
            raise ValueError("a session can't be in a batch twice")
        if running.limit <= 0:
            running.answer.finish = running.full
        else:
            self._waiting.append(running)
        return running.answer

    @property
    def busy(self) -> bool:
        """Whether more may come of any answer."""
        return bool(self._waiting or self._batches)

    def runs(self, answer: Answer) -> bool:
        """Whether more may come of an answer."""
        return any(running.answer is answer for running in self._all())

    def step(self) -> list[tuple[Answer, int]]:
        """One token for every request: the (answer, token) pairs that were added.

        What goes wrong with one request, as what `Session.read` raises, ends that one and no other. It is in `Answer.error`, and
        is raised once all others have their token. Raises CheckpointError for a model whose output isn't a number.
        """
        for batch in list(self._batches):
            if batch.logits is None:
                self._read(batch)
        self._admit()
        added = [pair for batch in list(self._batches) for pair in self._take(batch)]
        if self._errors:
            first, self._errors = self._errors[0], []
            raise first
        return added

    def cancel(self, answer: Answer) -> None:
        """End an answer here: what was generated stays, and a session it came from holds all of it."""
        self._waiting = deque(running for running in self._waiting if running.answer is not answer)
        for batch in list(self._batches):
            self._keep(batch, [row for row, running in enumerate(batch.rows) if running.answer is not answer])

    def _all(self) -> Iterator[Running]:
        yield from self._waiting
        for batch in self._batches:
            yield from batch.rows

    def _read(self, batch: _Batch) -> None:
        """Let a batch read its newest tokens; rows that can't leave it."""
        while batch.rows:
            try:
                batch.logits = batch.reader.step()
                return
            except RowsFailed as failed:
                self._fail(batch, failed.errors)
            except Exception as error:
                self._fail(batch, dict.fromkeys(range(len(batch.rows)), error))

    def _admit(self) -> None:
        """Read the prompts of those who wait: ids side by side, sessions and prefixes each alone."""
        room = len(self._waiting)
        if self.max_rows is not None:
            room = min(room, self.max_rows - sum(len(batch.rows) for batch in self._batches))
        chosen = [self._waiting.popleft() for _ in range(room)]
        plain = [each for each in chosen if each.request.session is None and each.request.prefix is None]
        groups = [plain] if plain else []
        groups += [[each] for each in chosen if each not in plain]
        while groups:
            group = groups.pop(0)
            try:
                self._begin(group)
            except Exception as error:
                for running in group:
                    self._end(running, error)
            except BaseException:  # the others are read next time
                self._waiting.extendleft(running for later in reversed(groups) for running in reversed(later))
                raise

    def _begin(self, group: list[Running]) -> None:
        """Read the prompts of a group, and let it join those that can be read with it."""
        reader = self._reader(group)
        try:
            new = _Batch(reader, group, _prefill(reader))
        except BaseException:
            reader.close()
            raise
        self._batches.append(new)
        self._join(new)

    def _reader(self, group: Sequence[Running]) -> Reader:
        requests = [running.request for running in group]
        if requests[0].session is not None:
            return SessionRows(requests)
        room = max(running.limit for running in group)
        return TokenRows(self.model, [request.ids for request in requests], room, requests[0].prefix)

    def _join(self, new: _Batch) -> None:
        """Put a batch together with another one, where they can be read together."""
        for batch in self._batches:
            if batch is not new and batch.reader.takes(new.reader):
                assert batch.logits is not None
                assert new.logits is not None
                self._batches.remove(new)
                there = len(batch.rows)
                batch.rows += new.rows
                try:
                    batch.reader.join(new.reader)
                    batch.logits = torch.cat((batch.logits, new.logits))
                except Exception as error:
                    new.reader.close()
                    for running in batch.rows[there:]:
                        self._end(running, error)
                    del batch.rows[there:]
                    self._fail(batch, dict.fromkeys(range(there), error))
                return

    def _take(self, batch: _Batch) -> list[tuple[Answer, int]]:
        assert batch.logits is not None
        added = []
        logits = batch.logits
        sampled = _sample(logits, batch.rows)
        batch.logits = None
        for row, (running, token) in enumerate(zip(batch.rows, sampled, strict=True)):
            taken = running.take(token)
            if taken is None:
                continue
            if running.request.logprobs is not None:
                running.answer.logprobs.append(_logprobs(logits[row], taken, running.request.logprobs))
            try:
                batch.reader.push(row, taken)
                added.append((running.answer, taken))
            except Exception as error:
                self._end(running, error)
        going_on = [row for row, running in enumerate(batch.rows) if running.goes_on]
        self._keep(batch, going_on)
        return added

    def _keep(self, batch: _Batch, rows: list[int]) -> None:
        if len(rows) == len(batch.rows):
            return
        try:
            if rows:
                batch.reader.keep(rows)
        except Exception as error:
            for row in rows:
                self._end(batch.rows[row], error)
            rows = []
        batch.rows = [batch.rows[row] for row in rows]
        batch.logits = None if batch.logits is None else batch.logits[rows]
        if not rows:
            self._batches.remove(batch)
            batch.reader.close()

    def _fail(self, batch: _Batch, errors: Mapping[int, Exception]) -> None:
        """End rows of a batch, each with its error."""
        for row, error in errors.items():
            self._end(batch.rows[row], error)
        self._keep(batch, [row for row in range(len(batch.rows)) if row not in errors])

    def _end(self, running: Running, error: Exception) -> None:
        running.answer.error = error
        running.answer.finish = None
        self._errors.append(error)


def _prefill(reader: Reader) -> Tensor:
    logits = reader.prefill()
    if not torch.isfinite(logits).all():
        raise CheckpointError("the model's output is not a number", hint="use an earlier checkpoint; training diverged")
    return logits


def _sample(logits: Tensor, rows: Sequence[Running]) -> list[int]:
    """A token for each row of logits [B, V], by its own sampling."""
    draws = [running.draw() for running in rows]
    kinds: dict[tuple[float, int, float], list[int]] = {}
    for row, running in enumerate(rows):
        sampling = running.request.sampling
        kinds.setdefault((sampling.temperature, sampling.top_k, sampling.top_p), []).append(row)
    sampled = [0] * len(rows)
    for kind, mine in kinds.items():
        part = logits if len(kinds) == 1 else logits[mine]
        for row, token in zip(mine, choose(part, [draws[row] for row in mine], *kind), strict=True):
            sampled[row] = token
    return sampled


def _logprobs(logits: Tensor, token: int, most: int) -> TokenLogprobs:
    """What the model thought of a token, and of the `most` likeliest, by logits [V]."""
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    values, ids = logprobs.topk(min(most, len(logprobs)))
    return TokenLogprobs(float(logprobs[token]), list(zip(ids.tolist(), values.tolist(), strict=True)))
