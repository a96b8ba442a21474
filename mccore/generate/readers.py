"""What reads tokens for a running batch: rows of ids side by side, or sessions that hold a history."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeGuard

import torch
from torch import Tensor

from mccore.generate.answer import Prefix, Request
from mccore.model.kv_cache import HIDDEN

if TYPE_CHECKING:
    from mccore.megacontext.sessions.session import Session
    from mccore.model.gpt import GPT


PREFILL_CHUNK = 1024  # columns of one prefill pass: bounds the attention mask of padded batches


class Reader(Protocol):
    """The model's side of a running batch of B rows: takes tokens, gives logits fp32 [B, V]."""

    def prefill(self) -> Tensor:
        """Logits after the prompts."""
        ...

    def push(self, row: int, token: int) -> None:
        """A row's next token, which `step` reads."""
        ...

    def step(self) -> Tensor:
        """Logits after the tokens that were pushed, one of every row. Raises RowsFailed where some rows fail: without those it
        goes on."""
        ...

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these."""
        ...

    def takes(self, other: Reader) -> bool:
        """Whether the rows of another reader can join."""
        ...

    def join(self, other: Reader) -> None:
        """Take over another reader's rows, behind its own. What was pushed has been read, there and here."""
        ...

    def close(self) -> None:
        """The end, whatever the reason."""
        ...


class SessionRows:
    """Rows that are sessions: their prompts go into histories, and so does every token of their answers."""

    def __init__(self, requests: Sequence[Request]) -> None:
        from mccore.megacontext.sessions.batch import SessionBatch

        sessions = [request.session for request in requests if request.session is not None]
        self._batch = SessionBatch(sessions)
        for session, request in zip(sessions, requests, strict=True):
            session.append(request.ids)

    def prefill(self) -> Tensor:
        for session in self._batch.sessions:
            session.refocus_next()  # what was asked decides what deserves detail
            session.watch()
        return torch.stack([session.read() for session in self._batch.sessions])

    def push(self, row: int, token: int) -> None:
        self._batch.sessions[row].append_token(token)

    def step(self) -> Tensor:
        return self._batch.step()

    def keep(self, rows: list[int]) -> None:
        sessions = self._batch.sessions
        self._batch.keep(rows)
        _settle([session for row, session in enumerate(sessions) if row not in rows])

    def takes(self, other: Reader) -> TypeGuard[SessionRows]:
        return isinstance(other, SessionRows) and other._batch.model is self._batch.model

    def join(self, other: Reader) -> None:
        assert self.takes(other)
        other._batch.release()
        self._batch.add(other._batch.sessions)

    def close(self) -> None:
        self._batch.release()
        _settle(self._batch.sessions)


def _settle(sessions: Sequence[Session]) -> None:
    """Bring what was said into the trees of sessions whose answers have ended."""
    for session in sessions:
        with contextlib.suppress(
            Exception
        ):  # a full disk, say: the tokens wait, and whoever uses the session next is told
            session.history.settle()


class TokenRows:
    """Rows of token ids that lie side by side: cache, padding and positions.

    room: columns for the longest answer. prefix: of the only request, if any: its cache is used, and grows as it needs to.
    """

    def __init__(self, model: GPT, prompts: Sequence[Sequence[int]], room: int, prefix: Prefix | None = None) -> None:
        self.model, self.prefix = model, prefix
        self.copies = 1
        if len(prompts) > 1 and all(prompt == prompts[0] for prompt in prompts[1:]):
            self.copies = len(prompts)  # read once, copied to every row
            prompts = prompts[:1]
        columns = max(map(len, prompts))
        self.pads = [columns - len(prompt) for prompt in prompts]
        self._padded = any(self.pads)  # once padded, always: the same sums whoever has left
        rows = [[0] * pad + list(prompt) for pad, prompt in zip(self.pads, prompts, strict=True)]
        self.tokens = torch.tensor(rows).to(model.device)  # [B, columns]
        self._next: list[int] = []
        if prefix is None:
            self.cache = model.new_cache(len(prompts), columns + room)
        else:
            if prefix.cache is None:
                prefix.cache = model.new_cache(1, min(columns + room, PREFILL_CHUNK), grow=True)
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
            self.pads = self.pads * self.copies
            logits = logits.expand(self.copies, -1)
        self._next = [0] * len(self.pads)
        return logits

    def push(self, row: int, token: int) -> None:
        self._next[row] = token

    @torch.inference_mode()
    def step(self) -> Tensor:
        """Read one more token of every row; logits after it, fp32 [B, V]."""
        return self.model.logits(self._read(torch.tensor(self._next, device=self.model.device).unsqueeze(1)))

    @torch.inference_mode()
    def keep(self, rows: list[int]) -> None:
        self.cache.keep_rows(rows)
        self.pads, self._next = [self.pads[row] for row in rows], [self._next[row] for row in rows]

    def takes(self, other: Reader) -> TypeGuard[TokenRows]:
        return isinstance(other, TokenRows) and self.prefix is None and other.prefix is None

    @torch.inference_mode()
    def join(self, other: Reader) -> None:
        """Take over another reader's rows: both end at the same column of a new cache."""
        assert self.takes(other)
        parts = [self, other]
        length = max(part.cache.length for part in parts)
        room = max(part.cache.capacity - part.cache.length for part in parts)
        cache = self.model.new_cache(sum(part.cache.rows for part in parts), length + room)
        pads: list[int] = []
        for part in parts:
            shift = length - part.cache.length
            for row, pad in enumerate(part.pads):
                cache.copy_row(len(pads), shift, part.cache, row)
                pads.append(shift + pad)
        cache.advance(length)
        self.cache, self.pads, self._padded = cache, pads, any(pads)
        self._next = [*self._next, *other._next]

    def close(self) -> None:
        """Nothing is held that outlives the batch."""

    def _read(self, tokens: Tensor) -> Tensor:
        """Hidden state [B, D] of the last of `tokens` [B, T], which follow the cached ones."""
        start, count = self.cache.length, tokens.size(1)
        columns = torch.arange(start, start + count, device=tokens.device)
        if not self._padded:
            hidden = self.model.hidden(tokens, positions=columns, cache=self.cache)
        else:
            padding = torch.tensor(self.pads, device=tokens.device).unsqueeze(1)  # [B, 1]
            seen = torch.arange(start + count, device=tokens.device)
            bias = torch.where(seen < padding, HIDDEN, 0.0)  # [B, cached + T]
            hidden = self.model.hidden(
                tokens,
                positions=(columns - padding).clamp(min=0),
                attn_bias=bias[:, None, None, :],
                smear_mask=(columns > padding).float(),  # a row's first token has none before it
                cache=self.cache,
            )
        if self.prefix is not None:
            self.prefix.ids.extend(tokens[0].tolist())
        return hidden[:, -1]
