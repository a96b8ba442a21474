"""What the monitor costs: opening a long run, keys while events stream in, the first paint, doing nothing, watching a run.

    python benchmarks/monitor.py open --events 1000000
    python benchmarks/monitor.py keys --rate 5000 --presses 60
    python benchmarks/monitor.py paint --rounds 5
    python benchmarks/monitor.py idle --seconds 10 --history 1000000
    python benchmarks/monitor.py attached --rounds 9

Each figure stands beside a reference of the same run: the bytes of the file read plainly, a bare interpreter, one core.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from screen import Screen

from mccore.config import RunConfig
from mccore.events import Event, read_events
from mccore.runs.live.watch import RunWatch
from mccore.runs.rundir import RunDir

BEGAN = 1_700_000_000.0


def metrics_of(number: int) -> dict[str, float]:
    """What a step has measured."""
    return {
        "loss": 2.0 + 1 / number, "token_loss": 2.0, "grad_norm": 0.5, "lr_multiplier": 1.0, "tokens_per_second": 1e4,
        "step_duration": 0.05, "swap_rate": 0.1, "residency": 0.95,
    }  # fmt: skip


def step(number: int, steps: int) -> str:
    """A step's line, as long as a real one."""
    metrics = metrics_of(number)
    return Event("step", BEGAN + number, 0, "base", number, number * 2048, metrics, {"steps": steps}).to_json() + "\n"


def make_run(root: Path, events: int) -> RunDir:
    """A run of so many steps."""
    run = RunDir.create(root, "long", RunConfig(recipe="tiny"))
    run.events_dir.mkdir()
    with open(run.events_dir / "rank0.jsonl", "w") as file:
        file.write(Event("stage.start", BEGAN, 0, "base", data={"world_size": 1}).to_json() + "\n")
        for number in range(1, events + 1):
            file.write(step(number, events))
    return run


def measure_open(events: int) -> None:
    """Seconds to the first true picture and to the whole history, and the memory that it takes."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "runs", events)
        path = run.events_dir / "rank0.jsonl"
        began = time.perf_counter()
        path.read_bytes()
        plain = time.perf_counter() - began
        before = psutil.Process().memory_info().rss
        began = time.perf_counter()
        watch = RunWatch(run)
        watch.open()
        first = time.perf_counter() - began
        assert watch.state.metrics["loss"].step == events
        while watch.catching_up:
            watch.poll(1.0)
        whole = time.perf_counter() - began
        grown = psutil.Process().memory_info().rss - before
        megabytes = path.stat().st_size / 2**20
        print(f"{events:,} events, {megabytes:.0f} MiB; read plainly in {plain:.3f} s")
        print(f"first picture {first:.3f} s; whole history {whole:.1f} s ({whole / plain:.0f}x reading)")
        print(f"without a screen {grown / 2**20:.1f} MiB for the run")
        del watch
        began = time.perf_counter()
        screen = monitor(folder, "long")
        screen.wait_for(f"step {events:,}/".encode(), 60)
        first = time.perf_counter() - began
        memory = screen.resident()
        screen.settle(1.0)
        print(
            f"on a terminal: from the command to the picture {first:.2f} s, {memory:.0f} MiB then, "
            f"{screen.resident():.0f} MiB with the whole history, {screen.processor_seconds():.1f} s of processor time"
        )
        screen.end()


def measure_keys(rate: int, presses: int, history: int) -> None:
    """Milliseconds from a key to its effect on a terminal, while a process of its own writes events.

    The key is `x`, which changes the word below the curves. Textual's pilot can't measure that: it waits for a process to be
    idle, up to a second.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "runs", history)
        path = run.events_dir / "rank0.jsonl"
        command = [sys.executable, __file__, "stream", "--rate", str(rate), "--path", str(path)]
        screen = monitor(folder, "long")
        screen.wait_for(b"   step   ", 60)
        writer = subprocess.Popen(command)
        try:
            screen.drain(2.0)
            times = []
            for number in range(presses):
                screen.drain(0.2 + 0.1 * random.random())
                began = time.perf_counter()
                screen.press(b"x")
                screen.wait_for((b"   tokens   ", b"   time   ", b"   step   ")[number % 3], 30)
                times.append(1000 * (time.perf_counter() - began))
        finally:
            writer.kill()
            writer.wait()
            screen.end()
        with open(path, "rb") as file:
            sent = sum(1 for _ in file) - history - 1
        times.sort()
        print(f"{presses} keys beside {sent:,} events at {rate:,}/s, behind a history of {history:,}:")
        print(
            f"median {statistics.median(times):.1f} ms, p95 {times[int(0.95 * len(times))]:.1f} ms, most {times[-1]:.1f} ms"
        )


def stream(path: Path, rate: int) -> None:
    """Append events at a rate until the parent ends this process."""
    number = 10**6
    due = time.monotonic()
    with open(path, "a") as file:
        while os.getppid() != 1:
            file.writelines(step(number + each, 10**7) for each in range(1, rate // 50 + 1))
            file.flush()
            number += rate // 50
            due += 0.02
            time.sleep(max(0.0, due - time.monotonic()))


def measure_paint(rounds: int) -> None:
    """Seconds from the command to the first picture on a terminal, beside a bare interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        make_run(Path(folder) / "runs", 200)
        times, bare = [], []
        for number in range(rounds + 1):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", "pass"], check=True)
            bare.append(time.perf_counter() - began)
            began = time.perf_counter()
            screen = monitor(folder)
            screen.wait_for(b"long", 60)  # the name of the run stands in the list
            times.append(time.perf_counter() - began)
            screen.end()
            if number == 0:  # the first start compiles what hasn't been
                times.clear()
        ratio = statistics.median(times) / statistics.median(bare)
        print(f"first paint: median {statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})")
        print(f"a bare interpreter takes {statistics.median(bare):.3f} s: {ratio:.0f}x")


def monitor(folder: str, *arguments: str) -> Screen:
    """The monitor on a terminal. It may keep what Python compiles, as on any machine: else it would compile its libraries'
    sources at every start."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return Screen([sys.executable, "-m", "mccore", "monitor", *arguments], {**env, "MCCORE_BASE_DIR": folder})


def measure_idle(seconds: float, history: int) -> None:
    """Cores and memory that the monitor takes while nothing happens: in the list, and in front of a run that is over."""
    with tempfile.TemporaryDirectory() as folder:
        make_run(Path(folder) / "runs", history)
        for arguments in ((), ("long",)):
            screen = monitor(folder, *arguments)
            screen.wait_for(b"   step   " if arguments else b"long", 60)
            screen.settle()  # until the history was read
            before = screen.processor_seconds()
            screen.drain(seconds)
            used = screen.processor_seconds() - before
            where = "a run" if arguments else "the list"
            print(f"idle before {where} of {history:,} events: {used / seconds:.3f} cores, "
                  f"{screen.resident():.0f} MiB")  # fmt: skip
            screen.end()


def measure_attached(pairs: int, steps: int) -> None:
    """How much longer a training step takes while a monitor watches it. The order within pairs alternates."""
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(pairs):
            medians: dict[bool, float] = {}
            for watched in (False, True) if number % 2 else (True, False):
                medians[watched] = _median_step(
                    folder, f"pair{number}-{'watched' if watched else 'alone'}", steps, watched
                )
            ratios.append(medians[True] / medians[False])
            print(f"pair {number}: alone {1000 * medians[False]:.2f} ms, watched {1000 * medians[True]:.2f} ms")
    spread = statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else float("nan")
    print(f"a watched step takes {statistics.mean(ratios):.4f} of the time of one alone (standard error {spread:.4f})")


def _median_step(folder: str, name: str, steps: int, watched: bool) -> float:
    """The median duration of a step in seconds, of a run of its own."""
    stages = 'stages=["data","tokenizer","encode","base"]'
    sets = [stages, f"base.tokens={2048 * steps}", "base.eval_every_tokens=0", "base.sample_every_tokens=0"]
    words = [word for each in sets for word in ("--set", each)]
    command = [sys.executable, "-m", "mccore", "run", "tiny", "--mc", "--name", name, *words]
    env = {**os.environ, "MCCORE_BASE_DIR": folder}
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run = RunDir(Path(folder) / "runs" / name)
    while process.poll() is None and not (run.path / "run.json").exists():
        time.sleep(0.1)
    screen = monitor(folder, name) if watched else None
    while process.poll() is None:
        if screen is None:
            time.sleep(0.2)
        else:
            screen.drain(0.2)
    if screen is not None:
        screen.end()
    found = [event.metrics["step_duration"] for event in read_events(run.events_dir) if event.type == "step"]
    if process.returncode or len(found) < steps:
        raise SystemExit(f"{name} ended with {process.returncode} after {len(found)} steps")
    return statistics.median(found[steps // 10 :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["open", "keys", "paint", "idle", "attached", "stream"])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=5_000)
    parser.add_argument("--presses", type=int, default=60)
    parser.add_argument("--history", type=int, default=2_000, help="events that are there before")
    parser.add_argument("--path", type=Path, help="of `stream`, which `keys` starts: the file to append to")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300, help="of each run of `attached`")
    parser.add_argument("--seconds", type=float, default=10)
    asked = parser.parse_args()
    if asked.what == "open":
        measure_open(asked.events)
    elif asked.what == "keys":
        measure_keys(asked.rate, asked.presses, asked.history)
    elif asked.what == "stream":
        stream(asked.path, asked.rate)
    elif asked.what == "attached":
        measure_attached(asked.rounds, asked.steps)
    elif asked.what == "paint":
        measure_paint(asked.rounds)
    else:
        measure_idle(asked.seconds, asked.history)


if __name__ == "__main__":
    main()
