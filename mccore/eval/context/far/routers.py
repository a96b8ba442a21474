"""Who chooses the spans of a long history that a Working Context shows, beside its own search."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from mccore.eval.context.policies import bm25
from mccore.megacontext.focus.controller import score_cuts
from mccore.megacontext.networks.nodes import AttentionMass
from mccore.megacontext.networks.positions import spans_of
from mccore.megacontext.search.ngram import HistorySearch
from mccore.megacontext.sessions.model import SessionModel
from mccore.megacontext.tree.cut import Cut
from mccore.megacontext.tree.tree import Tree
from mccore.megacontext.working_context import WorkingContexts, context_inputs


class Routers:
    """Scores of all spans of one history, ids [n + H], whose Working Context has a raw tail of `tail` tokens."""

    def __init__(
        self, model: SessionModel, tree: Tree, ids: NDArray[np.int64], history: int, tail: int, rng: np.random.Generator
    ) -> None:
        self.model, self.tree, self.ids, self.history, self.tail, self.rng = model, tree, ids, history, tail, rng

    def scores(self, name: str, search: HistorySearch) -> NDArray[np.float64]:
        """The scores [J] by one who chooses, named as in the catalogue; "ngram" is the search itself."""
        return self._router(name)(search)

    def _router(self, name: str) -> Callable[[HistorySearch], NDArray[np.float64]]:
        return {
            "ngram": self._ngram,
            "random": self._random,
            "recency": self._recency,
            "bm25": self._bm25,
            "raw_attention": self._raw_attention,
            "lens": self._lens,
        }[name]

    def _query(self) -> NDArray[np.int64]:
        return self.ids[: self.history][-self.model.options.search.query_tokens :]

    def _ngram(self, search: HistorySearch) -> NDArray[np.float64]:
        count = self.history // search.span
        start, _, score = search.find(self._query(), self.history - self.model.recent_tokens, count)
        scores = np.zeros(count)
        scores[start // search.span] = score
        return scores

    def _random(self, search: HistorySearch) -> NDArray[np.float64]:
        return self.rng.random(self.history // search.span)

    def _recency(self, search: HistorySearch) -> NDArray[np.float64]:
        return np.arange(1.0, self.history // search.span + 1)

    def _bm25(self, search: HistorySearch) -> NDArray[np.float64]:
        count = self.history // search.span
        return bm25(self._query(), self.ids[: count * search.span].reshape(count, search.span))

    def _gists(self) -> Cut:
        """All the far past before the tail as blocks, and the tail as tokens."""
        size = self.model.block_size
        blocks = (self.history - self.tail) // size
        raw = np.arange(blocks * size, self.history)
        level = np.concatenate([np.ones(blocks, dtype=np.int8), np.zeros(len(raw), dtype=np.int8)])
        return Cut(level, np.concatenate([np.arange(blocks), raw]), size)

    def _by_span(self, of_gists: NDArray[np.float64], search: HistorySearch) -> NDArray[np.float64]:
        """What the gists of `_gists` have, added up by span: [J]; 0 for the tail's."""
        each = search.span // self.model.block_size
        share = np.zeros(self.history // search.span * each)
        share[: len(of_gists)] = of_gists[: len(share)]
        summed: NDArray[np.float64] = share.reshape(-1, each).sum(axis=1)
        return summed

    def _lens(self, search: HistorySearch) -> NDArray[np.float64]:
        """Shares of attention that LensNet expects."""
        cut, nets = self._gists(), self.model.nets
        embeddings = self.tree.entries(cut).embeddings
        (scores,) = score_cuts(nets.lensnet, [embeddings], [cut], self.model.recent_tokens, nets.dtype)
        scores = scores[cut.level > 0].astype(np.float64)
        return self._by_span((1 + scores) / np.maximum(1 - scores, 1e-6), search)

    def _raw_attention(self, search: HistorySearch) -> NDArray[np.float64]:
        """Attention that the newest tokens pay, above the mean over gists."""
        cut, nets, gpt = self._gists(), self.model.nets, self.model.gpt
        level, index = (torch.from_numpy(part.astype(np.int64)).unsqueeze(0) for part in (cut.level, cut.index))
        level, index = level.to(gpt.device), index.to(gpt.device)
        spans, row = spans_of(level, index, cut.block_size), torch.zeros(1, dtype=torch.int64, device=gpt.device)
        last = ((index + 1) * spans.span).long() - 1
        contexts = WorkingContexts(row, level, index, spans, last, self.tree.entries(cut).embeddings.unsqueeze(0))
        tokens = torch.from_numpy(self.ids[: self.history]).to(gpt.device).unsqueeze(0)
        config, gists = nets.config, int((cut.level > 0).sum())
        asked = min(config.lens.queries, len(cut) - gists)
        first, limit = torch.full_like(row, len(cut) - asked), torch.full_like(row, gists)
        recorder = AttentionMass(first, asked, 1, len(cut), limit, gpt.attend)
        inputs = context_inputs(gpt, nets, contexts, tokens)
        gpt.hidden(**inputs, attend=recorder)
        return self._by_span(recorder.excess()[0].sum(dim=0)[:gists].double().cpu().numpy(), search)
