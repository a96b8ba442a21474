from mccore_telemetry.noop import mccore_telemetry_provider

from mccore.api import Extension, TelemetryProvider
from mccore.testing import TelemetryProviderSuite


class TestNoop(TelemetryProviderSuite):
    def extension(self) -> Extension[TelemetryProvider]:
        return mccore_telemetry_provider()
