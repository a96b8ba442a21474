"""Metrics of a run through the Metrics API: gauges and counters that are asked for their newest value, and histograms.

The API takes no NaN and no infinity, and a gauge that was given one goes on showing the number before it. OTLP has them, so
they are added to what the SDK has collected; `mccore.system.nonfinite` counts them for systems that lose them on the way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import ScopeMetrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource

from mccore.events import Event, Metric
from mccore_telemetry.shared.names import labels, otel_name, split
from mccore_telemetry.shared.values import ROWS, SECONDS, Labels, Sample, Values, by_metric


class Metrics:
    """The metrics of all ranks; each is an instance of its own."""

    def __init__(self, resource: Callable[[int], Resource]) -> None:
        self._resource = resource
        self._ranks: dict[int, _RankMetrics] = {}

    def record(self, event: Event) -> None:
        """Take over an event's values."""
        if event.rank not in self._ranks:
            self._ranks[event.rank] = _RankMetrics(self._resource(event.rank))
        self._ranks[event.rank].record(event)

    def collect(self) -> ExportMetricsServiceRequest:
        """Everything there is now, as one request."""
        request = ExportMetricsServiceRequest()
        newest = max((rank.newest for rank in self._ranks.values()), default=0.0)
        for number, rank in self._ranks.items():
            # A rank is silent while a stage of one rank goes on: the heartbeat is the run's, and its first rank's to tell.
            request.MergeFrom(rank.collect(newest if number == min(self._ranks) else None))
        return request


class _RankMetrics:
    """The instruments of one rank. A reader that is asked collects: nothing runs by itself."""

    def __init__(self, resource: Resource) -> None:
        self._values = Values()
        self._now: dict[str, list[Sample]] = {}
        self._reader = InMemoryMetricReader()
        self._provider = MeterProvider([self._reader], resource, shutdown_on_exit=False)
        meter = self._provider.get_meter("mccore")
        self._nonfinite: Counter = meter.create_counter(
            "mccore.system.nonfinite", description="values so far that were no finite numbers, by metric"
        )
        self._histograms: dict[str, Histogram] = {}
        for row in ROWS.values():
            if row.kind == "histogram":
                self._histograms[row.name] = meter.create_histogram(
                    otel_name(row), row.unit, row.definition, explicit_bucket_boundaries_advisory=SECONDS
                )
            else:
                self._observe(meter, row)

    def record(self, event: Event) -> None:
        self._values.record(event)
        for name, value in event.metrics.items():
            row, part = split(name)
            if not math.isfinite(value):
                self._nonfinite.add(1, {"mccore.metric": name})
            elif row.kind == "histogram":
                at = tuple(labels(event, part).items())
                self._histograms[row.name].record(value, _attributes(at))

    @property
    def newest(self) -> float:
        return self._values.newest

    def collect(self, newest: float | None) -> ExportMetricsServiceRequest:
        self._now = by_metric(self._values.samples(newest=newest or 0.0))
        if newest is None:
            self._now.pop("heartbeat", None)
        data = self._reader.get_metrics_data()
        request = encode_metrics(data) if data is not None else ExportMetricsServiceRequest()
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                _add_nonfinite(scope, [sample for samples in self._now.values() for sample in samples])
        return request

    def _observe(self, meter: Meter, row: Metric) -> None:
        def newest(options: CallbackOptions) -> Iterable[Observation]:
            for sample in self._now.get(row.name, ()):
                if math.isfinite(sample.value):
                    yield Observation(sample.value, _attributes(sample.labels))

        create = meter.create_observable_counter if row.kind == "counter" else meter.create_observable_gauge
        create(otel_name(row), [newest], row.unit, row.definition)


def _add_nonfinite(scope: ScopeMetrics, samples: Sequence[Sample]) -> None:
    """Add points for values that the SDK doesn't take."""
    there = {metric.name: metric for metric in scope.metrics}
    for sample in samples:
        if math.isfinite(sample.value) or sample.row.kind != "gauge":
            continue
        name = otel_name(sample.row)
        if name not in there:
            there[name] = scope.metrics.add(name=name, unit=sample.row.unit, description=sample.row.definition)
        point = there[name].gauge.data_points.add(as_double=sample.value, time_unix_nano=time.time_ns())
        for key, value in _attributes(sample.labels).items():
            point.attributes.add(key=key).value.string_value = value


def _attributes(key: Labels) -> dict[str, str]:
    """Labels as attributes; the rank is the resource's."""
    return {f"mccore.{name}": value for name, value in key if name != "rank"}
