"""What a stage's log says of the events it emits: lines for whoever reads `logs/<stage>.log`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

from mccore.events import Event
from mccore.host.terminal import echo

STEP_SECONDS = 2.0  # between two lines about steps


class LogLines:
    """Prints a line for every event that deserves one; of steps, one every few seconds. `quiet`: another rank does it."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._step_at = 0.0

    def __call__(self, event: Event) -> None:
        for line in () if self._quiet else self._lines(event):
            echo(line)

    def _lines(self, event: Event) -> Iterator[str]:
        data, metrics = event.data, event.metrics
        match event.type:
            case "stage.start" if data.get("plan"):
                yield from _plan_lines(event.stage or "", data["plan"], data.get("resumed_step"))
            case "step":
                now = time.monotonic()
                if now - self._step_at >= STEP_SECONDS or event.step == data.get("steps"):
                    self._step_at = now
                    loss = {"loss": metrics.get("token_loss", metrics.get("loss", math.nan))}
                    yield f"step {event.step}/{data.get('steps')}  " + _values({**metrics, **loss}, _OF_A_STEP)
            case "eval" | "delta_nll" | "focus_allocator":
                yield f"{data.get('name') or event.type}: " + _values(metrics)
            case "notice":
                yield f"{data.get('about')}: {data.get('message')}"


_OF_A_STEP = ("loss", "grad_norm", "lr_multiplier", "tokens_per_second", "epoch")


def _values(metrics: Mapping[str, float], names: tuple[str, ...] = ()) -> str:
    shown = {name: metrics[name] for name in names or metrics if name in metrics}
    return "  ".join(
        f"{name} {value:,.0f}" if abs(value) >= 1000 else f"{name} {value:.4f}" for name, value in shown.items()
    )


def _plan_lines(stage: str, plan: Mapping[str, Any], resumed: int | None) -> Iterator[str]:
    yield (
        f"{stage}: {plan['parameters']:,} parameters ({plan['scaling_parameters']:,} in matrices and head), {plan['dtype']} "
        f"on {plan['device']}"
    )
    yield (
        f"{plan['steps']} steps of {plan['batch_tokens']:,} tokens = {plan['rows']} rows, {plan['tokens']:,} tokens, "
        f"{plan['flops']:.3g} FLOPs"
    )
    if resumed:
        yield f"goes on from step {resumed}"
