"""What reads tokens for a running batch: rows of ids side by side, or sessions that hold a history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from mccore.generate.answer import Completion, Prefix

if TYPE_CHECKING:
    from mccore.megacontext.sessions.session import Session
    from mccore.model.gpt import GPT


PREFILL_CHUNK = 1024  # columns of one prefill pass: bounds the attention mask of padded batches

_HIDDEN = -1e30  # finite: a padding query that sees nothing at all would turn into NaN


class Reader(Protocol):
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


class SessionRows:
    """Rows that are sessions: their prompts go into histories, and so does every token of their completions."""

    def __init__(
        self, sessions: Sequence[Session], prompts: Sequence[Sequence[int]], completions: Sequence[Completion]
    ) -> None:
        from mccore.megacontext.sessions.batch import SessionBatch

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


class TokenRows:
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
