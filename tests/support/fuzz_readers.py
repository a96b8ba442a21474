"""Fuzz the readers of what strangers give: whatever the bytes, each gives a value or an error of its own kind, and soon.

    python -m tests.support.fuzz_readers --seconds 600 --seed 0 [--only sessions,events]

Every reader has its turn in each try. Prints what escaped, with the seed that makes it again and where it was raised, then how
many files each reader was given; exits with 1 when anything escaped.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from tests.support.fuzz_targets import TARGETS

MOST_SECONDS = 20  # of CPU for one reader and one file, or MOST_WAITING in all: other work may take the machine
MOST_WAITING = 300


@contextlib.contextmanager
def soon() -> Iterator[None]:
    """Raises AssertionError in what doesn't come to an end."""

    began = time.monotonic(), time.process_time()

    def ring(*_: object) -> None:
        if time.monotonic() - began[0] < MOST_WAITING and time.process_time() - began[1] < MOST_SECONDS:
            signal.alarm(MOST_SECONDS)
            return
        raise AssertionError(f"no end within {MOST_SECONDS} s")

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def read_one(seed: int, place: Path, name: str) -> None:
    """One try of one reader in an empty folder. Raises what escapes it."""
    folder = place / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with soon():
        TARGETS[name](random.Random(f"{name} {seed}"), folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(TARGETS))
    asked = parser.parse_args()
    tries: collections.Counter[str] = collections.Counter()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_summary(asked.seed, seed, tries, escaped)))
    escaped, seed, until = 0, asked.seed, time.process_time() + asked.seconds
    with tempfile.TemporaryDirectory() as place:
        while time.process_time() < until:
            for name in asked.only.split(","):
                tries[name] += 1
                try:
                    read_one(seed, Path(place), name)
                except Exception as error:
                    escaped += 1
                    frames = traceback.extract_tb(error.__traceback__)
                    at = [frame for frame in frames if "/mccore" in frame.filename or "fuzz_t" in frame.filename][-1]
                    print(
                        f"{name}, seed {seed}: {type(error).__name__}: {str(error)[:200]!r} ({at.filename}:{at.lineno})"
                    )
                    sys.stdout.flush()
            seed += 1
    return _summary(asked.seed, seed, tries, escaped)


def _summary(first: int, after: int, tries: collections.Counter[str], escaped: int) -> int:
    seconds = time.process_time()
    print(f"seeds {first} to {after - 1}: {sum(tries.values()):,} tries in {seconds:.0f} s of CPU, {escaped} escaped")
    print(", ".join(f"{name} {count:,}" for name, count in tries.items()), flush=True)
    return int(escaped > 0)


if __name__ == "__main__":
    sys.exit(main())
