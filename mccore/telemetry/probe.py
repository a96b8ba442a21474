"""Try telemetry providers: each gets the events of a tiny run that never was, and says in its server's words how that went."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass, replace
from functools import partial
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
SECONDS = 10.0


@dataclass(frozen=True)
class Tried:
    """Whether a provider delivered, and what was said about it."""

    provider: str
    arrived: bool
    detail: str
    hint: str = ""


def probe(choices: Sequence[Choice], config: RunConfig, seconds: float = SECONDS) -> list[Tried]:
    """Send a probe through each provider at once, and wait no longer than that for all."""
    with (
        tempfile.TemporaryDirectory(prefix="mccore-doctor-", ignore_cleanup_errors=True) as directory,
        _advice_withheld(),
    ):
        spec = replace(describe_process(RunDir.create(Path(directory), RUN_NAME, config)), patience_seconds=seconds / 2)
        deadline = time.monotonic() + seconds
        running = [(choice, _in_background(partial(_send_probe, choice, spec))) for choice in choices]
        return [_await_probe(choice, future, deadline, seconds) for choice, future in running]


@contextlib.contextmanager
def _advice_withheld() -> Iterator[None]:
    """Without warnings of providers: what they say of the run's directory is about one that is deleted at the end."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _in_background(what: Callable[[], Tried]) -> Future[Tried]:
    """A thread that nothing waits for: a client may hang for ever."""
    future: Future[Tried] = Future()

    def do() -> None:
        try:
            future.set_result(what())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=do, daemon=True).start()
    return future


def _await_probe(choice: Choice, future: Future[Tried], deadline: float, seconds: float) -> Tried:
    try:
        return future.result(max(0.0, deadline - time.monotonic()))
    except TooLate:
        return Tried(
            choice.name,
            False,
            f"no answer within {seconds:.0f} s",
            "is its server there, and does it answer? A client that takes long to load on a busy machine looks the same",
        )
    except MccoreError as error:
        return Tried(choice.name, False, error.message, error.hint or "")
    except Exception as error:
        words = str(error) or type(error).__name__
        return Tried(choice.name, False, words, _hint(words))


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


def _send_probe(choice: Choice, spec: TelemetrySpec) -> Tried:
    provider = plugins.build("telemetry", choice, spec)
    events = _made_up_events()
    try:
        for event in events:
            provider.record(event)
        provider.flush()
        place = provider.place() if isinstance(provider, Placed) else ""
        detail = place or _served_address(choice, spec) or f"{len(events)} events sent and accepted"
    except BaseException:
        _close_quietly(provider)
        raise
    provider.close()
    return Tried(choice.name, True, detail)


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
