"""Spans of a run: run, stages of its ranks, and in them evaluations, checkpoints, sampled refocuses and inference.

No span per training step: metrics say that better. Spans that take time have it from their event; those that are open (the
run, a stage) end with the event that says so, or with the provider.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from mccore.api import TelemetrySpec, read_json, write_atomic
from mccore.errors import RunError
from mccore.events import Event

Attributes = dict[str, str | int | float | bool]
_LONGEST_TEXT = 8192


class _Keep(SpanProcessor):
    """Hands spans that have ended to whoever sends them."""

    def __init__(self, keep: Callable[[ReadableSpan], None]) -> None:
        self._keep = keep

    def on_end(self, span: ReadableSpan) -> None:
        """Keep it."""
        self._keep(span)


class Traces:
    """Turns events into spans. `keep` gets every span that has ended."""

    def __init__(
        self, spec: TelemetrySpec, resource: Callable[[int], Resource], keep: Callable[[ReadableSpan], None]
    ) -> None:
        self._spec = spec
        self._resource = resource
        self._keep = keep
        self._tracers: dict[int, Tracer] = {}
        self._run: Span | None = None
        self._ended = False  # what comes after the end of a run still belongs to it
        self._stages: dict[tuple[int, str], Span] = {}
        self._newest = 0.0

    def record(self, event: Event) -> None:
        """Open, end or add the span that an event is about."""
        self._newest = max(self._newest, event.time)
        if event.type == "run.start":
            self.end("another start of the run began")
            self._run, self._ended = None, False
        run = self._run or self._begin_run(event)
        match event.type:
            case "run.end":
                self._end_stages("the run ended without a word of it", event.time)
                if not self._ended:
                    _end(run, event)
                self._ended = True
            case "stage.start":
                self._begin_stage(event, run)
            case "stage.end":
                stage = self._stages.pop((event.rank, event.stage or ""), None)
                if stage is not None:
                    _end(stage, event)
            case "alert":
                if (span := self._span_of(event)).is_recording():
                    span.add_event("alert", flat(event.data), _nanoseconds(event.time))
            case _:
                if (timed := _timed(event)) is not None:
                    self._add(event, *timed)

    def context(self, event: Event) -> Context:
        """The context of the span that an event happened in."""
        return set_span_in_context(self._span_of(event), Context())

    def end(self, why: str = "nothing more was said") -> None:
        """End what is open, as an error: a run that is over says so."""
        self._end_stages(why, self._newest)
        if self._run is not None and not self._ended:
            self._run.set_status(Status(StatusCode.ERROR, why))
            self._run.end(_nanoseconds(self._newest))
            self._ended = True

    def _span_of(self, event: Event) -> Span:
        run = self._run or NonRecordingSpan(SpanContext(0, 0, is_remote=False))
        return self._stages.get((event.rank, event.stage or ""), run)

    def _tracer(self, rank: int) -> Tracer:
        if rank not in self._tracers:
            provider = TracerProvider(ALWAYS_ON, self._resource(rank), shutdown_on_exit=False)
            provider.add_span_processor(_Keep(self._keep))
            self._tracers[rank] = provider.get_tracer("mccore")
        return self._tracers[rank]

    def _begin_run(self, event: Event) -> Span:
        attributes: Attributes = {"mccore.run": self._spec.run, "mccore.attempt": self._spec.attempt}
        if event.type == "run.start":
            attributes["mccore.resumed"] = bool(event.data.get("resumed"))
        links = [Link(before)] if (before := self._former()) else None
        self._run = self._tracer(event.rank).start_span(
            f"{self._spec.service} {self._spec.run}",
            Context(),
            attributes=attributes,
            links=links,
            start_time=_nanoseconds(event.time),
        )
        self._remember(self._run.get_span_context())
        return self._run

    def _begin_stage(self, event: Event, run: Span) -> None:
        key = (event.rank, event.stage or "")
        if key in self._stages:
            return
        self._stages[key] = self._tracer(event.rank).start_span(
            f"stage {event.stage}",
            set_span_in_context(run, Context()),
            attributes=_attributes(event) | _chosen(event.data, "world_size", "resumed_step"),
            start_time=_nanoseconds(event.time),
        )

    def _add(self, event: Event, name: str, seconds: float) -> None:
        span = self._tracer(event.rank).start_span(
            name,
            self.context(event),
            attributes=_attributes(event) | flat(event.data) | flat(event.metrics, "mccore.metric."),
            start_time=_nanoseconds(event.time - seconds),
        )
        span.end(_nanoseconds(event.time))

    def _end_stages(self, why: str, at: float) -> None:
        for span in self._stages.values():
            span.set_status(Status(StatusCode.ERROR, why))
            span.end(_nanoseconds(at))
        self._stages.clear()

    # --- from one start of a run to the next --------------------------------------------------------------------------

    def _former(self) -> SpanContext | None:
        """The run's span of its start before this one."""
        try:
            found = read_json(self._spec.files / "otel-trace.json")
            return SpanContext(int(found["trace"], 16), int(found["span"], 16), True, TraceFlags(TraceFlags.SAMPLED))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _remember(self, context: SpanContext) -> None:
        # A link is worth no trouble: without the file the traces aren't linked.
        with contextlib.suppress(RunError):
            text = json.dumps({"trace": f"{context.trace_id:032x}", "span": f"{context.span_id:016x}"})
            write_atomic(self._spec.files / "otel-trace.json", text + "\n")


def _timed(event: Event) -> tuple[str, float] | None:
    """Name and duration of the span that an event stands for, None for an event that is no span."""
    data = event.data
    match event.type:
        case "eval":
            return f"evaluation {data.get('name')}", _seconds(data.get("seconds"))
        case "checkpoint":
            return "checkpoint", _seconds(data.get("seconds"))
        case "focus_allocator":
            return "refocus", _seconds(event.metrics.get("controller_duration"))
        case "request":
            return f"request {data.get('endpoint')}", _seconds(data.get("seconds"))
        case "chat.turn":
            return "answer", _seconds(data.get("seconds"))
        case "inference_update":
            return f"{data.get('phase')}", _seconds(data.get("seconds"))
    return None


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) and 0 < value < float("inf") else 0.0


def _end(span: Span, event: Event) -> None:
    """End a run or a stage as its last event says."""
    outcome, message = str(event.data.get("outcome") or ""), str(event.data.get("message") or "")
    span.set_attribute("mccore.outcome", outcome)
    if outcome in ("finished", "stopped"):
        span.set_status(Status(StatusCode.OK))
    else:
        span.set_status(Status(StatusCode.ERROR, message or outcome))
    if trace := event.data.get("traceback"):
        span.add_event(
            "exception",
            {"exception.message": message, "exception.stacktrace": str(trace)[-_LONGEST_TEXT:]},
            _nanoseconds(event.time),
        )
    span.end(_nanoseconds(event.time))


def _attributes(event: Event) -> Attributes:
    found = {"mccore.stage": event.stage, "mccore.step": event.step, "mccore.tokens": event.tokens}
    return {name: value for name, value in found.items() if value is not None}


def _chosen(data: Mapping[str, Any], *names: str) -> Attributes:
    return flat({name: data.get(name) for name in names})


def flat(data: Mapping[str, Any], prefix: str = "mccore.") -> Attributes:
    """What is a number, a truth value or text, under dotted names; lists and objects are left to the event files."""
    return {
        f"{prefix}{name}".replace("/", "."): value[:_LONGEST_TEXT] if isinstance(value, str) else value
        for name, value in data.items()
        if isinstance(value, str | int | float | bool)
    }


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000) * 1000
