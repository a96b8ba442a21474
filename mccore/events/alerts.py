"""Alerts: metrics that stayed outside their band, and runs that fell silent. One evaluator, live and afterwards.

A value outside its band is no alert yet: it takes `Metric.hold` seconds and three values in a row, so that one spike is none.
Values of rank 0 stand for all. A value that isn't a finite number says nothing about a band: training ends itself where one
must be. Steps of an earlier start don't count: a stage that starts has a clean record.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mccore.events.event import Event
from mccore.events.metrics import METRICS, Metric

VALUES_IN_A_ROW = 3
HEARTBEAT = METRICS["heartbeat"]
# Evaluations measure what is bad on purpose: their results raise no alert.
WATCHED_TYPES = ("step", "mc_batch_stats", "focus_allocator", "inference_update")
# Not signs of life: they are said about a run, not by it.
_ABOUT_RUNS = ("alert", "telemetry")
_SLACK_SECONDS = 1.0  # between a stamp and when it can be read


@dataclass(frozen=True)
class Alert:
    """A metric that has been outside its band for too long. Times are seconds since the epoch; `until` is when it was inside
    again, None where that wasn't seen."""

    metric: str
    value: float
    began: float
    fired: float
    stage: str | None = None
    step: int | None = None
    tokens: int | None = None
    until: float | None = field(default=None, compare=False)

    @property
    def row(self) -> Metric:
        """The metric's definition."""
        return METRICS[self.metric]

    def band(self) -> list[float | None]:
        """The ends of the metric's band, None for an open one; empty where it has none."""
        return [None if math.isinf(end) else end for end in self.row.band or ()]

    def data(self) -> dict[str, Any]:
        """The fields of an `alert` event."""
        return {
            "metric": self.metric,
            "value": self.value,
            "band": self.band(),
            "since": round(self.fired - self.began, 3),
            "began": round(self.began, 6),
            "advice": self.row.advice,
        }


def describe_alert(data: Mapping[str, Any]) -> str:
    """The data of an `alert` event in one line: what is wrong, since when, what to look at next."""
    since, value = data.get("since") or 0, data.get("value")
    if data.get("metric") == HEARTBEAT.name:
        what = f"no event for {since:.0f} s"
    else:
        shown = "no number" if value is None else f"{value:.4g}"
        what = f"{data.get('metric')} is {shown}, expected {band_words(data.get('band'))}, for {since:.0f} s"
    return f"{what}; look at {data.get('advice') or 'its curve'}"


def band_words(band: Sequence[float | None] | None) -> str:
    """What is expected of a metric, None or infinity for an open end; empty where nothing is."""
    low, high = (None if end is None or math.isinf(end) else end for end in band or (None, None))
    if low is None:
        return "" if high is None else f"at most {high:g}"
    return f"at least {low:g}" if high is None else f"{low:g} to {high:g}"


@dataclass
class _Record:
    """How long one metric of one stage has been outside."""

    began: float = 0.0
    values: int = 0  # outside in a row
    place: int | None = None  # of its alert, once that has fired


class AlertWatch:
    """Follows the events of one run as they come. `alerts` are all so far, in the order in which they fired."""

    def __init__(self) -> None:
        self.alerts: list[Alert] = []
        self._records: dict[tuple[str | None, str], _Record] = {}
        self._newest = 0.0
        self._running = False
        self._silent: int | None = None  # place of the alert while nothing comes

    def feed(self, event: Event) -> list[Alert]:
        """Take one event; alerts that fire by it."""
        if event.type in _ABOUT_RUNS:
            return []
        before = len(self.alerts)
        self._live(event)
        if event.rank == 0:
            if event.type == "stage.start":
                self._records = {key: record for key, record in self._records.items() if key[0] != event.stage}
            if event.type in WATCHED_TYPES:
                for name, value in event.metrics.items():
                    # A band is of the metric itself, not of another statistic of it (`dwell/p95`).
                    if (row := METRICS.get(name)) is not None and row.band is not None and math.isfinite(value):
                        self._judge(row, value, not row.band[0] <= value <= row.band[1], event)
        return self.alerts[before:]

    def tick(self, now: float) -> list[Alert]:
        """Some time passed; the alert of a run that has fallen silent, once."""
        if not self._running or self._silent is not None or not self._too_long(now - _SLACK_SECONDS):
            return []
        self._fall_silent()
        return self.alerts[-1:]

    def _live(self, event: Event) -> None:
        if event.type == "run.start":  # the pause between two starts is no silence
            self._records.clear()
            self._running, self._silent, self._newest = True, None, event.time
            return
        if self._running:
            if self._silent is None and self._too_long(event.time):
                self._fall_silent()
            if self._silent is not None:
                self.alerts[self._silent] = replace(self.alerts[self._silent], until=event.time)
                self._silent = None
        self._newest = max(self._newest, event.time)
        if event.type == "run.end":
            self._running = False

    def _too_long(self, now: float) -> bool:
        assert HEARTBEAT.band is not None
        return now - self._newest > HEARTBEAT.band[1]

    def _fall_silent(self) -> None:
        assert HEARTBEAT.band is not None
        limit = HEARTBEAT.band[1]
        self._silent = len(self.alerts)
        self.alerts.append(Alert(HEARTBEAT.name, limit, self._newest, self._newest + limit))

    def _judge(self, row: Metric, value: float, outside: bool, event: Event) -> None:
        record = self._records.setdefault((event.stage, row.name), _Record())
        if not outside:
            if record.place is not None:
                self.alerts[record.place] = replace(self.alerts[record.place], until=event.time)
            self._records[event.stage, row.name] = _Record()
            return
        if not record.values:
            record.began = event.time
        record.values += 1
        held = event.time - record.began >= row.hold
        if record.place is None and held and record.values >= VALUES_IN_A_ROW:
            record.place = len(self.alerts)
            self.alerts.append(Alert(row.name, value, record.began, event.time, event.stage, event.step, event.tokens))


def find_alerts(events: Iterable[Event], now: float | None = None) -> list[Alert]:
    """Every alert of a run, from its events, oldest first. `now` is for a run that goes on: silence until then counts."""
    watch = AlertWatch()
    for event in events:
        watch.feed(event)
    if now is not None:
        watch.tick(now)
    return watch.alerts
