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
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mccore.errors import DataError
from mccore.eval.context.far.lookups import LookupConditions
from mccore.eval.context.far.row import LOOKUPS, HistoryRow, LongHistoryOptions, token_losses
from mccore.eval.context.policies import with_sinks
from mccore.eval.context.statistics import Comparison, Values
from mccore.eval.context.within_sequence import swap_partners
from mccore.megacontext.sessions.model import SessionModel
from mccore.megacontext.tree.tree import Tree
from mccore.model.gpt import GPT

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
    options: LongHistoryOptions,
    on_progress: Callable[[int], None] = lambda done: None,
) -> LongHistoryReport:
    """Predict the last tokens of rows [R, n + horizon], each of one of `documents` [R], in the conditions asked for.

    `new_tree` makes an empty tree. Conditions that a model or rows don't have are left out: those of a search that it hasn't
    got, and other histories where all rows are of one document. Raises DataError where histories fit the Working Context as
    they are, or the horizon is longer than an interval, ConfigError for a condition that doesn't exist.
    """
    asked = options.asked()
    history = _check_rows(model, rows, documents, options.horizon)
    ids = np.asarray(documents, dtype=np.int64)
    partners = swap_partners(len(rows), ids)
    trees = _Trees(new_tree, rows[:, :history])
    lookups = _lookups(model, new_tree, options) if asked & set(LOOKUPS) else None
    measured = _Measured()
    for row in range(len(rows)):
        partner = None if partners is None else int(partners[row])
        other = None if partner is None else trees.of(partner)
        part = HistoryRow(model, options, row, rows[row], trees.of(row), other)
        measured.add(part, part.conditions(asked))
        if lookups is not None:
            foreign = None if partner is None else rows[partner, :history]
            found = lookups.of(part.ids, part.again, foreign)
            measured.add_losses((name, each) for name, each in found if name in asked)
        on_progress(row + 1)
    table = {name: torch.stack(values).double().cpu().numpy() for name, values in measured.losses.items()}
    table |= _windows(model, rows, options, asked)
    entries, far, tail = np.array(measured.shapes, dtype=np.float64).mean(axis=0)
    utilities = measured.utilities
    return LongHistoryReport(
        losses=table,
        documents=ids,
        scores={name: np.stack(values) for name, values in measured.scores.items()},
        utilities=torch.stack(utilities).double().cpu().numpy() if utilities else None,
        history=history,
        entries=float(entries),
        far_tokens=float(far),
        tail=float(tail),
    )


def _check_rows(model: SessionModel, rows: NDArray[Any], documents: Sequence[int], horizon: int) -> int:
    """The tokens of a history. Raises DataError for rows that nothing can be measured on."""
    options = model.options
    if not len(rows) or len(documents) != len(rows):
        raise DataError(f"{len(rows)} rows and {len(documents)} documents: give the document of each row")
    history: int = rows.shape[1] - horizon
    if history <= options.wc_length:
        raise DataError(f"histories of {history} tokens fit a Working Context of {options.wc_length} as they are")
    if not 0 < horizon <= options.refocus_interval:
        raise DataError(
            f"a horizon of {horizon} tokens needs refocuses more than {options.refocus_interval} tokens apart"
        )
    return history


def _lookups(model: SessionModel, new_tree: Callable[[], Tree], options: LongHistoryOptions) -> LookupConditions | None:
    """The conditions that look up, fitted; None without documents apart to fit them to."""
    apart = options.fit_rows
    if apart is None or not len(apart):
        return None
    return LookupConditions(model, new_tree, list(apart.astype(np.int64)), options.horizon, options.twin)


class _Trees:
    """The tree of every row's history [R, n], made when it is first asked for."""

    def __init__(self, new_tree: Callable[[], Tree], histories: NDArray[Any]) -> None:
        self._new_tree, self._histories = new_tree, histories
        self._made: dict[int, Tree] = {}

    def of(self, row: int) -> Tree:
        if row not in self._made:
            self._made[row] = self._new_tree()
            self._made[row].append(self._histories[row])
        return self._made[row]


@dataclass
class _Measured:
    """What is known of all rows so far, row by row."""

    losses: dict[str, list[Tensor]] = field(default_factory=dict)
    scores: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)
    utilities: list[Tensor] = field(default_factory=list)
    shapes: list[tuple[int, int, int]] = field(default_factory=list)

    def add_losses(self, conditions: Iterable[tuple[str, Tensor]]) -> None:
        for name, losses in conditions:
            self.losses.setdefault(name, []).append(losses)

    def add(self, row: HistoryRow, conditions: Iterable[tuple[str, Tensor]]) -> None:
        """The conditions of a row, which it is measured in here, and what it says of itself."""
        self.add_losses(conditions)
        self.shapes.append(row.shape)
        for name, each in row.scores.items():
            self.scores.setdefault(name, []).append(each[: row.candidates])
        if row.utilities is not None:
            self.utilities.append(row.utilities)


def _windows(
    model: SessionModel, rows: NDArray[Any], options: LongHistoryOptions, asked: set[str]
) -> dict[str, Values]:
    """Losses of the conditions that read the newest tokens as they are."""
    horizon, budget = options.horizon, model.options.wc_length
    history, room = rows.shape[1] - horizon, budget - model.options.refocus_interval
    newest = {kept: np.arange(history - kept, history) for kept in (room, budget, history)}
    windows = (
        ("window", model.gpt, newest[room]),
        ("sink_window", model.gpt, with_sinks(history, room)),
        ("window_full", model.gpt, newest[budget]),
        ("full", model.gpt, newest[history]),
        ("twin", options.twin, newest[room]),
        ("twin_full", options.twin, newest[budget]),
    )
    later = np.arange(history, rows.shape[1])
    return {
        name: window_losses(gpt, rows[:, np.concatenate([shown, later])], horizon)
        for name, gpt, shown in windows
        if gpt is not None and name in asked
    }


@torch.inference_mode()
def window_losses(gpt: GPT, rows: NDArray[Any], horizon: int) -> Values:
    """Losses [R, horizon] of the last tokens of rows of token ids [R, n], read as they are."""
    found = []
    ids = torch.from_numpy(rows.astype(np.int64)).to(gpt.device)
    for start in range(0, len(ids), _ROWS):
        part = ids[start : start + _ROWS]
        found.append(token_losses(gpt, gpt.hidden(part[:, :-1])[:, -horizon:], part[:, -horizon:]))
    values: Values = torch.cat(found).double().cpu().numpy()
    return values
