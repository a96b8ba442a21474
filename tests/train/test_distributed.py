"""Ranks: who we are, and sums of gradients that don't depend on how they travel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mccore.config import HardwareConfig
from mccore.errors import ConfigError
from mccore.train.devices import choose_device, choose_dtype, peak_flops
from mccore.train.distributed import GradientSum, join_world
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


def test_two_ranks_sum_gradients_in_buckets() -> None:
    """Real ranks; what is checked is in the program: accumulation, unused parameters, order, repeated steps."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(PROGRAM)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("all sums are right") == 2
