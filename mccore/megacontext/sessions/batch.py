"""Sessions that decode side by side: one pass of the model per token for all of them.

Their keys and values stand in one cache, every row pushed to the right, so that the newest entries share a column. What is
left of a row's first entry is hidden. A row that refocuses, joins or leaves lets the others stay where they are: the cache has
room for some more, and the last row takes the place of one that left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mccore.megacontext.sessions.lookup.of_session import mix
from mccore.megacontext.sessions.reading import RowsFailed
from mccore.megacontext.sessions.session import Session, Work
from mccore.model.kv_cache import HIDDEN, KVCache

SLACK = 64  # columns beside the Working Context: so many tokens until the rows are pushed back


@dataclass(eq=False)
class _Row:
    """A session's place in the batch."""

    session: Session
    place: int = 0  # its row of the cache
    pad: int = 0  # columns before its first entry
    bring_back: Callable[[], None] = lambda: None  # copies what the batch has read of it into its own cache
    ahead: int = 0  # newest entries that its own cache hasn't got yet
    work: Work | None = None  # what is left to do of a step that another row's failure broke off


class SessionBatch:
    """Sessions of one `SessionModel`, all of them read up to the tokens that `step` reads.

    A session whose keys and values are wanted elsewhere gets them from the batch; `release` gives all of them back.
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._rows: list[_Row] = []
        self._cache: KVCache | None = None  # has some more rows than there are sessions
        self._bias: Tensor | None = None  # `_hidden_columns`, until a row changes
        self.add(sessions)

    @property
    def sessions(self) -> list[Session]:
        """The sessions, in the order of the rows."""
        return [row.session for row in self._rows]

    @torch.inference_mode()
    def add(self, sessions: Sequence[Session]) -> None:
        """Let sessions join, behind those there are. Raises ValueError for another model's, or one that is there already."""
        together = [*self.sessions, *sessions]
        self.model = together[0].model
        if any(session.model is not self.model for session in together):
            raise ValueError("sessions that decode together share one SessionModel")
        if len(set(map(id, together))) < len(together):
            raise ValueError("a session can't be in a batch twice")
        for session in sessions:
            row = _Row(session, len(self._rows))
            if self._cache is not None and row.place >= self._cache.rows:
                self.release()
            self._rows.append(row)
            if self._cache is not None:
                self._load(row)

    @torch.inference_mode()
    def step(self) -> Tensor:
        """Read the token that was appended to every session: logits of the next ones, fp32 [B, V].

        Raises RowsFailed where what a session does by itself fails; once `keep` has dropped those rows, `step` goes on with
        the others. What the pass over all of them raises is every row's.
        """
        if len(self._rows) == 1:
            return self._read_alone(self._rows[0])
        if self._cache is None:
            self._pack()
        failed: dict[int, Exception] = {}
        for number, row in enumerate(self._rows):
            if row.work is None or row.session.unread:
                try:
                    row.work = row.session.advance()
                except Exception as error:
                    failed[number] = error
        if failed:
            raise RowsFailed(failed)
        work = [row.work for row in self._rows if row.work is not None]
        for row, each in zip(self._rows, work, strict=True):
            row.work = None
            if each.changed:
                self._load(row)
        assert self._cache is not None
        if self._cache.length == self._cache.capacity:
            self._pack()
        return self._pass(work)

    @staticmethod
    def _read_alone(row: _Row) -> Tensor:
        row.work = None  # `read` reads what is due, whatever was begun
        try:
            return row.session.read().unsqueeze(0)
        except Exception as error:
            raise RowsFailed({0: error}) from error

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in this order."""
        kept = [self._rows[row] for row in rows]
        for row in self._rows:
            if row not in kept or len(kept) == 1:
                self._unload(row)
        self._rows, cache = kept, self._cache
        self._bias = None
        if cache is None or len(kept) == 1:
            self._cache = None
            return
        taken = {row.place for row in kept}
        free = [place for place in range(len(kept)) if place not in taken]
        for row in kept:
            if row.place >= len(kept):
                place = free.pop()
                cache.copy_row(place, row.pad, cache, row.place, slice(row.pad, cache.length))
                row.place = place

    @torch.inference_mode()
    def release(self) -> None:
        """Give every session its keys and values back; the batch can be used again afterwards."""
        for row in self._rows:
            self._unload(row)
        self._cache = self._bias = None

    def _pass(self, work: Sequence[Work]) -> Tensor:
        assert self._cache is not None
        cache, device = self._cache.first_rows(len(work)), self.model.gpt.device
        order = [row.place for row in self._rows]
        placed = [work[row] for row in sorted(range(len(work)), key=order.__getitem__)]
        hidden = self.model.gpt.hidden(
            torch.tensor([[each.token] for each in placed], device=device),
            positions=torch.tensor([[each.position] for each in placed], device=device),
            smear_mask=torch.tensor([[float(each.after_token)] for each in placed], device=device),
            attn_bias=self._hidden_columns()[..., : cache.length + 1],
            key_bias_weights=None if cache.key_bias is None else self.model.nets.bias.weights,
            cache=cache,
        )[:, -1]
        self._cache.advance(1)
        logits = self.model.gpt.logits(hidden if order == sorted(order) else hidden[order])
        for row, after in zip(self._rows, logits.unbind(0), strict=True):
            row.ahead += 1
            row.session.working_context.lend(row.bring_back)
            row.session.accept(after)
        return self._said(logits)

    def _hidden_columns(self) -> Tensor:
        """What hides the columns before each row's first entry: [B, 1, 1, capacity], by place."""
        if self._bias is None:
            assert self._cache is not None
            pads = [0] * len(self._rows)
            for row in self._rows:
                pads[row.place] = row.pad
            columns = torch.arange(self._cache.capacity, device=self.model.gpt.device)
            before = columns < torch.tensor(pads, device=columns.device).unsqueeze(1)
            self._bias = torch.where(before, HIDDEN, 0.0)[:, None, None, :]
        return self._bias

    def _said(self, logits: Tensor) -> Tensor:
        """The logits [B, V] after all that the sessions have read, with what their lookups add: one pass for all of them."""
        mixer, sessions = self.model.mixer, self.sessions
        lookups = [session.lookup for session in sessions if session.lookup is not None]
        if mixer is None or not lookups:
            return logits
        mixed = mix(mixer, lookups, [session.reading for session in sessions], logits)
        for session, row in zip(sessions, mixed, strict=True):
            session.reading.mix(row)
        return mixed

    def _pack(self) -> None:
        """All rows in a new cache, the longest from its first column on."""
        for row in self._rows:
            self._unload(row)
        lengths = [session.working_context.cache.length for session in self.sessions]
        room = len(lengths) + len(lengths) // 4
        self._cache = self.model.gpt.new_cache(room, self.model.options.wc_length + SLACK)
        self._cache.advance(max(lengths))
        for place, row in enumerate(self._rows):
            row.place = place
            self._load(row)

    def _load(self, row: _Row) -> None:
        """A row's own cache into the batch's."""
        own, cache = row.session.working_context.cache, self._cache
        assert cache is not None
        if own.length > cache.length:  # longer than any other: the others make room
            self._pack()
            return
        row.pad, row.bring_back, self._bias = cache.length - own.length, partial(self._unload, row), None
        cache.copy_row(row.place, row.pad, own)

    @torch.inference_mode()
    def _unload(self, row: _Row) -> None:
        """What the batch has read of a row into its own cache."""
        cache, count = self._cache, row.ahead
        row.ahead = 0
        if cache is None or not count:
            return
        own, stop = row.session.working_context.take_back(), cache.length
        own.reserve(1, count)
        own.copy_row(0, own.length, cache, row.place, slice(stop - count, stop))
        own.advance(count)
