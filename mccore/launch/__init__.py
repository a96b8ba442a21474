"""Stages as processes: start, watch, stop. No torch before a worker."""
