"""From an event to three signals, and from there to the collector."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource

from mccore.api import EventsLost, TelemetrySpec
from mccore.events import Event
from mccore_telemetry.otel.logs import Logs
from mccore_telemetry.otel.lost import Lost
from mccore_telemetry.otel.metrics import Metrics
from mccore_telemetry.otel.outbox import Latest, Outbox, Trouble
from mccore_telemetry.otel.traces import Traces
from mccore_telemetry.otel.transport import Signal, Target, connect


class Pipeline:
    """What the provider does with an event. For one thread; `close` alone sends all signals at once."""

    def __init__(self, spec: TelemetrySpec, targets: Mapping[Signal, Target]) -> None:
        self._spec = spec
        self._number = 0  # of the newest event
        self._told = Lost()
        self._resources: dict[int, Resource] = {}
        self._metrics = Metrics(self._resource)
        transports = {signal: connect(target) for signal, target in targets.items()}
        self._boxes: list[Outbox | Latest] = []
        self._measured: Latest | None = None
        keep: dict[Signal, Callable[[Any], None]] = {}
        if "traces" in transports:
            spans = Outbox(
                transports["traces"],
                lambda batch: encode_spans(batch).SerializeToString(),
                _traces_answer,
                seconds=targets["traces"].seconds,
            )
            keep["traces"] = self._keep_in(spans)
        if "metrics" in transports:
            self._measured = Latest(
                transports["metrics"],
                lambda: self._metrics.collect().SerializeToString(),
                _metrics_answer,
                seconds=targets["metrics"].seconds,
            )
            self._boxes.append(self._measured)
        if "logs" in transports:
            records = Outbox(
                transports["logs"],
                lambda batch: encode_logs(batch).SerializeToString(),
                _logs_answer,
                seconds=targets["logs"].seconds,
            )
            keep["logs"] = self._keep_in(records)
        self._traces = Traces(spec, self._resource, keep.get("traces", _forget))
        self._logs = Logs(self._resource, keep.get("logs", _forget), self._traces.context, spec.run_id or spec.run)

    def record(self, event: Event) -> None:
        """Take one event; a complete batch is sent. Raises as `send` does."""
        self._number += 1
        if self._measured is not None:
            self._metrics.record(event)
            self._measured.add(self._number)
        # What is said of a span's beginning or end belongs into the span: it has to be open.
        if event.type.endswith(".end"):
            self._logs.record(event)
            self._traces.record(event)
        else:
            self._traces.record(event)
            self._logs.record(event)
        for box in self._boxes:
            if box.full:
                self._send([box])

    def send(self) -> None:
        """Send everything. Raises EventsLost for what is given up, OSError while the rest has to wait."""
        self._send(self._boxes)

    def close(self, deadline: float) -> None:
        """Send everything by a deadline (time.monotonic), all signals at once. Raises EventsLost, or OSError without a count."""
        self._number = 0
        self._traces.end()
        threads = [threading.Thread(target=_finish, args=[box, deadline], daemon=True) for box in self._boxes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline + 0.1 - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            raise OSError("the collector didn't answer in time")
        self._tell([])

    def _send(self, boxes: list[Outbox | Latest]) -> None:
        troubles = []
        for box in boxes:
            try:
                box.send(box.seconds)
            except Trouble as trouble:
                troubles.append(str(trouble))
        self._tell(troubles)

    def _tell(self, troubles: list[str]) -> None:
        new, whys = 0, []
        for box in self._boxes:
            if lost := box.take_lost():
                new += self._told.add(lost)
                whys.append(box.why)
        waiting = [box.oldest for box in self._boxes]
        self._told.forget(min((number for number in waiting if number is not None), default=self._number + 1))
        if whys:
            raise EventsLost(new, whys[0])
        if troubles:
            raise OSError(troubles[0])

    def _keep_in(self, box: Outbox) -> Callable[[Any], None]:
        self._boxes.append(box)
        return lambda item: box.add(self._number, item)

    def _resource(self, rank: int) -> Resource:
        """Who speaks: a rank of a run. Its identity is the same after a resume."""
        if rank not in self._resources:
            spec = self._spec
            found: dict[str, str | int] = {
                "service.name": os.environ.get("OTEL_SERVICE_NAME", "").strip() or f"megacontext-{spec.service}",
                "service.version": metadata.version("mccore"),
                "service.instance.id": f"{spec.run_id or spec.run}/{rank}",
                "mccore.run": spec.run,
                "mccore.run.id": spec.run_id,
                "mccore.rank": rank,
                "vcs.ref.head.revision": spec.commit,
            }
            self._resources[rank] = Resource.create({name: value for name, value in found.items() if value != ""})
        return self._resources[rank]


def _finish(box: Outbox | Latest, deadline: float) -> None:
    box.send(max(0.1, deadline - time.monotonic()), deadline=deadline, last=True)
    box.close()


def _forget(item: Any) -> None:
    """A signal that isn't sent."""


_traces_answer = ExportTraceServiceResponse.FromString
_metrics_answer = ExportMetricsServiceResponse.FromString
_logs_answer = ExportLogsServiceResponse.FromString
