"""Where the time of a training step goes, for the steps that are measured."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch

NOTHING: Mapping[str, str | None] = MappingProxyType({})


class Timings:
    """Milliseconds that the parts of a step took: `with timings("variant_ms"): ...` between `begin` and `end`, else nothing.

    `parts`: each part's name, and the name of the part that it runs within and whose time it is taken from, if any. On a
    GPU times are of launches unless `synchronised`, which waits for the device after every part.
    """

    def __init__(self, parts: Mapping[str, str | None] = NOTHING) -> None:
        self._parts = dict(parts)
        self._spent: dict[str, float] | None = None
        self._synchronised = False

    def begin(self, *, synchronised: bool) -> None:
        """Measure from now on."""
        self._spent, self._synchronised = {}, synchronised

    def end(self) -> dict[str, float]:
        """Stop measuring: the milliseconds of every part since `begin`, or nothing where no part has run."""
        spent, self._spent = self._spent, None
        if not spent:
            return {}
        times = {part: round(spent.get(part, 0.0), 3) for part in self._parts}
        for part, outer in self._parts.items():
            if outer is not None:
                times[outer] = round(times[outer] - times[part], 3)
        return times

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        if self._spent is None:
            yield
            return
        began = time.perf_counter()
        yield
        if self._synchronised and torch.cuda.is_available():
            torch.cuda.synchronize()
        self._spent[part] = self._spent.get(part, 0.0) + 1000 * (time.perf_counter() - began)
