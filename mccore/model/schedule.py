"""What changes during a training stage: multipliers of rate and decay, and Muon's momentum. Pure functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mccore.config import OptimConfig, TrainConfig


@dataclass(frozen=True)
class Schedule:
    """The settings of one optimizer step."""

    lr: float = 1.0  # factor on every rate
    momentum: float = 0.95  # Muon's
    weight_decay: float = 1.0  # factor on the matrices' decay


def schedule(step: int, steps: int, train: TrainConfig, optim: OptimConfig) -> Schedule:
    """The settings of step `step` (from 0) of `steps`, for one stage."""
    return Schedule(
        lr=lr_multiplier(step, steps, train.warmup_steps, train.warmdown_ratio, train.final_lr_fraction),
        momentum=momentum(step, steps, optim.momentum, optim.momentum_warmup_steps, train.warmdown_ratio),
        weight_decay=weight_decay_multiplier(step, steps),
    )


def lr_multiplier(step: int, steps: int, warmup_steps: int, warmdown_ratio: float, final_fraction: float) -> float:
    """Linear from 0 over the warm-up, 1 in between, linear to `final_fraction` over the last share of the stage.

    The first step already has 1 / warmup_steps; where warm-up and warm-down overlap the smaller one holds.
    """
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return min(warmup, 1.0 - (1.0 - final_fraction) * _warmdown(step, steps, warmdown_ratio))


def momentum(
    step: int, steps: int, levels: tuple[float, float, float], warmup_steps: int, warmdown_ratio: float
) -> float:
    """From the first of `levels` to the second over the warm-up, to the third during the rates' warm-down."""
    start, middle, end = levels
    warm = start + (middle - start) * (min(1.0, step / warmup_steps) if warmup_steps else 1.0)
    down = middle + (end - middle) * _warmdown(step, steps, warmdown_ratio)
    return min(warm, down)


def weight_decay_multiplier(step: int, steps: int) -> float:
    """Half a cosine from 1 at the first step to 0 behind the last."""
    return 0.5 * (1.0 + math.cos(math.pi * step / max(1, steps)))


def _warmdown(step: int, steps: int, ratio: float) -> float:
    """Progress of the warm-down in [0, 1]; it would reach 1 one step behind the last."""
    length = round(ratio * steps)
    return min(1.0, max(0.0, (step - (steps - length)) / length)) if length else 0.0
