"""Focus as a session has it: rows are read on, a few tokens at a time, and refocused by LensNet and the real allocator.

A Working Context made at token n predicts the next tokens, each with those before it as tokens; the plain model with the full
context predicts the same ones. With as many scored tokens as there are between two refocuses every token of the stream is
scored once, under what a session would have seen, with never more than W entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mccore.api import Allocator
from mccore.config import MegaContextConfig
from mccore.errors import DataError
from mccore.eval.context.statistics import MeanEstimate, estimate
from mccore.megacontext.focus.controller import lens_score, prefill_focus, refocus
from mccore.megacontext.focus.measures import Refocus, summarize
from mccore.megacontext.focus.state import FocusError, FocusState, Limits, append_tokens, start_focus
from mccore.megacontext.networks.networks import MegaContextNets
from mccore.megacontext.tree.cut import Cut
from mccore.megacontext.tree.edits import append
from mccore.megacontext.working_context import WorkingContexts, assemble, context_inputs, context_targets
from mccore.model.gpt import GPT


@dataclass(frozen=True)
class StreamReport:
    """`delta_nll`: NLL with the Working Context minus with the full context, nats per token, over `scored` predictions of each
    row. `metrics`: it and the measures of all refocuses, by their names in `mccore.events.METRICS`; `dwell` is that of the
    last refocus, since no block of a stream is older than the stream."""

    delta_nll: MeanEstimate
    metrics: dict[str, float]
    refocuses: list[Refocus]
    focuses: list[FocusState]  # at the end
    scored: int


class _Part(NamedTuple):
    """Working Contexts of all rows at one moment: cuts of `tokens` tokens each, before the next ones came."""

    tokens: int
    cuts: list[Cut]


@dataclass(frozen=True)
class StreamPlan:
    """How rows are streamed.

    budget: entries of a Working Context.
    interval: tokens between two refocuses; None takes megacontext.refocus_interval.
    horizon: tokens after each refocus that are scored; None takes `interval`, and a longer one scores some tokens under
        several contexts. A refocus leaves room for either.
    start: tokens that are there at once, focused by `prefill_focus`; None takes as many as fit, so that the first refocus is
        at `budget` tokens.
    max_entries: entries of one forward pass, which bounds the memory.
    """

    budget: int
    interval: int | None = None
    horizon: int | None = None
    start: int | None = None
    max_entries: int = 2**15


@torch.inference_mode()
def stream_focus(
    gpt: GPT,
    nets: MegaContextNets,
    rows: Tensor,
    allocator: Allocator,
    options: StreamPlan,
    documents: Sequence[int] | None = None,
) -> StreamReport:
    """Read rows [R, T], piece by piece, with a refocus after each. documents: that of each row, for the standard error.

    Raises DataError for rows too short for a refocus, FocusError for a history that can't fit the budget.
    """
    interval = options.interval or nets.config.refocus_interval
    horizon = options.horizon or interval
    limits = _limits(nets.config, options.budget, max(interval, horizon))
    start, length = options.start or limits.entries, rows.size(1)
    if start + interval + horizon > length:
        raise DataError(
            f"rows of {length} tokens are too short: after {start} and {interval} more tokens comes the first refocus, and "
            f"it is judged by the next {horizon}",
            hint="give longer rows, or a smaller budget",
        )
    stream = _Stream(gpt, nets, rows.to(gpt.device).long(), options.max_entries)
    score = lens_score(nets.lensnet, stream.embeddings, allocator, nets.dtype)
    starts = [start_focus(start, limits, allocator.recent_tokens)] * len(rows)
    focuses = prefill_focus(starts, score, allocator, limits)
    parts: list[_Part] = []
    done: list[Refocus] = []
    for tokens in range(start, length - horizon + 1, interval):
        if tokens > limits.entries:  # before, nothing is gists
            parts.append(_Part(tokens, [focus.cut for focus in focuses]))
        if tokens + interval > length:
            break
        focuses = [append_tokens(focus, interval, limits) for focus in focuses]
        if tokens + interval + horizon <= length:
            done.append(refocus(focuses, score, allocator, limits))
            focuses = done[-1].focuses
    ids = None if documents is None else np.asarray(documents, dtype=np.int64)
    delta = estimate(stream.delta_nll(parts, horizon), ids)
    assert delta.mean is not None
    metrics = {"delta_nll": delta.mean, **summarize(done), **_dwell(done[-1:])}
    return StreamReport(delta, metrics, done, focuses, scored=len(parts) * horizon)


def _limits(config: MegaContextConfig, budget: int, room: int) -> Limits:
    limits = Limits(budget, config.block_size, config.max_lod, room=room)
    if limits.entries < 1:
        raise FocusError(
            f"a Working Context of {budget} entries has no room for the {room} tokens behind a refocus",
            hint="raise the budget, or lower megacontext.refocus_interval or megacontext.horizon",
        )
    return limits


def _dwell(refocuses: list[Refocus]) -> dict[str, float]:
    return {name: value for name, value in summarize(refocuses).items() if name.startswith("dwell")}


class _Stream:
    """Rows with their pyramid: a gist is the same whenever its block became complete."""

    def __init__(self, gpt: GPT, nets: MegaContextNets, rows: Tensor, max_entries: int) -> None:
        self.gpt, self.nets = gpt, nets
        self.inputs, self.targets = rows[:, :-1], rows[:, 1:]
        self._max_entries = max_entries
        step = max(1, max_entries // self.inputs.size(1))
        parts = [nets.pyramid(gpt.embed(part)) for part in self.inputs.split(step)]  # type: ignore[no-untyped-call]
        self.levels = [torch.cat(level) for level in zip(*parts, strict=True)]
        self.full = torch.cat(
            [
                gpt.loss(inputs, targets, reduction="none")
                for inputs, targets in zip(self.inputs.split(step), self.targets.split(step), strict=True)  # type: ignore[no-untyped-call]
            ]
        )  # [R, n]

    def contexts(self, row: Tensor, cuts: Sequence[Cut]) -> WorkingContexts:
        """Working Contexts of cuts of rows [r], padded on the right by the first token, where causality hides it."""
        longest = max(len(cut) for cut in cuts)
        level, index = (np.zeros((len(cuts), longest), dtype=np.int64) for _ in range(2))
        for at, cut in enumerate(cuts):
            level[at, : len(cut)], index[at, : len(cut)] = cut.level, cut.index
        device = row.device
        table = (torch.from_numpy(level).to(device), torch.from_numpy(index).to(device))
        return assemble(self.levels, row, *table, self.nets.config.block_size)

    def embeddings(self, cuts: Sequence[Cut]) -> list[Tensor]:
        """Embeddings [L, D] of a cut of every row."""
        contexts = self.contexts(torch.arange(len(cuts), device=self.inputs.device), cuts)
        return [row[: len(cut)] for row, cut in zip(contexts.embeddings, cuts, strict=True)]

    def delta_nll(self, parts: Sequence[_Part], horizon: int) -> np.ndarray:
        """NLL of the `horizon` tokens behind every part minus the full context's, mean of each row [R], fp64."""
        jobs = [(row, part.tokens, append(cut, horizon - 1)) for part in parts for row, cut in enumerate(part.cuts)]
        total = torch.zeros(len(self.inputs), dtype=torch.float64, device=self.inputs.device)
        step = max(1, self._max_entries // max(len(cut) for _, _, cut in jobs))
        for start in range(0, len(jobs), step):
            rows, tokens, cuts = zip(*jobs[start : start + step], strict=True)
            row = torch.tensor(rows, device=total.device)
            contexts = self.contexts(row, cuts)
            inputs = context_inputs(self.gpt, self.nets, contexts, self.inputs)
            hidden = self.gpt.hidden(**inputs)
            step_ahead = torch.arange(horizon, device=row.device)
            lengths = torch.tensor([len(cut) for cut in cuts], device=row.device)
            at = (lengths - horizon).unsqueeze(1) + step_ahead  # [r, horizon] entries that predict
            hidden = hidden.gather(1, at.unsqueeze(-1).expand(-1, -1, hidden.size(-1)))
            wanted = context_targets(contexts, self.targets).gather(1, at)
            position = torch.tensor(tokens, device=row.device).unsqueeze(1) - 1 + step_ahead  # of their last token
            if not torch.equal(wanted, self.targets[row].gather(1, position)):
                raise AssertionError("a Working Context scored other tokens than the full context")
            nll = self.gpt.hidden_loss(hidden, wanted, reduction="none")
            full = self.full[row].gather(1, position)
            total.index_add_(0, row, (nll - full).double().sum(dim=1))
        return (total / (len(parts) * horizon)).cpu().numpy()
