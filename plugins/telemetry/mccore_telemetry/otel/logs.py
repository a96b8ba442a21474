"""Log records of a run: its start and end, stages that ended with their tracebacks, alerts, telemetry that fails."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry._logs import Logger, LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource

from mccore.events import Event
from mccore_telemetry.otel.traces import Attributes, flat
from mccore_telemetry.shared.identity import event_id

_LONGEST_TRACEBACK = 32_768


class _Keep(LogRecordProcessor):
    """Hands records to whoever sends them."""

    def __init__(self, keep: Callable[[ReadableLogRecord], None]) -> None:
        self._keep = keep

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Keep it."""
        resource = log_record.resource or Resource.get_empty()
        self._keep(
            ReadableLogRecord(log_record.log_record, resource, log_record.instrumentation_scope, log_record.limits)
        )

    def shutdown(self) -> None:
        """Nothing is open."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing is buffered."""
        return True


class Logs:
    """Turns events into log records. `keep` gets every record, `context` says in which span an event happened.

    A record has the id of its event (`log.record.uid` of the semantic conventions), as a span has one of its own: where an
    answer was lost it is sent again, and a store can tell that it has it. `key` tells this run's events from any other's.
    """

    def __init__(
        self,
        resource: Callable[[int], Resource],
        keep: Callable[[ReadableLogRecord], None],
        context: Callable[[Event], Context],
        key: str,
    ) -> None:
        self._key = key
        self._resource = resource
        self._keep = keep
        self._context = context
        self._loggers: dict[int, Logger] = {}

    def record(self, event: Event) -> None:
        """Add a record for an event that operators want to read."""
        if (said := _said(event)) is None:
            return
        severity, body = said
        attributes: Attributes = {**flat(event.data), "log.record.uid": event_id(event, self._key)}
        if event.stage:
            attributes["mccore.stage"] = event.stage
        if trace := attributes.pop("mccore.traceback", None):
            attributes["exception.stacktrace"] = str(trace)[-_LONGEST_TRACEBACK:]
        self._logger(event.rank).emit(
            LogRecord(
                timestamp=int(event.time * 1_000_000) * 1000,
                context=self._context(event),
                severity_number=severity,
                severity_text=severity.name,
                body=body,
                attributes=attributes,
                event_name=f"mccore.{event.type}",
            )
        )

    def _logger(self, rank: int) -> Logger:
        if rank not in self._loggers:
            provider = LoggerProvider(self._resource(rank), shutdown_on_exit=False)
            provider.add_log_record_processor(_Keep(self._keep))
            self._loggers[rank] = provider.get_logger("mccore")
        return self._loggers[rank]


def _said(event: Event) -> tuple[SeverityNumber, str] | None:
    """How grave an event is, and in words; None for one that is no log record."""
    data = event.data
    outcome, message = str(data.get("outcome") or ""), str(data.get("message") or "")
    match event.type:
        case "run.start":
            return SeverityNumber.INFO, "run resumed" if data.get("resumed") else "run started"
        case "run.end" | "stage.end":
            what = "run" if event.type == "run.end" else f"stage {event.stage}"
            grave = SeverityNumber.ERROR if outcome not in ("finished", "stopped") else SeverityNumber.INFO
            return grave, f"{what} {outcome}" + (f": {message}" if message else "")
        case "alert":
            return SeverityNumber.WARN, f"{data.get('metric')} is {data.get('value')}: {data.get('advice')}"
        case "telemetry":
            grave = SeverityNumber.WARN if data.get("state") == "failing" else SeverityNumber.INFO
            return grave, f"telemetry {data.get('provider')} is {data.get('state')}" + (
                f": {message}" if message else ""
            )
    return None
