"""What every rank uses of the machine, every few seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from mccore.host.resources import ResourceMeter
from mccore.runtime.runtime import Runtime
from mccore.stages.observers.observer import Observer
from mccore.train.loop import Progress

EVERY_SECONDS = 5.0


class Resources(Observer):
    """Emits `resources` on all ranks. A sample takes a millisecond at most, so it costs a step next to nothing."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        device = runtime.world.device
        uuid = str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""
        self._meter = ResourceMeter(uuid)
        self._due = 0.0

    def on_step(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        if (now := time.monotonic()) >= self._due:
            self._due = now + EVERY_SECONDS
            self._runtime.emit("resources", self._meter.read(), at=progress, **self._meter.facts)
