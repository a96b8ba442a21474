"""What others take to show the run that `benchmarks/monitor.py` shows: W&B's `wandb leet` and TensorBoard.

    python benchmarks/monitor_peers.py leet --events 1000000
    python benchmarks/monitor_peers.py leet-keys --rate 5000 --presses 60
    uv run --with tensorboard==2.21.0 python benchmarks/monitor_peers.py tensorboard --events 1000000
    uv run --with tensorboard==2.21.0 python benchmarks/monitor_peers.py accumulator --events 1000000

The data are the same steps with the same eight metrics, in the peer's own format: a `.wandb` file as an offline run leaves it
(records of protobuf in LevelDB's log), and an event file of TensorBoard with one summary a step. Both peers read from the
beginning, so the present is there when all was read. `leet` is read on a terminal, and is done when it takes no more processor
time. TensorBoard is asked over HTTP as its page does, and is done when it tells the last step; `accumulator` is its loader
alone. The processes that a peer starts count for it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import psutil
from monitor import BEGAN, metrics_of
from screen import Screen
from wandb.proto import wandb_internal_pb2 as pb

BLOCK = 32768  # of LevelDB's log
HEADER = 7  # of a record in a block
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4
LEET = "run-20231114_221320-bench"


class WandbFile:
    """A `.wandb` file that grows."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "wb")  # noqa: SIM115
        self._file.write(struct.pack("<4sHB", b":W&B", 0xBEE1, 0))
        self._at = 7
        self._number = 0

    def __enter__(self) -> WandbFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def begin(self) -> None:
        """The record of the run itself."""
        run = pb.RunRecord(run_id="bench", project="mccore", display_name="long")
        run.start_time.FromSeconds(int(BEGAN))
        self._record(pb.Record(run=run))

    def add(self, number: int) -> None:
        """A step."""
        history = pb.HistoryRecord(step=pb.HistoryStep(num=number))
        for name, value in (*metrics_of(number).items(), ("_step", number), ("_timestamp", BEGAN + number)):
            history.item.add(nested_key=[name], value_json=json.dumps(value))
        self._record(pb.Record(history=history))

    def flush(self) -> None:
        """Give the file what was added."""
        self._file.flush()

    def _record(self, record: pb.Record) -> None:
        self._number += 1
        record.num = self._number
        data, kind = record.SerializeToString(), 0
        while data or not kind:
            left = BLOCK - self._at % BLOCK
            if left < HEADER:
                self._file.write(b"\0" * left)
                self._at += left
                continue
            part, data = data[: left - HEADER], data[left - HEADER :]
            kind = (LAST if kind else WHOLE) if not data else (MIDDLE if kind else FIRST)
            sealed = zlib.crc32(part, zlib.crc32(bytes([kind])))
            self._file.write(struct.pack("<IHB", sealed, len(part), kind) + part)
            self._at += HEADER + len(part)


def write_wandb(folder: Path, events: int) -> Path:
    """An offline run of so many steps."""
    path = folder / "wandb" / LEET / "run-bench.wandb"
    with WandbFile(path) as file:
        file.begin()
        for number in range(1, events + 1):
            file.add(number)
    return path


def leet(path: Path) -> Screen:
    """W&B's monitor before a run. It sends nothing out."""
    env = {**os.environ, "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", "WANDB_DIR": str(path.parents[2])}
    return Screen([sys.executable, "-m", "wandb", "leet", str(path)], {**env, "HOME": str(path.parents[2])})


def measure_leet(events: int) -> None:
    """Seconds until W&B's monitor has drawn a curve and until it has read everything, and its memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_wandb(Path(folder), events)
        began = time.perf_counter()
        path.read_bytes()
        plain = time.perf_counter() - began
        began = time.perf_counter()
        screen = leet(path)
        screen.wait_for(b"grad_norm", 120)
        first = time.perf_counter() - began
        used = 0.0
        while (now := screen.processor_seconds()) - used > 0.15:  # it takes some when idle
            used, whole = now, time.perf_counter() - began
            screen.drain(0.5)
        print(f"wandb leet, {events:,} steps, {path.stat().st_size / 2**20:.0f} MiB; read plainly in {plain:.3f} s")
        print(f"first curve {first:.2f} s; whole history {whole:.1f} s, {now:.1f} s of processor time")
        memory, before = screen.resident(), screen.processor_seconds()
        screen.drain(10.0)
        print(f"memory {memory:.0f} MiB; idle {(screen.processor_seconds() - before) / 10:.3f} cores")
        screen.end()
        said = subprocess.run(
            [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(path)],
            capture_output=True, text=True, check=True, env={**os.environ, "WANDB_MODE": "offline", "HOME": folder},
        )  # fmt: skip
        assert json.loads(said.stdout), "the file is one of W&B's"


def measure_leet_keys(rate: int, presses: int, history: int) -> None:
    """Milliseconds from `h` to the help of W&B's monitor on a terminal, while a process of its own writes steps."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wandb" / LEET / "run-bench.wandb"
        command = [
            sys.executable,
            __file__,
            "stream",
            "--rate",
            str(rate),
            "--path",
            str(path),
            "--history",
            str(history),
        ]
        writer = subprocess.Popen(command)
        while not path.exists() or path.stat().st_size < 100 * history:
            time.sleep(0.1)
        screen = leet(path)
        screen.wait_for(b"grad_norm", 120)
        try:
            screen.drain(2.0)
            times = []
            for _ in range(presses):
                screen.drain(0.2 + 0.1 * random.random())
                began = time.perf_counter()
                screen.press(b"h")
                screen.wait_for(b"Toggle this help", 30)
                times.append(1000 * (time.perf_counter() - began))
                screen.press(b"h")
        finally:
            writer.kill()
            writer.wait()
            screen.end()
        times.sort()
        print(f"wandb leet, {presses} keys beside {rate:,} steps/s, behind a history of {history:,}:")
        print(
            f"median {statistics.median(times):.1f} ms, p95 {times[int(0.95 * len(times))]:.1f} ms, most {times[-1]:.1f} ms"
        )


def stream(path: Path, rate: int, history: int) -> None:
    """Write steps at a rate until the parent ends this process."""
    with WandbFile(path) as file:
        file.begin()
        for number in range(1, history + 1):
            file.add(number)
        number, due = history, time.monotonic()
        while os.getppid() != 1:
            for _ in range(rate // 50):
                number += 1
                file.add(number)
            file.flush()
            due += 0.02
            time.sleep(max(0.0, due - time.monotonic()))


def write_tensorboard(folder: Path, events: int) -> Path:
    """An event file of TensorBoard with so many steps."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    path = folder / "events.out.tfevents.1700000000.bench"
    with open(path, "wb") as file:
        records = RecordWriter(file)
        records.write(Event(wall_time=BEGAN, file_version="brain.Event:2").SerializeToString())
        for number in range(1, events + 1):
            values = [Summary.Value(tag=name, simple_value=value) for name, value in metrics_of(number).items()]
            event = Event(wall_time=BEGAN + number, step=number, summary=Summary(value=values))
            records.write(event.SerializeToString())
    return path


def measure_accumulator(events: int) -> None:
    """Seconds and memory of TensorBoard's loader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tempfile.TemporaryDirectory() as folder:
        path = write_tensorboard(Path(folder), events)
        before, began = psutil.Process().memory_info().rss, time.perf_counter()
        loader = EventAccumulator(str(path), size_guidance={"scalars": 1000})  # as the page has it
        loader.Reload()
        took = time.perf_counter() - began
        assert loader.Scalars("loss")[-1].step == events
        grown = psutil.Process().memory_info().rss - before
        print(f"EventAccumulator, {events:,} steps, {path.stat().st_size / 2**20:.0f} MiB: "
              f"{took:.1f} s, {grown / 2**20:.0f} MiB more")  # fmt: skip


@contextlib.contextmanager
def tensorboard(folder: Path, fast: bool) -> Iterator[tuple[str, psutil.Process]]:
    """TensorBoard over a folder: its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(folder),
        "--port",
        str(port),
        "--host",
        "127.0.0.1",
    ]
    process = psutil.Popen(
        [*command, f"--load_fast={str(fast).lower()}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}/data/plugin/scalars/scalars?run=.&tag=loss", process
    finally:
        for each in process.children(recursive=True):
            each.kill()
        process.kill()
        process.wait()


def measure_tensorboard(events: int, fast: bool) -> None:
    """Seconds until TensorBoard's page can show a curve and until it can show the last step, and its memory."""
    with tempfile.TemporaryDirectory() as folder:
        write_tensorboard(Path(folder), events)
        began = time.perf_counter()
        with tensorboard(Path(folder), fast) as (address, process):
            first, last = 0.0, 0
            while last < events:
                time.sleep(0.05)
                with contextlib.suppress(urllib.error.URLError, ConnectionError, json.JSONDecodeError):
                    last = int(json.load(urllib.request.urlopen(address, timeout=60))[-1][1])
                    first = first or time.perf_counter() - began
                if time.perf_counter() - began > 1800:
                    raise SystemExit(f"after half an hour TensorBoard is at step {last}")
            whole = time.perf_counter() - began
            everyone = [process, *process.children(recursive=True)]
            memory = sum(each.memory_info().rss for each in everyone) / 2**20
            before = sum(sum(each.cpu_times()[:2]) for each in everyone)
            time.sleep(10)
            idle = sum(sum(each.cpu_times()[:2]) for each in everyone) - before
        print(f"TensorBoard, {events:,} steps, {'its data server' if fast else 'its loader in Python'}: first curve "
              f"{first:.2f} s, the last step {whole:.1f} s; memory {memory:.0f} MiB; idle {idle / 10:.3f} cores")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["leet", "leet-keys", "tensorboard", "accumulator", "stream"])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=5_000)
    parser.add_argument("--presses", type=int, default=60)
    parser.add_argument("--history", type=int, default=2_000, help="steps that are there before")
    parser.add_argument("--slow", action="store_true", help="TensorBoard's loader in Python, not its data server")
    parser.add_argument("--path", type=Path, help="of `stream`, which `leet-keys` starts: the file to write")
    asked = parser.parse_args()
    if asked.what == "leet":
        measure_leet(asked.events)
    elif asked.what == "leet-keys":
        measure_leet_keys(asked.rate, asked.presses, asked.history)
    elif asked.what == "stream":
        stream(asked.path, asked.rate, asked.history)
    elif asked.what == "accumulator":
        measure_accumulator(asked.events)
    else:
        measure_tensorboard(asked.events, not asked.slow)


if __name__ == "__main__":
    main()
