"""An event for every step, with what the objective knows of it."""

from __future__ import annotations

from collections.abc import Mapping

from mccore.runtime.runtime import Runtime, Training
from mccore.scaling.plan import TrainPlan
from mccore.stages.observers.observer import Observer
from mccore.train.loop import Progress


class Steps(Observer):
    """Emits `step`."""

    def __init__(self, runtime: Runtime, training: Training, plan: TrainPlan) -> None:
        self._runtime = runtime
        self._objective = training.objective
        self._plan = plan

    def on_step(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        if not self._runtime.world.is_main:
            return
        step = progress.step - 1
        known = self._objective.describe(step, step / self._plan.steps, self._plan.rows)
        self._runtime.emit("step", {**metrics, **known}, at=progress, steps=self._plan.steps)
