"""What a broken endpoint costs a training run: each fault in front of real runs of `tiny`, beside the same without telemetry.

    uv run python benchmarks/telemetry_faults.py [--rounds 3] [--steps 60] [--only silent --only 500]

A line for each fault: whether all losses are those of the run without telemetry, the step's time as a ratio to it (median of the
rounds, lowest and highest), seconds from the run's last event to the end of its process, and what was reported as lost of the
events there were. Ends with 1 when a loss differs, a run fails, or an end takes more than 3 s.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from telemetry import free_port, line, run_tiny  # beside this file

from mccore.events import Event, read_events
from mccore.runs.rundir import RunDir

sys.path.insert(0, str(Path(__file__).parents[1]))
from plugins.telemetry.tests.collectors import Answer, ToldCollector

END_SECONDS = 3.0
Options = dict[str, dict[str, Any]]  # of each provider


@contextlib.contextmanager
def answering(answer: Answer, limit_bytes: int = 1 << 30) -> Iterator[Options]:
    """A collector that always gives this answer, and 413 to what is larger than the limit."""
    with ToldCollector() as server:
        server.answer, server.limit_bytes = answer, limit_bytes
        yield {"otel": {"endpoint": server.address}}


@contextlib.contextmanager
def down() -> Iterator[Options]:
    """Nobody listens, for any provider that sends."""
    address = f"http://127.0.0.1:{free_port()}"
    yield {
        "otel": {"endpoint": address},
        "opensearch": {"url": address},
        "prometheus": {"mode": "push", "gateway": address},
    }


@contextlib.contextmanager
def away_for_a_while() -> Iterator[Options]:
    """A collector that goes 4 s after it began and comes back 4 s later at the same port."""
    with ToldCollector() as first:
        over, port = threading.Event(), first.port

        def leave_and_return() -> None:
            over.wait(4.0)
            first.__exit__(None, None, None)
            over.wait(4.0)
            if not over.is_set():
                with ToldCollector(port=port):
                    over.wait()

        thread = threading.Thread(target=leave_and_return)
        thread.start()
        try:
            yield {"otel": {"endpoint": first.address}}
        finally:
            over.set()
            thread.join()


@contextlib.contextmanager
def wrong_certificate() -> Iterator[Options]:
    """A server that speaks plain HTTP where TLS is asked for: no certificate can be the right one."""
    with ToldCollector() as server:
        yield {"otel": {"endpoint": server.address.replace("http:", "https:")}}


FAULTS: dict[str, Any] = {
    "none": lambda: answering(Answer()),
    "down": down,
    "silent": lambda: answering(Answer(silent=True)),
    "slow": lambda: answering(Answer(seconds=2.0)),
    "401": lambda: answering(Answer(401)),
    "413": lambda: answering(Answer(), limit_bytes=64),
    "429": lambda: answering(Answer(429)),
    "500": lambda: answering(Answer(500)),
    "away": away_for_a_while,
    "tls": wrong_certificate,
}


@dataclass
class Found:
    """What rounds of one fault showed; seconds of a step with and without telemetry."""

    equal: bool = True
    ours: list[float] = field(default_factory=list)
    peers: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    lost: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--only", action="append", choices=sorted(FAULTS))
    arguments = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as place:
        for name in arguments.only or FAULTS:
            found = Found()
            for number in range(arguments.rounds):
                one_round(Path(place), f"{name}{number}", FAULTS[name](), arguments.steps, found, number % 2 == 0)
            print(line(f"{name:7} losses {'equal' if found.equal else 'DIFFER'}", found.ours, found.peers, "s"))
            print(f"        end {median(found.ends):.2f} s (at most {max(found.ends):.2f}); {found.lost}", flush=True)
            good = good and found.equal and max(found.ends) <= END_SECONDS
    return 0 if good else 1


def one_round(
    folder: Path, name: str, fault: AbstractContextManager[Options], steps: int, found: Found, first: bool
) -> None:
    """A run with the fault and one without telemetry, in an order that alternates between rounds."""
    losses = {}
    for telemetry in (first, not first):
        with fault if telemetry else contextlib.nullcontext({}) as options:
            events, gone = run(folder, f"{name}-{'with' if telemetry else 'without'}", options, steps)
        every = [event for event in events if event.type == "step"]
        losses[telemetry] = [event.metrics["loss"] for event in every]
        seconds = median(event.metrics["step_duration"] for event in every[len(every) // 2 :])
        (found.ours if telemetry else found.peers).append(seconds)
        if telemetry:
            found.ends.append(gone - next(event.time for event in events if event.type == "run.end"))
            found.lost = told(events)
    found.equal = found.equal and losses[True] == losses[False] and len(losses[True]) == steps


def run(folder: Path, name: str, options: Options, steps: int) -> tuple[list[Event], float]:
    """A run's events, and when its process was gone."""
    settings = {"stages": '["data", "tokenizer", "encode", "base"]', "base.tokens": str(2048 * steps)}
    process: subprocess.Popen[bytes] = run_tiny(folder, name, options, settings)
    assert process.wait() == 0, "the run failed"
    return read_events(RunDir(folder / "runs" / name).events_dir), time.time()


def told(events: list[Event]) -> str:
    """What each provider said last; of all events, those about telemetry included, which others are sent too."""
    last = {event.data["provider"]: event.data for event in events if event.type == "telemetry"}
    return (
        "; ".join(f"{name}: {data['state']}, {data['lost']} of {len(events)} lost" for name, data in last.items())
        or "all sent"
    )


if __name__ == "__main__":
    sys.exit(main())
