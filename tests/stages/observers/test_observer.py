"""Observers are called in order, each for what it watches."""

from __future__ import annotations

from collections.abc import Mapping

from mccore.stages.observers.observer import Observer, Observers
from mccore.train.loop import Hooks, Progress


class Recorder(Observer):
    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    def on_step(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        self.calls.append(f"{self.name} step {progress.step} {metrics['loss']}")

    def save(self, progress: Progress) -> None:
        self.calls.append(f"{self.name} save")


class Sampler(Observer):
    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def sample(self, progress: Progress) -> None:
        self.calls.append("sampled")

    def evaluate(self, progress: Progress) -> None:
        self.calls.append("evaluated")


def test_each_is_called_in_turn() -> None:
    calls: list[str] = []
    hooks: Hooks = Observers((Recorder("a", calls), Sampler(calls), Recorder("b", calls)), lambda: True)
    at = Progress(step=3)
    hooks.on_step(at, {"loss": 1.0})
    hooks.evaluate(at)
    hooks.sample(at)
    hooks.save(at)
    assert calls == ["a step 3 1.0", "b step 3 1.0", "evaluated", "sampled", "a save", "b save"]
    assert hooks.stop_requested()
