"""The stand-in hub, for every test of this folder."""

from tests.support.hub import hub

__all__ = ["hub"]
