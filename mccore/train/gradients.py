"""The ranks of a training stage: who they are, what they agree on, and the sum of their gradients.

torchrun's variables (RANK, LOCAL_RANK, WORLD_SIZE, ...) say who we are; without them there is one rank and every operation
here is free.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mccore.config import HardwareConfig
from mccore.host.machine import available_cores
from mccore.train.devices import choose_device
from mccore.train.world import World

# Ranks wait this long for one that encodes a corpus or evaluates before they give up.
TIMEOUT = timedelta(hours=2)
BUCKET_BYTES = 32 * 2**20  # of gradients per all-reduce: large enough for bandwidth, small enough to start early


@contextmanager
def join_world(hardware: HardwareConfig, environ: Mapping[str, str] | None = None) -> Iterator[World]:
    """The world of this process for the time of a stage. Raises ConfigError for a device that isn't there."""
    environ = os.environ if environ is None else environ
    size = int(environ.get("WORLD_SIZE", "1"))
    rank = int(environ.get("RANK", "0"))
    local_rank = int(environ.get("LOCAL_RANK", "0"))
    device = choose_device(hardware.device, local_rank)
    if "OMP_NUM_THREADS" not in environ:  # the launcher sets it; torchrun by hand would leave every rank all cores
        torch.set_num_threads(
            hardware.threads or max(1, available_cores() // int(environ.get("LOCAL_WORLD_SIZE", "1")))
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")  # what is left in fp32 may use the tensor cores
    world = World(rank, size, local_rank, str(device))
    if size == 1:
        yield world
        return
    backend: Literal["nccl", "gloo"] = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT, device_id=device if backend == "nccl" else None)
    try:
        yield world
    finally:
        dist.destroy_process_group()


class GradientSum:
    """Sums gradients over the ranks, in buckets of flat fp32 memory that the gradients live in.

    A bucket is sent as soon as the last backward pass of a step has filled it, while the pass goes on with earlier layers.
    Usage per step: `clear()`, backward passes, the last one within `last_backward()`, then `finish()`. With one rank
    gradients are left to autograd.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], world: World, *, bucket_bytes: int = BUCKET_BYTES) -> None:
        self._parameters = list(parameters)
        self._world = world
        self._buckets: list[_Bucket] = []
        self._armed = False
        self._sent = 0
        if world.size == 1:
            return
        # Backward reaches the last layers first, so their gradients travel first.
        chosen: list[nn.Parameter] = []
        for parameter in reversed(self._parameters):
            chosen.append(parameter)
            if 4 * sum(p.numel() for p in chosen) >= bucket_bytes:
                self._buckets.append(_Bucket(chosen))
                chosen = []
        if chosen:
            self._buckets.append(_Bucket(chosen))
        for bucket in self._buckets:
            for parameter in bucket.parameters:
                parameter.register_post_accumulate_grad_hook(self._hook(bucket))  # type: ignore[no-untyped-call]

    def clear(self) -> None:
        """Forget the gradients of the step before."""
        if not self._buckets:
            for parameter in self._parameters:
                parameter.grad = None
            return
        for bucket in self._buckets:
            bucket.clear()
        self._sent = 0

    @contextmanager
    def last_backward(self) -> Iterator[None]:
        """Around the last backward pass of a step: buckets are sent as they fill."""
        self._armed = bool(self._buckets)
        try:
            yield
        finally:
            self._armed = False

    def finish(self) -> None:
        """Send what is left and wait until every gradient is the sum over all ranks."""
        while self._sent < len(self._buckets):
            self._send_next()
        for bucket in self._buckets:
            bucket.wait()

    def _hook(self, bucket: _Bucket) -> Callable[[Tensor], None]:
        def filled(_: Tensor) -> None:
            if not self._armed:
                return
            bucket.missing -= 1
            # In order, so that all ranks send the same bucket at the same time whatever order autograd took.
            while self._sent < len(self._buckets) and self._buckets[self._sent].missing == 0:
                self._send_next()

        return filled

    def _send_next(self) -> None:
        self._buckets[self._sent].send()
        self._sent += 1


class _Bucket:
    """Parameters whose gradients are views of one flat tensor."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.flat = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
        self.missing = len(self.parameters)
        self._work: dist.Work | None = None

    def clear(self) -> None:
        self.flat.zero_()
        self.missing = len(self.parameters)
        at = 0
        for parameter in self.parameters:
            parameter.grad = self.flat[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()

    def send(self) -> None:
        self._work = dist.all_reduce(self.flat, async_op=True)

    def wait(self) -> None:
        if self._work is not None:
            self._work.wait()
            self._work = None
