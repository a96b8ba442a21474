"""A stage without the work: it does to the run directory what `mccore.launch.worker` does, as `plan.json` tells it.

plan.json, or the variable STANDIN_PLAN, is {stage: [behaviour, ...]}; behaviours are done in order, by the rank they name or
by all: {"do": "step"|"finish"|"stop-aware"|"raise"|"kill"|"exit"|"hang"|"fill", "rank": 0, ...}.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mccore.events import Event, EventWriter
from mccore.host.processes import die_with_parent
from mccore.runs.rundir import RunDir


def main() -> int:
    die_with_parent()
    run, stage = RunDir(Path(sys.argv[1])), sys.argv[2]
    rank = int(os.environ.get("RANK", "0"))
    plan_file = run.path / "plan.json"
    text = plan_file.read_text() if plan_file.exists() else os.environ.get("STANDIN_PLAN", "{}")
    plan = json.loads(text).get(stage, [{"do": "finish"}])
    with run.join(), EventWriter(run.events_dir / f"rank{rank}.jsonl", rank=rank) as events:
        events.emit("stage.start", stage=stage, world_size=int(os.environ.get("WORLD_SIZE", "1")))
        print(f"rank {rank} of {stage}", flush=True)
        for behaviour in plan:
            if behaviour.get("rank", rank) == rank:
                code = act(behaviour, run, stage, rank, events)
                if code is not None:
                    return code
    return 0


def act(behaviour: dict[str, Any], run: RunDir, stage: str, rank: int, events: EventWriter) -> int | None:
    match behaviour["do"]:
        case "step":
            metrics, later = behaviour.get("metrics", {"loss": 2.5}), behaviour.get("later", 0.0)
            events.write(Event("step", time.time() + later, rank, stage, 1, 64, metrics, {"steps": 10}))
        case "finish":
            if rank == 0:
                run.write_result(stage, {"threads": os.environ["OMP_NUM_THREADS"], "pid": os.getpid()})
            events.emit("stage.end", stage=stage, outcome="finished", message="")
        case "stop-aware":
            while not run.stop_requested():
                time.sleep(0.01)
            events.emit("stage.end", stage=stage, outcome="stopped", message="asked to stop")
            return 3 if os.environ.get("WORLD_SIZE", "1") == "1" else 0
        case "raise":
            await_end(run, behaviour.get("after"))
            message = behaviour.get("message", "ValueError: no good")
            events.emit("stage.end", stage=stage, outcome="failed", message=message)
            await_end(run, behaviour.get("before"))
            return 1
        case "kill":
            os.kill(os.getpid(), signal.Signals[behaviour.get("signal", "SIGKILL")])
        case "exit":
            print("something on the way out", flush=True)
            return int(behaviour["code"])
        case "hang":  # until it is killed; deaf to SIGTERM when told so
            if behaviour.get("deaf"):
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if behaviour.get("child"):
                subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
            (run.path / f"hanging{rank}").write_text(str(os.getpid()))
            while True:
                signal.pause()
        case "fill":
            for step in range(10_000_000):
                events.emit("step", stage=stage, step=step, metrics={"loss": 1.0})
    return None


def await_end(run: RunDir, rank: int | None) -> None:
    """Wait until another rank has said how it ended."""
    while rank is not None and run.last_event("stage.end", f"rank{rank}.jsonl") is None:
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
