"""What a run looks like now: events in, one state out. No files, no clock, no screen.

`RunState.take` is called with every event in the order in which they happened. Memory is bounded whatever the length of the
run: curves are traces, and lists keep the newest.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from msgspec import Struct

from mccore.events import EVENT_VERSION, METRICS, Event
from mccore.runs.live.trace import Trace

KEPT = 200  # alerts, samples and notes that are remembered
SNAPSHOTS = 256  # Working Contexts of a stage that can be gone back to
PACE = 0.9  # weight of the steps before in the pace of a stage


@dataclass
class StageState:
    """One stage: how far it is and how it ended."""

    name: str
    state: str = "waiting"
    began: float | None = None
    ended: float | None = None
    step: int | None = None
    steps: int | None = None
    tokens: int | None = None
    done: int | None = None
    total: int | None = None
    unit: str = ""
    message: str = ""
    traceback: str = ""
    hint: str = ""
    rank: int = 0  # that failed
    ranks: int | None = None
    rows: int | None = None  # sequences of an optimizer step
    flops: int | None = None  # of the whole stage, where they are planned
    last_step_time: float | None = None
    seconds_per_step: float | None = None

    @property
    def progress(self) -> float | None:
        """The share that is done, where it can be told."""
        if self.state == "finished":
            return 1.0
        if self.step is not None and self.steps:
            return min(1.0, self.step / self.steps)
        if self.done is not None and self.total:
            return min(1.0, self.done / self.total)
        return None

    @property
    def seconds_left(self) -> float | None:
        """How long the remaining steps take at the present pace."""
        if self.state != "running" or self.seconds_per_step is None or not self.steps or self.step is None:
            return None
        return max(0, self.steps - self.step) * self.seconds_per_step


class Last(Struct, frozen=True):
    """The newest value of a metric."""

    value: float
    time: float
    stage: str
    step: int | None

    def in_band(self, name: str) -> bool | None:
        """Whether it lies in the band of its metric; None without a band."""
        band = METRICS[name].band if name in METRICS else None
        return None if band is None or not math.isfinite(self.value) else band[0] <= self.value <= band[1]


@dataclass
class RunState:
    """Everything that a monitor shows of a run, from its events alone."""

    stages: dict[str, StageState] = field(default_factory=dict)
    metrics: dict[str, Last] = field(default_factory=dict)
    traces: dict[tuple[str, str], Trace] = field(default_factory=dict)  # (stage, metric)
    ranks: dict[int, float] = field(default_factory=dict)  # rank -> time of its newest event
    alerts: deque[Event] = field(default_factory=lambda: deque(maxlen=KEPT))
    samples: deque[Event] = field(default_factory=lambda: deque(maxlen=KEPT))
    checkpoints: deque[Event] = field(default_factory=lambda: deque(maxlen=KEPT))
    evaluations: dict[str, Event] = field(default_factory=dict)
    telemetry: dict[str, Event] = field(default_factory=dict)
    resources: dict[int, Event] = field(default_factory=dict)  # rank -> what it uses of the machine
    timings: dict[str, float] = field(default_factory=dict)
    snapshots: dict[str, list[Event]] = field(default_factory=dict)  # stage -> Working Contexts, oldest first
    edits: dict[str, Event] = field(default_factory=dict)  # stage -> the last refocus
    stage: str = ""
    started: float | None = None
    ended: float | None = None
    outcome: str = ""
    message: str = ""
    events: int = 0
    newest: float = 0.0
    newer: int = 0  # events of a version that this mccore doesn't know
    refocuses: int = 0

    def take(self, event: Event) -> None:
        """Add what an event tells."""
        self.events += 1
        if event.time > self.newest:
            self.newest = event.time
        self.newer += event.v > EVENT_VERSION
        if event.time > self.ranks.get(event.rank, -1.0):
            self.ranks[event.rank] = event.time
        handler = _HANDLERS.get(event.type)
        if handler is not None:
            handler(self, event)
        if event.metrics:
            self._measure(event)

    def stage_of(self, name: str) -> StageState:
        """The state of a stage, made when it is new."""
        stage = self.stages.get(name)
        if stage is None:
            stage = self.stages[name] = StageState(name)
        return stage

    def failure(self) -> StageState | None:
        """The stage that failed, if one did."""
        return next((stage for stage in self.stages.values() if stage.state == "failed"), None)

    def seconds_left(self) -> float | None:
        """How long the running stage takes on."""
        return self.stages[self.stage].seconds_left if self.stage in self.stages else None

    def run_seconds_left(self) -> tuple[float, bool] | None:
        """Seconds that are left in the run at the pace of the running stage, and whether that is all: stages that don't train,
        and those whose size only the data tell, aren't counted. None while there is no pace."""
        now = self.stages.get(self.stage)
        if now is None or (left := now.seconds_left) is None:
            return None
        waiting = [stage for stage in self.stages.values() if stage.state == "waiting"]
        if now.flops and now.steps and now.seconds_per_step is not None:
            left += sum(stage.flops or 0 for stage in waiting) * now.seconds_per_step * now.steps / now.flops
            return left, all(stage.flops for stage in waiting)
        return left, not waiting

    def _measure(self, event: Event) -> None:
        stage, step, tokens, time = event.stage or "", event.step, event.tokens or 0, event.time
        metrics, traces = self.metrics, self.traces
        if event.type in ("focus_allocator", "inference_update"):
            self.refocuses += 1
        for name, value in event.metrics.items():
            if event.rank != 0 and name in metrics and metrics[name].stage == stage:
                continue  # ranks agree on what all report; rank 0 speaks
            metrics[name] = Last(value, time, stage, step)
            trace = traces.get((stage, name))
            if trace is None:
                trace = traces[stage, name] = Trace()
            trace.add(value, step=trace.points if step is None else step, tokens=tokens, time=time)

    # --- one handler a type -------------------------------------------------------------------------------------------

    def _run_start(self, event: Event) -> None:
        self.started, self.ended, self.outcome, self.message = event.time, None, "", ""
        flops = event.data.get("flops")
        for name in _texts(event.data.get("stages")):
            stage = self.stage_of(name)
            stage.flops = _whole(flops.get(name)) if isinstance(flops, Mapping) else None

    def _run_end(self, event: Event) -> None:
        self.ended = event.time
        self.outcome, self.message = str(event.data.get("outcome") or ""), str(event.data.get("message") or "")

    def _stage_start(self, event: Event) -> None:
        if event.rank != 0 or event.stage is None:
            return
        stage = self.stages[event.stage] = StageState(event.stage, "running", began=event.time)
        stage.ranks = _whole(event.data.get("world_size"))
        if isinstance(plan := event.data.get("plan"), Mapping):
            stage.rows, stage.flops = _whole(plan.get("rows")), _whole(plan.get("flops"))
        self.stage = event.stage

    def _stage_end(self, event: Event) -> None:
        if event.stage is None:
            return
        stage = self.stage_of(event.stage)
        outcome = str(event.data.get("outcome") or "")
        if event.rank != 0 and outcome != "failed":
            return
        # The first failure is the cause; ranks that lost their peers fail after it.
        if stage.state == "failed" and outcome == "failed":
            return
        stage.state, stage.ended = outcome, event.time
        stage.message, stage.traceback = str(event.data.get("message") or ""), str(event.data.get("traceback") or "")
        stage.hint, stage.rank = str(event.data.get("hint") or ""), event.rank

    def _progress(self, event: Event) -> None:
        stage = self.stage_of(event.stage or "")
        stage.done, stage.total = _whole(event.data.get("done")), _whole(event.data.get("total"))
        stage.unit = str(event.data.get("unit") or "")

    def _step(self, event: Event) -> None:
        if event.rank != 0:
            return
        stage = self.stage_of(event.stage or "")
        if stage.last_step_time is not None and stage.step is not None and (event.step or 0) > stage.step:
            took = (event.time - stage.last_step_time) / ((event.step or 0) - stage.step)
            before = stage.seconds_per_step
            stage.seconds_per_step = took if before is None else PACE * before + (1 - PACE) * took
        stage.last_step_time, stage.step, stage.tokens = event.time, event.step, event.tokens
        stage.steps = _whole(event.data.get("steps")) or stage.steps
        if stage.state == "waiting":
            stage.state = "running"

    def _eval(self, event: Event) -> None:
        self.evaluations[f"{event.stage or ''}/{event.data.get('name') or ''}"] = event

    def _timing(self, event: Event) -> None:
        self.timings = {
            name: float(value)
            for name, value in event.data.items()
            if name.endswith("_ms") and isinstance(value, int | float)
        }

    def _snapshot(self, event: Event) -> None:
        kept = self.snapshots.setdefault(event.stage or "", [])
        kept.append(event)
        if len(kept) > SNAPSHOTS:
            del kept[1:-1:2]  # every second: the first and the newest stay

    def _edit(self, event: Event) -> None:
        self.edits[event.stage or ""] = event

    def to_json(self) -> dict[str, Any]:
        """The state as plain data: last values, not curves."""
        return {
            "stage": self.stage,
            "outcome": self.outcome,
            "message": self.message,
            "started": self.started,
            "ended": self.ended,
            "seconds_left": self.seconds_left(),
            "run_seconds_left": None if (left := self.run_seconds_left()) is None else left[0],
            "events": self.events,
            "newest": self.newest,
            "newer_events": self.newer,
            "ranks": {str(rank): time for rank, time in sorted(self.ranks.items())},
            "stages": [_stage_json(stage) for stage in self.stages.values()],
            "metrics": {
                name: {"value": last.value, "stage": last.stage, "step": last.step, "in_band": last.in_band(name)}
                for name, last in self.metrics.items()
            },
            "alerts": [dict(event.data) | {"stage": event.stage} for event in self.alerts],
            "timings": self.timings,
            "checkpoints": [
                dict(event.data) | {"stage": event.stage, "step": event.step} for event in self.checkpoints
            ],
            "resources": {
                str(rank): dict(event.data) | dict(event.metrics) for rank, event in sorted(self.resources.items())
            },
            "telemetry": {name: dict(event.data) for name, event in self.telemetry.items()},
            "working_context": {stage: dict(events[-1].data) for stage, events in self.snapshots.items() if events},
        }


_HANDLERS: dict[str, Callable[[RunState, Event], object]] = {
    "run.start": RunState._run_start,
    "run.end": RunState._run_end,
    "stage.start": RunState._stage_start,
    "stage.end": RunState._stage_end,
    "stage.progress": RunState._progress,
    "step": RunState._step,
    "eval": RunState._eval,
    "mc_timing": RunState._timing,
    "working_context_snapshot": RunState._snapshot,
    "focus_allocator": RunState._edit,
    "resources": lambda state, event: state.resources.__setitem__(event.rank, event),
    "alert": lambda state, event: state.alerts.append(event),
    "sample": lambda state, event: state.samples.append(event),
    "checkpoint": lambda state, event: state.checkpoints.append(event),
    "telemetry": lambda state, event: state.telemetry.__setitem__(str(event.data.get("provider")), event),
}


def _stage_json(stage: StageState) -> dict[str, Any]:
    names = (
        "name",
        "state",
        "step",
        "steps",
        "tokens",
        "done",
        "total",
        "unit",
        "message",
        "traceback",
        "began",
        "ended",
    )
    found: Mapping[str, Any] = {name: getattr(stage, name) for name in names}
    return {**found, "progress": stage.progress, "seconds_left": stage.seconds_left}


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
