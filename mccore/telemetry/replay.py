"""Send what a run has recorded to providers afterwards: its whole history, a part of it, or what couldn't be sent.

Nothing is sent live at the same time: a run that goes on is left alone. What a store does with an event it has already is the
store's affair, so `sent_before` says who had some.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mccore.config import Choice
from mccore.errors import RunError
from mccore.events import Event, EventTail
from mccore.host.files import write_atomic
from mccore.host.json_file import parse_json, read_json
from mccore.host.regular import regular_descriptor
from mccore.runs.rundir import RunDir
from mccore.telemetry.delivery import Delivery, State, close_all
from mccore.telemetry.providers import build_providers, describe_process

_MANIFEST = "exported.json"
_LINE_BYTES = 1 << 24  # a longer line isn't one of ours
_PATIENCE_SECONDS = 30.0  # for what is left at the end, once everything was handed over


@dataclass
class Sent:
    """What became of the events at one provider: `lost` of them didn't arrive, and why."""

    provider: str
    events: int = 0
    lost: int = 0
    message: str = ""


class Recorded:
    """Events that are there already, as a delivery takes them. `taken` are those handed over."""

    def __init__(self, events: Iterator[Event]) -> None:
        self.taken = 0
        self._events = events

    def next(self, seconds: float) -> Event | None:
        """The next event, None at the end."""
        event = next(self._events, None)
        self.taken += event is not None
        return event

    def wake(self) -> None:
        """`next` never waits."""

    def rest(self) -> int:
        """Pass over what is left and say how many events that was."""
        return sum(1 for _ in self._events)


def replay(run: RunDir, choices: Sequence[Choice], events: Sequence[Event], seconds: float) -> list[Sent]:
    """Hand events to each of these providers, no longer than `seconds`; how it went, provider by provider."""
    lock = threading.Lock()
    results = {choice.name: Sent(choice.name) for choice in choices}

    def report(state: State) -> None:
        with lock:
            result = results[state.provider]
            result.lost = earlier.get(state.provider, 0) + (state.lost or 0)
            if state.state != "ready":
                result.message = state.message or result.message
            if state.state == "recovered":
                earlier[state.provider] = result.lost

    earlier: dict[str, int] = {}  # lost in faults that are over
    patience = min(_PATIENCE_SECONDS, seconds / 2)
    spec = replace(describe_process(run), patience_seconds=patience)
    sources: dict[str, Recorded] = {}
    deliveries = []
    for name, provider in build_providers(choices, spec, report):
        sources[name] = Recorded(iter(events))
        deliveries.append(Delivery(name, provider, sources[name], report, patience_seconds=patience))
    close_all(deliveries, seconds)
    for name, source in sources.items():
        results[name].events = source.taken
    for name in results.keys() - sources.keys():  # it couldn't be built
        results[name].lost = len(events)
    return list(results.values())


def read_unsent(run: RunDir, provider: str) -> tuple[list[Event], list[Path]]:
    """The events that a provider couldn't send and kept, and the files that hold them."""
    paths = sorted((run.path / "telemetry").glob(f"{provider}-*unsent.jsonl"))
    # Each once: an attempt to send them that was killed may have kept some again.
    found = {event.to_bytes(): event for path in paths for event in _read_unsent_file(path)}
    return list(found.values()), paths


def _read_unsent_file(path: Path) -> Iterator[Event]:
    """Lines are {"reason", "event"}; one torn by a crash is passed over."""
    try:
        descriptor = regular_descriptor(path)
    except OSError as error:
        raise RunError(f"can't read {path}: {error.strerror}", hint="correct its permissions, or delete it") from error
    with os.fdopen(descriptor, "rb") as file:
        while line := file.readline(_LINE_BYTES):
            try:
                yield Event.from_json(json.dumps(parse_json(line)["event"]))
            except (ValueError, KeyError, TypeError):
                continue


def sent_before(run: RunDir) -> set[str]:
    """Providers that have had events of this run: live, or by an earlier replay. One that lost all of them has had none."""
    had: set[str] = set()
    on: set[str] = set()
    lost: Counter[str] = Counter()  # of this start, in faults that are over and in the one that isn't
    failing: dict[str, int] = {}
    written = 0

    def end_start() -> None:
        had.update(name for name in on if lost[name] + failing.get(name, 0) < written)

    for event in EventTail(run.events_dir).drain():
        if event.type == "run.start":
            end_start()
            on, written = set(event.data.get("telemetry") or ()), 0
            lost.clear()
            failing.clear()
        if event.type != "telemetry":
            written += 1
            continue
        name = str(event.data.get("provider"))
        failing[name] = event.data.get("lost") or 0
        if event.data.get("state") == "recovered":
            lost[name] += failing.pop(name)
    end_start()
    with contextlib.suppress(OSError, ValueError, TypeError):
        had |= {name for name in read_json(run.path / "telemetry" / _MANIFEST) if isinstance(name, str)}
    return had


def note_sent(run: RunDir, providers: Iterable[str]) -> None:
    """Remember who has had events of this run."""
    before = sent_before(run)
    write_atomic(run.path / "telemetry" / _MANIFEST, json.dumps(sorted(before | set(providers))) + "\n")
