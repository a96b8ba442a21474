"""Every test here computes on one thread, from a seed."""

from tests.support.networks import one_thread, seeded

__all__ = ["one_thread", "seeded"]
