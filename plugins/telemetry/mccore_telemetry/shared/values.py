"""What a run's metrics are now, for systems that ask at times of their own: Prometheus and OpenTelemetry's metrics."""

from __future__ import annotations

import math
import threading
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mccore.events import METRICS, Event, Metric
from mccore_telemetry.shared.names import labels, split

# Bounds in seconds for what takes milliseconds (a refocus) as well as minutes (a step of a large model). The end of a
# metric's band is one of them, so that a rule about it needs no interpolation.
SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip

# What events say beside their metrics.
_ROWS = (
    Metric("events_total", "", "counter", "system", "events of the run so far, by type"),
    Metric("alerts_total", "", "counter", "system", "alerts so far, by metric"),
    Metric("run_active", "", "gauge", "system", "1 while the run goes on, 0 when it has ended"),
    Metric("stage_active", "", "gauge", "system", "1 while a stage runs, 0 when it has ended"),
    Metric("stage_duration", "s", "gauge", "system", "wall time of a stage that has ended"),
    Metric("last_success_timestamp", "s", "gauge", "system", "when the run finished well, in seconds since 1970"),
    Metric("checkpoint_duration", "s", "gauge", "system", "time to write the newest checkpoint"),
    Metric("checkpoint_size", "By", "gauge", "system", "size of the newest checkpoint"),
    Metric("telemetry_failing", "", "gauge", "system", "1 while a telemetry provider can't deliver"),
    Metric("telemetry_lost", "{event}", "gauge", "system", "events that a telemetry provider lost in its latest fault"),
    Metric("timing", "s", "gauge", "mc", "where the time of a training step with MegaContext went, by part"),
)
EXTRA: dict[str, Metric] = {row.name: row for row in _ROWS}
ROWS: dict[str, Metric] = METRICS | EXTRA

Labels = tuple[tuple[str, str], ...]


@dataclass
class Histogram:
    """Counts of observed values by upper bound, the last beyond all bounds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    sum: float = 0.0

    def observe(self, value: float) -> None:
        if math.isnan(value):
            return  # it is in no bucket, and would make the sum one for ever
        self.counts[bisect_left(SECONDS, value)] += 1
        self.sum += value


@dataclass(frozen=True)
class Sample:
    """The newest value of one series of a metric that isn't a histogram."""

    row: Metric
    labels: Labels
    value: float


class Values:
    """The newest value of every metric, one per set of labels. Written by one thread, read by any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[str, dict[Labels, float]] = {}
        self._histograms: dict[str, dict[Labels, Histogram]] = {}
        self._newest = time.time()

    def record(self, event: Event) -> None:
        """Take over what an event says."""
        whole = _key(labels(event))
        with self._lock:
            self._newest = max(self._newest, event.time)
            for name, value in event.metrics.items():
                row, part = split(name)
                key = _key(labels(event, part)) if part else whole
                if row.kind == "histogram":
                    self._histograms.setdefault(row.name, {}).setdefault(key, Histogram()).observe(value)
                else:
                    self._values.setdefault(row.name, {})[key] = value
            self._count("events_total", type=event.type)
            self._note(event)

    @property
    def newest(self) -> float:
        """When the newest event happened, in seconds since the epoch; before the first, when this was made."""
        return self._newest

    def samples(self, now: float | None = None, newest: float = 0.0) -> Iterator[Sample]:
        """Everything but histograms, metric by metric; the heartbeat is the age of the newest event, here or as given, now."""
        with self._lock:
            found = {name: dict(series) for name, series in self._values.items()}
            found["heartbeat"] = {(): max(0.0, (time.time() if now is None else now) - max(self._newest, newest))}
        for name, series in found.items():
            for key, value in series.items():
                yield Sample(ROWS[name], key, value)

    def histograms(self) -> Iterator[tuple[Metric, Labels, Histogram]]:
        """Copies of all histograms, metric by metric."""
        with self._lock:
            found = [
                (ROWS[name], key, Histogram(list(one.counts), one.sum))
                for name, series in self._histograms.items()
                for key, one in series.items()
            ]
        yield from found

    def _note(self, event: Event) -> None:
        data, at = event.data, labels(event)
        match event.type:
            case "run.start":
                self._set("run_active", 1)
                # Zeros, so that a panel without alerts isn't one without data, and the first one counts as a rise.
                for name in data.get("telemetry") or ():
                    self._set("telemetry_failing", 0, provider=str(name))
                for row in METRICS.values():
                    if row.band is not None:
                        self._values.setdefault("alerts_total", {}).setdefault(_key({"metric": row.name}), 0.0)
            case "run.end":
                self._set("run_active", 0)
                if data.get("outcome") == "finished":
                    self._set("last_success_timestamp", event.time)
            case "stage.start":
                self._set("stage_active", 1, **at)
            case "stage.end":
                self._set("stage_active", 0, **at)
                self._set("stage_duration", data.get("seconds"), **at)
            case "checkpoint":
                self._set("checkpoint_duration", data.get("seconds"), **at)
                self._set("checkpoint_size", data.get("bytes"), **at)
            case "alert":
                self._count("alerts_total", metric=str(data.get("metric") or ""))
            case "telemetry":
                provider = str(data.get("provider") or "")
                self._set("telemetry_failing", data.get("state") == "failing", provider=provider)
                self._set("telemetry_lost", data.get("lost"), provider=provider)
            case "mc_timing":
                for name, value in data.items():
                    if name.endswith("_ms"):
                        seconds = value / 1000 if isinstance(value, int | float) else None
                        self._set("timing", seconds, **at, part=name.removesuffix("_ms"))

    def _set(self, name: str, value: object, **at: str) -> None:
        if isinstance(value, int | float):
            self._values.setdefault(name, {})[_key(at)] = float(value)

    def _count(self, name: str, **at: str) -> None:
        series = self._values.setdefault(name, {})
        key = _key(at)
        series[key] = series.get(key, 0.0) + 1


def _key(at: dict[str, str]) -> Labels:
    return tuple(sorted(at.items()))


def by_metric(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Samples by the name of their metric."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.row.name, []).append(sample)
    return found
