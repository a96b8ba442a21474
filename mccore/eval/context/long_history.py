"""What a Working Context is worth far behind in long documents, beside a raw window of as many entries.

Every row is one history and the `horizon` tokens that follow it. A session reads the history, refocuses at its end, and
predicts those tokens without another refocus, so its Working Context grows from W - interval entries. Windows and controls
predict the same tokens, with as many entries or fewer:

What the model reads in each condition stands in `catalogue.LONG_HISTORY`.

The candidates of oracles, and of `utilities`, are the spans before the newest W - interval tokens: those that a window of as many
entries doesn't show. Routers may also choose the few between these and the tail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mccore.errors import ConfigError, DataError
from mccore.eval.context.catalogue import LONG_HISTORY, names
from mccore.eval.context.far.lookups import LookupConditions
from mccore.eval.context.far.routers import Routers
from mccore.eval.context.policies import GivenSpans
from mccore.eval.context.statistics import Comparison, Values
from mccore.eval.context.within_sequence import swap_partners
from mccore.megacontext.sessions.cache import WorkingContextCache
from mccore.megacontext.sessions.model import SessionModel
from mccore.megacontext.sessions.session import Session
from mccore.megacontext.tree.cut import Cut
from mccore.megacontext.tree.tree import Entries, Tree
from mccore.model.gpt import GPT

ROUTERS = names((each for each in LONG_HISTORY if each.name != "context"), "policy")
ORACLES = names(LONG_HISTORY, "oracle")
CONDITIONS = names(LONG_HISTORY)
LOOKUPS = tuple(each.name for each in LONG_HISTORY if each.looks_up)
ON_DEMAND = names(each for each in LONG_HISTORY if each.on_demand)
_ROWS = 16  # windows of one pass


@dataclass(frozen=True)
class LongHistoryReport(Comparison):
    """Every condition on the same tokens. Routers' `scores` have "ngram" for the search's own."""

    history: int
    entries: float  # of the Working Contexts at the first prediction, mean
    far_tokens: float  # tokens before the tail that they showed, mean
    tail: float  # tokens of their raw tail at the first prediction, mean


def evaluate_long_histories(
    model: SessionModel,
    new_tree: Callable[[], Tree],
    rows: NDArray[Any],
    documents: Sequence[int],
    *,
    horizon: int = 32,
    conditions: Iterable[str] | None = None,
    twin: GPT | None = None,
    fit_rows: NDArray[Any] | None = None,
    oracle_spans: int = 2,
    seed: int = 0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> LongHistoryReport:
    """Predict the last `horizon` tokens of rows [R, n + horizon], each of one of `documents` [R], in the given conditions, by
    default all but `full` and the oracles; `context` and `window` always, and a twin's where there is one. Conditions that a
    model or rows don't have are left out: those of a search that it hasn't got, and other histories where all rows are of one
    document.

    `new_tree` makes an empty tree; `twin` is a plain model with the same tokenizer; `fit_rows` [F, n + horizon] are of other
    documents, which conditions that look up are fitted to; `oracle_spans` is how many spans an oracle picks, as many as the
    allocator shows.

    Raises DataError where histories fit the Working Context as they are, or the horizon is longer than an interval,
    ConfigError for a condition that doesn't exist.
    """
    options = model.options
    usual = set(CONDITIONS) - set(ON_DEMAND)
    asked = usual if conditions is None else {"context", "window", "twin", "twin_full", *conditions}
    unknown = sorted(asked - set(CONDITIONS))
    if unknown:
        raise ConfigError(
            f"there is no condition {unknown[0]!r} of long histories", hint=f"choose among {', '.join(CONDITIONS)}"
        )
    if not len(rows) or len(documents) != len(rows):
        raise DataError(f"{len(rows)} rows and {len(documents)} documents: give the document of each row")
    history = rows.shape[1] - horizon
    if history <= options.wc_length:
        raise DataError(f"histories of {history} tokens fit a Working Context of {options.wc_length} as they are")
    if not 0 < horizon <= options.refocus_interval:
        raise DataError(
            f"a horizon of {horizon} tokens needs refocuses more than {options.refocus_interval} tokens apart"
        )
    ids = np.asarray(documents, dtype=np.int64)
    partners = swap_partners(len(rows), ids)
    losses: dict[str, list[Tensor]] = {}
    shapes: list[tuple[int, int, int]] = []
    scores: dict[str, list[NDArray[np.float64]]] = {}
    utilities: list[Tensor] = []
    trees: dict[int, Tree] = {}

    lookups = None
    if fit_rows is not None and len(fit_rows) and asked & set(LOOKUPS):
        lookups = LookupConditions(model, new_tree, list(fit_rows.astype(np.int64)), horizon, twin)

    def tree_of(row: int) -> Tree:
        if row not in trees:
            trees[row] = new_tree()
            trees[row].append(rows[row, :history])
        return trees[row]

    for row in range(len(rows)):
        other = None if partners is None else tree_of(int(partners[row]))
        part = _Row(model, tree_of(row), other, rows[row], horizon, oracle_spans, np.random.default_rng([seed, row]))
        for name, found in part.conditions(asked):
            losses.setdefault(name, []).append(found)
        if lookups is not None:
            foreign = None if partners is None else rows[int(partners[row]), :history]
            for name, found in lookups.of(part.ids, part.again, foreign):
                if name in asked:
                    losses.setdefault(name, []).append(found)
        shapes.append(part.shape)
        for name, each in part.scores.items():
            scores.setdefault(name, []).append(each[: part.candidates])
        if part.utilities is not None:
            utilities.append(part.utilities)
        on_progress(row + 1)
    table = {name: torch.stack(values).double().cpu().numpy() for name, values in losses.items()}
    room = options.wc_length - options.refocus_interval
    for name, gpt, kept in (
        ("window", model.gpt, room),
        ("window_full", model.gpt, options.wc_length),
        ("full", model.gpt, history),
        ("twin", twin, room),
        ("twin_full", twin, options.wc_length),
    ):
        if gpt is not None and name in asked:
            table[name] = window_losses(gpt, rows[:, history - kept :], horizon)
    entries, far, tail = np.array(shapes, dtype=np.float64).mean(axis=0)
    return LongHistoryReport(
        losses=table,
        documents=ids,
        scores={name: np.stack(values) for name, values in scores.items()},
        utilities=torch.stack(utilities).double().cpu().numpy() if utilities else None,
        history=history,
        entries=float(entries),
        far_tokens=float(far),
        tail=float(tail),
    )


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
        model: SessionModel,
        tree: Tree,
        other: Tree | None,
        ids: NDArray[Any],
        horizon: int,
        oracle_spans: int,
        rng: np.random.Generator,
    ) -> None:
        self.model, self.tree, self.other, self.rng = model, tree, other, rng
        self.oracle_spans = oracle_spans
        self.scores: dict[str, NDArray[np.float64]] = {}  # of all spans of the history [J], by router
        self.utilities: Tensor | None = None  # of the candidates [J]
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
    def conditions(self, asked: set[str]) -> Iterable[tuple[str, Tensor]]:
        """Condition -> losses of the horizon [H], those of windows but for `tail` left out."""

        def wanted(name: str) -> bool:
            return name in asked

        yield "context", self._behind(self.session)
        if wanted("tail"):
            own = torch.from_numpy(self.ids[self.history - self.tail :]).to(self.later.device).unsqueeze(0)
            hidden = self.model.gpt.hidden(own[:, :-1])[:, -len(self.later) :]
            yield "tail", _losses(self.model.gpt, hidden, self.later.unsqueeze(0))[0]
        if wanted("gists_zeroed"):
            yield "gists_zeroed", self._read(lambda cut: _replaced(cut, self.tree.entries(cut), None))
        if wanted("gists_hidden"):
            yield "gists_hidden", self._read_tokens(self.tail)
        if wanted("gists_to_tail"):
            yield "gists_to_tail", self._read_tokens(self.tail + int((self.cut.level > 0).sum()))
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
        if wanted("nothing_found"):
            yield "nothing_found", self._showing(self._only([]))
        routers = Routers(self.model, self.tree, self.ids, self.history, self.tail, self.rng)
        self.scores["ngram"] = routers.scores("ngram", search)
        for name in ROUTERS:
            if wanted(name):
                self.scores[name] = routers.scores(name, search)
                yield name, self._showing(self.scores[name])
        if self.candidates and any(wanted(name) for name in ORACLES):
            yield from self._oracles()

    def again(self) -> Session:
        """The session as it was before it read anything. The history must not grow in it: others share its tree."""
        return Session(self.model, self.tree)

    @property
    def candidates(self) -> int:
        """Spans that a window of as many entries doesn't show."""
        search, options = self.session.search, self.model.options
        return 0 if search is None else (self.history - (options.wc_length - options.refocus_interval)) // search.span

    def _showing(self, scores: NDArray[np.float64]) -> Tensor:
        """Losses [H] behind a session whose search finds all spans by `scores`, [J]."""
        assert self.session.search is not None
        given = GivenSpans(self.session.search.span, self.history, scores)
        session = Session(self.model, self.tree, search=given)
        session.read()
        return self._behind(session)

    def _oracles(self) -> Iterable[tuple[str, Tensor]]:
        nothing = self._showing(self._only([]))
        alone = torch.stack([self._showing(self._only([span])) for span in range(self.candidates)])  # [J, H]
        self.utilities = nothing.mean() - alone.mean(dim=1)
        every = torch.arange(len(nothing), device=nothing.device)
        yield "oracle_bound", self._showing(self._only(self._greedy(alone, every)))
        if len(every) > 1:  # a single token has no others
            even, odd = every[0::2], every[1::2]
            losses = self._showing(self._only(self._greedy(alone, odd)))
            losses[odd] = self._showing(self._only(self._greedy(alone, even)))[odd]
            yield "oracle", losses

    def _greedy(self, alone: Tensor, judges: Tensor) -> list[int]:
        """The candidates that a greedy search picks by the losses of some of the scored tokens; `alone` [J, H] are the losses
        with one candidate shown."""
        picked: list[int] = []
        losses = alone
        for turn in range(min(self.oracle_spans, self.candidates)):
            if turn:
                losses = torch.stack([self._showing(self._only([*picked, span])) for span in range(self.candidates)])
                losses[picked] = torch.inf
            picked.append(int(losses[:, judges].mean(dim=1).argmin()))
        return picked

    def _only(self, spans: list[int]) -> NDArray[np.float64]:
        """Scores that find these spans and nothing else."""
        assert self.session.search is not None
        scores = np.zeros(self.history // self.session.search.span)
        scores[spans] = 1.0
        return scores

    def _read(self, entries_of: Callable[[Cut], Entries]) -> Tensor:
        """Losses behind the session's cut with other entries."""
        context = WorkingContextCache(self.model.gpt, self.model.nets, self.model.options.wc_length)
        return self._rest(context, self.model.gpt.logits(context.read(self.cut, entries_of))[0])

    def _read_tokens(self, tail: int) -> Tensor:
        """Losses behind the session's spans and a tail of so many tokens: no gists."""
        begin = self.history - tail
        far = self.cut.index[(self.cut.level == 0) & (self.cut.start < begin)]
        shown = np.concatenate([far, np.arange(begin, self.history)])
        cut = Cut(np.zeros(len(shown), dtype=np.int8), shown, self.cut.block_size)
        context = WorkingContextCache(self.model.gpt, self.model.nets, self.model.options.wc_length)
        return self._rest(context, self.model.gpt.logits(context.read(cut, self.tree.entries))[0])

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
        logits = session.reading.logits  # the model's own, whatever is looked up
        assert logits is not None
        return self._rest(session.working_context, logits)

    def _rest(self, context: WorkingContextCache, logits: Tensor) -> Tensor:
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
