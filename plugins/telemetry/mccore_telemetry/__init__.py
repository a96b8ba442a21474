"""Built-in telemetry providers for mccore."""
