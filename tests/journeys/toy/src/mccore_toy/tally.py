"""Count events by type, and write the counts when the run is over."""

from __future__ import annotations

import json
from collections import Counter

from pydantic import Field

from mccore.api import Extension, Options, TelemetryProvider, TelemetrySpec
from mccore.events import Event
from mccore.hookspecs import hookimpl


class TallyOptions(Options):
    """What `--set telemetry.toy.options.file=...` sets."""

    file: str = Field("tally.json", min_length=1, description="file in the run's directory, one per rank")


class Tally:
    """One file per rank with how often each type of event came."""

    def __init__(self, options: TallyOptions, spec: TelemetrySpec) -> None:
        self._path = spec.directory / f"rank{spec.rank}-{options.file}"
        self._counts: Counter[str] = Counter()

    def record(self, event: Event) -> None:
        self._counts[event.type] += 1

    def flush(self) -> None:
        self._path.write_text(json.dumps(self._counts), encoding="utf-8")

    def close(self) -> None:
        self.flush()


@hookimpl
def mccore_telemetry_provider() -> Extension[TelemetryProvider]:
    return Extension(build=Tally, options=TallyOptions, summary="counts events")
