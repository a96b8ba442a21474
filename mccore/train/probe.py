"""How many rows fit into one forward pass: measured with one row and with two, not guessed.

What autograd keeps for backward grows by the same amount with every row, so two measurements give the line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mccore.data.batches.loader import Batch
from mccore.train.objective import Losses, Probe

MEMORY_SHARE = 0.8  # of what is free; the rest is for kernels' workspaces and fragmentation


class Footprint(NamedTuple):
    """Bytes of a forward and backward pass: `fixed + rows * per_row`."""

    fixed: float
    per_row: float

    def rows(self, limit: float) -> int:
        """How many rows stay within `limit` bytes, at least one."""
        return max(1, int((limit - self.fixed) / max(self.per_row, 1.0)))

    def with_share(self, more: Footprint, share: float) -> Footprint:
        """The footprint of passes in which a share of the rows, and at most one row beyond it, takes what `more` takes."""
        extra = max(0.0, more.per_row - self.per_row)
        return Footprint(max(self.fixed, more.fixed) + extra, self.per_row + share * extra)


def measure_probes(probes: Sequence[Probe], batch: Batch, model: nn.Module) -> Footprint:
    """The footprint of passes that are of each kind for its share of the rows. What passes move beside gradients, running
    scales say, is put back."""
    kept = [*model.buffers(), *(p for p in model.parameters() if not p.requires_grad)]
    before = [tensor.detach().clone() for tensor in kept]
    parameters: list[Tensor] = list(model.parameters())
    footprint, *others = (measure(probe.run, batch, parameters) for probe in probes)
    for probe, found in zip(probes[1:], others, strict=True):
        footprint = footprint.with_share(found, probe.share)
    with torch.no_grad():
        for tensor, value in zip(kept, before, strict=True):
            tensor.copy_(value)
    return footprint


def measure(objective: Callable[[Batch], Losses], batch: Batch, parameters: list[Tensor]) -> Footprint:
    """The footprint of `objective`, from passes over the first row and over the first two of `batch`. Gradients that the
    passes leave are dropped."""
    one, two = (_measure(objective, _first(batch, rows), parameters) for rows in (1, 2))
    return Footprint(max(0.0, 2.0 * one - two), float(max(two - one, 1)))


def _first(batch: Batch, rows: int) -> Batch:
    weights = None if batch.weights is None else batch.weights[:rows]
    return Batch(batch.inputs[:rows], batch.targets[:rows], batch.step_targets, 0, batch.step, batch.progress, weights)


def _measure(objective: Callable[[Batch], Losses], batch: Batch, parameters: list[Tensor]) -> int:
    if batch.inputs.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        objective(batch).loss.backward()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        found = torch.cuda.max_memory_allocated() - before
        for parameter in parameters:
            parameter.grad = None
        return found
    kept: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in parameters}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = objective(batch)
    del losses
    return sum(kept.values())


def free_memory(device: torch.device, ranks: int) -> float:
    """Bytes that one of `ranks` processes of this machine may still take."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")) / ranks
    except (OSError, StopIteration):  # not Linux: half of what there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2 / ranks


def choose_rows(footprint: Footprint, free: float, rows: int, most: int) -> int:
    """The largest divisor of `rows` that is at most `most` and fits into the free memory."""
    limit = min(most, footprint.rows(free * MEMORY_SHARE))
    return next(count for count in range(min(rows, limit), 0, -1) if rows % count == 0)
