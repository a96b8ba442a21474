"""Questions shared among the ranks of a stage, as an evaluation sees these ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Sharing(Protocol):
    """Several processes that answer a share each; `mccore.train.world.World` is one."""

    def own_share(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's part of what all have."""
        ...

    def gather(self, own: Sequence[T], total: int) -> list[T]:
        """What all made of their parts of `total` things, in the order of these things, on every rank."""
        ...


class Alone:
    """One process, whose part is everything."""

    def own_share(self, items: Sequence[T]) -> Sequence[T]:
        return items

    def gather(self, own: Sequence[T], total: int) -> list[T]:
        return list(own)
