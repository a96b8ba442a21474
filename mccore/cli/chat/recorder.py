"""What a chat tells telemetry providers: how long answers took and what its session holds, never what was said."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mccore.events import Event
from mccore.host.terminal import echo
from mccore.telemetry.emitter import Emitter
from mccore.telemetry.recording import recording

if TYPE_CHECKING:
    from mccore.cli.chat.sessions import ChatHistory
    from mccore.generate.chat import TurnStats
    from mccore.runs.rundir import RunDir

Record = Callable[["TurnStats"], None]


@contextlib.contextmanager
def recorded(run: RunDir, history: Callable[[], ChatHistory | None]) -> Iterator[Record]:
    """A function to call after every answer. Nothing is written where no provider is on."""
    with recording(run, "chat", "chats", lambda text: echo(text, err=True)) as emitter:
        yield lambda stats: None if emitter is None else _record(emitter, stats, history())


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
