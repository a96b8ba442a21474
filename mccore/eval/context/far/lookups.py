"""What looking up adds to a session and to plain windows, and the reference lines beside it.

The session's own lookup is measured as chats use it: token by token, through `Session.read`. A window gets a lookup that was
fitted to windows, so that neither has the better one. All of that and the reference lines are fitted on documents apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mccore.eval.context.far.references import (
    Bag,
    NgramCache,
    corpus_shares,
    fit_bag,
    fit_ngram_cache,
)
from mccore.megacontext.search.bigram_index import BigramIndex
from mccore.megacontext.search.lookup import Matches
from mccore.megacontext.search.mixing import LookupMixer
from mccore.megacontext.sessions.lookup.fit import (
    Examples,
    examples_of,
    fit,
    losses,
    matches_along,
    together,
)
from mccore.megacontext.sessions.model import SessionModel
from mccore.megacontext.sessions.session import Session
from mccore.megacontext.tree.tree import Tree
from mccore.model.gpt import GPT

MORE = 128  # predictions of a window that its lookup is fitted to, for each row


class Predicted(NamedTuple):
    """A row's horizon as some context predicts it: logits [H, V], and which of its tokens the context shows."""

    logits: Tensor
    shows: Callable[[NDArray[np.int64]], NDArray[np.bool_]]


@dataclass(frozen=True)
class References:
    """The reference lines of one kind of context."""

    bag: Bag
    bag_window: Bag
    ngram_cache: NgramCache


class HistoryEnd:
    """One history, ids [n + H], and the places that its horizon could be looked up at. window: tokens of the raw window."""

    def __init__(self, ids: NDArray[np.int64], horizon: int, window: int) -> None:
        self.history, self.ids = len(ids) - horizon, ids
        self.later, self.begin = ids[self.history :], self.history - window
        self.matches = _matches(ids[: self.history], self.later)

    def examples(self, predicted: Predicted, matches: Sequence[Matches] | None = None) -> Examples:
        """The predictions with their matches, or with those of another far past, of which nothing is shown."""
        first = 0 if matches is None else self.begin
        rows = [
            (each, predicted.shows(each.place) & (each.place >= first), self.history + number)
            for number, each in enumerate(self.matches if matches is None else matches)
        ]
        return examples_of(predicted.logits, self.later, rows)

    def words(self, vocabulary: int, *, far: bool) -> Tensor:
        """How often each word is in the far past, or in the window."""
        part = self.ids[: self.begin] if far else self.ids[self.begin : self.history]
        return torch.from_numpy(np.bincount(part, minlength=vocabulary)[:vocabulary].astype(np.float32))


def _matches(history: NDArray[np.int64], later: NDArray[np.int64]) -> list[Matches]:
    index = BigramIndex()
    index.append(history)
    return list(matches_along(index, later.tolist()))


def window_shows(begin: int) -> Callable[[NDArray[np.int64]], NDArray[np.bool_]]:
    """What a window from token `begin` on shows."""
    return lambda place: place >= begin


@torch.inference_mode()
def window_logits(gpt: GPT, ids: NDArray[np.int64], horizon: int, window: int) -> Tensor:
    """Logits [horizon, V] of the last tokens of ids [n], behind the `window` tokens before them."""
    read = torch.from_numpy(ids[len(ids) - horizon - window : -1]).to(gpt.device).unsqueeze(0)
    return gpt.logits(gpt.hidden(read)[0, -horizon:]).float().cpu()


def fit_references(rows: Sequence[HistoryEnd], predicted: Sequence[Predicted], vocabulary: int) -> References:
    """The reference lines of one kind of context, fitted to these rows."""
    examples = together([row.examples(each) for row, each in zip(rows, predicted, strict=True)])
    logits, later = [each.logits for each in predicted], [torch.from_numpy(row.later) for row in rows]
    corpus = corpus_shares([row.ids for row in rows], vocabulary)

    def bag(far: bool) -> Bag:
        return fit_bag(logits, later, [row.words(vocabulary, far=far) for row in rows], corpus)

    return References(bag(True), bag(False), fit_ngram_cache(examples))


def fit_window_lookup(gpt: GPT, rows: Sequence[NDArray[np.int64]], window: int) -> LookupMixer:
    """A lookup for raw windows of a model, fitted to the last `MORE` tokens of each row, fewer where it is shorter."""
    parts = []
    for ids in rows:
        more = min(MORE, len(ids) - window)
        row = HistoryEnd(ids, more, window)
        parts.append(row.examples(Predicted(window_logits(gpt, ids, more, window), window_shows(row.begin))))
    return fit(together(parts))


class LookupConditions:
    """Conditions that look up, fitted to rows of documents apart, ids [n + H] each."""

    def __init__(
        self,
        model: SessionModel,
        new_tree: Callable[[], Tree],
        rows: Sequence[NDArray[np.int64]],
        horizon: int,
        twin: GPT | None = None,
    ) -> None:
        self.model, self.horizon, self.twin = model, horizon, twin
        self.window = model.options.wc_length - model.options.refocus_interval
        self.vocabulary = model.gpt.config.vocab_ids  # columns of logits
        fitted = [HistoryEnd(ids, horizon, self.window) for ids in rows]
        contexts = []
        for row in fitted:
            tree = new_tree()
            tree.append(row.ids[: row.history])
            contexts.append(behind(Session(model, tree), row.later))
        self._of_context = fit_references(fitted, contexts, self.vocabulary)
        windows = [self._window(model.gpt, row) for row in fitted]
        self._of_window = fit_references(fitted, windows, self.vocabulary)
        self._window_lookup = fit_window_lookup(model.gpt, rows, self.window)
        self._twin_lookup = None if twin is None else fit_window_lookup(twin, rows, self.window)

    def of(
        self, ids: NDArray[np.int64], new_session: Callable[[], Session], other: NDArray[np.int64] | None
    ) -> Iterator[tuple[str, Tensor]]:
        """Condition -> losses of the horizon [H] of a row, ids [n + H]; `other` is another document's history."""
        row, mixer = HistoryEnd(ids, self.horizon, self.window), self.model.mixer
        context = behind(new_session(), row.later)
        if mixer is not None:
            yield "lookup", decoded(new_session(), row.later)
            if other is not None:
                yield "lookup_elsewhere", foreign_lookup(row, context, other, mixer)
        yield from self._lines("context", row, context, self._of_context)
        window = self._window(self.model.gpt, row)
        yield "window_lookup", losses(self._window_lookup, row.examples(window))
        yield from self._lines("window", row, window, self._of_window)
        if self.twin is not None and self._twin_lookup is not None:
            yield "twin_lookup", losses(self._twin_lookup, row.examples(self._window(self.twin, row)))

    def _window(self, gpt: GPT, row: HistoryEnd) -> Predicted:
        return Predicted(window_logits(gpt, row.ids, self.horizon, self.window), window_shows(row.begin))

    def _lines(
        self, name: str, row: HistoryEnd, predicted: Predicted, references: References
    ) -> Iterator[tuple[str, Tensor]]:
        """The reference lines on top of a context."""
        later = torch.from_numpy(row.later)
        yield f"{name}_ngram_cache", references.ngram_cache.losses(row.examples(predicted))
        for kind, bag, far in (("bag", references.bag, True), ("bag_window", references.bag_window, False)):
            yield f"{name}_{kind}", bag.losses(predicted.logits, later, row.words(self.vocabulary, far=far))


@torch.inference_mode()
def behind(session: Session, later: NDArray[np.int64]) -> Predicted:
    """What a session predicts of the tokens behind its history, by its model alone. It can't be read on afterwards."""
    session.read()
    logits, gpt = session.reading.logits, session.model.gpt
    assert logits is not None
    found = [logits[None]]
    if len(later) > 1:
        tokens = torch.from_numpy(later[:-1]).to(gpt.device)
        found.append(gpt.logits(session.working_context.read_tokens(tokens, session.covered)))
    return Predicted(torch.cat(found).float().cpu(), session.reading.shows)


def foreign_lookup(row: HistoryEnd, predicted: Predicted, other: NDArray[np.int64], mixer: LookupMixer) -> Tensor:
    """Losses [H] with a lookup in the window and another document's far past, ids [n]: in a text that doesn't come again."""
    history = np.concatenate([other[: row.begin], row.ids[row.begin : row.history]])
    return losses(mixer, row.examples(predicted, _matches(history, row.later)))


@torch.inference_mode()
def decoded(session: Session, later: NDArray[np.int64]) -> Tensor:
    """Losses [H] of the tokens behind what a session has read, as an answer would be written: token by token."""
    found = []
    for token in later.tolist():
        logits = session.read()
        found.append((logits.logsumexp(0) - logits[token]).float().cpu())
        session.append_token(token)
    return torch.stack(found)
