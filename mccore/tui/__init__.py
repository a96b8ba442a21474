"""The monitor: a terminal screen over run directories. No torch, no plugin code."""
