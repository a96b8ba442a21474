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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mccore.data.batches.loader import Batch, StepData
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
    token_loss_average: float = 0.0  # the same of the language model's own loss
    seconds: float = 0.0  # of steps, evaluations and checkpoints excluded

    @property
    def loss(self) -> float:
        """The running mean of the loss over about the last ten steps."""
        return self._corrected(self.loss_average)

    @property
    def token_loss(self) -> float:
        """The same of the language model's own loss; of the whole one where the objective doesn't tell it apart."""
        return self._corrected(self.token_loss_average)

    def _corrected(self, average: float) -> float:
        return average / (1 - 0.9**self.step) if self.step else math.nan

    def after_step(self, data: StepData, tokens: int, metrics: Mapping[str, float], seconds: float) -> Progress:
        """The progress after one more step, of `tokens` tokens; `metrics` has its losses."""
        own = metrics.get("token_loss", metrics["loss"])
        return Progress(
            self.step + 1,
            self.tokens + tokens,
            data.position,
            0.9 * self.loss_average + 0.1 * metrics["loss"],
            0.9 * self.token_loss_average + 0.1 * own,
            self.seconds + seconds,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "position": self.position.to_json(),
            "loss_average": self.loss_average,
            "token_loss_average": self.token_loss_average,
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, step: int, tokens: int, state: Mapping[str, Any]) -> Progress:
        """Read `to_json` of a checkpoint at this step."""
        position = Position.from_json(state["position"])
        average = float(state["loss_average"])
        own = float(state.get("token_loss_average", average))  # of a build that didn't keep it
        return cls(step, tokens, position, average, own, float(state["seconds"]))


class Hooks(Protocol):
    """What the loop tells the outside, and asks of it. All ranks call all of them."""

    def on_step(self, progress: Progress, metrics: Mapping[str, float]) -> None: ...

    def evaluate(self, progress: Progress) -> object: ...

    def sample(self, progress: Progress) -> None: ...

    def save(self, progress: Progress) -> None: ...

    def stop_requested(self) -> bool: ...

    def evaluation_requested(self) -> bool: ...


@dataclass(frozen=True)
class LoopSettings:
    """What a training is, beside the things that it works on: from where, how far, at which rates, how it is measured."""

    steps: int  # optimizer steps of the whole training
    step_tokens: int  # where a step's data doesn't say
    schedule: Callable[[int], Schedule]  # the rates of a step
    cadence: Cadence = Cadence()
    seed: int = 0
    start: Progress = Progress()
    flops: Callable[[Progress], float] | None = None  # model FLOPs up to there, for metrics
    peak_flops: float | None = None  # of one device per second
    count_syncs: bool = False  # now and then; not for compiled objectives, whose operations aren't seen


class StepSource(Protocol):
    """Where the data of a step comes from. All ranks ask together."""

    def next(self) -> StepData: ...


def train(
    *,
    optimizer: Optimizer,
    loader: StepSource,
    objective: Objective,
    hooks: Hooks,
    world: World,
    settings: LoopSettings,
) -> tuple[Progress, bool]:
    """Train from `settings.start` to `settings.steps` steps; returns the progress and whether all were done.

    A stop asked for on any rank ends training after the step; an evaluation asked for on any comes after it. The last step,
    whichever it is, is followed by a checkpoint; evaluating the finished model is the caller's. Raises RunError when the loss
    or the gradients stop being numbers; what was computed since the last checkpoint is then given up.
    """
    progress, cadence = settings.start, settings.cadence
    saved = progress.step  # the step of the last checkpoint
    gradients = GradientSum(list(optimizer.parameters.values()), world)
    with _quiet_garbage() as collect:
        while progress.step < settings.steps:
            began = time.perf_counter()
            data = loader.next()
            torch.manual_seed(step_seed(settings.seed, progress.step, world.rank))
            rates = settings.schedule(progress.step)

            share = progress.step / settings.steps
            batches = (replace(each.to(world.device), step=progress.step, progress=share) for each in data.batches)
            syncs = HostSyncs() if settings.count_syncs and _counts_syncs(progress.step) else None
            with syncs or nullcontext():
                passes, loss = _accumulate(gradients, objective, batches, len(data.batches), world.device)
                norm = gradient_norm(optimizer.parameters.values())
                optimizer.step(rates)
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
            tokens, before = settings.step_tokens if data.tokens is None else data.tokens, progress
            progress = progress.after_step(data, tokens, metrics, duration)
            metrics |= {"lr_multiplier": rates.lr, **_measures(settings, before, progress, data, duration, world)}
            hooks.on_step(progress, metrics)

            done = progress.step == settings.steps
            if done or stops or _due(cadence.checkpoint, progress.tokens, tokens):
                hooks.save(progress)
                saved = progress.step
            if done or stops:
                break
            if asks or _due(cadence.evaluate, progress.tokens, tokens):
                hooks.evaluate(progress)
            if _due(cadence.sample, progress.tokens, tokens):
                hooks.sample(progress)
            collect(progress.step)
    return progress, progress.step >= settings.steps


def _accumulate(
    gradients: GradientSum, objective: Objective, batches: Iterable[Batch], count: int, device: torch.device
) -> tuple[StepMetrics, Tensor]:
    """The gradients of a step, summed over its `count` passes and all ranks; its metrics, and its loss on this rank."""
    gradients.clear()
    passes, loss = StepMetrics(objective.metric_names), torch.zeros((), device=device)
    for number, batch in enumerate(batches, start=1):
        with gradients.last_backward() if number == count else nullcontext():
            losses = objective(batch)
            losses.loss.backward()  # type: ignore[no-untyped-call]
        passes.merge(losses.metrics)
        loss = loss + losses.loss.detach()
    gradients.finish()
    return passes, loss


def _measures(
    settings: LoopSettings, before: Progress, after: Progress, data: StepData, duration: float, world: World
) -> dict[str, float]:
    """What a step of `duration` seconds took, by the names of metrics."""
    flops = settings.flops
    metrics = {
        "tokens_total": after.tokens,
        "flops_total": flops(after) if flops else 0.0,
        "tokens_per_second": (after.tokens - before.tokens) / duration,
        "step_duration": duration,
        "data_wait": data.waited,
        "epoch": data.epoch,
        "memory_used": peak_memory(world.device),
    }
    if flops and settings.peak_flops:
        metrics["mfu"] = (flops(after) - flops(before)) / duration / (settings.peak_flops * world.size)
    return metrics


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


def _counts_syncs(step: int) -> bool:
    return step % COUNT_SYNCS_EVERY == COUNT_SYNCS_EVERY // 2


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
