"""One long history in every condition: what a session of it reads, and what it predicts behind that."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mccore.errors import ConfigError
from mccore.eval.context.catalogue import LONG_HISTORY, names
from mccore.eval.context.far.routers import Routers
from mccore.eval.context.policies import GivenSpans
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


@dataclass(frozen=True)
class LongHistoryOptions:
    """What is measured of long histories.

    horizon: tokens scored behind each.
    conditions: by default all but `full` and the oracles; `context` and `window` always, and a twin's where there is one.
    twin: a plain model with the same tokenizer.
    fit_rows: [F, n + horizon], of other documents, which conditions that look up are fitted to.
    oracle_spans: how many spans an oracle picks, as many as the allocator shows.
    """

    horizon: int = 32
    conditions: Iterable[str] | None = None
    twin: GPT | None = None
    fit_rows: NDArray[Any] | None = None
    oracle_spans: int = 2
    seed: int = 0

    def asked(self) -> set[str]:
        """The conditions meant. Raises ConfigError for one that doesn't exist."""
        if self.conditions is None:
            return set(CONDITIONS) - set(ON_DEMAND)
        asked = {"context", "window", "twin", "twin_full", *self.conditions}
        if unknown := sorted(asked - set(CONDITIONS)):
            raise ConfigError(
                f"there is no condition {unknown[0]!r} of long histories", hint=f"choose among {', '.join(CONDITIONS)}"
            )
        return asked


def token_losses(gpt: GPT, hidden: Tensor, targets: Tensor) -> Tensor:
    """Losses of `targets` [R, H] given hidden states [R, H, D]: fp32 [R, H]."""
    return gpt.hidden_loss(hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1), reduction="none").view(
        targets.shape
    )


class HistoryRow:
    """Row `number` of token ids [n + horizon] in all conditions, its history in `tree`. `other` is another document's, as
    long."""

    def __init__(
        self,
        model: SessionModel,
        options: LongHistoryOptions,
        number: int,
        ids: NDArray[Any],
        tree: Tree,
        other: Tree | None,
    ) -> None:
        self.model, self.tree, self.other = model, tree, other
        self.rng = np.random.default_rng([options.seed, number])
        self.oracle_spans = options.oracle_spans
        self.scores: dict[str, NDArray[np.float64]] = {}  # of all spans of the history [J], by router
        self.utilities: Tensor | None = None  # of the candidates [J]
        self.history = len(ids) - options.horizon
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
            yield "tail", token_losses(self.model.gpt, hidden, self.later.unsqueeze(0))[0]
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
        return torch.cat([first, token_losses(self.model.gpt, hidden.unsqueeze(0), self.later[1:].unsqueeze(0))[0]])


def _replaced(cut: Cut, own: Entries, other: Entries | None) -> Entries:
    """Entries with gists of zeros, or of others."""
    coarse = torch.from_numpy(cut.level > 0).to(own.tokens.device).unsqueeze(1)
    with_ = torch.zeros_like(own.embeddings) if other is None else other.embeddings
    return Entries(torch.where(coarse, with_, own.embeddings), own.tokens)
