"""What reinforcement learning does to the chat model of a finished run: pass@k and greedy answers before and after, by seed.

    python benchmarks/rl.py RUN --seeds 1,2,3 --mixture '{"arithmetic": 400, "spelling": 400}' --set lr_scale=0.1

The model of the run's `sft` stage is copied into a run of its own for each seed, which then does the `rl` stage alone. Pairs of
before and after are of the same questions; the standard error of a difference is that over the questions.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mccore.config import RunConfig
from mccore.events import read_events
from mccore.runs.rundir import RunDir
from mccore.runtime.open import find_run
from mccore.scaling.derive import derive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--mixture", type=json.loads, default={"arithmetic": 400, "spelling": 400})
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="settings of the stage")
    parser.add_argument("--json", type=Path, help="file that the results are written to")
    arguments = parser.parse_args()
    source = find_run(arguments.run)
    changes = {name: json.loads(value) for name, _, value in (each.partition("=") for each in arguments.set)}
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in map(int, arguments.seeds.split(",")):
            run = _run_of(source, Path(scratch), seed, {"mixture": arguments.mixture, **changes})
            found[seed] = _practise(run)
            print(_row(seed, found[seed]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


def _run_of(source: RunDir, scratch: Path, seed: int, settings: dict[str, Any]) -> RunDir:
    """A run that has the source's fine-tuned model and is to learn from rewards."""
    values = source.config.model_dump()
    values |= {"seed": seed, "stages": ("sft", "rl"), "telemetry": ()}
    values["rl"] |= settings
    values["hardware"] |= {"nproc": 1, "nnodes": 1}
    run = RunDir.create(scratch, f"rl-{seed}", derive(RunConfig.model_validate(values)))
    for folder in ("checkpoints/sft", "tokenizer"):
        shutil.copytree(source.path / folder, run.path / folder)
    (run.path / "results").mkdir(exist_ok=True)
    shutil.copy(source.result_path("sft"), run.result_path("sft"))
    return run


def _practise(run: RunDir) -> dict[str, Any]:
    """The stage in a process of its own; its results and the reward of every step."""
    command = [sys.executable, "-m", "mccore.launch.worker", str(run.path), "rl"]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
    result = run.read_result("rl")
    if done.returncode or result is None:
        raise SystemExit(f"{run.name} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    steps = [event.metrics for event in read_events(run.events_dir) if event.type == "step" and event.stage == "rl"]
    return {**result, "rewards": [step["reward"] for step in steps], "nll": [step["reply_nll"] for step in steps]}


def _row(seed: int, found: dict[str, Any]) -> str:
    """One seed in a line: reward of the first and last ten steps, and pass@k by task."""
    rewards = found["rewards"]
    line = f"seed {seed}: {found['step']} steps in {found['seconds']:.0f} s, reward "
    line += f"{sum(rewards[:10]) / 10:.3f} -> {sum(rewards[-10:]) / 10:.3f}"
    for task, after in found["after"]["tasks"].items():
        before = found["before"]["tasks"][task]
        for k, value in after["pass_at"].items():
            early = before["pass_at"][k]
            line += f"; {task} pass@{k} {_share(early)} -> {_share(value)}"
    return line


def _share(value: dict[str, float | None]) -> str:
    return f"{value['mean']:.3f}" + (f" +- {value['stderr']:.3f}" if value["stderr"] is not None else "")


if __name__ == "__main__":
    main()
