"""What a Working Context is worth far behind in long documents, beside a raw window of as many entries.

Every row is one history and the `horizon` tokens that follow it. A session reads the history, refocuses at its end, and
predicts those tokens without another refocus, so its Working Context grows from W - interval entries. Windows and controls
predict the same tokens, with as many entries or fewer:

| condition | what the model reads |
|---|---|
| context | the session's Working Context, by its own allocator and search |
| window | the newest W - interval tokens, and those that follow: as many entries as the Working Context may have |
| window_full | W of them where the Working Context has W - interval: more than it ever has |
| tail | the raw tail of `context` alone |
| nothing_found | a session whose search finds nothing: gists and a longer tail |
| gists_zeroed, gists_swapped | `context` with gists of zeros, or of another document's history |
| history_swapped | with its spans of tokens from that history, too |
| absolute, contiguous | `context` with tokens where they were, or without gaps: the one that the model doesn't use |
| random, bm25, lens | spans drawn at random, by BM25, or by LensNet's scores of the gists of all the far past |
| twin, twin_full | `window` and `window_full` of another model, one trained on tokens alone |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from mccore.errors import ConfigError, DataError
from mccore.eval.context import swap_partners
from mccore.eval.context_policies import bm25
from mccore.eval.context_statistics import Estimate, Values, estimate
from mccore.megacontext.context_cache import ContextCache
from mccore.megacontext.controller import score_cuts
from mccore.megacontext.cut import Cut
from mccore.megacontext.ngram_search import Found, HistorySearch
from mccore.megacontext.session import ContextModel, Session
from mccore.megacontext.tree import Entries, Tree
from mccore.model.gpt import GPT

ROUTERS = ("random", "bm25", "lens")
CONDITIONS = (
    "context", "window", "window_full", "tail", "nothing_found", "gists_zeroed", "gists_swapped", "history_swapped",
    "absolute", "contiguous", *ROUTERS, "twin", "twin_full",
)  # fmt: skip
_ROWS = 16  # windows of one pass


class GivenSpans:
    """A search that always finds the same: spans by scores [J] of all those of a history."""

    def __init__(self, span: int, tokens: int, scores: NDArray[np.float64]) -> None:
        self.span, self.tokens, self._scores = span, tokens, scores

    def append(self, ids: ArrayLike) -> None:
        """Nothing: what is found is known."""

    def find(self, query: ArrayLike, before: int, count: int) -> Found:
        """The best `count` spans before token `before` that have a score, newer first among equals."""
        scores = self._scores[: before // self.span]
        best = np.lexsort((-np.arange(len(scores)), -scores))[:count]
        best = best[scores[best] > 0]
        return Found(best * self.span, (best + 1) * self.span, scores[best])


@dataclass(frozen=True)
class LongHistoryReport:
    """Losses of every condition on the same tokens [R, H], nats, and the document of each row."""

    losses: Mapping[str, Values]
    documents: NDArray[np.int64]
    history: int
    entries: float  # of the Working Contexts at the first prediction, mean
    far_tokens: float  # tokens before the tail that they showed, mean
    tail: float  # tokens of their raw tail at the first prediction, mean

    @cached_property
    def nll(self) -> Mapping[str, Values]:
        """Condition -> mean loss of each row [R]."""
        return {name: values.mean(axis=1) for name, values in self.losses.items()}

    def difference(self, one: str, other: str, *, by_document: bool = True) -> Estimate:
        """The paired difference of two conditions, nats per token: below 0 where `one` predicts better. Its standard error is
        that of a mean over documents, or over rows."""
        return estimate(self.nll[one] - self.nll[other], self.documents if by_document else None)


def evaluate_long_histories(
    model: ContextModel,
    new_tree: Callable[[], Tree],
    rows: NDArray[Any],
    documents: Sequence[int],
    *,
    horizon: int = 32,
    conditions: Iterable[str] | None = None,
    twin: GPT | None = None,
    seed: int = 0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> LongHistoryReport:
    """Predict the last `horizon` tokens of rows [R, n + horizon], each of one of `documents` [R], in the given conditions, by
    default all; `context` and `window` always, and a twin's where there is one. Conditions that a model or rows don't have are
    left out: those of a search that it hasn't got, and other histories where all rows are of one document.

    `new_tree` makes an empty tree; `twin` is a plain model with the same tokenizer.

    Raises DataError where histories fit the Working Context as they are, or the horizon is longer than an interval,
    ConfigError for a condition that doesn't exist.
    """
    settings = model.settings
    asked = None if conditions is None else {"context", "window", "twin", "twin_full", *conditions}
    unknown = sorted((asked or set()) - set(CONDITIONS))
    if unknown:
        raise ConfigError(
            f"there is no condition {unknown[0]!r} of long histories", hint=f"choose among {', '.join(CONDITIONS)}"
        )
    if not len(rows) or len(documents) != len(rows):
        raise DataError(f"{len(rows)} rows and {len(documents)} documents: give the document of each row")
    history = rows.shape[1] - horizon
    if history <= settings.budget:
        raise DataError(f"histories of {history} tokens fit a Working Context of {settings.budget} as they are")
    if not 0 < horizon <= settings.interval:
        raise DataError(f"a horizon of {horizon} tokens needs refocuses more than {settings.interval} tokens apart")
    ids = np.asarray(documents, dtype=np.int64)
    partners = swap_partners(len(rows), ids)
    losses: dict[str, list[Tensor]] = {}
    shapes: list[tuple[int, int, int]] = []
    trees: dict[int, Tree] = {}

    def tree_of(row: int) -> Tree:
        if row not in trees:
            trees[row] = new_tree()
            trees[row].append(rows[row, :history])
        return trees[row]

    for row in range(len(rows)):
        other = None if partners is None else tree_of(int(partners[row]))
        part = _Row(model, tree_of(row), other, rows[row], horizon, np.random.default_rng([seed, row]))
        for name, found in part.conditions(asked):
            losses.setdefault(name, []).append(found)
        shapes.append(part.shape)
        on_progress(row + 1)
    table = {name: torch.stack(values).double().cpu().numpy() for name, values in losses.items()}
    room = settings.budget - settings.interval
    for name, gpt, kept in (
        ("window", model.gpt, room),
        ("window_full", model.gpt, settings.budget),
        ("twin", twin, room),
        ("twin_full", twin, settings.budget),
    ):
        if gpt is not None and (asked is None or name in asked):
            table[name] = window_losses(gpt, rows[:, history - kept :], horizon)
    entries, far, tail = np.array(shapes, dtype=np.float64).mean(axis=0)
    return LongHistoryReport(table, ids, history, float(entries), float(far), float(tail))


@torch.inference_mode()
def window_losses(gpt: GPT, rows: NDArray[Any], horizon: int) -> Values:
    """Losses [R, horizon] of the last tokens of rows of token ids [R, n], read as they are."""
    found = []
    ids = torch.from_numpy(rows.astype(np.int64)).to(gpt.device)
    for start in range(0, len(ids), _ROWS):
        part = ids[start : start + _ROWS]
        found.append(_losses(gpt, gpt.hidden(part[:, :-1])[:, -horizon:], part[:, -horizon:]))
    values: Values = torch.cat(found).double().cpu().numpy()
    return values


def _losses(gpt: GPT, hidden: Tensor, targets: Tensor) -> Tensor:
    """Of hidden states [R, H, D], fp32 [R, H]."""
    return gpt.hidden_loss(hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1), reduction="none").view(
        targets.shape
    )


class _Row:
    """One history in all conditions. `other` is another document's, as long."""

    def __init__(
        self,
        model: ContextModel,
        tree: Tree,
        other: Tree | None,
        ids: NDArray[Any],
        horizon: int,
        rng: np.random.Generator,
    ) -> None:
        self.model, self.tree, self.other, self.rng = model, tree, other, rng
        self.history = len(ids) - horizon
        self.ids = ids.astype(np.int64)
        self.later = torch.from_numpy(self.ids[self.history :]).to(model.gpt.device)
        self.session = Session(model, tree)
        self.session.read()
        self.cut = self.session.focus.cut
        coarse = np.flatnonzero(self.cut.level > 0)
        self.tail = self.history - (int(self.cut.stop[coarse[-1]]) if len(coarse) else 0)
        self.shape = (len(self.cut), int((self.cut.level == 0).sum()) - self.tail, self.tail)

    @torch.inference_mode()
    def conditions(self, asked: set[str] | None) -> Iterable[tuple[str, Tensor]]:
        """Condition -> losses of the horizon [H], those of windows but for `tail` left out."""

        def wanted(name: str) -> bool:
            return asked is None or name in asked

        yield "context", self._behind(self.session)
        if wanted("tail"):
            own = torch.from_numpy(self.ids[self.history - self.tail :]).to(self.later.device).unsqueeze(0)
            hidden = self.model.gpt.hidden(own[:, :-1])[:, -len(self.later) :]
            yield "tail", _losses(self.model.gpt, hidden, self.later.unsqueeze(0))[0]
        if wanted("gists_zeroed"):
            yield "gists_zeroed", self._read(lambda cut: _replaced(cut, self.tree.entries(cut), None))
        if self.other is not None and wanted("gists_swapped"):
            other = self.other
            yield "gists_swapped", self._read(lambda cut: _replaced(cut, self.tree.entries(cut), other.entries(cut)))
        if self.other is not None and wanted("history_swapped"):
            yield "history_swapped", self._read(self._far_from_elsewhere)
        kind = self.model.nets.config.token_positions
        turned = "absolute" if kind == "contiguous" else "contiguous"
        if wanted(turned):
            yield turned, self._placed(turned)
        search = self.session.search
        if search is None:
            return
        for name in ("nothing_found", *ROUTERS):
            if wanted(name):
                given = GivenSpans(search.span, self.history, self._scores(name)(search))
                session = Session(self.model, self.tree, search=given)
                session.read()
                yield name, self._behind(session)

    def _scores(self, name: str) -> Callable[[HistorySearch], NDArray[np.float64]]:
        return {
            "nothing_found": self._nothing,
            "random": self._random,
            "bm25": self._bm25,
            "lens": self._lens,
        }[name]

    def _nothing(self, search: HistorySearch) -> NDArray[np.float64]:
        return np.zeros(self.history // search.span)

    def _random(self, search: HistorySearch) -> NDArray[np.float64]:
        return self.rng.random(self.history // search.span)

    def _bm25(self, search: HistorySearch) -> NDArray[np.float64]:
        count = self.history // search.span
        query = self.ids[: self.history][-self.model.settings.search.query_tokens :]
        return bm25(query, self.ids[: count * search.span].reshape(count, search.span))

    def _lens(self, search: HistorySearch) -> NDArray[np.float64]:
        """Shares of attention that LensNet expects, of the gists of all that lies before the tail, added up by span."""
        size = self.model.block_size
        blocks = (self.history - self.tail) // size
        raw = np.arange(blocks * size, self.history)
        level = np.concatenate([np.ones(blocks, dtype=np.int8), np.zeros(len(raw), dtype=np.int8)])
        cut = Cut(level, np.concatenate([np.arange(blocks), raw]), size)
        nets, recent = self.model.nets, self.model.recent_tokens
        (scores,) = score_cuts(nets.lensnet, [self.tree.entries(cut).embeddings], [cut], recent, nets.dtype)
        share = np.zeros(self.history // search.span * (search.span // size))
        of_block = ((1 + scores[:blocks]) / np.maximum(1 - scores[:blocks], 1e-6)).astype(np.float64)
        share[: len(of_block)] = of_block[: len(share)]
        summed: NDArray[np.float64] = share.reshape(-1, search.span // size).sum(axis=1)
        return summed

    def _read(self, entries_of: Callable[[Cut], Entries]) -> Tensor:
        """Losses behind the session's cut with other entries."""
        context = ContextCache(self.model.gpt, self.model.nets, self.model.settings.budget)
        return self._rest(context, self.model.gpt.logits(context.read(self.cut, entries_of))[0])

    def _placed(self, token_positions: Any) -> Tensor:
        nets = self.model.nets
        own = nets.config
        nets.config = own.model_copy(update={"token_positions": token_positions})
        try:
            return self._read(self.tree.entries)
        finally:
            nets.config = own

    def _far_from_elsewhere(self, cut: Cut) -> Entries:
        """Entries whose gists and tokens before the tail are the other history's."""
        assert self.other is not None
        own, other = self.tree.entries(cut), self.other.entries(cut)
        far = torch.from_numpy(cut.start < self.history - self.tail).to(own.tokens.device)
        return Entries(
            torch.where(far.unsqueeze(1), other.embeddings, own.embeddings), torch.where(far, other.tokens, own.tokens)
        )

    def _behind(self, session: Session) -> Tensor:
        assert session.logits is not None
        return self._rest(session.context, session.logits)

    def _rest(self, context: ContextCache, logits: Tensor) -> Tensor:
        """Losses [H] of the tokens behind what a cache has read, from the logits [V] that this gave."""
        first = F.cross_entropy(logits.float(), self.later[0]).unsqueeze(0)
        if len(self.later) == 1:
            return first
        hidden = context.read_tokens(self.later[:-1], self.history)
        return torch.cat([first, _losses(self.model.gpt, hidden.unsqueeze(0), self.later[1:].unsqueeze(0))[0]])


def _replaced(cut: Cut, own: Entries, other: Entries | None) -> Entries:
    """Entries with gists of zeros, or of others."""
    coarse = torch.from_numpy(cut.level > 0).to(own.tokens.device).unsqueeze(1)
    with_ = torch.zeros_like(own.embeddings) if other is None else other.embeddings
    return Entries(torch.where(coarse, with_, own.embeddings), own.tokens)
