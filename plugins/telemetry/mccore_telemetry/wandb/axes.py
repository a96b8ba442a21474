"""The axes of W&B's charts: what a run had spent when something was measured, over all its stages.

W&B's own step only counts rows. It can't go back when a run goes on from an earlier checkpoint, and it is the same for a step
of any size. So charts are drawn over these, which are metrics of every row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mccore.events import Event

TOKENS = "axes/tokens"
AXES = (TOKENS, "axes/flops", "axes/seconds", "axes/step", "axes/mc_effective_step")


@dataclass
class _Spent:
    """What one stage has spent: the newest values of its events."""

    tokens: float = 0.0
    flops: float = 0.0
    steps: float = 0.0
    variants: float = 0.0
    rows: float = 0.0  # sequences of an optimizer step

    @property
    def effective_steps(self) -> float:
        """Optimizer steps, each as often as its sequences were read: once plainly, and once as every variant."""
        return self.steps + (self.variants / self.rows if self.rows else 0.0)


class Axes:
    """Follows the events of a run. `to_json` is what another process needs to go on."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        state = state or {}
        self._began: float | None = state.get("began")
        self._stages = {name: _Spent(**spent) for name, spent in state.get("stages", {}).items()}

    def to_json(self) -> dict[str, Any]:
        return {"began": self._began, "stages": {name: asdict(spent) for name, spent in self._stages.items()}}

    def follow(self, event: Event) -> None:
        """Take over what an event says about the stage it is of."""
        if self._began is None:
            self._began = event.time
        if event.stage is None:
            return
        spent = self._stages.setdefault(event.stage, _Spent())
        if event.type == "stage.start":
            plan = event.data.get("plan")
            rows = plan.get("rows") if isinstance(plan, Mapping) else None
            spent.rows = float(rows) if isinstance(rows, int | float) else spent.rows
        if event.type == "step":
            spent.steps = float(event.step or 0)
            spent.tokens = float(event.tokens or 0)
            spent.flops = event.metrics.get("flops_total", spent.flops)
            spent.variants = event.metrics.get("variants_total", spent.variants)

    def at(self, event: Event) -> dict[str, float]:
        """Where an event stands on every axis."""
        stages = self._stages.values()
        return {
            TOKENS: sum(spent.tokens for spent in stages),
            "axes/flops": sum(spent.flops for spent in stages),
            "axes/seconds": round(event.time - (self._began or event.time), 6),
            "axes/step": sum(spent.steps for spent in stages),
            "axes/mc_effective_step": sum(spent.effective_steps for spent in stages),
        }
