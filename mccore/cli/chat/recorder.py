"""What a chat tells telemetry providers: how long answers took and what its session holds, never what was said."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from mccore.api import TelemetrySpec
from mccore.errors import RunError
from mccore.events import AlertWatch, Event, EventWriter
from mccore.host.machine import source_commit
from mccore.host.terminal import echo
from mccore.telemetry.activation import activate
from mccore.telemetry.delivery import State
from mccore.telemetry.emitter import Emitter
from mccore.telemetry.providers import build_providers

if TYPE_CHECKING:
    from mccore.cli.chat.sessions import ChatHistory
    from mccore.generate.chat import TurnStats
    from mccore.runs.rundir import RunDir

_OF_TRAINING = ("wandb",)  # one W&B run is one training
Record = Callable[["TurnStats"], None]


@contextlib.contextmanager
def recorded(run: RunDir, history: Callable[[], ChatHistory | None]) -> Iterator[Record]:
    """A function to call after every answer. Nothing is written where no provider is on."""
    activation = activate(run.config)
    active = [one for one in activation.active if one.choice.name not in _OF_TRAINING]
    if not active:
        yield lambda stats: None
        return
    directory = run.path / "chats" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    try:
        writer = EventWriter(directory / "events.jsonl")
    except RunError as error:  # somebody else's run: the chat goes on without
        echo(f"(no telemetry: {error.message})", err=True)
        yield lambda stats: None
        return
    for one in active:
        echo(f"(telemetry to {one.choice.name}: {one.why})", err=True)
    spec = TelemetrySpec(
        run.name, directory, 0, run.config, service="chat", run_id=uuid.uuid4().hex, commit=source_commit() or ""
    )
    states: list[State] = []
    providers = build_providers([one.choice for one in active], spec, states.append)
    with Emitter(writer, providers, alerts=AlertWatch()) as emitter:
        for state in states:
            echo(f"(telemetry to {state.provider}: {state.message})", err=True)
        began = time.monotonic()
        names = [one.choice.name for one in active]
        begun = {"pid": os.getpid(), "resumed": False, "version": metadata.version("mccore"), "telemetry": names}
        emitter.emit(Event.now("run.start", None, begun))
        try:
            yield lambda stats: _record(emitter, stats, history())
        finally:
            seconds = round(time.monotonic() - began, 3)
            emitter.emit(Event.now("run.end", None, {"outcome": "finished", "message": "", "seconds": seconds}))


def _record(emitter: Emitter, stats: TurnStats, history: ChatHistory | None) -> None:
    turn = {
        "prompt_tokens": stats.prompt_tokens,
        "new_tokens": stats.new_tokens,
        "first_token_seconds": round(stats.first_token_seconds, 6),
        "seconds": round(stats.seconds, 6),
        "finish": stats.finish or "interrupted",
    }
    emitter.emit(Event.now("chat.turn", None, turn))
    if history is not None:
        session = history.session
        update = {
            "session": "chat",
            "phase": "decode",
            "history": session.tokens,
            "entries": session.entries,
            "generated": stats.new_tokens,
            "seconds": round(stats.seconds, 6),
        }
        emitter.emit(Event.now("inference_update", None, update))
