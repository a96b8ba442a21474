"""How often a model that learns from rewards is right on held-out questions: pass@k."""

from __future__ import annotations

import time
from typing import Any

import torch

from mccore.config import RLConfig
from mccore.eval.pass_at import PassAt, together
from mccore.generate.engine import Engine
from mccore.generate.rollouts import draw_rollouts
from mccore.runtime.emitting import Place
from mccore.runtime.runtime import Runtime
from mccore.stages.observers.observer import Observer
from mccore.stages.rl.exercises import Exercise, read_exercises, reward_of, sampling_of
from mccore.train.loop import Progress


class PassAtK(Observer):
    """Emits `eval` with pass@k on validation questions, each asked with the same random numbers every time. Every rank asks
    its share."""

    def __init__(self, runtime: Runtime, engine: Engine) -> None:
        section = runtime.train_config
        assert isinstance(section, RLConfig)
        self._runtime, self._engine, self._section = runtime, engine, section
        counts = dict.fromkeys(runtime.mixture(runtime.stage), section.eval_questions)
        self._questions = read_exercises(runtime, "val", counts, seed=0)
        self._sampling = sampling_of(section, 0, "pass@k")
        self.last: dict[str, Any] | None = None

    def evaluate(self, progress: Progress) -> None:
        self.measure(progress)

    def measure(self, at: Place) -> dict[str, Any]:
        """pass@k of all questions, and by task, as plain data."""
        began = time.perf_counter()
        right = self._right()
        found: dict[str, PassAt] = {}
        for name in dict.fromkeys(question.task.name for question in self._questions):
            mine = tuple(
                count for count, question in zip(right, self._questions, strict=True) if question.task.name == name
            )
            found[name] = PassAt(self._section.eval_samples, mine)
        whole = together(list(found.values()))
        self.last = {**whole.to_json(), "tasks": {name: one.to_json() for name, one in found.items()}}
        if self._runtime.world.is_main:
            metrics = {f"pass_at/{k}": mean for k, (mean, _) in whole.curve().items() if mean is not None}
            seconds = round(time.perf_counter() - began, 6)
            self._runtime.emit("eval", metrics, at=at, name="pass_at_k", seconds=seconds, details=self.last)
        return self.last

    def _right(self) -> list[int]:
        """How many replies to each question are right, of all ranks' questions."""
        world = self._runtime.world
        counts = torch.zeros(len(self._questions), dtype=torch.int64, device=world.device)
        for number in range(world.rank, len(self._questions), world.size):
            counts[number] = self._ask(self._questions[number], number)
        world.sum(counts)
        return [int(count) for count in counts.tolist()]

    def _ask(self, question: Exercise, number: int) -> int:
        samples = self._section.eval_samples
        rollouts = draw_rollouts(self._engine, question.prompt, self._sampling, samples, number * samples)
        return sum(reward_of(question, rollout, self._engine) >= 1 for rollout in rollouts)
