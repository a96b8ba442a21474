"""Ranks: who we are, and sums of gradients that don't depend on how they travel."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
from pathlib import Path

import pytest
import torch
from torch import nn

from mccore.config import HardwareConfig
from mccore.errors import ConfigError
from mccore.train.devices import choose_device, choose_dtype, peak_flops
from mccore.train.gradients import GradientSum, join_world
from mccore.train.world import World

PROGRAM = Path(__file__).with_name("programs") / "sum_gradients.py"


def test_without_torchrun_there_is_one_rank() -> None:
    with join_world(HardwareConfig(device="cpu"), {"OMP_NUM_THREADS": "1"}) as world:
        assert world == World()
        assert world.is_main
        tensor = torch.ones(2)
        world.sum(tensor)
        world.broadcast([tensor])
        world.barrier()
        ran = []
        world.once_per_machine(lambda: ran.append(1))
        assert ran == [1]
        assert tensor.tolist() == [1, 1]


def test_threads_are_shared_among_the_ranks_unless_the_environment_says() -> None:
    before = torch.get_num_threads()
    try:
        with join_world(HardwareConfig(device="cpu", threads=3), {}):
            assert torch.get_num_threads() == 3
        with join_world(HardwareConfig(device="cpu"), {"LOCAL_WORLD_SIZE": "10000"}):
            assert torch.get_num_threads() == 1
        torch.set_num_threads(2)
        with join_world(HardwareConfig(device="cpu", threads=3), {"OMP_NUM_THREADS": "2"}):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_isnt_there() -> None:
    assert choose_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="sees no GPU") as raised:
        choose_device("cuda")
    assert "auto or cpu" in str(raised.value.hint)


def test_compute_types() -> None:
    cpu = torch.device("cpu")
    assert choose_dtype("auto", cpu) is torch.float32
    assert choose_dtype("bf16", cpu) is torch.bfloat16
    assert peak_flops(cpu, torch.float32) is None


def test_one_rank_leaves_gradients_to_autograd() -> None:
    parameter = nn.Parameter(torch.ones(2))
    gradients = GradientSum([parameter], World())
    gradients.clear()
    assert parameter.grad is None
    with gradients.last_backward():
        (parameter * 3).sum().backward()
    gradients.finish()
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [3, 3]


def _rank(rank: int, port: int) -> None:
    """One of two ranks, with the variables that torchrun would set."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    torch.set_num_threads(1)
    runpy.run_path(str(PROGRAM), run_name="__main__")


def test_two_ranks_sum_gradients_in_buckets() -> None:
    """Real ranks; what is checked is in the program: accumulation, unused parameters, order, repeated steps.

    Forked rather than started by torchrun, which would import torch three times; other tests do that.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(rank, port)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0, 0]
