"""Providers in front of collectors that answer as they are told, in an environment without anybody's settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from mccore_telemetry.otel import OtelTelemetry
from mccore_telemetry.otel.settings import OtelOptions

from mccore.api import EventsLost

from ..collectors import ToldCollector
from ..events import spec


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("OTEL_", "MC_OTEL_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def told() -> Iterator[ToldCollector]:
    with ToldCollector() as server:
        yield server


def provider_of(address: str, directory: Path, **options: object) -> OtelTelemetry:
    return OtelTelemetry(OtelOptions.model_validate({"endpoint": address, **options}), spec(directory))


def events_lost(provider: OtelTelemetry, *, closing: bool = False) -> tuple[int, str]:
    with pytest.raises(EventsLost) as lost:
        (provider.close if closing else provider.flush)()
    return lost.value.count, str(lost.value)
