"""A training step as chance draws it: lengths, ends and kinds of its variants, and what the plain pass reads.

Every number that depends on chance is a hash of (seed, step, purpose, row): the same row draws the same on any number of ranks,
however a step is split into forward passes.

Shapes: B rows of a batch with T tokens each, D channels, K tokens a block.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mccore.config import MegaContextConfig
from mccore.data.batches.loader import Batch
from mccore.errors import ConfigError
from mccore.megacontext.training.random_cuts import CutShape, check_shape, possible_ends, reachable_length
from mccore.model.chance import hash_uniform
from mccore.train.step_metrics import StepMetrics

PHASE = (math.sqrt(5) - 1) / 2  # of a turn, from step to step: spreads as evenly as can be


class Purpose(IntEnum):
    """What a random number is for. The numbers are part of every run: they may be added to, not changed."""

    END = 0
    KIND = 1
    BLOCKS = 2
    EXPANDED = 3
    COARSE = 4
    POLICY = 5
    SKIP = 6
    REBUILT = 7
    PLAIN = 8


class StepChance(NamedTuple):
    """The random numbers of one step."""

    seed: int
    step: int

    def uniform(self, purpose: Purpose, *coordinates: Tensor) -> Tensor:
        """Numbers in [0, 1), fp32, one for each element of the broadcast int64 coordinates."""
        digest = hashlib.blake2b(f"{self.seed}/{self.step}/{int(purpose)}".encode(), digest_size=8).digest()
        return hash_uniform(int.from_bytes(digest, "little", signed=True), *coordinates)


class VariantKind(NamedTuple):
    """Variants of one kind in a step: the shape of their cuts, and how many there are of every row.

    Gist-only variants show the far past as gists; expanded ones show some far blocks as tokens.
    """

    expanded: bool
    shape: CutShape
    count: int


class Plan(NamedTuple):
    """The variants of a step, by kind."""

    gist_only: VariantKind
    expanded: VariantKind

    @property
    def drawn(self) -> list[VariantKind]:
        """The kinds that the step has variants of, gist-only ones first: LensNet sees these before others are expanded."""
        return [kind for kind in self if kind.count]

    @property
    def longest(self) -> int:
        """Entries of the longest variant that the plan has."""
        return (self.expanded if self.expanded.count else self.gist_only).shape.length


@dataclass(frozen=True)
class PlainPart:
    """The tokens of a batch that the plain pass reads: b of its B rows, of each P tokens that lie together."""

    shape: tuple[int, int]  # (B, T)
    row_share: float  # of all rows of the step, on average
    row: Tensor | None  # int64 [b]; None: all rows
    place: Tensor | None  # int64 [b, P]; None: all tokens

    @property
    def share(self) -> float:
        """The share of all tokens of the step that plain passes read, on average."""
        length = self.shape[1] if self.place is None else self.place.size(1)
        return self.row_share * length / self.shape[1]

    def rows_of(self, x: Tensor) -> Tensor:
        """[B, ...] -> [b, ...]."""
        return x if self.row is None else x[self.row]

    def to_rows(self, x: Tensor) -> Tensor:
        """[b, ...] -> [B, ...], zeros in the other rows."""
        return x if self.row is None else x.new_zeros(self.shape[0], *x.shape[1:]).index_copy(0, self.row, x)

    def tokens_of(self, x: Tensor) -> Tensor:
        """[B, T, ...] -> [b, P, ...]."""
        x = self.rows_of(x)
        return x if self.place is None else x.gather(1, self._place_of(x))

    def to_tokens(self, x: Tensor) -> Tensor:
        """[b, P, ...] -> [B, T, ...], zeros for the other tokens."""
        if self.place is not None:
            x = x.new_zeros(len(x), self.shape[1], *x.shape[2:]).scatter(1, self._place_of(x), x)
        return self.to_rows(x)

    def _place_of(self, x: Tensor) -> Tensor:
        """The places as an index of the second dimension of x [b, n, ...]."""
        assert self.place is not None
        return self.place.view(*self.place.shape, *[1] * (x.dim() - 2)).expand(*self.place.shape, *x.shape[2:])


@dataclass(frozen=True)
class DrawnStep:
    """One batch with all that chance decides about it, and the vectors that its contexts are made of."""

    config: MegaContextConfig
    batch: Batch
    chance: StepChance
    plan: Plan
    rows: Tensor  # int64 [B], numbers of the rows within the step
    weights: Tensor  # fp32 [B, T], of every target; 0 where none is trained
    ends: Tensor  # int64 [B], tokens that the cuts of a row cover
    skip: Tensor | None  # int64 [B], positions by which recent tokens move away from the far past, in every pass
    plain: PlainPart | None  # what the plain pass reads; None: nothing of these rows
    focused: bool  # whether LensNet is trained
    embeddings: Tensor  # [B, T, D], of the tokens
    levels: Sequence[Tensor]  # the pyramid over them, [B, T // K^k, D] each
    metrics: StepMetrics  # what the step's passes report

    @property
    def row_share(self) -> Tensor:
        """The share of the step's loss that belongs to each row, fp32 [B]."""
        return self.weights.sum(dim=1) / self.batch.step_targets

    @property
    def editable_blocks(self) -> Tensor:
        """Blocks before the recent tokens of each row, those that may be gists: int64 [B]."""
        return (self.ends - self.config.recent_tokens) // self.config.block_size

    @property
    def horizon_places(self) -> Tensor:
        """The last tokens of each row's cuts, which LensNet has to foresee: int64 [B, H]."""
        horizon = self.config.horizon
        return (self.ends - horizon).unsqueeze(1) + torch.arange(horizon, device=self.ends.device)


@dataclass(frozen=True)
class StepDraw:
    """Draws the steps of a stage from rows of `tokens` tokens. Raises ConfigError for a configuration without a legal cut.

    `focused_from`, the progress from which on LensNet is trained, and `plain_share`, the share of rows that the plain pass
    reads, are the configuration's unless given: 0 and 0 measure passes without plain rows, for example.
    """

    config: MegaContextConfig
    tokens: int
    seed: int
    focused_from: float | None = None
    plain_share: float | None = None

    def __post_init__(self) -> None:
        for progress in (0.0, 1.0):
            plan = self.plan(0, progress)
            for kind in plan:
                check_shape(kind.shape)
            if self.config.num_random_variants and plan.gist_only.shape.length <= self.config.horizon:
                raise ConfigError(
                    f"a Working Context of {plan.gist_only.shape.length} entries has no history before a horizon of "
                    f"{self.config.horizon} tokens",
                    hint="lower megacontext.horizon or raise megacontext.train_wc_length",
                )

    def plan(self, step: int, progress: float) -> Plan:
        """The variants of a step at `progress` in [0, 1) of the stage. Lengths shrink in few steps, from the first share of
        the sequence to `train_wc_length`."""
        config, size = self.config, self.config.block_size
        steps = config.wc_length_steps
        share = min(steps - 1, math.floor(progress * steps)) / (steps - 1) if steps > 1 else 1.0
        start = config.start_wc_fraction * self.tokens
        length = round(start + (config.train_wc_length - start) * share)
        shape = CutShape(self.tokens, 0, size, config.max_lod, config.recent_tokens)
        expanded = shape._replace(length=reachable_length(length, shape))
        # What gist-only variants save: the tokens of the expanded blocks, and the siblings of the nodes opened above them.
        levels = config.max_lod if config.lod2_probability else 1
        saved = config.expanded_blocks * levels * (size - 1)
        gist_only = shape._replace(length=reachable_length(expanded.length - saved, shape))
        count = config.num_random_variants // 2
        others = config.num_random_variants - count
        if config.num_random_variants == 1 and step % 2:  # by turns
            others, count = 0, 1
        return Plan(VariantKind(False, gist_only, others), VariantKind(True, expanded, count))

    def draw(self, batch: Batch, embeddings: Tensor, levels: Sequence[Tensor], metrics: StepMetrics) -> DrawnStep:
        """The step of a batch with these embeddings [B, T, D] and the pyramid over them."""
        config, chance = self.config, StepChance(self.seed, batch.step)
        rows = batch.first_row + torch.arange(batch.inputs.size(0), device=batch.inputs.device)
        weights = (batch.targets >= 0).float()
        if batch.weights is not None:
            weights = weights * batch.weights
        plan = self.plan(batch.step, batch.progress)
        start = config.lens.start if self.focused_from is None else self.focused_from
        trains_lens = config.lens.loss_weight > 0 and config.num_random_variants > 0
        return DrawnStep(
            config=config,
            batch=batch,
            chance=chance,
            plan=plan,
            rows=rows,
            weights=weights,
            ends=self._ends(chance, plan, rows),
            skip=(chance.uniform(Purpose.SKIP, rows) * (config.position_skip + 1)).long()
            if config.position_skip
            else None,
            plain=self.plain_part(batch, rows),
            focused=trains_lens and batch.progress >= start,
            embeddings=embeddings,
            levels=levels,
            metrics=metrics,
        )

    def _ends(self, chance: StepChance, plan: Plan, rows: Tensor) -> Tensor:
        """Tokens that the cuts of each row cover, int64 [B]."""
        ends = common_ends(plan.gist_only.shape, plan.expanded.shape, math.ceil(self.tokens * self.config.min_history))
        if len(ends) == 1:
            return torch.full_like(rows, ends[0])
        number = (chance.uniform(Purpose.END, rows) * len(ends)).long()
        return ends[0] + (self.config.block_size - 1) * number

    def plain_part(self, batch: Batch, rows: Tensor) -> PlainPart | None:
        """What the plain pass reads: `plain_share` of the rows, evenly spread over the step's, and `baseline_tokens` of each."""
        share = self.config.baseline_share if self.plain_share is None else self.plain_share
        count, first = len(rows), batch.first_row
        # A phase for every step: with few rows and a small share the same ones, or none, would be read in all steps.
        phase = (batch.step * PHASE) % 1.0
        marks = [math.floor((first + i) * share + phase) for i in range(count + 1)]
        chosen = [i for i in range(count) if share == 1 or marks[i + 1] > marks[i]]
        if not chosen:
            return None
        row = None if len(chosen) == count else torch.tensor(chosen, device=rows.device)
        place: Tensor | None = None
        length = self.config.baseline_tokens or self.tokens
        if length < self.tokens:
            chance = StepChance(self.seed, batch.step)
            begin = (chance.uniform(Purpose.PLAIN, rows) * (self.tokens - length + 1)).long()
            place = begin.unsqueeze(1) + torch.arange(length, device=rows.device)
            place = place if row is None else place[row]
        return PlainPart((count, self.tokens), share, row, place)


@lru_cache(maxsize=64)
def common_ends(one: CutShape, other: CutShape, least: int) -> tuple[int, ...]:
    """Every end from `least` tokens on for which both shapes have a cut, K - 1 tokens apart without a gap, ascending."""
    step = one.block_size - 1
    ends = sorted(set(possible_ends(one, least)) & set(possible_ends(other, least))) or [one.tokens]
    # From the last gap on: where contexts are nearly as short as they can be, some ends have none.
    gap = max((at for at in range(1, len(ends)) if ends[at] - ends[at - 1] != step), default=0)
    return tuple(ends[gap:])
