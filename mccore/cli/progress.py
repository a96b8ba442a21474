"""How a run looks while it goes: bars on a terminal, lines elsewhere, events as JSON for programs."""

from __future__ import annotations

import math
import sys
import time
from typing import IO, Any

from mccore.events import METRICS, Event
from mccore.events.alerts import describe_alert
from mccore.events.metrics import language_loss
from mccore.host.terminal import echo, echo_json_text, one_line, visible
from mccore.launch.listener import Listener
from mccore.units import count, duration, number

_LINE_SECONDS = 10.0


def make_listener(as_json: bool) -> Listener:
    """The listener that fits where the output goes."""
    if as_json:
        return JsonLines()
    return Bars() if sys.stderr.isatty() else Lines(sys.stderr)


class Notices:
    """Lines for a human, on standard error."""

    def notice(self, text: str) -> None:
        echo(text, err=True)

    def tick(self) -> None:
        """Nothing changes by time alone."""


class JsonLines(Notices):
    """Every event as one line of JSON on standard output."""

    def event(self, event: Event) -> None:
        echo_json_text(event.to_json())


class Lines(Notices):
    """A line for everything that matters, and for a step now and then."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._pace = Pace()
        self._shown = -math.inf

    def event(self, event: Event) -> None:
        line = self._line(event)
        if line:
            self._stream.write(f"{visible(line)}\n")
            self._stream.flush()

    def notice(self, text: str) -> None:
        self._stream.write(f"{visible(text)}\n")
        self._stream.flush()

    def _line(self, event: Event) -> str:
        if event.type == "step":
            self._pace.step(event)
            total = event.data.get("steps")
            if event.rank or (event.time - self._shown < _LINE_SECONDS and event.step != total):
                return ""
            self._shown = event.time
            left = self._pace.seconds_left()
            eta = f"  {duration(left)} left" if left is not None else ""
            return f"{event.stage}: step {event.step}/{total or '?'}{describe_metrics(event)}{eta}"
        if event.type == "stage.start" and event.rank == 0:
            self._pace, self._shown = Pace(), -math.inf
        return describe_event(event)


class Bars(Notices):
    """A bar per stage with loss, speed and time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description:<14}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[info]}"),
            console=Console(stderr=True),
            auto_refresh=False,  # a thread of its own and the fork of a stage don't go together
        )
        self._tasks: dict[str, Any] = {}
        self._pace = Pace()
        self._refreshed = 0.0
        self._progress.start()

    def event(self, event: Event) -> None:
        if event.type == "run.end":
            self._progress.refresh()
            self._progress.stop()
            return
        if event.rank or event.stage is None:
            return
        if event.type == "stage.start":
            self._pace = Pace()
            plan = event.data.get("plan")
            steps = plan.get("steps") if isinstance(plan, dict) else None
            if event.stage not in self._tasks:
                self._tasks[event.stage] = self._progress.add_task(one_line(event.stage), total=steps, info="")
        task = self._tasks.get(event.stage)
        if task is None:
            return
        if event.type == "step":
            self._pace.step(event)
            left = self._pace.seconds_left()
            eta = f"  {duration(left)} left" if left is not None else ""
            self._progress.update(
                task,
                completed=event.step,
                total=event.data.get("steps"),
                info=f"{describe_metrics(event).strip()}{eta}",
            )
        elif event.type == "stage.progress":
            self._progress.update(
                task,
                completed=event.data.get("done"),
                total=event.data.get("total"),
                info=one_line(str(event.data.get("unit") or "")),
            )
        elif event.type == "stage.end":
            self._end(task, event)
        elif event.type in ("eval", "notice", "alert", "telemetry", "checkpoint") and (line := describe_event(event)):
            self._progress.console.print(visible(line), markup=False, highlight=False)

    def notice(self, text: str) -> None:
        self._progress.console.print(visible(text), markup=False, highlight=False)

    def tick(self) -> None:
        now = time.monotonic()
        if now - self._refreshed >= 0.25 and self._progress.live.is_started:
            self._refreshed = now
            self._progress.refresh()

    def _end(self, task: Any, event: Event) -> None:
        outcome = str(event.data.get("outcome", ""))
        took = _took(event)
        if outcome == "finished":
            done = self._progress.tasks[self._progress.task_ids.index(task)]
            total = done.total or done.completed or 1
            results = describe_results(event.data.get("results"))
            self._progress.update(task, completed=total, total=total, info=f"{took}{results}".strip())
        else:
            self._progress.update(task, info=f"{one_line(outcome)}{f' after {took}' if took else ''}")
            self._progress.stop_task(task)


class Pace:
    """Time left in a stage, from its own steps; the first ones, slower by compilation and cold caches, count less and less."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._last: Event | None = None
        self._left: int | None = None

    def step(self, event: Event) -> None:
        """Take a step event."""
        if self._last is not None and event.step is not None and self._last.step is not None:
            steps = event.step - self._last.step
            if steps > 0:
                seconds = max(0.0, event.time - self._last.time) / steps
                self._seconds = seconds if self._seconds == 0.0 else 0.95 * self._seconds + 0.05 * seconds
        self._last = event
        total = event.data.get("steps")
        self._left = total - event.step if isinstance(total, int) and event.step is not None else None

    def seconds_left(self) -> float | None:
        """Seconds until the last step, None while it can't be told."""
        return self._seconds * self._left if self._left is not None and self._seconds > 0.0 else None


def _took(event: Event) -> str:
    """How long a stage took by its own end, nothing where that isn't known."""
    seconds = event.data.get("seconds")
    return duration(float(seconds)) if isinstance(seconds, int | float) else ""


def describe_event(event: Event) -> str:
    """One line for an event that deserves one, else an empty text."""
    data = event.data
    if event.rank and event.type != "telemetry":
        return ""
    match event.type:
        case "run.start":
            stages = data.get("stages") or []
            return f"{'resumed' if data.get('resumed') else 'started'}: {', '.join(stages) or 'nothing left to do'}"
        case "stage.start":
            return f"{event.stage}: " + (f"from step {data['resumed_step']}" if data.get("resumed_step") else "started")
        case "stage.end":
            took = f" after {_took(event)}" if _took(event) else ""
            message = f": {data['message']}" if data.get("message") else ""
            return f"{event.stage}: {data.get('outcome')}{took}{message}{describe_results(data.get('results'))}"
        case "eval":
            at = f" at step {event.step}" if event.step is not None else ""
            return f"{event.stage}: {data.get('name', 'evaluation')}{at}{describe_metrics(event)}"
        case "alert":
            return f"alert: {f'{event.stage}: ' if event.stage else ''}{describe_alert(data)}"
        case "telemetry":
            lost = f", {data['lost']} events lost" if data.get("lost") else ""
            message = f" ({data['message']})" if data.get("message") else ""
            return f"telemetry: {data.get('provider')} is {data.get('state')}{lost}{message}"
        case "notice":
            return f"{event.stage}: {data.get('about')}: {data.get('message')}"
        case "checkpoint":
            return f"{event.stage}: checkpoint at step {event.step}"
    return ""


_SHOWN = tuple(row.name for row in METRICS.values() if row.watched)


def describe_metrics(event: Event) -> str:
    """The metrics of an event that a person watches."""
    parts = []
    for name in _SHOWN:
        if name in event.metrics:
            value = event.metrics[name]
            if name == "loss":  # of the language model: with MegaContext `loss` is the whole objective
                value = language_loss(event.metrics) or value
            parts.append(f"{count(value)} tok/s" if name == "tokens_per_second" else f"{name} {number(value)}")
    return "  " + "  ".join(parts) if parts else ""


def describe_results(results: Any) -> str:
    """The numbers among a stage's results, as many as fit."""
    if not isinstance(results, dict):
        return ""
    found = [
        f"{name} {number(value)}"
        for name, value in results.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("step", "steps", "seconds")
    ]
    return "  " + ", ".join(found[:4]) if found else ""
