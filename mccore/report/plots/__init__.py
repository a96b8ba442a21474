"""Plots of a report. matplotlib is imported here, where no variable of the environment can stop it: MPLBACKEND names what a
notebook or a desktop draws with, and plots that go into files need none of that."""

import os

_before = os.environ.get("MPLBACKEND")
os.environ["MPLBACKEND"] = "agg"
try:
    import matplotlib  # noqa: F401
finally:
    if _before is None:
        del os.environ["MPLBACKEND"]
    else:
        os.environ["MPLBACKEND"] = _before
