"""Keys and values of one Working Context as it grows and is edited: what of it the GPT has to read again.

Two policies after a refocus. `exact` keeps the entries before the first edit and reads all the others anew: what is held is what
reading the whole Working Context gives. `reuse` reads only the entries that are new; those behind an edit keep keys and values
that were made with what stood there before.

With `token_positions = contiguous` an edit also moves the tokens before it, those that are shown from far away. `exact` reads
them anew; `reuse` turns their keys to the new places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mccore.megacontext.networks.networks import MegaContextNets
from mccore.megacontext.networks.positions import Spans, span_rotary, spans_of
from mccore.megacontext.networks.span_bias import excess_mass
from mccore.megacontext.sessions.options import KvPolicy
from mccore.megacontext.tree.cut import Cut, contiguous_centres
from mccore.megacontext.tree.edits import append
from mccore.megacontext.tree.tree import Entries
from mccore.model.attention import attend_in_order
from mccore.model.gpt import GPT
from mccore.model.kv_cache import KVCache
from mccore.model.rotary import rotary

CHUNK = 1024  # entries of one pass: bounds the mask and the activations of a long Working Context


class WorkingContextCache:
    """The cut that a model has read, entry by entry, and its keys and values. Read under `torch.inference_mode`."""

    def __init__(self, gpt: GPT, nets: MegaContextNets, capacity: int) -> None:
        self.gpt, self.nets = gpt, nets
        self._cache = gpt.new_cache(1, capacity)
        self._bring_back: Callable[[], None] | None = (
            None  # where another cache has read on, what copies that into this one
        )
        self._excess = 0.0  # what biases of gists are less by
        self.entries_read = 0  # in all passes so far: what refocusing costs beside the new tokens
        self._cut = Cut(np.empty(0, dtype=np.int8), np.empty(0, dtype=np.int64), nets.config.block_size)
        self._centre = self._cut.centre  # where its entries stand, [L]
        self._behind = 0  # tokens read behind `_cut`: an array that grows by one per token would cost more than it says

    @property
    def cache(self) -> KVCache:
        """The keys and values, all that have been read."""
        if self._bring_back is not None:
            self._bring_back()
        return self._cache

    @property
    def nbytes(self) -> int:
        """Bytes of its keys and values, wherever the newest of them are."""
        return self._cache.nbytes

    def lend(self, bring_back: Callable[[], None]) -> None:
        """Another cache reads on behind this one: `bring_back`, which calls `take_back`, is called once this one is needed."""
        self._bring_back = bring_back

    def take_back(self) -> KVCache:
        """The keys and values as this cache has them, which nothing else reads on from now on."""
        self._bring_back = None
        return self._cache

    @property
    def cut(self) -> Cut:
        """What has been read."""
        if self._behind:
            self._cut = append(self._cut, self._behind)
            self._centre = np.concatenate([self._centre, self._cut.centre[-self._behind :]])
            self._behind = 0
        return self._cut

    @property
    def entries(self) -> int:
        """How many entries have been read."""
        return len(self._cut) + self._behind

    def ends_in_token(self) -> bool:
        """Whether the newest entry is a token, of which the next one takes its share."""
        return bool(self._behind or (len(self._cut) and self._cut.level[-1] == 0))

    def read_tokens(self, tokens: Tensor, position: int) -> Tensor:
        """Tokens [t], the first at `position`, which come behind what is held, something at least: hidden states [t, D]."""
        count, device = len(tokens), self.gpt.device
        mask = None
        if not self.ends_in_token():
            mask = torch.ones((1, count), device=device)
            mask[0, 0] = 0
        hidden = self.gpt.hidden(
            tokens.unsqueeze(0),
            positions=torch.arange(position, position + count, device=device),
            smear_mask=mask,
            key_bias_weights=self._weights(),
            cache=self.cache,
        )
        self.hold_tokens(count)
        return hidden[0]

    def hold_tokens(self, count: int) -> None:
        """Count so many more tokens as read, in a pass of this cache or of another one that is copied into it."""
        self._behind += count
        self.entries_read += count

    def adopt(self, cut: Cut) -> None:
        """Take the cache as it is for what reading `cut` has left."""
        self._excess = self._excess_of(cut)
        self._hold(cut, self._places(cut))

    def _hold(self, cut: Cut, centre: NDArray[np.float64]) -> None:
        """Say which entries the cache holds, and where they stand."""
        self._cut, self._centre, self._behind = cut, centre, 0

    def _places(self, cut: Cut) -> NDArray[np.float64]:
        """Where the entries of a whole cut stand, in tokens: [L]."""
        if self.nets.config.token_positions == "contiguous":
            return contiguous_centres(cut.level, cut.index, cut.block_size)
        return cut.centre

    def read(self, cut: Cut, entries_of: Callable[[Cut], Entries], policy: KvPolicy = "exact") -> Tensor:
        """Hold `cut` instead, reading what is new, at least its last entry: that one's hidden state [1, D].

        `entries_of` gives the entries of a part of the cut, as `Tree.entries` does. `cut` has an entry at least.
        """
        return self._read(cut, entries_of, policy, 1, 0)

    def prepare(
        self, cut: Cut, entries_of: Callable[[Cut], Entries], policy: KvPolicy = "exact", *, later: int = 0
    ) -> None:
        """`read` for who only wants the keys and values: an entry that is held already isn't read again.

        later: how many tokens come behind the cut at once, in a pass of their own.
        """
        self._read(cut, entries_of, policy, 0, later)

    def _read(self, cut: Cut, entries_of: Callable[[Cut], Entries], policy: KvPolicy, least: int, later: int) -> Tensor:
        """`least`: how many of the last entries are read in any case."""
        first = same_prefix(self.cut, cut)
        edited = first < len(self.cut)
        if edited and policy == "reuse":
            return self._read_new(cut, entries_of, least, later)
        centre = self._places(cut)
        elsewhere = self._centre[:first] != centre[:first]
        if elsewhere.any():
            first = int(np.argmax(elsewhere))
        excess = self._excess_of(cut)
        moved = (
            edited and self.nets.config.positional == "gaussian_alibi"
        )  # its biases go by the distance to the newest token
        if (moved or excess != self._excess) and cut.level.any():
            first = min(first, int(np.argmax(cut.level > 0)))
        self._excess = excess
        first = min(first, len(cut) - least)
        self.cache.truncate(first)
        self._hold(cut_part(cut, slice(0, first)), centre[:first])  # true at every moment, whatever fails
        hidden = torch.empty(0, 0)
        for start in range(first, len(cut), CHUNK):
            stop = min(len(cut), start + CHUNK)
            part = cut_part(cut, slice(start, stop))
            before = start > 0 and cut.level[start - 1] == 0
            at = np.arange(start, stop)
            hidden = self.gpt.hidden(**self._inputs(cut, centre, at, entries_of(part), before, later))
            self._hold(cut_part(cut, slice(0, stop)), centre[:stop])
            self.entries_read += stop - start
        return hidden[:, -1:].flatten(0, 1)

    def _read_new(self, cut: Cut, entries_of: Callable[[Cut], Entries], least: int, later: int) -> Tensor:
        """`_read` that keeps all there is of the cut, wherever it stands.

        A new token behind a kept one takes its share of that one's embedding: the kept one goes through the pass as well,
        seen by nobody, and what it gives is dropped.
        """
        excess = self._excess_of(cut)
        self.cache.shift_key_bias(torch.from_numpy(self.cut.level > 0).to(self.gpt.device), self._excess - excess)
        self._excess = excess
        at, centre = positions_in(self.cut, cut), self._places(cut)  # [L], -1 for new ones
        at[len(cut) - least :] = -1
        raw = cut.level == 0
        new = np.flatnonzero(at < 0)
        behind = new[(new > 0) & raw[new] & raw[new - 1]] - 1
        lent = behind[at[behind] >= 0]
        passed = np.sort(np.concatenate([new, lent]))
        kept = np.flatnonzero(at >= 0)
        hidden_keys = np.concatenate([np.zeros(len(kept), dtype=bool), np.isin(passed, lent)])
        places = np.concatenate([kept, passed])
        device = self.gpt.device
        self.cache.select(torch.from_numpy(at[kept]).to(device))
        moved = centre[kept] - self._centre[at[kept]]
        if moved.any():
            config = self.gpt.config
            self.cache.turn(rotary(torch.from_numpy(moved).to(device), config.head_dim, config.rope_base))
        self._hold(cut_part(cut, kept), centre[kept])
        if not len(passed):
            return torch.empty(0)
        self.cache.reserve(1, len(passed), grow=True)
        inputs = self._inputs(cut, centre, passed, entries_of(cut_part(cut, passed)), False, later)
        attend = attend_in_order(torch.from_numpy(places).to(device), torch.from_numpy(hidden_keys).to(device))
        hidden = self.gpt.hidden(**inputs, attend=attend)
        order = np.argsort(places + hidden_keys * len(cut), kind="stable")[: len(cut)]
        self.cache.select(torch.from_numpy(order).to(device))
        self.entries_read += len(passed)
        self._hold(cut, centre)
        return hidden[:, -1]

    def _excess_of(self, cut: Cut) -> float:
        if self.nets.bias is None:
            return 0.0
        return excess_mass(int(cut.span[cut.level > 0].sum()), self.nets.bias.mass)

    def _weights(self) -> Tensor | None:
        return None if self.cache.key_bias is None or self.nets.bias is None else self.nets.bias.weights

    def _inputs(
        self,
        cut: Cut,
        centre: NDArray[np.float64],
        at: NDArray[Any],
        entries: Entries,
        before: bool,
        later: int,
    ) -> dict[str, Any]:
        """Keyword arguments of `GPT.hidden` for the entries of a cut, which stand at `centre`, at ascending indices `at`;
        `before`: the cached entry before the first of them is the token before it; `later`: tokens that come behind the cut
        at once.

        Tokens of a Working Context without gists are read as the plain model reads them, bit for bit.
        """
        gpt, config, bias = self.gpt, self.nets.config, self.nets.bias
        device = gpt.device
        raw = cut.level[at] == 0
        mask = np.zeros(len(at), dtype=np.float32)
        mask[0] = before and raw[0]
        mask[1:] = raw[1:] & raw[:-1] & (np.diff(at) == 1)
        tokens = entries.tokens.unsqueeze(0)
        inputs: dict[str, Any] = {"cache": self.cache}
        if gpt.config.smear and not (mask[1:].all() and (before or at[0] == 0)):
            inputs["smear_mask"] = torch.from_numpy(mask).to(device).unsqueeze(0)
        if raw.all():
            inputs["tokens"], inputs["positions"] = tokens, torch.from_numpy(centre[at]).to(device)
        else:
            level = torch.from_numpy(cut.level[at].astype(np.int64)).to(device).unsqueeze(0)
            index = torch.from_numpy(cut.index[at]).to(device).unsqueeze(0)
            own = spans_of(level, index, config.block_size)
            spans = Spans(level, torch.from_numpy(centre[at]).to(device).unsqueeze(0), own.span)
            inputs["embeddings"] = entries.embeddings.unsqueeze(0)
            inputs["rotary"] = span_rotary(spans, gpt.config, config.positional)
            if gpt.value_embeddings:
                inputs["value_embeddings"] = gpt.embed_values(tokens)
            if bias is not None:
                end = torch.full((1, 1), cut.tokens + later - 0.5, dtype=torch.float64, device=device)
                inputs["key_bias"] = bias.features(spans, end, self._excess)
        if bias is not None and ("key_bias" in inputs or self.cache.key_bias is not None):
            inputs["key_bias_weights"] = bias.weights
        return inputs


def cut_part(cut: Cut, at: slice | NDArray[Any]) -> Cut:
    """Some entries of a cut, in its order: not a tiling any more, only a list of nodes."""
    return Cut(cut.level[at], cut.index[at], cut.block_size)


def same_prefix(one: Cut, other: Cut) -> int:
    """How many leading entries two cuts have in common."""
    most = min(len(one), len(other))
    differs = (one.level[:most] != other.level[:most]) | (one.index[:most] != other.index[:most])
    return int(np.argmax(differs)) if differs.any() else most


def positions_in(cut: Cut, other: Cut) -> NDArray[np.int64]:
    """Where in `cut` each entry of `other` stands, -1 for those that it hasn't got: int64 [len(other)]."""
    if not len(cut):
        return np.full(len(other), -1, dtype=np.int64)
    at = np.minimum(np.searchsorted(cut.start, other.start), len(cut) - 1)
    found = (cut.level[at] == other.level) & (cut.index[at] == other.index)
    return np.where(found, at, -1)
