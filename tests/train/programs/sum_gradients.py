"""Run by each of two ranks: sums of gradients over two ranks against sums made by hand, and what ranks agree on."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mccore.config import HardwareConfig
from mccore.errors import RunError
from mccore.train.gradients import GradientSum, join_world
from mccore.train.world import World


def inputs(rank: int, step: int, part: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 * rank + 10 * step + part)
    return torch.randn(5, 8, generator=generator)


def loss(model: nn.Sequential, rank: int, step: int, part: int) -> Tensor:
    x = inputs(rank, step, part)
    # Every second step leaves a layer out on rank 1: its gradient there is nothing, not an old one.
    skip = rank == 1 and step % 2 == 1
    hidden = model[0](x).relu()
    return model[2](hidden if skip else model[1](hidden)).square().sum()


def expected(model: nn.Sequential, step: int) -> list[Tensor]:
    total = sum(loss(model, rank, step, part) for rank in range(2) for part in range(3))
    assert isinstance(total, Tensor)
    return list(torch.autograd.grad(total, list(model.parameters())))


def check(world: World, bucket_bytes: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4))
    gradients = GradientSum(list(model.parameters()), world, bucket_bytes=bucket_bytes)
    for step in range(4):
        wanted = expected(model, step)
        gradients.clear()
        for part in range(3):
            if part == 2:
                with gradients.last_backward():
                    loss(model, world.rank, step, part).backward()
            else:
                loss(model, world.rank, step, part).backward()
        gradients.finish()
        for parameter, gradient in zip(model.parameters(), wanted, strict=True):
            assert parameter.grad is not None
            assert torch.allclose(parameter.grad, gradient, rtol=1e-5, atol=1e-4)


def main() -> None:
    with join_world(HardwareConfig(device="cpu")) as world:
        assert world.size == 2
        for bucket_bytes in (1, 600, 2**20):
            check(world, bucket_bytes)

        tensor = torch.full((3,), float(world.rank))
        world.broadcast([tensor])
        assert tensor.tolist() == [0, 0, 0]

        order: list[int] = []
        world.once_per_machine(lambda: order.append(world.rank))
        assert order == ([0] if world.rank == 0 else [])

        def fails() -> None:
            raise ValueError("on rank 0")

        raised = ""
        try:
            world.once_per_machine(fails)
        except (ValueError, RunError) as error:
            raised = str(error)
        assert raised.startswith("on rank 0" if world.rank == 0 else "another rank failed")
        world.barrier()
    assert not dist.is_initialized()


if __name__ == "__main__":
    main()
