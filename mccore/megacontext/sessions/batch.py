"""Sessions that decode side by side: one pass of the model per token for all of them.

Their keys and values stand in one cache, every row pushed to the right, so that the newest entries share a column. What is
left of a row's first entry is hidden. A row that refocuses leaves the others where they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mccore.megacontext.sessions.session import Session
from mccore.model.kv_cache import KVCache

SLACK = 64  # columns beside the budget: so many tokens until the rows are pushed back
_HIDDEN = -1e30  # finite: nothing may turn into NaN


class SessionBatch:
    """B sessions of one `SessionModel`, all of them read to their ends.

    While it is in use the sessions' own caches are behind; `release` brings them up to date, and so must end every use.
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        self.sessions = list(sessions)
        self.model = self.sessions[0].model
        if any(session.model is not self.model for session in self.sessions):
            raise ValueError("sessions that decode together share one SessionModel")
        if len(set(map(id, self.sessions))) < len(self.sessions):
            raise ValueError("a session can't be in a batch twice")
        self._cache: KVCache | None = None
        self._ahead: list[int] = []  # entries of each row that its own cache hasn't got yet
        self._pads = torch.empty(0)  # [B, 1], columns before each row's first entry

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """One more token for every session: logits of the next ones, fp32 [B, V]. Errors as those of `Session.read`."""
        if len(self.sessions) == 1:
            self.sessions[0].append_token(tokens[0])
            return self.sessions[0].read().unsqueeze(0)
        if self._cache is None:
            self._pack()
        for row, (session, token) in enumerate(zip(self.sessions, tokens, strict=True)):
            if session.needs_more_than_a_pass(token):
                self._unload(row)
            if session.read_all_but(token):
                self._load(row)
        assert self._cache is not None
        if self._cache.length == self._cache.capacity:
            self._pack()
        return self._pass(tokens)

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        kept = list(rows)
        for row in set(range(len(self.sessions))) - set(kept):
            self._unload(row)
        if self._cache is not None and len(kept) > 1:
            at = torch.tensor(kept, device=self._pads.device)
            cache = self._cache
            cache.keys, cache.values, cache.embeddings = cache.keys[:, at], cache.values[:, at], cache.embeddings[at]
            cache.key_bias = None if cache.key_bias is None else cache.key_bias[at]
            self._ahead, self._pads = [self._ahead[row] for row in kept], self._pads[at]
        elif kept:
            self._unload(kept[0])
            self._cache = None
        self.sessions = [self.sessions[row] for row in kept]

    @torch.inference_mode()
    def release(self) -> None:
        """Give every session its keys and values back; the batch can be used again afterwards."""
        for row in range(len(self.sessions)):
            self._unload(row)
        self._cache = None

    def _pass(self, tokens: Sequence[int]) -> Tensor:
        cache, device = self._cache, self.model.gpt.device
        assert cache is not None
        columns = torch.arange(cache.length + 1, device=device)
        hidden = self.model.gpt.hidden(
            torch.tensor(tokens, device=device).unsqueeze(1),
            positions=torch.tensor([[session.covered - 1] for session in self.sessions], device=device),
            smear_mask=torch.tensor([[float(s.working_context.ends_in_token())] for s in self.sessions], device=device),
            attn_bias=torch.where(columns < self._pads, _HIDDEN, 0.0)[:, None, None, :],
            key_bias_weights=None if cache.key_bias is None else self.model.nets.bias.weights,
            cache=cache,
        )
        logits = self.model.gpt.logits(hidden[:, -1])
        for row, session in enumerate(self.sessions):
            self._ahead[row] += 1
            session.working_context.hold_tokens(1)
            session.take_logits(logits[row])
        return logits

    def _pack(self) -> None:
        """All rows in a new cache, the longest from its first column on."""
        for row in range(len(self.sessions)):
            self._unload(row)
        lengths = [session.working_context.cache.length for session in self.sessions]
        rows, device = len(self.sessions), self.model.gpt.device
        self._cache = self.model.gpt.new_cache(rows, self.model.settings.budget + SLACK)
        self._cache.length = max(lengths)
        self._ahead = [0] * rows
        self._pads = torch.zeros((rows, 1), dtype=torch.int64, device=device)
        for row in range(rows):
            self._load(row)

    def _load(self, row: int) -> None:
        """A row's own cache into the batch's."""
        own, cache = self.sessions[row].working_context.cache, self._cache
        assert cache is not None
        if own.length > cache.length:  # longer than any other: the others make room
            self._pack()
            return
        first = cache.length - own.length
        cache.keys[:, row, :, first : cache.length] = own.keys[:, 0, :, : own.length]
        cache.values[:, row, :, first : cache.length] = own.values[:, 0, :, : own.length]
        cache.embeddings[row, first : cache.length] = own.embeddings[0, : own.length]
        if own.key_bias is not None:
            if cache.key_bias is None:
                cache.key_bias = own.key_bias.new_zeros((cache.rows, cache.capacity, own.key_bias.size(-1)))
            cache.key_bias[row, first : cache.length] = own.key_bias[0, : own.length]
        elif cache.key_bias is not None:
            cache.key_bias[row, : cache.length] = 0.0
        self._pads[row] = first

    def _unload(self, row: int) -> None:
        """What the batch has read of a row into its own cache."""
        session, cache = self.sessions[row], self._cache
        if cache is None:
            return
        own, count = session.working_context.cache, self._ahead[row]
        if not count:
            return
        held, stop = own.length, cache.length
        own.reserve(1, count)
        own.keys[:, 0, :, held : held + count] = cache.keys[:, row, :, stop - count : stop]
        own.values[:, 0, :, held : held + count] = cache.values[:, row, :, stop - count : stop]
        own.embeddings[0, held : held + count] = cache.embeddings[row, stop - count : stop]
        if own.key_bias is not None:
            own.key_bias[0, held : held + count] = 0.0  # only tokens are read here
        own.advance(count)
        self._ahead[row] = 0
