"""Fuzz the readers of files of ours: whatever the bytes, each gives a value or an error of its own kind, and soon.

    python -m tests.support.fuzz_readers --seconds 600 --seed 0

Prints what escaped, with the seed that makes it again; exits with 1 when anything did.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mccore.config import RunConfig
from mccore.errors import MccoreError
from mccore.events import Event
from mccore.host.json_file import parse_json
from mccore.megacontext.sessions.state import STATE, read_state
from mccore.runs.checkpoints import META_FILE, SUMS_FILE, Meta, file_sha256, list_checkpoints, read_meta
from mccore.runs.stored_config import read_config
from mccore.units import number

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 1e308, float("inf"), float("nan"), -0.0, "", "x",
    "a\0b", "\ud83d", "/dev/zero", "../..", "x" * 10_000, [], {}, [[]], [None], {"": None}, [1] * 1000, "1e999", [[[[[]]]]],
)  # fmt: skip

SESSION: dict[str, Any] = {
    "format": "mccore session", "version": 1, "model": "m", "block_size": 4, "levels": 2, "stored": "torch.float32",
    "budget": 64, "kv_policy": "exact", "tokens": 20, "covered": 18, "cut": [[2, 1], [0, 2]], "age": [0, 1, 2],
    "recent": [[[[1, 0]], []]], "since": 0, "refocuses": 1, "seed": 0, "keys": "keys-0123456789ab.safetensors",
    "keys_sha256": "0" * 64, "base": {"path": "/x", "tokens": 4, "digest": "0" * 64}, "notes": {"run": "r", "context": {}},
}  # fmt: skip
EVENT: dict[str, Any] = {
    "v": 1, "type": "step", "time": 1.0, "rank": 0, "stage": "base", "step": 1, "tokens": 5, "metrics": {"loss": 2.0},
    "data": {"steps": 3},
}  # fmt: skip


def mutate(value: Any, rng: random.Random) -> Any:
    """`value` with a place in it replaced, dropped, doubled or wrapped."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {name: item for name, item in value.items() if name != key}
        return {**value, key: mutate(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], *([mutate(value[at], rng)] * rng.choice((1, 1, 2, 0))), *value[at + 1 :]]
    return rng.choice(VALUES)


def spoil(data: bytes, rng: random.Random) -> bytes:
    """Some bytes of a text flipped, cut or nested."""
    kind = rng.randrange(5)
    at = rng.randrange(len(data) + 1)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes(rng.randrange(256) for _ in range(rng.randrange(8))) + data[at:]
    if kind == 2:
        return data.replace(b"[", b"[" * rng.choice((50, 70, 3000)), 1)
    if kind == 3:
        return data.replace(b"0", b"9" * rng.choice((20, 400, 5000)), 1)
    return data


def text_of(value: Any, rng: random.Random) -> bytes:
    """A mutated value as JSON, itself spoilt now and then."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        value = mutate(value, rng)
    data = json.dumps(value).encode()
    return spoil(data, rng) if rng.random() < 0.3 else data


def read_one(seed: int, place: Path) -> None:
    """One try of every reader. Raises what escapes it."""
    rng = random.Random(seed)
    _expect(lambda: parse_json(spoil(json.dumps(SESSION).encode(), rng)), ValueError)
    (place / STATE).write_bytes(text_of(SESSION, rng))
    _expect(lambda: read_state(place).model_dump_json(), MccoreError)
    (place / "run.json").write_bytes(text_of(json.loads(RunConfig().to_json()), rng))
    _expect(lambda: read_config(place / "run.json").to_json(), MccoreError)
    line = text_of(EVENT, rng)
    _expect(lambda: [number(value) for value in Event.from_json(line).metrics.values()], ValueError)
    checkpoint = place / "step_00000001"
    checkpoint.mkdir(exist_ok=True)
    good = json.loads(Meta("base", 1, 2, json.loads(RunConfig().to_json()), "t").to_json())
    (checkpoint / META_FILE).write_bytes(text_of(good, rng))
    sums = f"{file_sha256(checkpoint / META_FILE)}  {META_FILE}\n".encode()
    (checkpoint / SUMS_FILE).write_bytes(spoil(sums, rng) if rng.random() < 0.3 else sums)
    _expect(lambda: read_meta(checkpoint), MccoreError)
    _expect(lambda: list_checkpoints(place), MccoreError)


def _expect(read: Callable[[], Any], kind: type[Exception]) -> None:
    began = time.process_time()
    try:
        read()
    except kind as error:
        if len(str(error)) > 4000:
            raise AssertionError(f"an error of {len(str(error))} letters") from error
    if time.process_time() - began > 5.0:
        raise AssertionError("a read of more than five seconds")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    escaped, tries, until = 0, 0, time.process_time() + asked.seconds
    with tempfile.TemporaryDirectory() as place:
        while time.process_time() < until:
            seed = asked.seed + tries
            tries += 1
            try:
                read_one(seed, Path(place))
            except Exception as error:
                escaped += 1
                print(f"seed {seed}: {type(error).__name__}: {str(error)[:200]}", flush=True)
    print(f"{tries:,} tries, {escaped} escaped")
    return int(escaped > 0)


if __name__ == "__main__":
    sys.exit(main())
