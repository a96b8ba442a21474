"""A model with sessions as it answers about histories: by its Working Context and its lookup, and by what they have to beat."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mccore.errors import DataError
from mccore.eval.context.far.lookups import behind
from mccore.eval.context.far.routers import Routers
from mccore.eval.context.policies import SINKS, GivenSpans, with_sinks
from mccore.eval.context.probes.probe import HistoryProbe
from mccore.megacontext.sessions.model import SessionModel
from mccore.megacontext.sessions.session import Session
from mccore.megacontext.tree.tree import Tree

POLICIES = ("random", "recency", "bm25")
READS = {
    "session": "the session as it is in a chat: its Working Context, and what it looks up",
    "context": "its Working Context alone",
    "window": "the newest tokens, as many as its entries",
    "sink_window": f"the same with the first {SINKS} tokens in place of its oldest",
    "full": "all tokens, where the model was trained on as many at once",
    "random": "`context` with spans drawn at random",
    "recency": "`context` with the newest spans",
    "bm25": "`context` with the spans that BM25 scores highest",
    "oracle": "`context` with the spans that tell the answer",
}


class SessionReader:
    """A model's sessions, and the same tokens as plain windows. trained: tokens that its plain pass reads at once in training."""

    def __init__(self, model: SessionModel, new_tree: Callable[[], Tree], trained: int, seed: int = 0) -> None:
        self.model, self._new_tree, self.trained, self._seed = model, new_tree, trained, seed
        self._mute = copy.copy(model)  # the same, without a lookup
        self._mute.mixer = None

    @torch.inference_mode()
    def read(self, probe: HistoryProbe) -> Iterator[tuple[str, Tensor]]:
        """Condition -> logits [A, V], those of `READS` that the model has and that make sense for the history. Raises DataError
        for an answer that takes more than one refocus."""
        history, options = probe.history, self.model.options
        if probe.answer > options.refocus_interval:
            raise DataError(
                f"an answer of {probe.answer} tokens ({probe.kind}) comes to the next refocus, after "
                f"{options.refocus_interval}",
                hint="raise --refocus-interval",
            )
        tree, later = self._new_tree(), probe.ids[probe.history :]
        tree.append(probe.ids[:history])
        session = Session(self.model, tree)
        own, said = _answered(session, later)
        if self.model.mixer is not None:
            yield "session", said
        yield "context", own
        room = options.wc_length - options.refocus_interval
        yield "window", self._window(probe, np.arange(max(0, history - room), history))
        if history > room:
            yield "sink_window", self._window(probe, with_sinks(history, room))
        if history + len(later) <= self.trained:
            yield "full", self._window(probe, np.arange(history))
        if session.search is not None and history > options.wc_length:
            for name, scores in self._choices(probe, tree, session):
                given = GivenSpans(session.search.span, history, scores)
                yield name, behind(Session(self._mute, tree, search=given), later).logits

    def _window(self, probe: HistoryProbe, shown: NDArray[np.int64]) -> Tensor:
        """Logits [A, V] behind these tokens of the history."""
        ids = np.concatenate([probe.ids[shown], probe.ids[probe.history : -1]])
        read = torch.from_numpy(ids).to(self.model.gpt.device).unsqueeze(0)
        return self.model.gpt.logits(self.model.gpt.hidden(read)[0, -probe.answer :]).float().cpu()

    def _choices(self, probe: HistoryProbe, tree: Tree, session: Session) -> Iterator[tuple[str, NDArray[np.float64]]]:
        """Who chooses -> scores of all spans [J]."""
        search = session.search
        assert search is not None
        rng = np.random.default_rng([self._seed, probe.history])
        routers = Routers(self.model, tree, probe.ids, probe.history, self.model.recent_tokens, rng)
        for name in POLICIES:
            yield name, routers.scores(name, search)
        scores = np.zeros(probe.history // search.span)
        for start, stop in probe.told:
            scores[start // search.span : (stop - 1) // search.span + 1] = 1.0
        yield "oracle", scores


@torch.inference_mode()
def _answered(session: Session, later: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Logits [A, V] of the tokens behind a session's history, token by token: the model's own, and with what is looked up."""
    own, said = [], []
    for token in later.tolist():
        mixed = session.read()
        assert session.reading.logits is not None
        own.append(session.reading.logits)
        said.append(mixed)
        session.append_token(token)
    return torch.stack(own).float().cpu(), torch.stack(said).float().cpu()
