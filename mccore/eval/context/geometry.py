"""Which Working Contexts are compared on a row, and what each predicted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mccore.errors import ConfigError


@dataclass(frozen=True)
class Geometry:
    """The cuts of all rows. `tokens` n is what the model reads of a row; its last `horizon` predictions are scored."""

    tokens: int
    horizon: int
    budget: int  # W
    expanded: int  # e
    block_size: int
    max_lod: int
    recent: int  # newest tokens read that are never gists; the horizon's are among them

    @property
    def collapses(self) -> int:
        """Collapses that bring n tokens within the budget: each frees K - 1 entries."""
        return -(-(self.tokens - self.budget) // (self.block_size - 1))

    @property
    def blocks(self) -> int:
        """Blocks of a row, a partial one included."""
        return -(-self.tokens // self.block_size)

    @property
    def limit(self) -> int:
        """Blocks before the recent tokens."""
        return (self.tokens - self.recent) // self.block_size

    @property
    def entries(self) -> int:
        """Entries of every Working Context but the unexpanded one."""
        return self.tokens - self.collapses * (self.block_size - 1)

    def terraces(self, collapses: int) -> tuple[int, int]:
        """How many LOD2 nodes and how many blocks in all are gists after so many collapses: LOD1 as far as that goes."""
        far = min(self.limit, collapses)
        return collapses - far, far

    def state(self, collapses: int) -> Tensor:
        """The level over each block after so many collapses: the oldest blocks are gists, int64 [blocks]."""
        coarse, far = self.terraces(collapses)
        block = torch.arange(self.blocks)
        return torch.where(block < coarse * self.block_size, 2, torch.where(block < far, 1, 0))

    @property
    def candidates(self) -> tuple[int, int]:
        """The blocks `[first, stop)` that are LOD1 gists in the unexpanded context, of which e may be expanded."""
        coarse, far = self.terraces(self.collapses + self.expanded)
        return coarse * self.block_size, far

    def check(self) -> None:
        """Raise ConfigError when there is nothing to compare."""
        hint = "evaluate longer rows, or a smaller budget"
        if self.tokens <= self.budget:
            raise ConfigError(
                f"rows of {self.tokens} tokens fit the budget of {self.budget}: nothing is far", hint=hint
            )
        if self.expanded < 1:
            raise ConfigError("no block is to be expanded", hint="expand at least one")
        if self.horizon < 1 or self.recent < self.horizon:
            raise ConfigError(f"{self.recent} recent tokens don't hold a horizon of {self.horizon}")
        coarse, far = self.terraces(self.collapses + self.expanded)
        first, stop = self.candidates
        if coarse and (self.max_lod < 2 or first > far):
            raise ConfigError(
                f"{self.tokens} tokens don't fit {self.budget} entries with {self.recent} recent tokens and "
                f"{self.expanded} expanded blocks of {self.block_size}",
                hint="raise the budget, or lower the expanded blocks or megacontext.recent_tokens",
            )
        if stop - first <= self.expanded:
            raise ConfigError(f"{stop - first} far blocks leave no choice of {self.expanded} to expand", hint=hint)


class Ledger:
    """NLL by condition, row and token, of tokens that must be the same ones everywhere; and the level at which a condition
    showed the place that a token could be copied from (`mccore.eval.context.where`)."""

    def __init__(self, wanted: Tensor) -> None:
        self._wanted = wanted.cpu()  # [R, H]
        self.nll: dict[str, NDArray[np.float64]] = {}  # [R, H] each
        self.level: dict[str, NDArray[np.int64]] = {}  # [R, H] each

    def add(self, name: str, rows: Tensor, wanted: Tensor, nll: Tensor) -> None:
        """Take the losses [r, H] of the tokens `wanted` of some rows. Raises AssertionError for other tokens than these
        rows' last ones, or a row that was there already: paired differences would be noise or worse."""
        rows = rows.cpu()
        if not torch.equal(wanted.cpu(), self._wanted[rows]):
            raise AssertionError(f"{name} scored other tokens than the rows' last {self._wanted.size(1)}")
        values = self.nll.setdefault(name, np.full(tuple(self._wanted.shape), np.nan))
        if not np.isnan(values[rows.numpy()]).all():
            raise AssertionError(f"{name} scored a row twice")
        values[rows.numpy()] = nll.double().cpu().numpy()

    def add_levels(self, name: str, rows: Tensor, level: Tensor) -> None:
        """Take the levels [r, H] of the places of these rows' tokens."""
        values = self.level.setdefault(name, np.zeros(tuple(self._wanted.shape), dtype=np.int64))
        values[rows.cpu().numpy()] = level.cpu().numpy()

    def complete(self) -> dict[str, NDArray[np.float64]]:
        """The losses [R, H] of every condition. Raises AssertionError where one left out a row."""
        for name, values in self.nll.items():
            if np.isnan(values).any():
                raise AssertionError(f"{name} has no loss of row {int(np.argmax(np.isnan(values).any(axis=1)))}")
        return self.nll
