"""What the monitor costs: opening a long run, keys while events stream in, the first paint, and doing nothing.

    python benchmarks/monitor.py open --events 1000000
    python benchmarks/monitor.py keys --rate 5000 --presses 60
    python benchmarks/monitor.py paint --rounds 5
    python benchmarks/monitor.py idle --seconds 10

Each figure stands beside a reference of the same run: the bytes of the file read plainly, a bare interpreter, one core.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pty
import select
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from mccore.config import RunConfig
from mccore.events import Event
from mccore.runs.live.watch import RunWatch
from mccore.runs.rundir import RunDir

BEGAN = 1_700_000_000.0


def step(number: int, steps: int) -> str:
    """A step's line, as long as a real one."""
    metrics = {
        "loss": 2.0 + 1 / number, "token_loss": 2.0, "grad_norm": 0.5, "lr_multiplier": 1.0, "tokens_per_second": 1e4,
        "step_duration": 0.05, "swap_rate": 0.1, "residency": 0.95,
    }  # fmt: skip
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
        run = make_run(Path(folder), events)
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
        print(
            f"memory {psutil.Process().memory_info().rss / 2**20:.0f} MiB in all, {grown / 2**20:.1f} MiB for the run"
        )


def measure_keys(rate: int, presses: int) -> None:
    """Milliseconds from a key to the painted screen, while events stream in."""
    from mccore.tui.app import make_monitor

    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder), 2_000)
        done = threading.Event()
        sent = [0]
        writer = threading.Thread(target=_stream, args=(run, rate, done, sent), daemon=True)
        times = asyncio.run(_press(make_monitor(Path(folder), run), writer, presses))
        done.set()
        times.sort()
        print(f"{presses} keys beside {sent[0]:,} events at {rate:,}/s:")
        print(
            f"median {statistics.median(times):.1f} ms, p95 {times[int(0.95 * len(times))]:.1f} ms, most {times[-1]:.1f} ms"
        )


def _stream(run: RunDir, rate: int, done: threading.Event, sent: list[int]) -> None:
    number = 2_000
    with open(run.events_dir / "rank0.jsonl", "a") as file:
        while not done.wait(0.02):
            file.writelines(step(number + each, 10**6) for each in range(1, rate // 50 + 1))
            file.flush()
            number += rate // 50
            sent[0] += rate // 50


async def _press(app: object, writer: threading.Thread, presses: int) -> list[float]:
    times = []
    async with app.run_test(size=(120, 40)) as pilot:  # type: ignore[attr-defined]
        await pilot.pause(0.5)
        writer.start()
        for number in range(presses):
            await pilot.pause(0.05)
            began = time.perf_counter()
            await pilot.press("xlm"[number % 3])  # waits until the key is handled and the screen is drawn
            times.append(1000 * (time.perf_counter() - began))
    return times


def measure_paint(rounds: int) -> None:
    """Seconds from the command to the first picture on a terminal, beside a bare interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        make_run(Path(folder) / "runs", 200)
        env = {**os.environ, "MCCORE_BASE_DIR": folder, "TERM": "xterm-256color"}
        times, bare = [], []
        for _ in range(rounds):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", "pass"], check=True)
            bare.append(time.perf_counter() - began)
            process, first = _until_painted(env)
            times.append(first)
            process.kill()
            process.wait()
        ratio = statistics.median(times) / statistics.median(bare)
        print(f"first paint: median {statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})")
        print(f"a bare interpreter takes {statistics.median(bare):.3f} s: {ratio:.0f}x")


def _until_painted(env: dict[str, str]) -> tuple[subprocess.Popen[bytes], float]:
    parent, child = pty.openpty()
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "mccore", "monitor"],
        stdin=child,
        stdout=child,
        stderr=child,
        env=env,
        start_new_session=True,
    )
    os.close(child)
    seen = b""
    while b"long" not in seen:  # the name of the run stands in the list
        if not select.select([parent], [], [], 30)[0]:
            raise SystemExit("nothing was painted in 30 s")
        seen += os.read(parent, 65536)
    took = time.perf_counter() - began
    threading.Thread(target=_drain, args=(parent,), daemon=True).start()
    return process, took


def _drain(fd: int) -> None:
    try:
        while os.read(fd, 65536):
            pass
    except OSError:
        pass


def measure_idle(seconds: float) -> None:
    """Cores that the list of runs uses while nothing happens."""
    with tempfile.TemporaryDirectory() as folder:
        make_run(Path(folder) / "runs", 200)
        env = {**os.environ, "MCCORE_BASE_DIR": folder, "TERM": "xterm-256color"}
        process, _ = _until_painted(env)
        time.sleep(2)
        watched = psutil.Process(process.pid)
        before = sum(watched.cpu_times()[:2])
        time.sleep(seconds)
        used = sum(watched.cpu_times()[:2]) - before
        print(f"idle: {used / seconds:.3f} cores, {watched.memory_info().rss / 2**20:.0f} MiB")
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["open", "keys", "paint", "idle"])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=5_000)
    parser.add_argument("--presses", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10)
    asked = parser.parse_args()
    if asked.what == "open":
        measure_open(asked.events)
    elif asked.what == "keys":
        measure_keys(asked.rate, asked.presses)
    elif asked.what == "paint":
        measure_paint(asked.rounds)
    else:
        measure_idle(asked.seconds)


if __name__ == "__main__":
    main()
