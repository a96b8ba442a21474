"""A conversation with a model in a process of its own: `mccore chat --stream` behind a pipe. No screen in here.

It outlives the screen that shows it, so that one can look at curves and come back. It ends with the monitor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mccore.events import Event
from mccore.host.json_file import BadJson, parse_json
from mccore.runs.live.state import RunState
from mccore.runs.rundir import RunDir
from mccore.tui import actions

Who = Literal["you", "model", "note", "error"]
KEPT_TURNS = 400
KEPT_CHARACTERS = 1 << 16  # of one answer
LINE_BYTES = 1 << 24
STAGE = "chat"  # under which the snapshots of its Working Context are kept


@dataclass
class TalkTurn:
    """What one side said."""

    who: Who
    text: str


@dataclass
class RunTalk:
    """The turns so far, the state of the process, and the Working Contexts of its session."""

    run: RunDir
    about: tuple[str, int] | None = None  # stage and step of a checkpoint
    turns: deque[TalkTurn] = field(default_factory=lambda: deque(maxlen=KEPT_TURNS))
    state: RunState = field(default_factory=RunState)
    status: Literal["new", "starting", "ready", "answering", "ended"] = "new"
    model: str = ""
    on_change: Callable[[], None] = lambda: None
    _process: asyncio.subprocess.Process | None = None
    _reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the process. Raises OSError where it can't be."""
        self.status = "starting"
        which = [] if self.about is None else ["--stage", self.about[0], "--step", str(self.about[1])]
        self._process = await asyncio.create_subprocess_exec(
            *actions.command("chat", str(self.run.path), "--stream", *which),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=LINE_BYTES,
        )
        self._reading = asyncio.create_task(self._read(self._process))

    def ask(self, text: str) -> bool:
        """Send a message; whether it could be sent."""
        if self.status != "ready" or not text.strip() or not self._send({"message": text}):
            return False
        self.turns.append(TalkTurn("you", text))
        self.status = "answering"
        self.on_change()
        return True

    def forget(self) -> bool:
        """Begin a new conversation with the same model; whether it could be asked for."""
        return self.status == "ready" and self._send({"new": True})

    def stop(self) -> bool:
        """Stop the answer that is coming; whether there is one."""
        if self.status != "answering" or self._process is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGINT)
        return True

    async def close(self) -> None:
        """End the process. It has saved what was said, where that is kept."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _send(self, request: Mapping[str, Any]) -> bool:
        if self._process is None or self._process.stdin is None or self._process.returncode is not None:
            return False
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        except (OSError, RuntimeError):
            return False
        return True

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        told = asyncio.create_task(process.stderr.read())
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # longer than any line of ours
                self.turns.append(TalkTurn("error", "the answer can't be read: a line of it is too long"))
                continue
            if not line:
                break
            try:
                said = parse_json(line)
            except BadJson:
                continue
            if isinstance(said, Mapping):
                self.take(said)
        code = await process.wait()
        words = (await told).decode("utf-8", "replace").strip()
        if self.status != "ended":
            self.status = "ended"
            self.turns.append(TalkTurn("error", words[-4000:] or f"the chat ended with exit code {code}"))
            self.on_change()

    def take(self, said: Mapping[str, Any]) -> None:
        """Take one line of the process."""
        match said.get("type"):
            case "ready":
                self.status, self.model = "ready", str(said.get("words", ""))
            case "piece":
                if not self.turns or self.turns[-1].who != "model" or self.status != "answering":
                    self.turns.append(TalkTurn("model", ""))
                if len(self.turns[-1].text) < KEPT_CHARACTERS:
                    self.turns[-1].text += str(said.get("text", ""))
            case "context":
                data = {name: value for name, value in said.items() if name != "type"}
                self.state.take(Event.now("working_context_snapshot", None, data, stage=STAGE))
            case "answer":
                self.status = "ready"
                self.turns += [TalkTurn("note", str(remark)) for remark in said.get("remarks") or ()]
            case "cleared":
                self.turns.clear()
                self.state = RunState()
            case "error":
                self.status = "ready"
                hint = f" ({said['hint']})" if said.get("hint") else ""
                self.turns.append(TalkTurn("error", f"{said.get('message')}{hint}"))
        self.on_change()
