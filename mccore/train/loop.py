"""The training loop, one for every stage: it takes what it needs and knows neither files nor names.

What a step minimises is an `Objective`, one callable from a batch to its loss. Everything a step depends on is a function of
its number: rows by the loader's position, rates by the schedule, random numbers by (seed, step, rank). So a run that goes on
from a checkpoint is the run that was never interrupted, bit for bit on the same ranks.
"""

from __future__ import annotations

import gc
import hashlib
import math
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mccore.data.batches.loader import Batch, Loader
from mccore.data.batches.rows import Position
from mccore.errors import RunError
from mccore.model.optim.optimizer import Optimizer
from mccore.model.schedule import Schedule
from mccore.train.gradients import GradientSum
from mccore.train.objective import Objective
from mccore.train.step_metrics import StepMetrics
from mccore.train.world import World

COUNT_SYNCS_EVERY = 50  # steps between two whose waits for the device are counted, which slows every operation

COLLECT_EVERY = 1000  # steps between collections of Python's garbage, which pause a step for longer the more there is


@dataclass(frozen=True)
class Cadence:
    """How often while training, in tokens; 0 means never."""

    evaluate: int = 0
    sample: int = 0
    checkpoint: int = 0


@dataclass(frozen=True)
class Progress:
    """How far training is: what a checkpoint keeps beside tensors."""

    step: int = 0
    tokens: int = 0
    position: Position = field(default_factory=Position)
    loss_average: float = 0.0  # exponential, not yet corrected for its start
    seconds: float = 0.0  # of steps, evaluations and checkpoints excluded

    @property
    def loss(self) -> float:
        """The running mean of the loss over about the last ten steps."""
        return self.loss_average / (1 - 0.9**self.step) if self.step else math.nan

    def to_json(self) -> dict[str, Any]:
        return {
            "position": self.position.to_json(),
            "loss_average": self.loss_average,
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, step: int, tokens: int, state: Mapping[str, Any]) -> Progress:
        """Read `to_json` of a checkpoint at this step."""
        position = Position.from_json(state["position"])
        return cls(step, tokens, position, float(state["loss_average"]), float(state["seconds"]))


class Hooks(Protocol):
    """What the loop tells the outside, and asks of it. All ranks call all of them."""

    def on_step(self, progress: Progress, metrics: Mapping[str, float]) -> None: ...

    def evaluate(self, progress: Progress) -> object: ...

    def sample(self, progress: Progress) -> None: ...

    def save(self, progress: Progress) -> None: ...

    def stop_requested(self) -> bool: ...

    def evaluation_requested(self) -> bool: ...


def train(
    *,
    optimizer: Optimizer,
    loader: Loader,
    objective: Objective,
    schedule: Callable[[int], Schedule],
    steps: int,
    step_tokens: int,
    hooks: Hooks,
    world: World,
    cadence: Cadence,
    seed: int = 0,
    start: Progress | None = None,
    flops: Callable[[int], float] | None = None,
    peak_flops: float | None = None,
    count_syncs: bool = False,
) -> tuple[Progress, bool]:
    """Train from `start` to `steps` optimizer steps; returns the progress and whether all were done.

    A stop asked for on any rank ends training after the step; an evaluation asked for on any comes after it. The last step,
    whichever it is, is followed by a checkpoint; evaluating the finished model is the caller's. Raises RunError when the loss
    or the gradients stop being numbers; what was computed since the last checkpoint is then given up. `flops`: the model FLOPs
    that so many steps take, for metrics. `count_syncs`: now and then count a step's waits for the device; not for compiled
    objectives, whose operations it doesn't see.
    """
    progress = start or Progress()
    saved = progress.step  # the step of the last checkpoint
    gradients = GradientSum(list(optimizer.parameters.values()), world)
    with _quiet_garbage() as collect:
        while progress.step < steps:
            began = time.perf_counter()
            data = loader.next()
            torch.manual_seed(step_seed(seed, progress.step, world.rank))
            settings = schedule(progress.step)

            gradients.clear()
            passes, loss = StepMetrics(objective.metric_names), torch.zeros((), device=world.device)
            syncs = HostSyncs() if count_syncs and progress.step % COUNT_SYNCS_EVERY == COUNT_SYNCS_EVERY // 2 else None
            with syncs or nullcontext():
                for last, batch in _mark_last(data.batches):
                    batch = replace(batch.to(world.device), step=progress.step, progress=progress.step / steps)
                    with gradients.last_backward() if last else nullcontext():
                        losses = objective(batch)
                        losses.loss.backward()  # type: ignore[no-untyped-call]
                    passes.merge(losses.metrics)
                    loss = loss + losses.loss.detach()
                gradients.finish()
                norm = gradient_norm(optimizer.parameters.values())
                optimizer.step(settings)
            stop = torch.full((), float(hooks.stop_requested()), device=world.device)
            asked = torch.full((), float(hooks.evaluation_requested()), device=world.device)
            means, (mean_loss, stops, asks, grad_norm) = passes.fetch(
                world, (loss, stop, asked), (norm,)
            )  # the one wait for the device
            metrics = {"loss": mean_loss, "grad_norm": grad_norm, **means}
            if syncs is not None:
                metrics["host_syncs"] = syncs.count + 1

            check_finite(metrics, progress.step, saved)
            duration = time.perf_counter() - began
            progress = Progress(
                step=progress.step + 1,
                tokens=progress.tokens + step_tokens,
                position=data.position,
                loss_average=0.9 * progress.loss_average + 0.1 * metrics["loss"],
                seconds=progress.seconds + duration,
            )
            speed = step_tokens / duration
            metrics |= {
                "lr_multiplier": settings.lr,
                "tokens_total": progress.tokens,
                "flops_total": flops(progress.step) if flops else 0.0,
                "tokens_per_second": speed,
                "step_duration": duration,
                "data_wait": data.waited,
                "epoch": data.epoch,
                "memory_used": peak_memory(world.device),
            }
            if flops and peak_flops:
                needed = flops(progress.step) - flops(progress.step - 1)
                metrics["mfu"] = needed / duration / (peak_flops * world.size)
            hooks.on_step(progress, metrics)

            done = progress.step == steps
            if done or stops or _due(cadence.checkpoint, progress.tokens, step_tokens):
                hooks.save(progress)
                saved = progress.step
            if done or stops:
                break
            if asks or _due(cadence.evaluate, progress.tokens, step_tokens):
                hooks.evaluate(progress)
            if _due(cadence.sample, progress.tokens, step_tokens):
                hooks.sample(progress)
            collect(progress.step)
    return progress, progress.step >= steps


class HostSyncs(TorchDispatchMode):
    """Counts operations that make the host wait for the device: numbers and shapes read from tensors, copies to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal"):
            self.count += 1
        elif name in ("_to_copy", "copy_"):
            source = args[1] if name == "copy_" else args[0]
            out = args[0].device if name == "copy_" else torch.device((kwargs or {}).get("device") or source.device)
            self.count += source.device.type != "cpu" and out.type == "cpu"
        return func(*args, **(kwargs or {}))


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of the default generators during a step: independent for every (seed, step, rank)."""
    digest = hashlib.blake2b(f"{seed}/{step}/{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """L2 norm of all gradients together, a scalar tensor."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def check_finite(metrics: Mapping[str, float], step: int, saved: int) -> None:
    """Raise RunError when the loss or the gradients of a step aren't numbers; `saved` is the last checkpoint's step."""
    for name in ("loss", "grad_norm"):
        if not math.isfinite(metrics[name]):
            last = f"the last checkpoint is of step {saved}" if saved else "there is no checkpoint of this stage yet"
            raise RunError(
                f"step {step}: {name} is {metrics[name]}, training has diverged; {last}",
                hint="going on would repeat the same steps: start a run with lower rates (--set base.lr_scale=0.5), and look "
                "at the gradient norms before this step",
            )


def peak_memory(device: torch.device) -> float:
    """Peak memory in bytes: of the GPU's tensors where there is one, else of the process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(used if sys.platform == "darwin" else used * 1024)


def _mark_last(batches: Sequence[Batch]) -> Iterator[tuple[bool, Batch]]:
    for index, batch in enumerate(batches):
        yield index == len(batches) - 1, batch


def _due(every: int, tokens: int, step_tokens: int) -> bool:
    """Whether the step that ended at `tokens` crossed a multiple of `every`."""
    return every > 0 and tokens // every > (tokens - step_tokens) // every


@contextmanager
def _quiet_garbage() -> Iterator[Callable[[int], None]]:
    """Python's garbage collector, called between steps rather than whenever it likes."""

    def collect(step: int) -> None:
        if step % COLLECT_EVERY == 0:
            gc.collect()

    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield collect
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
