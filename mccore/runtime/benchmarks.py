"""Benchmarks of a checkpoint, kept in its run as each is done: what was cut short goes on with the next one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mccore.eval.chatcore import BenchmarkResult, chatcore_metric, evaluate_benchmark
from mccore.eval.core import CoreResult, CoreTask, bundle_digest, core_metric, evaluate_core_task
from mccore.eval.runner import Runner
from mccore.eval.statistics import Accuracy
from mccore.host.files import write_atomic
from mccore.host.json_file import read_object
from mccore.runtime.open import OpenModel
from mccore.tasks.catalogue import open_task
from mccore.train.world import World

FOLDER = "evaluations"


@dataclass(frozen=True)
class Benchmarks:
    """What is measured of a model: at most `limit` questions of each task, `batch_rows` at a time."""

    opened: OpenModel
    limit: int | None = None
    batch_rows: int = 32
    max_new_tokens: int = 512
    in_sessions: bool = False
    world: World = field(default_factory=World)

    @property
    def path(self) -> Path:
        """The file that results are kept in."""
        meta = self.opened.meta
        return self.opened.run.path / FOLDER / f"{meta.stage}-{meta.step}.json"

    def chat(self, names: Sequence[str]) -> Iterator[BenchmarkResult]:
        """The result of each task, one after the other. Raises DataError where its questions can't be had."""
        sessions = self.opened.sessions().new if self.in_sessions else None
        runner = Runner(self.opened.engine(), self.batch_rows, self.max_new_tokens, sessions, self.world)
        for name in names:
            made_from = open_task(name).fingerprint()
            key = [name, self.limit, self.max_new_tokens, self.in_sessions, made_from]

            def measure(name: str = name) -> dict[str, Any]:
                return evaluate_benchmark(runner, name, limit=self.limit).to_json()

            found = dict(self._once(key, measure))
            yield BenchmarkResult(name, skipped=found.pop("skipped"), accuracy=Accuracy(**found))

    def core(self, tasks: Sequence[CoreTask]) -> Iterator[CoreResult]:
        """The result of each task of CORE, one after the other. Raises DataError for a bundle that can't be read."""
        for task in tasks:

            def measure(task: CoreTask = task) -> dict[str, Any]:
                gpt, tokenizer = self.opened.gpt, self.opened.tokenizer
                return evaluate_core_task(
                    gpt, tokenizer, task, limit=self.limit, batch_rows=self.batch_rows, ranks=self.world
                ).to_json()

            found = dict(self._once(["core", task.label, self.limit, bundle_digest([task])], measure))
            del found["centred"]
            yield CoreResult(found.pop("label"), guess=found.pop("guess"), accuracy=Accuracy(**found))

    def _once(self, key: list[Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A result that was kept under this key, or what `measure` gives, kept. All ranks ask together; the first decides."""
        name = json.dumps([self.opened.identity, *key])
        kept: dict[str, Any] = {}
        if self.world.is_main:
            try:
                kept = read_object(self.path)
            except (OSError, ValueError):
                kept = {}  # none yet, or damaged: measured again
        found: dict[str, Any] | None = self.world.from_main(kept.get(name))
        if found is None:
            found = measure()
            if self.world.is_main:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(self.path, json.dumps({**kept, name: found}, indent=1))
        return found


def summarise(chat: Sequence[BenchmarkResult], core: Sequence[CoreResult]) -> dict[str, Any]:
    """Results as plain data, with CORE and ChatCORE where all that they are means of is there."""
    found: dict[str, Any] = {
        "tasks": {each.name: each.to_json() for each in chat},
        "core_tasks": [each.to_json() for each in core],
        "chatcore": None,
        "core": None,
    }
    if (together := chatcore_metric(chat)) is not None:
        found["chatcore"] = {"value": together[0], "stderr": together[1]}
    if core:
        value, stderr = core_metric(core)
        found["core"] = {"value": value, "stderr": stderr, "tasks": len(core)}
    return found
