"""Telemetry of a chat and of a server, which are no runs: events go to a file below the model's run, and to providers."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from importlib import metadata

from mccore.api import TelemetrySpec
from mccore.errors import RunError
from mccore.events import AlertWatch, Event, EventWriter
from mccore.host.machine import source_commit
from mccore.runs.rundir import RunDir
from mccore.telemetry.activation import activate
from mccore.telemetry.delivery import State
from mccore.telemetry.emitter import Emitter
from mccore.telemetry.providers import build_providers

_OF_TRAINING = ("wandb",)  # one W&B run is one training


@contextlib.contextmanager
def recording(run: RunDir, service: str, folder: str, tell: Callable[[str], None]) -> Iterator[Emitter | None]:
    """What events are emitted by, from its start to its end; None where no provider is on.

    service: `chat` or `serve`; folder: below the run, for the events. `tell` gets what a person should know.
    """
    activation = activate(run.config)
    active = [one for one in activation.active if one.choice.name not in _OF_TRAINING]
    if not active:
        yield None
        return
    directory = run.path / folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    try:
        writer = EventWriter(directory / "events.jsonl")
    except RunError as error:  # somebody else's run: it goes on without
        tell(f"(no telemetry: {error.message})")
        yield None
        return
    for one in active:
        tell(f"(telemetry to {one.choice.name}: {one.why})")
    spec = TelemetrySpec(
        run.name, directory, 0, run.config, service=service, run_id=uuid.uuid4().hex, commit=source_commit() or ""
    )
    states: list[State] = []
    providers = build_providers([one.choice for one in active], spec, states.append)
    with Emitter(writer, providers, alerts=AlertWatch()) as emitter:
        for state in states:
            tell(f"(telemetry to {state.provider}: {state.message})")
        began = time.monotonic()
        names = [one.choice.name for one in active]
        begun = {"pid": os.getpid(), "resumed": False, "version": metadata.version("mccore"), "telemetry": names}
        emitter.emit(Event.now("run.start", None, begun))
        outcome, message = "failed", ""
        try:
            yield emitter
            outcome = "finished"
        except Exception as error:
            message = str(error) or type(error).__name__
            raise
        except BaseException:  # Ctrl-C, or the end of the program
            outcome = "stopped"
            raise
        finally:
            seconds = round(time.monotonic() - began, 3)
            emitter.emit(Event.now("run.end", None, {"outcome": outcome, "message": message, "seconds": seconds}))
