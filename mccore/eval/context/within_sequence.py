"""What a Working Context is worth: the same tokens predicted with full context, with windows, and with gists and a focus.

Every row is read up to its last token; the last `horizon` predictions are scored. A Working Context of W entries shows the far
past as gists and the rest as tokens. Expanding e far blocks is paid for by a shorter raw tail, so that every focus, and the
gists alone, have the same number of entries. Whoever chooses blocks sees the history before the scored tokens and nothing
else; only `teacher_attention` and the oracles peek.

What the model reads in each condition stands in `catalogue.WITHIN_SEQUENCE`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mccore.config import MegaContextConfig
from mccore.errors import DataError
from mccore.eval.context.catalogue import POLICIES, WITHIN_SEQUENCE, pairs
from mccore.eval.context.conditions import ContextModels, ContextRows
from mccore.eval.context.geometry import Geometry, Ledger
from mccore.eval.context.statistics import Comparison, MeanEstimate, Values, estimate
from mccore.eval.context.where import by_distance, by_lod
from mccore.megacontext.networks.networks import MegaContextNets
from mccore.model.gpt import GPT

# Whose losses are told apart by distance and by level.
BY_DISTANCE = ("window", "gists", "lens", "oracle")
BY_LOD = ("gists", "recency", "lens", "oracle")


@dataclass(frozen=True)
class ContextReport(Comparison):
    """Every condition on the same tokens, and where these could have been copied from."""

    geometry: Geometry
    rows: int
    distance: NDArray[np.int64]  # [R, H] tokens back to where each scored token could be copied from, 0 for nowhere
    level: Mapping[str, NDArray[np.int64]]  # condition -> level at which it shows that place [R, H]
    recall_k: Sequence[int]

    def delta_nll(self, condition: str) -> MeanEstimate:
        """What a condition costs against the full context (delta NLL at H)."""
        return self.difference(condition, "full")

    def by_distance(self, conditions: Sequence[str] = BY_DISTANCE) -> list[dict[str, Any]]:
        """What conditions cost against the full context by distance, as `context_where.by_distance` has it."""
        delta = {name: self._delta(name) for name in conditions if name in self.losses}
        return by_distance(delta, self.distance, self.geometry.block_size, self.documents)

    def by_lod(self, conditions: Sequence[str] = BY_LOD) -> list[dict[str, Any]]:
        """What conditions cost against the full context by the level of what a token could be copied from."""
        level = {name: self.level[name] for name in conditions if name in self.level}
        levels = range(self.geometry.max_lod + 1)
        return by_lod({name: self._delta(name) for name in level}, level, levels, self.documents)

    def _delta(self, condition: str) -> Values:
        difference: Values = self.losses[condition] - self.losses["full"]
        return difference

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON holds it; an estimate is {mean, stderr, n}, or null where it means nothing."""

        def plain(value: MeanEstimate | None) -> dict[str, Any] | None:
            return None if value is None else asdict(value)

        policies = [policy for policy in POLICIES if policy in self.nll]
        compared = pairs(WITHIN_SEQUENCE, self.nll) + [(name, "window") for name in self.nll if name != "window"]
        return {
            **asdict(self.geometry),
            "rows": self.rows,
            "documents": None if self.documents is None else len(np.unique(self.documents)),
            "entries": self.geometry.entries,
            "candidates": self.geometry.candidates[1] - self.geometry.candidates[0],
            "nll": {name: plain(estimate(values, self.documents)) for name, values in self.nll.items()},
            "delta_nll": {name: plain(self.delta_nll(name)) for name in self.nll if name != "full"},
            "differences": {f"{one} - {other}": plain(self.difference(one, other)) for one, other in compared},
            "gap_closed": {name: plain(self.gap_closed(name)) for name in self.nll if name not in ("full", "window")},
            "focus_gap_closed": {policy: plain(self.focus_gap_closed(policy)) for policy in policies},
            "spearman": {policy: plain(self.rank_correlation(policy)) for policy in self.scores},
            "recall": {
                policy: {str(k): plain(self.recall(policy, k)) for k in self.recall_k} for policy in self.scores
            },
            "by_distance": self.by_distance(),
            "by_lod": self.by_lod(),
        }


@dataclass(frozen=True)
class ContextOptions:
    """How contexts are compared.

    budget: entries of a Working Context (W), the scored tokens' included.
    horizon: tokens scored (H); None takes megacontext.horizon.
    expanded: blocks that are expanded (e); None takes megacontext.expanded_blocks.
    oracle: measure the utility of every far block, a pass over a Working Context each, times e. Without it there are no
        utilities either.
    query_tokens: newest tokens of the history that BM25 and raw attention ask with; the n-gram search asks with
        megacontext.search.query_tokens of them.
    recall_k: recall is reported at this many blocks and at e.
    max_entries: entries of one forward pass, which bounds the memory.
    """

    budget: int
    horizon: int | None = None
    expanded: int | None = None
    oracle: bool = True
    query_tokens: int = 128
    recall_k: int = 8
    seed: int = 0
    max_entries: int = 2**15

    def geometry(self, config: MegaContextConfig, tokens: int) -> Geometry:
        """The contexts of rows of `tokens` tokens. Raises ConfigError when nothing is far or the budget is too small."""
        horizon = config.horizon if self.horizon is None else self.horizon
        geometry = Geometry(
            tokens=tokens,
            horizon=horizon,
            budget=self.budget,
            expanded=config.expanded_blocks if self.expanded is None else self.expanded,
            block_size=config.block_size,
            max_lod=config.max_lod,
            recent=max(horizon, config.recent_tokens or horizon + config.block_size),
        )
        geometry.check()
        return geometry


@torch.inference_mode()
def evaluate_contexts(
    gpt: GPT,
    nets: MegaContextNets,
    rows: Tensor,
    options: ContextOptions,
    documents: Sequence[int] | None = None,
) -> ContextReport:
    """Predict the last tokens of the same rows in every condition.

    rows: token ids [R, T], each from one document, T well beyond the budget. documents: the document of each row; gists are
    then swapped with another document's. Raises ConfigError when nothing is far or the budget is too small, DataError for
    rows that aren't any.
    """
    if rows.dim() != 2 or not len(rows) or rows.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8):
        raise DataError(f"rows are token ids [R, T], not {rows.dtype} {list(rows.shape)}")
    if documents is not None and len(documents) != len(rows):
        raise DataError(f"{len(rows)} rows, but {len(documents)} documents")
    geometry = options.geometry(nets.config, rows.size(1) - 1)
    rows = rows.to(gpt.device).long()
    ids = None if documents is None else np.asarray(documents, dtype=np.int64)
    partners = swap_partners(len(rows), ids)
    models = ContextModels(gpt, nets, geometry, options.max_entries)
    ledger = Ledger(rows[:, -geometry.horizon :])
    scores: dict[str, list[Tensor]] = {}
    utilities: list[Tensor] = []
    distances: list[Tensor] = []
    step = max(1, options.max_entries // geometry.tokens)
    for start in range(0, len(rows), step):
        own = torch.arange(start, min(start + step, len(rows)))
        others = None if partners is None else rows[torch.from_numpy(partners[start : start + step]).to(rows.device)]
        part = ContextRows(models, own, rows[start : start + step], others, ledger)
        distances.append(part.distance())
        found, useful = part.run(options.query_tokens, options.oracle, options.seed)
        for name, values in found.items():
            scores.setdefault(name, []).append(values)
        if useful is not None:
            utilities.append(useful)
    return ContextReport(
        geometry=geometry,
        rows=len(rows),
        losses=ledger.complete(),
        distance=torch.cat(distances).cpu().numpy(),
        level=ledger.level,
        scores={name: torch.cat(values).double().cpu().numpy() for name, values in scores.items()},
        utilities=torch.cat(utilities).cpu().numpy() if utilities else None,
        documents=ids,
        recall_k=sorted({geometry.expanded, options.recall_k}),
    )


def swap_partners(rows: int, documents: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    """For every row another one, of another document where those are known: [R]; None where one has none."""
    if rows < 2:
        return None
    if documents is None:
        return np.roll(np.arange(rows), -1)
    found = np.empty(rows, dtype=np.int64)
    for row in range(rows):
        others = np.flatnonzero(documents != documents[row])
        if not len(others):
            return None
        found[row] = others[np.searchsorted(others, row) % len(others)]  # the next one, so that all are used
    return found
