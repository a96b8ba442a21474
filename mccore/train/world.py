"""The ranks of a stage as one of them sees them. No torch until there are several: stages that prepare data have one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from mccore.errors import RunError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among all ranks of the stage, and the device it computes on."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device_name: str = "cpu"  # as torch names it

    @property
    def device(self) -> torch.device:
        """The device it computes on."""
        import torch

        return torch.device(self.device_name)

    @property
    def is_main(self) -> bool:
        """Whether this rank writes what all ranks share."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier(device_ids=[self.local_rank] if self.device_name.startswith("cuda") else None)

    def sum(self, tensor: Tensor) -> None:
        """Sum `tensor` over the ranks in place."""
        if self.size > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give every rank rank 0's values."""
        if self.size > 1:
            import torch.distributed as dist

            for tensor in tensors:
                dist.broadcast(tensor.detach(), src=0)  # in place, and no part of any gradient

    def own_share(self, items: Sequence[T]) -> Sequence[T]:
        """Every `size`-th of what all ranks have, from this rank's on."""
        return items[self.rank :: self.size]

    def gather(self, own: Sequence[T], total: int) -> list[T]:
        """What the ranks made of their `own_share` of `total` things, in the order of these things, on every rank."""
        if self.size == 1:
            return list(own)
        import torch.distributed as dist

        parts: list[list[T]] = [[] for _ in range(self.size)]
        dist.all_gather_object(parts, list(own))
        return [parts[number % self.size][number // self.size] for number in range(total)]

    def from_main(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def once_per_machine(self, work: Callable[[], object]) -> None:
        """Run `work` on the first rank of each machine, the others waiting; when it fails somewhere, all ranks raise."""
        if self.size == 1:
            work()
            return
        import torch

        failed = torch.zeros(1, device=self.device)
        try:
            if self.local_rank == 0:
                work()
        except BaseException:
            failed += 1
            raise
        finally:
            self.sum(failed)
        if failed.item():
            raise RunError("another rank failed; its log says why")
