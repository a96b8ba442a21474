"""Run the stages of a run, each in processes of its own, and see to it that none outlives the launcher.

    python -m mccore.worker RUN_DIRECTORY STAGE                                    one rank
    python -m torch.distributed.run ... -m mccore.worker RUN_DIRECTORY STAGE       several

The launcher and its stages meet only in the run directory. A stage says by a `stage.end` event how it ended; where it
didn't, its exit code decides: 0 finished, 3 stopped, anything else failed. (Under torchrun a stopped rank leaves with 0:
torchrun takes any other code for a failure and ends the other ranks.) CPU threads per rank come in `OMP_NUM_THREADS`, the
number of ranks in torchrun's variables: both may differ from `run.json` when a run is resumed.

First SIGINT, SIGTERM or SIGHUP: the stop file is made and the stage saves and ends. Second: SIGTERM to the stage's
processes, and SIGKILL after a grace period.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Protocol

import psutil
from pydantic import ValidationError

from mccore.config import TRAINING_STAGES, HardwareConfig, RunConfig, StageName, describe_validation
from mccore.data.conversations import check_source
from mccore.data.corpora import open_corpus
from mccore.errors import ConfigError, RunError
from mccore.events import Event, EventTail, EventWriter
from mccore.files import disk_hint
from mccore.machine import available_cores
from mccore.processes import adopt_orphans, parent_death_hook
from mccore.rundir import Outcome, RunDir, RunLock

WORKER = "mccore.worker"
EXIT_STOPPED = 3
# What may change from one start of a run to the next; everything else is fixed by run.json.
FREE_SETTINGS = ("hardware.nproc", "hardware.nnodes", "hardware.rdzv_endpoint", "hardware.threads")

_POLL_SECONDS = 0.1
_LOG_LINES = 20
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Listener(Protocol):
    """Someone who watches a launch. A listener whose output has gone away (OSError) is left alone; the run goes on."""

    def event(self, event: Event) -> None:
        """An event of the launcher or a rank."""

    def notice(self, text: str) -> None:
        """A line for a human."""

    def tick(self) -> None:
        """Some time passed."""


def stage_command(
    path: Path, stage: StageName, hardware: HardwareConfig, run_name: str = "", *, worker: str = WORKER
) -> list[str]:
    """The command line of one stage. Training stages run on all ranks, the others on one."""
    target = ["-m", worker, str(path), stage]
    if stage not in TRAINING_STAGES or hardware.nproc * hardware.nnodes == 1:
        return [sys.executable, *target]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(hardware.nproc)]
    if hardware.nnodes == 1:
        command.append("--standalone")
    else:
        command += ["--nnodes", str(hardware.nnodes), "--rdzv-backend", "c10d", "--rdzv-id", run_name or path.name]
        command += ["--rdzv-endpoint", hardware.rdzv_endpoint]
    return [*command, *target]


# For training on a CPU (figures in docs/LOG.md). Threads that wait by spinning slow a step thirtyfold when another process needs
# one of the cores. And glibc gives the large blocks of every step back to the kernel and faults them in again.
_CPU_RUNTIME = {
    "OMP_WAIT_POLICY": "passive",
    "MALLOC_MMAP_THRESHOLD_": "2000000000",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "67108864",
}


def stage_environment(stage: StageName, hardware: HardwareConfig) -> dict[str, str]:
    """Variables a stage gets in addition to ours. A thread count the user has set stays, unless the configuration has one."""
    ranks = hardware.nproc if stage in TRAINING_STAGES else 1
    added = {"PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}  # the directory one stands in isn't searched for modules
    if hardware.threads or "OMP_NUM_THREADS" not in os.environ:
        added["OMP_NUM_THREADS"] = str(hardware.threads or max(1, available_cores() // ranks))
    added |= {name: value for name, value in _CPU_RUNTIME.items() if name not in os.environ}
    return added


def stages_to_do(run: RunDir) -> tuple[StageName, ...]:
    """The stages of a run that aren't complete."""
    return tuple(stage for stage in run.config.stages if not run.completed(stage))


def check_sources(config: RunConfig) -> None:
    """Raise DataError for a corpus or a source of conversations that isn't there, before hours are spent on getting to it."""
    open_corpus(config.data.corpus)
    for section in (config.mid if "mid" in config.stages else None, config.sft if "sft" in config.stages else None):
        for name, count in section.mixture.items() if section else ():
            if count:
                check_source(name)


def launch(
    run: RunDir,
    *,
    hardware: HardwareConfig | None = None,
    listener: Listener | None = None,
    worker: str = WORKER,
    grace_seconds: float = 20.0,
) -> Outcome:
    """Do all stages of a run that aren't complete and return how it ended: finished, stopped, interrupted or failed.

    `hardware` replaces that of `run.json` for this start. Call it from the main thread: it takes the signals, and the
    stages die with the thread that started them. Raises RunError when the run is held by another process or can't be
    written.
    """
    hardware = hardware or run.config.hardware
    if hardware.nnodes > 1 and not hardware.rdzv_endpoint:
        raise RunError("several machines need a place to meet", hint="give --rdzv-endpoint HOST:PORT")
    with run.lock() as lock:
        run.clear_stop()
        resumed = run.events_dir.exists()
        with EventWriter(run.events_dir / "launcher.jsonl") as writer:
            return _Launch(run, hardware, listener, worker, grace_seconds, lock, writer).execute(resumed)


@dataclass
class _Ending:
    """How one stage ended; `told` when its own event says the same."""

    state: str
    message: str = ""
    told: bool = True
    log: str = ""


class _Launch:
    """One start of a run, from `run.start` to `run.end`."""

    def __init__(
        self,
        run: RunDir,
        hardware: HardwareConfig,
        listener: Listener | None,
        worker: str,
        grace_seconds: float,
        lock: RunLock,
        writer: EventWriter,
    ) -> None:
        self.run = run
        self.hardware = hardware
        self.listener = listener
        self.worker = worker
        self.grace_seconds = grace_seconds
        self.lock = lock
        self.writer = writer
        self.tail = EventTail(run.events_dir)
        self.signals: list[int] = []
        self.stage = ""  # the one that runs
        self.ends: list[Event] = []  # its stage.end events, of all ranks
        self.bystanders = set(psutil.Process().children(recursive=True))

    def execute(self, resumed: bool) -> Outcome:
        began = time.monotonic()
        self.tail.skip()
        todo = stages_to_do(self.run)
        version = metadata.version("mccore")
        outcome = Outcome("failed", None, "the launcher failed")
        with self._signals_taken(), _orphans_adopted():
            self.writer.emit(
                "run.start", pid=os.getpid(), resumed=resumed, version=version, stages=list(todo), durable=True
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
                self._watch()
        return outcome

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
                    durable=True,
                )
            if ending.state == "finished":
                continue
            if ending.state == "stopped":
                return Outcome("stopped", stage, ending.message)
            return Outcome("interrupted" if ending.state == "interrupted" else "failed", stage, ending.message)
        return Outcome("finished", todo[-1] if todo else None)

    def _stage(self, stage: StageName) -> _Ending:
        """Run one stage to its end, whatever that is; afterwards no process of it is left."""
        self.stage, self.ends = stage, []
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
                    env={**os.environ, **stage_environment(stage, self.hardware)},
                    start_new_session=True,  # Ctrl-C is ours to pass on
                    pass_fds=(self.lock.fd,),
                    preexec_fn=parent_death_hook(),  # two system calls, looked up before the fork
                )
        except OSError as error:
            raise RunError(f"can't start the stage {stage}: {error}", hint=disk_hint(error)) from error
        try:
            code = self._wait(process)
        finally:
            self._end_survivors(process)
        self._watch()
        return self._ending(stage, code, _read_tail(log, log_start))

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for a stage, passing on what the user asks for. Returns its exit code."""
        heard = 0
        kill_at: float | None = None
        while True:
            try:
                return process.wait(_POLL_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            self._watch()
            if len(self.signals) > heard:
                heard += 1
                if heard == 1 and self._ask_to_stop():
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

    def _end_survivors(self, process: subprocess.Popen[bytes]) -> None:
        """End what a stage left behind: ranks whose agent was killed, or everything when the launcher itself fails."""
        if process.poll() is None:
            _signal_group(process, signal.SIGTERM)
        left = [child for child in psutil.Process().children(recursive=True) if child not in self.bystanders]
        for child in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.terminate()
        _, stubborn = psutil.wait_procs(left, timeout=self.grace_seconds)
        for child in stubborn:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(stubborn, timeout=self.grace_seconds)
        process.poll()

    def _ending(self, stage: StageName, code: int, log: str) -> _Ending:
        """How a stage ended: by its own word, else by its exit code."""
        own = next((event for event in reversed(self.ends) if event.rank == 0), None)
        failures = [event for event in self.ends if event.data.get("outcome") == "failed"]
        if own is not None and own.data.get("outcome") in ("finished", "stopped"):
            return _Ending(own.data["outcome"], str(own.data.get("message") or ""))
        last_lines = "\n".join(log.splitlines()[-_LOG_LINES:])
        hint = f"`mccore run --resume {self.run.name}` goes on from the last checkpoint"
        if (killed := _killed_rank(log)) is not None and not (failures and failures[0].rank == killed.rank):
            # The other ranks only noticed that a peer was gone.
            message = f"rank {killed.rank} was killed ({_signal_name(killed.signal)}){_why(killed.signal)}; {hint}"
            return _Ending("failed", message, told=False, log=last_lines)
        if failures:
            first = failures[0]
            message = str(first.data.get("message") or "failed")
            several = self.hardware.nproc * self.hardware.nnodes > 1 and stage in TRAINING_STAGES
            if several:
                message = f"rank {first.rank}: {message}"
            # What other ranks say later is that a peer was gone: the last word must be that of the one that failed.
            told = first is own and first is self.ends[-1]
            return _Ending("failed", message, told=told, log=str(first.data.get("traceback") or last_lines))
        if len(self.signals) > 1:
            return _Ending("interrupted", f"{stage} was ended before it could save")
        if code == EXIT_STOPPED:
            return _Ending("stopped", told=False)
        if code == 0:
            if self.run.completed(stage):
                return _Ending("finished", told=False)
            return _Ending("failed", f"{stage} ended without a result", told=False, log=last_lines)
        how = f"was killed ({_signal_name(-code)}){_why(-code)}" if code < 0 else f"failed with exit code {code}"
        last = last_lines.splitlines()[-1].strip() if last_lines else ""
        said = f": {last}" if last and code > 0 else ""
        return _Ending("failed", f"{stage} {how}{said}; {hint}", told=False, log=last_lines)

    def _watch(self) -> None:
        """Read what the ranks have written, pass it on, keep what decides."""
        for event in self.tail.drain():
            if event.type == "stage.end" and event.stage == self.stage:
                self.ends.append(event)
            self._pass_on("event", event)
        self._pass_on("tick")

    def _tell(self, text: str) -> None:
        self._pass_on("notice", text)

    def _pass_on(self, what: str, *arguments: object) -> None:
        if self.listener is not None:
            try:
                getattr(self.listener, what)(*arguments)
            except OSError:  # the terminal or the pipe went away; training goes on
                self.listener = None

    @contextlib.contextmanager
    def _signals_taken(self) -> Iterator[None]:
        def take(number: int, frame: FrameType | None) -> None:
            self.signals.append(number)

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


def _read_tail(log: Path, start: int, limit: int = 65_536) -> str:
    """The end of what a stage wrote to its log in this start."""
    try:
        with open(log, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(start, size - limit))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""


@dataclass(frozen=True)
class _KilledRank:
    rank: int
    signal: int


def _killed_rank(log: str) -> _KilledRank | None:
    """The rank that torchrun names as the first to fail, when a signal ended it."""
    _, named, cause = log.rpartition("Root Cause (first observed failure)")
    if not named:
        return None
    rank = re.search(r"^\s*rank\s*:\s*(\d+)", cause, re.MULTILINE)
    code = re.search(r"^\s*exitcode\s*:\s*-(\d+)", cause, re.MULTILINE)
    return _KilledRank(int(rank[1]), int(code[1])) if rank and code else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _why(number: int) -> str:
    return ", perhaps for lack of memory" if number == signal.SIGKILL else ""


def effective_hardware(run: RunDir, changes: dict[str, object]) -> HardwareConfig:
    """The hardware of this start: that of `run.json` with the free settings given anew (by field name).

    Raises ConfigError for a value that none of them can have.
    """
    if not changes:
        return run.config.hardware
    try:
        return HardwareConfig.model_validate({**run.config.hardware.model_dump(), **changes})
    except ValidationError as error:
        raise ConfigError(f"hardware.{describe_validation(error)}") from error
