"""One telemetry provider and how it is doing."""

from __future__ import annotations

from dataclasses import dataclass

from mccore.api import TelemetryProvider


@dataclass
class Delivery:
    """One provider and how it is doing."""

    name: str
    provider: TelemetryProvider
    failing: bool = False
    lost: int = 0  # since it began to fail
    reported: int = 0  # of the lost
    delivered: int = 0  # in a row
