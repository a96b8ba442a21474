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
import subprocess
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Protocol

import psutil

from mccore.config import HardwareConfig, StageName, stage_spec
from mccore.errors import RunError, cause
from mccore.events import Alert, AlertWatch, Event, EventTail, EventWriter
from mccore.host.files import disk_hint
from mccore.host.processes import adopt_orphans, parent_death_hook
from mccore.launch.command import WORKER, child_environment, stage_command
from mccore.launch.ending import (
    EXIT_STOPPED,
    LOG_LINES,
    Ending,
    find_killed_rank,
    likely_cause,
    read_log_tail,
    signal_name,
)
from mccore.runs.lock import RunLock
from mccore.runs.rundir import Outcome, RunDir, State
from mccore.telemetry.activation import Activation, activate
from mccore.telemetry.relay import Relay

_POLL_SECONDS = 0.1

_MEET_SECONDS = 20.0  # until a launch says that its ranks haven't met

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Listener(Protocol):
    """Someone who watches a launch. A listener whose output has gone away (OSError) is left alone; the run goes on."""

    def event(self, event: Event) -> None:
        """An event of the launcher or a rank."""

    def notice(self, text: str) -> None:
        """A line for a human."""

    def tick(self) -> None:
        """Some time passed."""


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
            return _Launch(run, hardware, listener, worker, grace_seconds, telemetry, lock, writer).execute(resumed)


class _Launch:
    """One start of a run, from `run.start` to `run.end`."""

    def __init__(
        self,
        run: RunDir,
        hardware: HardwareConfig,
        listener: Listener | None,
        worker: str,
        grace_seconds: float,
        telemetry: Activation,
        lock: RunLock,
        writer: EventWriter,
    ) -> None:
        self.run = run
        self.hardware = hardware
        self.listener = listener
        self.worker = worker
        self.grace_seconds = grace_seconds
        self.telemetry = telemetry
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
            ranks = self.hardware.nproc * self.hardware.nnodes
            self.relay = Relay.start(self.run, self.tail.offsets, ranks, self.telemetry.choices)
            self.writer.emit(
                "run.start",
                pid=os.getpid(),
                resumed=resumed,
                version=version,
                stages=list(todo),
                telemetry=[choice.name for choice in self.telemetry.choices],
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
            ending = self._stage(stage)
            if not ending.told:
                self.writer.emit(
                    "stage.end",
                    stage=stage,
                    outcome=ending.state,
                    message=ending.message,
                    traceback=ending.log,
                    hint=ending.hint,
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
        command = stage_command(self.run.path, stage, self.hardware, self.run.name, worker=self.worker)
        log = self.run.log_path(stage)
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with open(log, "ab") as stream:
                log_start = stream.tell()
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env=child_environment(stage, self.hardware, os.environ),
                    start_new_session=True,  # Ctrl-C is ours to pass on
                    pass_fds=(self.lock.fd,),
                    preexec_fn=parent_death_hook(),  # two system calls, looked up before the fork
                )
        except OSError as error:
            raise RunError(f"can't start the stage {stage}: {cause(error)}", hint=disk_hint(error)) from error
        try:
            code = self._wait(process)
        finally:
            _end_survivors(process, self.bystanders | self._relaying(), self.grace_seconds)
        self._watch()
        return self._ending(stage, code, read_log_tail(log, log_start))

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for a stage, passing on what the user asks for. Returns its exit code."""
        heard = 0
        kill_at: float | None = None
        waiting = time.monotonic() + _MEET_SECONDS
        while True:
            try:
                return process.wait(_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            self._watch()
            if self.relay is not None:
                self._tell_of_relay(self.relay.revive(self.tail.offsets))
            meeting = _has_ranks(self.stage, self.hardware) and not self.met
            if meeting and time.monotonic() >= waiting:
                waiting = math.inf
                self._tell(_still_waiting(self.stage, self.run.log_path(self.stage), self.hardware))
            if len(self.signals) > heard:
                heard += 1
                asked = heard == 1 and self._ask_to_stop()
                if asked and meeting:  # there is nothing to save, and who waits for the others hears of no stop file
                    self._tell("stopping: the ranks haven't met, so there is nothing to save")
                    _signal_group(process, signal.SIGTERM)
                    kill_at = time.monotonic() + min(self.grace_seconds, _MEET_SECONDS)
                elif asked:
                    self._tell("stopping: the stage saves first. Once more ends it at once.")
                elif kill_at is None:
                    self._tell(f"ending the stage (killed in {self.grace_seconds:.0f} s if it doesn't obey)")
                    _signal_group(process, signal.SIGTERM)
                    kill_at = time.monotonic() + self.grace_seconds
                else:
                    kill_at = 0.0
            if kill_at is not None and time.monotonic() >= kill_at:
                _signal_group(process, signal.SIGKILL)

    def _ask_to_stop(self) -> bool:
        try:
            self.run.request_stop()
        except RunError as error:
            self._tell(error.render())
            return False
        return True

    def _ending(self, stage: StageName, code: int, log: str) -> Ending:
        """How a stage ended: by its own word, else by its exit code."""
        own = next((event for event in reversed(self.ends) if event.rank == 0), None)
        failures = [event for event in self.ends if event.data.get("outcome") == "failed"]
        if own is not None and own.data.get("outcome") in ("finished", "stopped"):
            return Ending(own.data["outcome"], str(own.data.get("message") or ""))
        last_lines = "\n".join(log.splitlines()[-LOG_LINES:])
        hint = f"`mccore run --resume {self.run.name}` goes on from the last checkpoint"
        if (killed := find_killed_rank(log)) is not None and not (failures and failures[0].rank == killed.rank):
            # The other ranks only noticed that a peer was gone.
            message = (
                f"rank {killed.rank} was killed ({signal_name(killed.signal)}){likely_cause(killed.signal)}; {hint}"
            )
            return Ending("failed", message, told=False, log=last_lines)
        if failures:
            first = failures[0]
            message = str(first.data.get("message") or "failed")
            advice = str(first.data.get("hint") or "")
            if _has_ranks(stage, self.hardware):
                message = f"rank {first.rank}: {message}"
            # What other ranks say later is that a peer was gone: the last word must be that of the one that failed.
            told = first is own and first is self.ends[-1]
            return Ending("failed", message, told=told, log=str(first.data.get("traceback") or last_lines), hint=advice)
        if self.signals and not self.met and _has_ranks(stage, self.hardware):
            return Ending("stopped", f"{stage} was stopped before its ranks had met", told=False)
        if len(self.signals) > 1:
            return Ending("interrupted", f"{stage} was ended before it could save")
        if code == EXIT_STOPPED:
            return Ending("stopped", told=False)
        if code == 0:
            if self.run.completed(stage):
                return Ending("finished", told=False)
            return Ending("failed", f"{stage} ended without a result", told=False, log=last_lines)
        how = f"was killed ({signal_name(-code)}){likely_cause(-code)}" if code < 0 else f"failed with exit code {code}"
        last = last_lines.splitlines()[-1].strip() if last_lines else ""
        said = f": {last}" if last and code > 0 else ""
        return Ending("failed", f"{stage} {how}{said}; {hint}", told=False, log=last_lines)

    def _watch(self) -> None:
        """Read what the ranks have written, pass it on, keep what decides."""
        for event in self.tail.drain():
            self.met = self.met or event.stage == self.stage
            if event.type == "stage.end" and event.stage == self.stage:
                self.ends.append(event)
            self._pass_on("event", event)
            self._raise_alerts(self.alerts.feed(event))
        self._raise_alerts(self.alerts.tick(time.time()))
        self._pass_on("tick")

    def _raise_alerts(self, alerts: Sequence[Alert]) -> None:
        """Write alerts where everything else is written: the log, providers and the report read them there."""
        for alert in alerts:
            with contextlib.suppress(RunError):  # a full disk ends the run where it trains
                self.writer.emit("alert", stage=alert.stage, step=alert.step, tokens=alert.tokens, **alert.data())

    def _tell(self, text: str) -> None:
        self._pass_on("notice", text)

    def _pass_on(self, what: str, *arguments: object) -> None:
        if self.listener is not None:
            try:
                getattr(self.listener, what)(*arguments)
            except OSError:  # the terminal or the pipe went away; training goes on
                self.listener = None


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


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _has_ranks(stage: StageName, hardware: HardwareConfig) -> bool:
    """Whether a stage has several ranks, which must meet first."""
    return stage_spec(stage).ranks and hardware.nproc * hardware.nnodes > 1


def _still_waiting(stage: str, log: Path, hardware: HardwareConfig) -> str:
    where = f" at {hardware.rdzv_endpoint}" if hardware.nnodes > 1 else ""
    check = "see that every machine has started and reaches that address; " if where else ""
    ranks = hardware.nproc * hardware.nnodes
    return f"{stage}: {ranks} ranks haven't met{where} after {_MEET_SECONDS:.0f} s; {check}Ctrl-C ends the wait; log: {log}"


def _end_survivors(process: subprocess.Popen[bytes], bystanders: set[psutil.Process], grace_seconds: float) -> None:
    """End what a stage left behind: ranks whose agent was killed, or everything when the launcher itself fails."""
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
    left = [child for child in psutil.Process().children(recursive=True) if child not in bystanders]
    for child in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()
    _, stubborn = psutil.wait_procs(left, timeout=grace_seconds)
    for child in stubborn:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(stubborn, timeout=grace_seconds)
    process.poll()
