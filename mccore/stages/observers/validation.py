"""Loss on the validation rows."""

from __future__ import annotations

import time

from mccore.config.training import EncodedTrainConfig
from mccore.data.batches.rows import Rows
from mccore.eval.bits_per_byte import BitsPerByte
from mccore.runtime.emitting import Place
from mccore.runtime.runtime import Runtime, Training
from mccore.stages.observers.observer import Observer
from mccore.train.loop import Progress


class Validation(Observer):
    """Emits `eval` with loss and bits per byte, measured on all ranks together."""

    def __init__(self, runtime: Runtime, training: Training) -> None:
        self._runtime = runtime
        self._gpt = training.gpt
        self._rows: Rows | None = None
        self._last: BitsPerByte | None = None

    def evaluate(self, progress: Progress) -> None:
        runtime, section = self._runtime, self._runtime.train_config
        assert isinstance(section, EncodedTrainConfig)
        self._rows = self._rows or runtime.rows(runtime.stage, "val")
        began = time.perf_counter()
        self._last = runtime.validate(self._gpt, self._rows, section.eval_tokens, section.micro_batch_rows)
        if runtime.world.is_main:
            emit_validation(runtime, self._last, time.perf_counter() - began, progress)

    def results(self) -> dict[str, float]:
        """What the last evaluation found, as the stage's results keep it."""
        return {"val_loss": self._last.val_loss, "val_bpb": self._last.val_bpb} if self._last is not None else {}


def emit_validation(runtime: Runtime, found: BitsPerByte, seconds: float, at: Place | None) -> None:
    """Write what an evaluation that took so many seconds found."""
    metrics = {"val_loss": found.val_loss, "val_bpb": found.val_bpb, "bytes_per_token": found.bytes / found.tokens}
    details = {"tokens": found.tokens, "bytes": found.bytes}
    runtime.emit("eval", metrics, at=at, name="bits_per_byte", seconds=round(seconds, 6), details=details)
