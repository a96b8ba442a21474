"""Where the time of a step goes, of one step in fifty: waiting for the device after every part slows it."""

from __future__ import annotations

from collections.abc import Mapping

from mccore.runtime.runtime import Runtime, Training
from mccore.stages.observers.observer import Observer
from mccore.train.loop import Progress

TIMED_EVERY = 50  # steps between two whose parts are timed


class StepTimings(Observer):
    """Emits `mc_timing` for objectives that measure their parts."""

    def __init__(self, runtime: Runtime, training: Training) -> None:
        self._runtime = runtime
        self._timings = training.objective.timings

    def on_step(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        if not self._runtime.world.is_main:
            return
        if times := self._timings.end():
            self._runtime.emit("mc_timing", at=progress, **times, synchronised=True)
        if (progress.step + 1) % TIMED_EVERY == 0:
            self._timings.begin(synchronised=True)
