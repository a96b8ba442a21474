"""The monitor: a terminal screen over run directories. No torch; of plugins' code, panels alone."""
