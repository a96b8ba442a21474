"""Traces, metrics and logs of a run to an OpenTelemetry collector.

`traces`, `metrics` and `logs` turn events into the SDK's objects, `outbox` and `transport` send them, `pipeline` joins
these, `settings` says where to. Nothing here runs by itself and nothing is global: spans wait until `flush` sends them, and
metrics are collected then, so that a dead collector, the end of the process or a fork have no thread to hang on.
"""

from __future__ import annotations

import time

from mccore.api import Extension, TelemetryProvider, TelemetrySpec
from mccore.events import Event
from mccore.hookspecs import hookimpl
from mccore_telemetry.otel import settings
from mccore_telemetry.otel.settings import OtelOptions


class OtelTelemetry:
    """One provider for all ranks of a process; each rank is a service instance of its own."""

    def __init__(self, options: OtelOptions, spec: TelemetrySpec) -> None:
        from mccore_telemetry.otel.pipeline import Pipeline

        self._patience = spec.patience_seconds
        targets = {signal: settings.target(options, signal) for signal in settings.signals(options)}
        self._pipeline = Pipeline(spec, targets)

    def record(self, event: Event) -> None:
        """Turn an event into what is sent of it, and send what has become a batch."""
        self._pipeline.record(event)

    def flush(self) -> None:
        """Send what waits, and the metrics as they are now."""
        self._pipeline.send()

    def close(self) -> None:
        """Send the rest, all signals at once, by one deadline."""
        self._pipeline.close(time.monotonic() + 0.94 * self._patience)


@hookimpl
def mccore_telemetry_provider() -> Extension[TelemetryProvider]:
    return Extension(build=OtelTelemetry, options=OtelOptions, summary="traces, metrics and logs by OpenTelemetry")
