"""Run the stages of a run, each in processes of its own, and see to it that none outlives the launcher.

    python -m mccore.launch.worker RUN_DIRECTORY STAGE                                    one rank
    python -m torch.distributed.run ... -m mccore.launch.worker RUN_DIRECTORY STAGE       several

The launcher and its stages meet only in the run directory. A stage says by a `stage.end` event how it ended; where it
didn't, its exit code decides: 0 finished, 3 stopped, anything else failed. (Under torchrun a stopped rank leaves with 0:
torchrun takes any other code for a failure and ends the other ranks.) CPU threads per rank come in `OMP_NUM_THREADS`, the
number of ranks in torchrun's variables: both may differ from `run.json` when a run is resumed.

First SIGINT, SIGTERM or SIGHUP: the stop file is made and the stage saves and ends. Second: SIGTERM to the stage's
processes, and SIGKILL after a grace period.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from types import FrameType

import psutil

from mccore.config import HardwareConfig, StageName, stage_spec
from mccore.errors import RunError
from mccore.events import Alert, AlertWatch, Event, EventTail, EventWriter
from mccore.host.processes import adopt_orphans
from mccore.launch.command import WORKER, stage_command
from mccore.launch.ending import Ending, Evidence, judge
from mccore.launch.listener import Audience, Listener
from mccore.launch.stage_process import MEET_SECONDS, StageProcess, Stopping
from mccore.runs.lock import RunLock
from mccore.runs.rundir import Outcome, RunDir, State
from mccore.scaling.plan import planned_flops
from mccore.telemetry.activation import Activation, activate
from mccore.telemetry.relay import Relay

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def stages_to_do(run: RunDir) -> tuple[StageName, ...]:
    """The stages of a run that aren't complete."""
    return tuple(stage for stage in run.config.stages if not run.completed(stage))


def launch(
    run: RunDir,
    *,
    hardware: HardwareConfig | None = None,
    listener: Listener | None = None,
    worker: str = WORKER,
    grace_seconds: float = 20.0,
    telemetry: Activation | None = None,
) -> Outcome:
    """Do all stages of a run that aren't complete and return how it ended: finished, stopped, interrupted or failed.

    `hardware` replaces that of `run.json` for this start, `telemetry` the providers of the run and the environment. Call
    it from the main thread: it takes the signals, and the stages die with the thread that started them. Raises RunError
    when the run is held by another process or can't be written.
    """
    hardware = hardware or run.config.hardware
    telemetry = telemetry or activate(run.config)
    if hardware.nnodes > 1 and not hardware.rdzv_endpoint:
        raise RunError("several machines need a place to meet", hint="give --rdzv-endpoint HOST:PORT")
    with run.lock() as lock:
        run.clear_stop()
        resumed = run.events_dir.exists()
        with EventWriter(run.events_dir / "launcher.jsonl") as writer:
            start = Start(hardware, worker, grace_seconds, telemetry)
            return _Launch(run, start, Audience(listener), lock, writer).execute(resumed)


@dataclass(frozen=True)
class Start:
    """What one start of a run may choose for itself."""

    hardware: HardwareConfig
    worker: str  # the module that does a stage
    grace_seconds: float  # between SIGTERM and SIGKILL
    telemetry: Activation

    @property
    def ranks(self) -> int:
        """Of a stage that has several, over all machines."""
        return self.hardware.nproc * self.hardware.nnodes


class _Launch:
    """One start of a run, from `run.start` to `run.end`."""

    def __init__(self, run: RunDir, start: Start, audience: Audience, lock: RunLock, writer: EventWriter) -> None:
        self.run = run
        self.start = start
        self.audience = audience
        self.lock = lock
        self.writer = writer
        self.tail = EventTail(run.events_dir)
        self.alerts = AlertWatch()
        self.signals: list[int] = []
        self.stage: StageName = "data"  # the one that runs
        self.ends: list[Event] = []  # its stage.end events, of all ranks
        self.met = False  # whether a rank of it has been heard of
        self.relay: Relay | None = None
        self.bystanders = set(psutil.Process().children(recursive=True))

    def execute(self, resumed: bool) -> Outcome:
        began = time.monotonic()
        self.tail.skip()
        todo = stages_to_do(self.run)
        version = metadata.version("mccore")
        outcome = Outcome("failed", None, "the launcher failed")
        with _signals_taken(self.signals), _orphans_adopted():
            choices = self.start.telemetry.choices
            self.relay = Relay.start(self.run, self.tail.offsets, self.start.ranks, choices)
            self.writer.emit(
                "run.start",
                pid=os.getpid(),
                resumed=resumed,
                version=version,
                stages=list(todo),
                flops=planned_flops(self.run.config, todo),
                telemetry=[choice.name for choice in choices],
                durable=True,
            )
            try:
                outcome = self._stages(todo)
            except RunError as error:
                outcome = Outcome("failed", outcome.stage, error.message)
                raise
            finally:
                with contextlib.suppress(RunError):  # the disk is full: what matters has been said
                    self.writer.emit(
                        "run.end",
                        outcome=outcome.state,
                        message=outcome.message,
                        seconds=round(time.monotonic() - began, 3),
                        durable=True,
                    )
                self._end_relay()
                self._watch()
        return outcome

    def _relaying(self) -> set[psutil.Process]:
        """The process for telemetry and those of its clients: they outlive stages."""
        with contextlib.suppress(psutil.NoSuchProcess):
            if self.relay is not None:
                relay = psutil.Process(self.relay.pid)
                return {relay, *relay.children(recursive=True)}
        return set()

    def _end_relay(self) -> None:
        if self.relay is not None:
            self._tell_of_relay(self.relay.end())

    def _tell_of_relay(self, problem: str) -> None:
        if problem:
            with contextlib.suppress(RunError):
                self.writer.emit("telemetry", provider="all", state="failing", lost=None, message=problem)

    def _stages(self, todo: Sequence[StageName]) -> Outcome:
        for stage in todo:
            if self.signals or self.run.stop_requested():
                return Outcome("stopped", stage, f"stopped before {stage}")
            began = time.monotonic()
            ending = self._stage(stage)
            if not ending.told:
                self.writer.emit(
                    "stage.end",
                    stage=stage,
                    outcome=ending.state,
                    message=ending.message,
                    traceback=ending.log,
                    hint=ending.hint,
                    seconds=round(time.monotonic() - began, 3),
                    durable=True,
                )
            if ending.state == "finished":
                continue
            if ending.state == "stopped":
                return Outcome("stopped", stage, ending.message)
            state: State = "interrupted" if ending.state == "interrupted" else "failed"
            return Outcome(state, stage, ending.message, ending.hint)
        return Outcome("finished", todo[-1] if todo else None)

    def _stage(self, stage: StageName) -> Ending:
        """Run one stage to its end, whatever that is; afterwards no process of it is left."""
        self.stage, self.ends, self.met = stage, [], False
        start, run = self.start, self.run
        command = stage_command(run.path, stage, start.hardware, run.name, worker=start.worker)
        process = StageProcess(command, stage, run.log_path(stage), start.hardware, lock=self.lock.fd)
        try:
            code = self._wait(process)
        finally:
            process.end_survivors(self.bystanders | self._relaying(), start.grace_seconds)
        self._watch()
        many = self._many_ranks
        return judge(Evidence(run, stage, code, process.log_tail(), self.ends, len(self.signals), many, self.met))

    def _wait(self, process: StageProcess) -> int:
        """Wait for a stage, passing on what the user asks for. Returns its exit code."""
        stopping = Stopping(process, self.run, self.audience, self.start.grace_seconds)
        waiting = time.monotonic() + MEET_SECONDS
        while (code := process.wait()) is None:
            self._watch()
            if self.relay is not None:
                self._tell_of_relay(self.relay.revive(self.tail.offsets))
            meeting = self._many_ranks and not self.met
            if meeting and time.monotonic() >= waiting:
                waiting = math.inf
                self.audience.notice(self._still_waiting())
            stopping.heed(len(self.signals), meeting)
        return code

    @property
    def _many_ranks(self) -> bool:
        """Whether the stage has several ranks, which must meet first."""
        return stage_spec(self.stage).ranks and self.start.ranks > 1

    def _still_waiting(self) -> str:
        hardware = self.start.hardware
        where = f" at {hardware.rdzv_endpoint}" if hardware.nnodes > 1 else ""
        check = "see that every machine has started and reaches that address; " if where else ""
        return (
            f"{self.stage}: {self.start.ranks} ranks haven't met{where} after {MEET_SECONDS:.0f} s; {check}"
            f"Ctrl-C ends the wait; log: {self.run.log_path(self.stage)}"
        )

    def _watch(self) -> None:
        """Read what the ranks have written, pass it on, keep what decides."""
        for event in self.tail.drain():
            self.met = self.met or event.stage == self.stage
            if event.type == "stage.end" and event.stage == self.stage:
                self.ends.append(event)
            self.audience.event(event)
            self._raise_alerts(self.alerts.feed(event))
        self._raise_alerts(self.alerts.tick(time.time()))
        self.audience.tick()

    def _raise_alerts(self, alerts: Sequence[Alert]) -> None:
        """Write alerts where everything else is written: the log, providers and the report read them there."""
        for alert in alerts:
            with contextlib.suppress(RunError):  # a full disk ends the run where it trains
                self.writer.emit("alert", stage=alert.stage, step=alert.step, tokens=alert.tokens, **alert.data())


@contextlib.contextmanager
def _signals_taken(heard: list[int]) -> Iterator[None]:
    def take(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    # What the caller has us ignore (nohup, a background job) stays ignored.
    taken = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, take) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _orphans_adopted() -> Iterator[None]:
    adopt_orphans(True)
    try:
        yield
    finally:
        adopt_orphans(False)
