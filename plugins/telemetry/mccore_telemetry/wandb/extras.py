"""What W&B shows beside curves: histograms, a table of samples, the report with its plots."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mccore.events import Event
from mccore_telemetry.shared.names import split, wandb_name
from mccore_telemetry.shared.values import SECONDS

if TYPE_CHECKING:
    from wandb import Run

WINDOW = 100  # values of one histogram of durations
_SAMPLES = 1000  # rows of the table; the newest are kept


def levels_histogram(counts: Sequence[float]) -> Any:
    """Entries at LOD0, LOD1, ...: a bin for each level."""
    return _histogram(counts, [level - 0.5 for level in range(len(counts) + 1)])


def _histogram(counts: Sequence[float], edges: Sequence[float]) -> Any:
    import numpy as np
    import wandb

    return wandb.Histogram(np_histogram=(np.array(counts), np.array(edges)))


class Durations:
    """Values of the metrics that are histograms, a W&B histogram for every `WINDOW` of them."""

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}
        self._seen: dict[str, int] = defaultdict(int)

    def add(self, metrics: Mapping[str, float]) -> dict[str, Any]:
        """Take the metrics of an event, and give the histograms that are full."""
        full: dict[str, Any] = {}
        for name, value in metrics.items():
            if split(name)[0].kind != "histogram" or not math.isfinite(value):
                continue
            counts = self._counts.setdefault(name, [0] * (len(SECONDS) - 1))
            place = min(max(bisect_left(SECONDS, value) - 1, 0), len(counts) - 1)
            counts[place] += 1
            self._seen[name] += 1
            if self._seen[name] == WINDOW:
                full[f"{wandb_name(name)}_histogram"] = self._take(name)
        return full

    def _take(self, name: str) -> Any:
        self._seen[name] = 0
        return _histogram(self._counts.pop(name), SECONDS)


class Samples:
    """Texts that the model continued, as one table."""

    def __init__(self) -> None:
        self._rows: list[tuple[Any, ...]] = []
        self._changed = False

    def add(self, event: Event) -> None:
        self._rows.append((event.stage, event.step, event.data.get("prompt"), event.data.get("text")))
        self._rows = self._rows[-_SAMPLES:]
        self._changed = True

    def table(self) -> Any:
        """The table, None where there is nothing new since the last."""
        import wandb

        if not self._changed:
            return None
        self._changed = False
        return wandb.Table(columns=["stage", "step", "prompt", "text"], data=[list(row) for row in self._rows])


def upload_report(run: Run, directory: Path) -> dict[str, Any]:
    """Add the files of a report as an artifact, and give its plots as images. Nothing where there is no report."""
    import wandb

    files = sorted(path for path in directory.glob("*") if path.is_file())
    if not files:
        return {}
    artifact = wandb.Artifact(f"report-{run.id}", type="report", description="report.md, report.json and its plots")
    for path in files:
        artifact.add_file(str(path), name=path.name)
    run.log_artifact(artifact)
    return {f"report/{path.stem}": wandb.Image(str(path)) for path in files if path.suffix == ".png"}
