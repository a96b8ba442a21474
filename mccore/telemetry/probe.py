"""Try telemetry providers: each gets the events of a tiny run that never was, and says in its server's words how that went."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass, replace
from pathlib import Path

from mccore import plugins
from mccore.api import Placed, TelemetryProvider, TelemetrySpec
from mccore.config import TRAINING_STAGES, Choice, RunConfig
from mccore.errors import MccoreError
from mccore.events import Event
from mccore.host.json_file import read_json
from mccore.runs.rundir import RunDir
from mccore.telemetry.providers import describe_process

RUN_NAME = "mccore-doctor"
SECONDS = 10.0  # for answers
LOAD_SECONDS = 60.0  # for clients, of which some take a core for seconds
CLOSE_SECONDS = 3.0  # for a provider whose probe has failed to close


@dataclass(frozen=True)
class Tried:
    """Whether a provider delivered, and what was said about it."""

    provider: str
    arrived: bool
    detail: str
    hint: str = ""


def probe(choices: Sequence[Choice], config: RunConfig, seconds: float = SECONDS) -> list[Tried]:
    """Send a probe through each provider, all at once. Each has so long from when its client is loaded."""
    with (
        tempfile.TemporaryDirectory(prefix="mccore-doctor-", ignore_cleanup_errors=True) as directory,
        _advice_withheld(),
    ):
        spec = replace(describe_process(RunDir.create(Path(directory), RUN_NAME, config)), patience_seconds=seconds / 2)
        loaded_by = time.monotonic() + LOAD_SECONDS
        attempts = [_Attempt(choice, spec) for choice in choices]
        for attempt in attempts:
            attempt.start()
        return [attempt.result(loaded_by, seconds) for attempt in attempts]


@contextlib.contextmanager
def _advice_withheld() -> Iterator[None]:
    """Without warnings of providers: what they say of the run's directory is about one that is deleted at the end."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


class _Attempt(threading.Thread):
    """A probe on a thread that nothing waits for: a client may hang for ever."""

    def __init__(self, choice: Choice, spec: TelemetrySpec) -> None:
        super().__init__(name=f"probe-{choice.name}", daemon=True)
        self._choice = choice
        self._spec = spec
        self._loaded = threading.Event()
        self._loaded_at = 0.0
        self._answer: Future[Tried] = Future()

    def run(self) -> None:
        """Build the provider, send the probe through it, and close it, whatever came of it."""
        provider = None
        try:
            provider = plugins.build("telemetry", self._choice, self._spec)
            first, *others = _made_up_events()
            provider.record(first)  # with it the last clients are loaded
            self._note_loaded()
            for event in others:
                provider.record(event)
            found = _flush(provider, self._choice, self._spec, 1 + len(others))
        except BaseException as error:
            self._answer.set_exception(error)  # before the end, which may take as long as the server is silent
            self._note_loaded()
            if provider is not None:
                _close_quietly(provider)
            return
        try:
            provider.close()
            self._answer.set_result(found)
        except BaseException as error:
            self._answer.set_exception(error)

    def _note_loaded(self) -> None:
        if not self._loaded.is_set():
            self._loaded_at = time.monotonic()
            self._loaded.set()

    def result(self, loaded_by: float, seconds: float) -> Tried:
        """What came of it: the reason that is known goes before the time that is over."""
        name = self._choice.name
        if not self._loaded.wait(max(0.0, loaded_by - time.monotonic())):
            hint = "is its server there, and does it answer? A busy machine may take long to load a client"
            return Tried(name, False, f"it didn't begin within {LOAD_SECONDS:.0f} s", hint)
        try:
            return self._answer.result(max(0.0, self._loaded_at + seconds - time.monotonic()))
        except TooLate:
            return Tried(name, False, f"no answer within {seconds:.0f} s", "is its server there, and does it answer?")
        except MccoreError as error:
            return Tried(name, False, error.message, error.hint or "")
        except Exception as error:
            words = str(error) or type(error).__name__
            return Tried(name, False, words, _hint(words))
        finally:
            self.join(CLOSE_SECONDS if self._answer.done() else 0.0)  # what it keeps lies in a directory that goes now


def _hint(words: str) -> str:
    """What to look at first, by what the server or the system said."""
    low = words.lower()
    if any(mark in low for mark in ("401", "403", "unauthorized", "forbidden", "unauthenticated", "permission")):
        return "it doesn't take the credentials: look at the user, and at the variables of the password or key"
    if any(mark in low for mark in ("certificate", "ssl", "tls")):
        return "the two don't agree on TLS: look at http or https in the address, and at the certificates"
    if "reset by peer" in low or "bad status line" in low or "remote end closed" in low:
        return "something else listens there: look at the port, and at the protocol (HTTP or gRPC)"
    if "404" in low:
        return "the server is there, and the path isn't: look at the address"
    return "start the server or correct the address; training goes on without it"


def _flush(provider: TelemetryProvider, choice: Choice, spec: TelemetrySpec, events: int) -> Tried:
    provider.flush()
    place = provider.place() if isinstance(provider, Placed) else ""
    return Tried(choice.name, True, place or _served_address(choice, spec) or f"{events} events sent and accepted")


def _close_quietly(provider: TelemetryProvider) -> None:
    try:
        provider.close()
    except Exception:  # what went wrong is known
        return


def _served_address(choice: Choice, spec: TelemetrySpec) -> str:
    """What an address shows that the provider serves; empty where it serves none."""
    for path in spec.files.glob(f"{choice.name}-*.json"):
        try:
            (group,) = read_json(path)
            address = f"{group['labels']['__scheme__']}://{group['targets'][0]}/metrics"
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            continue
        if address.startswith("https"):
            return f"serves at {address}"
        with urllib.request.urlopen(address, timeout=2) as answer:
            series = [line for line in answer.read().decode().splitlines() if line and not line.startswith("#")]
        return f"serves {len(series)} series at {address} while a run goes on"
    return ""


def _made_up_events() -> list[Event]:
    """A run with one stage and one step, over in no time."""
    now = time.time()
    at = {"stage": TRAINING_STAGES[0]}
    return [
        Event("run.start", now, data={"resumed": False, "stages": [TRAINING_STAGES[0]]}),
        Event("stage.start", now, **at, data={"world_size": 1}),
        Event("step", now, **at, step=1, tokens=1, metrics={"loss": 1.0}, data={"steps": 1}),
        Event("stage.end", now, **at, data={"outcome": "finished", "message": "", "seconds": 0.0}),
        Event("run.end", now, data={"outcome": "finished", "message": "", "seconds": 0.0}),
    ]
