"""A panel that is the curve of one metric, and says in words when it has left its band."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from mccore.api import Options, PanelSpec, RunView, Span
from mccore.events import METRICS


class CurvePanel:
    """The curve of a metric; below it, in a band's colour, what its value means."""

    place: Literal["plot", "wide", "screen"] = "plot"

    def __init__(self, metric: str) -> None:
        self.metric = metric
        self.title = METRICS[metric].label or metric
        self.reads = (metric,)

    def draw(self, view: RunView, width: int, height: int) -> Sequence[Sequence[Span]]:
        """The plot, and in the last line what to look at where the newest value lies outside the band."""
        value, known = view.value(self.metric), METRICS[self.metric]
        outside = (
            value is not None
            and known.band is not None
            and math.isfinite(value)
            and not known.band[0] <= value <= known.band[1]
        )
        if not outside or height < 6:
            return view.plot(self.metric, width, height)
        where = f"outside {known.band[0]:g} to {known.band[1]:g}" if known.band else ""
        words = f"{where}: {known.advice}"
        return [*view.plot(self.metric, width, height - 1), [Span(words if len(words) <= width else where, "warning")]]


def build(metric: str) -> Callable[[Options, PanelSpec], Any]:
    """What builds the panel of a metric."""
    return lambda options, spec: CurvePanel(metric)
