"""Checkpoints of a stage that trains."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from mccore.runs.checkpoints import Meta
from mccore.runs.requests import take_checkpoint_request
from mccore.runtime.runtime import Runtime, Training
from mccore.stages.observers.observer import Observer
from mccore.train.checkpoint.write import CheckpointWriter, Saved
from mccore.train.loop import Progress


class Checkpoints(Observer):
    """Writes checkpoints in the background and emits `checkpoint` when one is on disk; leaving it waits for the last.

    `kept` stands beside the progress in every checkpoint.
    """

    def __init__(self, runtime: Runtime, training: Training, kept: Mapping[str, Any]) -> None:
        self._runtime = runtime
        self._training = training
        self._kept = kept
        self._writer = CheckpointWriter(
            runtime.run.checkpoint_dir(runtime.stage),
            keep_last=runtime.config.checkpoint.keep_last,
            on_saved=self._tell,
        )

    def on_step(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """Write one more where a person asked for it (`mccore.runs.requests`)."""
        if self._runtime.world.is_main and take_checkpoint_request(self._runtime.run):
            self.save(progress)

    def save(self, progress: Progress) -> None:
        runtime, training = self._runtime, self._training
        if not runtime.world.is_main:
            return
        config = runtime.config.model_copy(update={"model": runtime.model_config})
        meta = Meta(
            stage=runtime.stage,
            step=progress.step,
            tokens=progress.tokens,
            config=config.model_dump(mode="json"),
            tokenizer=runtime.tokenizer.fingerprint,
            state={**progress.to_json(), **self._kept},
        )
        self._writer.save(training.model.state_dict(), training.optimizer.state_dict(), meta)

    def _tell(self, saved: Saved) -> None:
        path = saved.path.relative_to(self._runtime.run.path).as_posix()
        self._runtime.emit("checkpoint", at=saved, path=path, bytes=saved.bytes, seconds=saved.seconds, durable=True)

    def __enter__(self) -> Checkpoints:
        self._writer.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._writer.__exit__(kind, error, tb)
