"""Send events nowhere: the default, for runs that only keep their own event files."""

from __future__ import annotations

from mccore.api import Extension, Options, TelemetryProvider, TelemetrySpec
from mccore.events import Event
from mccore.hookspecs import hookimpl


class NoopOptions(Options):
    """There is nothing to choose."""


class NoopTelemetry:
    """Takes every event and forgets it. The run's own event files are written elsewhere, always."""

    def __init__(self, options: NoopOptions, spec: TelemetrySpec) -> None:
        pass

    def record(self, event: Event) -> None:
        """Forget the event."""

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        """Nothing is open."""


@hookimpl
def mccore_telemetry_provider() -> Extension[TelemetryProvider]:
    return Extension(build=NoopTelemetry, options=NoopOptions, summary="send events nowhere")
