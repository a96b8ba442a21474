"""One stage of a run on one rank: `python -m mccore.launch.worker RUN_DIRECTORY STAGE`, by itself or under torchrun.

Reads run.json, builds the runtime, runs the stage, and says how it ended: by a `stage.end` event, and by the exit code:
0 finished, 3 stopped (0 under torchrun, which takes anything else for a failure), 1 failed. SIGTERM asks the stage to save
and end; when it doesn't within a while, or at the second SIGTERM, the process ends at once.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mccore.config import STAGES, StageName, stage_spec
from mccore.errors import Interrupted, MccoreError, UsageError
from mccore.events import Event, EventWriter
from mccore.host.files import disk_hint
from mccore.host.processes import die_with_parent
from mccore.launch.log_lines import LogLines
from mccore.launch.stop_signal import FAILED, FINISHED, STOPPED, StopSignal
from mccore.runs.rundir import RunDir
from mccore.telemetry.emitter import Emitter
from mccore.train.world import World


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage. Returns the exit code."""
    die_with_parent()
    try:
        run, stage = _parse(sys.argv[1:] if arguments is None else arguments)
        stop = StopSignal(interrupts=not stage_spec(stage).trains)
        rank = int(os.environ.get("RANK", "0"))
        with run.join(), Emitter(EventWriter(run.events_dir / f"rank{rank}.jsonl", rank=rank)) as emitter:
            return _run_stage(run, stage, emitter, stop)
    except MccoreError as error:
        print(error.render(), file=sys.stderr, flush=True)
        return FAILED


@dataclass
class _End:
    """How the stage ended."""

    outcome: str
    message: str = ""
    traceback: str = ""
    hint: str = ""
    results: dict[str, Any] | None = None


def _run_stage(run: RunDir, stage: StageName, emitter: Emitter, stop: StopSignal) -> int:
    began = time.monotonic()
    end = _attempt(run, stage, emitter, stop)
    seconds = round(time.monotonic() - began, 3)
    data = {"outcome": end.outcome, "message": end.message, "traceback": end.traceback, "hint": end.hint}
    rank = int(os.environ.get("RANK", "0"))
    emitter.emit(
        Event.now("stage.end", None, {**data, "seconds": seconds, "results": end.results}, rank=rank, stage=stage),
        durable=True,
    )
    if end.traceback:
        print(end.traceback, file=sys.stderr, flush=True)
    if end.outcome == "stopped":
        return FINISHED if "TORCHELASTIC_RUN_ID" in os.environ else STOPPED
    return FINISHED if end.outcome == "finished" else FAILED


def _attempt(run: RunDir, stage: StageName, emitter: Emitter, stop: StopSignal) -> _End:
    # Imported here: what fails on import deserves an event too.
    from mccore.runtime.runtime import Stopped, build
    from mccore.stages.table import stage_function

    def stop_requested() -> bool:
        return stop.requested or run.stop_requested()

    try:
        with _join(run, stage) as world:
            runtime = build(
                run,
                stage,
                world=world,
                emitter=emitter,
                stop_requested=stop_requested,
                show=LogLines(quiet=not world.is_main),
            )
            if world.size > 1 and world.is_main:  # the launcher says so when this doesn't come
                runtime.emit("stage.progress", done=world.size, total=world.size, unit="ranks")
            if not stage_spec(stage).trains:
                runtime.emit("stage.start", world_size=world.size, resumed_step=None, plan={}, durable=True)
            results = stage_function(stage)(runtime)
            if world.is_main:
                run.write_result(stage, results)
            return _End("finished", results=results if world.is_main else None)
    except Stopped as stopped:
        return _End("stopped", str(stopped), results=stopped.results)
    except Interrupted as error:
        return _End("stopped", error.message)
    except MccoreError as error:
        return _End("failed", error.message, error.render(), error.hint or "")
    except Exception as error:  # a fault of ours: recorded with its traceback, and the stage has failed
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which may not be imported here
            hint = f"lower {stage}.micro_batch_rows; the batch of a step stays the same"
            return _End("failed", f"{stage} ran out of GPU memory", f"{error}\nhint: {hint}", hint)
        if isinstance(error, OSError):  # the machine's: a full disk, a file that is gone
            hint = disk_hint(error)
            return _End("failed", f"{type(error).__name__}: {error}", traceback.format_exc(), hint)
        reason = str(error).strip().splitlines()
        return _End("failed", f"{type(error).__name__}: {reason[0] if reason else ''}", traceback.format_exc())
    finally:
        stop.interrupts = False


def _join(run: RunDir, stage: StageName) -> AbstractContextManager[World]:
    """The ranks of the stage; one without torch for stages that compute with no model."""
    if not stage_spec(stage).needs_model:
        return nullcontext(World())
    from mccore.train.gradients import join_world

    return join_world(run.config.hardware)


def _parse(arguments: Sequence[str]) -> tuple[RunDir, StageName]:
    if len(arguments) != 2:
        raise UsageError("usage: python -m mccore.launch.worker RUN_DIRECTORY STAGE")
    path, stage = Path(arguments[0]), arguments[1]
    if stage not in STAGES:
        raise UsageError(f"unknown stage {stage!r}", hint=f"stages are {', '.join(STAGES)}")
    if not (path / "run.json").is_file():
        raise UsageError(f"{path} is no run directory: it has no run.json")
    return RunDir(path.resolve()), stage


if __name__ == "__main__":
    sys.exit(main())
