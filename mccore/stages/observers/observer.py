"""What an observer of training may do, and several as the one that the loop calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mccore.train.loop import Progress


class Observer:
    """Watches a stage that trains. Every method is called on all ranks; one that does nothing here may be left as it is."""

    def on_step(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """A step is done; `progress` counts it."""

    def evaluate(self, progress: Progress) -> None:
        """It is time to measure the model."""

    def sample(self, progress: Progress) -> None:
        """It is time to let the model speak."""

    def save(self, progress: Progress) -> None:
        """It is time for a checkpoint."""


class Observers:
    """Observers in order, as `mccore.train.loop.Hooks`."""

    def __init__(
        self,
        observers: Sequence[Observer],
        stop_requested: Callable[[], bool],
        evaluation_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self._observers = tuple(observers)
        self.stop_requested = stop_requested
        self.evaluation_requested = evaluation_requested

    def on_step(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        for observer in self._observers:
            observer.on_step(progress, metrics)

    def evaluate(self, progress: Progress) -> None:
        for observer in self._observers:
            observer.evaluate(progress)

    def sample(self, progress: Progress) -> None:
        for observer in self._observers:
            observer.sample(progress)

    def save(self, progress: Progress) -> None:
        for observer in self._observers:
            observer.save(progress)
