"""Fixtures of a small run, for the faults that only one shows."""

from tests.support.small_run import base_dir, in_process, make_config, new_run, one_thread, sources

__all__ = ["base_dir", "in_process", "make_config", "new_run", "one_thread", "sources"]
