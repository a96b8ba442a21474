"""Synthetic recall: facts far back, questions at the end, fresh symbols in every row.

A row is `blocks` far blocks of `block_size` tokens, each with `facts` pairs (key, value) between random filler; then a tail that
is always near: `answered` pairs of a key and its value, a marker, `asked` keys; then the horizon, the asked keys again, each
with its value. The keys that are asked lie in exactly `spread` of the far blocks, so whoever may look closely at that many
blocks can know everything, and whoever can't has to have it in the gists. With `alias` a fact names its key by another
symbol than the question does, one fixed translation for all rows, so that no two equal tokens give the block away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class RecallTask:
    """The sizes of the task. Chance is 1 / `values`."""

    blocks: int = 16
    block_size: int = 8
    facts: int = 2
    keys: int = 64
    values: int = 16
    filler: int = 32
    answered: int = 8
    asked: int = 4
    spread: int = 2
    alias: bool = False

    def __post_init__(self) -> None:
        if 2 * self.facts > self.block_size:
            raise ValueError(f"{self.facts} facts of two tokens don't fit in a block of {self.block_size}")
        if self.blocks * self.facts > self.keys:
            raise ValueError(f"{self.blocks} blocks with {self.facts} facts need more than {self.keys} keys")
        if self.answered + self.asked > self.blocks * self.facts:
            raise ValueError(f"{self.answered} answered and {self.asked} asked keys are more than there are facts")
        if not self.spread <= self.asked <= self.spread * self.facts or self.spread > self.blocks:
            raise ValueError(f"{self.asked} asked keys can't lie in exactly {self.spread} blocks of {self.facts} facts")

    @property
    def far(self) -> int:
        """Far tokens."""
        return self.blocks * self.block_size

    @property
    def horizon(self) -> int:
        """Tokens on which a context is judged."""
        return 2 * self.asked

    @property
    def tail(self) -> int:
        """Tokens behind the far ones, the horizon included."""
        return 2 * self.answered + 1 + self.asked + self.horizon

    @property
    def tokens(self) -> int:
        """Tokens of a row (T)."""
        return self.far + self.tail

    @property
    def vocab(self) -> int:
        """Ids: keys, their aliases, values, filler and the marker, in this order."""
        return 2 * self.keys + self.values + self.filler + 1

    def resized(self, **changes: int) -> RecallTask:
        """The same language in other sizes."""
        return RecallTask(**{**self.__dict__, **changes})


class RecallBatch(NamedTuple):
    """R rows: inputs and targets int64 [R, T], weights of the targets fp32 [R, T] (1 for answers, else 0), and for every asked
    key the position that has to predict its value and the block it lies in, int64 [R, asked]."""

    inputs: Tensor
    targets: Tensor
    weights: Tensor
    answer_at: Tensor
    answer_block: Tensor


def draw_recall(task: RecallTask, rows: int, generator: torch.Generator) -> RecallBatch:
    """Draw rows; the same generator state gives the same rows."""

    def shuffled(count: int, width: int) -> Tensor:
        return torch.rand(count, width, generator=generator).argsort(dim=1)

    keys = shuffled(rows, task.keys)[:, : task.blocks * task.facts].view(rows, task.blocks, task.facts)
    values = torch.randint(task.values, keys.shape, generator=generator) + 2 * task.keys
    filler = torch.randint(task.filler, (rows, task.blocks, task.block_size), generator=generator)
    far = filler + 2 * task.keys + task.values
    # Facts stand at random places: the gaps between them share the filler.
    spare = task.block_size - 2 * task.facts
    places = shuffled(rows * task.blocks, spare + task.facts)[:, : task.facts].sort(dim=1).values
    places = (places + torch.arange(task.facts)).view(rows, task.blocks, task.facts)
    stored = alias_of(task)[keys] if task.alias else keys
    far = far.scatter(2, places, stored).scatter(2, places + 1, values)

    chosen = shuffled(rows, task.blocks)[:, : task.spread]  # [R, spread]
    # One asked key in each chosen block, the others wherever there is one left.
    inside = shuffled(rows * task.spread, task.facts).view(rows, task.spread, task.facts)
    extra = shuffled(rows, task.spread * (task.facts - 1))[:, : task.asked - task.spread]
    block_at = torch.cat((torch.arange(task.spread).expand(rows, -1), extra % task.spread), dim=1)
    nth = torch.cat((torch.zeros(rows, task.spread, dtype=torch.int64), 1 + extra // task.spread), dim=1)
    order = shuffled(rows, task.asked)
    block_at, nth = block_at.gather(1, order), nth.gather(1, order)
    row = torch.arange(rows).unsqueeze(1)
    answer_block = chosen.gather(1, block_at)
    fact = inside[row, block_at, nth]
    asked, answers = keys[row, answer_block, fact], values[row, answer_block, fact]

    # Answered pairs are of other keys: what is asked has to be found far back.
    order_of_facts = torch.rand(rows, task.blocks * task.facts, generator=generator)
    order_of_facts = order_of_facts.scatter_add(1, answer_block * task.facts + fact, torch.full(fact.shape, 2.0))
    known = order_of_facts.argsort(dim=1)[:, : task.answered]
    known_keys, known_values = keys.flatten(1).gather(1, known), values.flatten(1).gather(1, known)
    marker = torch.full((rows, 1), task.vocab - 1)
    tail = [
        torch.stack((known_keys, known_values), 2).flatten(1),
        marker,
        asked,
        torch.stack((asked, answers), 2).flatten(1),
    ]
    inputs = torch.cat([far.flatten(1), *tail], dim=1)
    targets = torch.cat((inputs[:, 1:], torch.full((rows, 1), -1)), dim=1)

    answer_at = torch.arange(task.tokens - task.horizon, task.tokens, 2).expand(rows, -1)
    known_at = torch.arange(task.far, task.far + 2 * task.answered, 2).expand(rows, -1)
    # Only answers are trained on: everything else is noise, and learning that costs as many steps again.
    weights = torch.zeros(inputs.shape).scatter(1, torch.cat((known_at, answer_at), dim=1), 1.0)
    return RecallBatch(inputs, targets, weights, answer_at, answer_block)


def alias_of(task: RecallTask) -> Tensor:
    """The symbol that facts use for each key: int64 [keys], the same in all rows."""
    order = torch.randperm(task.keys, generator=torch.Generator().manual_seed(0))
    return task.keys + order
