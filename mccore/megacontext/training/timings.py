"""Where the time of a training step goes, for the steps that are asked about."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Timings:
    """Milliseconds that the parts of a step took, where somebody asked: `with timings("variant_ms"): ...`.

    On a GPU times are of launches unless `synchronised`, which waits for the device after every part.
    """

    def __init__(self) -> None:
        self.found: dict[str, float] | None = None
        self.synchronised = False

    def begin(self, *, synchronised: bool) -> None:
        """Measure from now on."""
        self.found, self.synchronised = {}, synchronised

    def end(self) -> dict[str, float]:
        """Stop measuring; what was found since `begin`."""
        found, self.found = self.found or {}, None
        return found

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        if self.found is None:
            yield
            return
        began = time.perf_counter()
        yield
        if self.synchronised and torch.cuda.is_available():
            torch.cuda.synchronize()
        self.found[part] = self.found.get(part, 0.0) + 1000 * (time.perf_counter() - began)
