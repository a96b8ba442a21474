"""One request to the model and what comes of it, independent of whoever waits for it: a client that goes away changes nothing
but that the answer ends there. What the journal has on disk is acknowledged, and only then told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mccore.data.tokenizer.reply import Piece, merge
from mccore.errors import MccoreError
from mccore.serve.frames import Frame
from mccore.serve.ledger.dialogues import Dialogue, Dialogues, Utterance
from mccore.serve.ledger.journal import Record, append_records
from mccore.serve.link import Reported, WorkerGone, WorkerLink


class Refused(MccoreError):
    """A request that can't be done as it is. `status` is HTTP's, `code` a word for programs, `param` the field at fault."""

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.status, self.code, self.param = status, code, param


@dataclass
class Figures:
    """What an answer took."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0
    first_token_seconds: float | None = None
    seconds: float = 0.0
    finish: str = ""

    def as_json(self) -> dict[str, Any]:
        """The figures as clients and journals have them."""
        return {
            "finish": self.finish,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "new_tokens": self.new_tokens,
            "first_token_seconds": self.first_token_seconds,
            "seconds": round(self.seconds, 6),
        }


@dataclass(eq=False)
class Exchange:
    """Messages for a conversation, or for nobody's, and the reports on them.

    order: for the worker, without its place. messages: what goes into the journal once it is in the history, each with what else
    is noted of it. answers: whether the model answers.
    """

    link: WorkerLink
    order: Frame
    dialogue: Dialogue | None = None
    dialogues: Dialogues | None = None
    messages: Sequence[tuple[Utterance, dict[str, Any]]] = ()
    answers: bool = True
    on_end: Callable[[Exchange], None] = lambda exchange: None
    figures: Figures = field(default_factory=Figures)
    ending: Frame = field(default_factory=dict)
    error: MccoreError | None = None
    pieces: list[Piece] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.job: Reported | None = None
        self._events: asyncio.Queue[Frame | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._read: Frame = {}
        self._over = False  # the worker has told the end

    async def begin(self) -> None:
        """Send it to the worker. Raises Refused for a conversation that is busy, WorkerGone, Overloaded."""
        dialogue, order = self.dialogue, self.order
        if dialogue is not None and self.dialogues is not None:
            if dialogue.running is not None:
                raise Refused(
                    409, "session_busy", f"the session {dialogue.id} is at work", hint="wait for it, or stop its answer"
                )
            order = {**order, "place": dialogue.place(self.dialogues)}
            dialogue.running = self
        try:
            self.job = await self.link.begin(order)
        except BaseException:
            if dialogue is not None:
                dialogue.running = None
            raise
        self._task = asyncio.create_task(self._pump(), name=f"job {self.job.number}")

    async def events(self) -> AsyncIterator[Frame]:
        """The reports as they come: `read`, `said`, `wants`, `text`, `cut`, and at the end `done`. Raises what went wrong."""
        while (frame := await self._events.get()) is not None:
            yield frame
        if self.error is not None:
            raise self.error

    @property
    def more(self) -> bool:
        """Whether reports wait that `events` gives at once: who sends them on may send them together."""
        return not self._events.empty()

    async def whole(self) -> Frame:
        """Wait for the end, and give the last report but `done`. Raises what went wrong."""
        last: Frame = {}
        async for frame in self.events():
            last = frame if frame["kind"] != "done" else last
        return last

    async def cancel(self) -> None:
        """Nobody waits for it any more: the answer ends here, and what was said of it is kept."""
        if self._task is not None and not self._task.done():
            await self._cancel_job()

    async def _cancel_job(self) -> None:
        if self.job is not None:
            await self.job.send(order="cancel")

    async def settled(self) -> None:
        """Wait until all of it is in the journal."""
        if self._task is not None:
            await asyncio.shield(self._task)

    @property
    def text(self) -> str:
        """What the model said so far, without its tool calls."""
        return "".join(piece.text for piece in self.pieces if piece.type == "text")

    async def _pump(self) -> None:
        try:
            await self._follow()
        except MccoreError as error:
            self.error = error
            if (
                not isinstance(error, WorkerGone) and not self._over
            ):  # the journal's fault, say: nobody is told any more
                await self._cancel_job()
            await self._rescue(error)
        except Exception as error:  # a fault of ours: it is told as one
            self.error = Refused(500, "internal_error", f"{type(error).__name__}: {error}")
        finally:
            self.figures.seconds = time.monotonic() - self.began
            if self.dialogue is not None:
                self.dialogue.running = None
            self._events.put_nowait(None)
            self.on_end(self)

    async def _follow(self) -> None:
        assert self.job is not None
        while True:
            frame = await self.job.next()
            match frame["kind"]:
                case "opened":
                    await self._opened(frame)
                case "read":
                    self._read = frame
                    await self._note_messages(frame)
                    self._events.put_nowait(frame)
                case "said":
                    self._said(frame)
                    self._events.put_nowait(frame)
                case "error":
                    self._over = True
                    message = str(frame["message"])
                    raise Refused(int(frame["status"]), str(frame["code"]), message, hint=frame.get("hint"))
                case "done":
                    self._over = True
                    self.ending = frame
                    self.figures.finish = str(frame.get("finish", ""))
                    if self.answers:
                        self.figures.seconds = time.monotonic() - self.began
                        await self._note_answer(frame)
                    self._events.put_nowait(frame)
                    return
                case _:
                    self._events.put_nowait(frame)

    async def _opened(self, frame: Frame) -> None:
        """Remember where the session is, where that isn't known from before."""
        dialogue = self.dialogue
        if dialogue is None or (frame["state"] == dialogue.state and dialogue.source is None):
            return
        serial = dialogue.serial + (frame["state"] != dialogue.state)
        record = {"type": "state", "state": frame["state"], "serial": serial, "tokens": frame["tokens"]}
        await self._note([record])

    async def _note_messages(self, frame: Frame) -> None:
        self.figures.prompt_tokens, self.figures.cached_tokens = int(frame["tokens"]), int(frame["before"])
        if not self.messages:
            return
        stops = frame["stops"] or [0] * len(self.messages)  # a window has no history
        records = [
            {"type": "message", "role": said.role, "text": said.text, "stop": stop, **extra}
            for (said, extra), stop in zip(self.messages, stops, strict=True)
        ]
        await self._note(records)

    def _said(self, frame: Frame) -> None:
        if self.figures.first_token_seconds is None and frame["ids"]:
            self.figures.first_token_seconds = time.monotonic() - self.began
        self.figures.new_tokens += len(frame["ids"])
        self.ids += frame["ids"]
        self.pieces += [Piece(*piece) for piece in frame["pieces"]]
        self.logprobs += frame.get("logprobs", ())

    async def _note_answer(self, frame: Frame, **more: Any) -> None:
        parts = [piece._asdict() for piece in merge(self.pieces)]
        record = {
            "type": "message",
            "role": "assistant",
            "text": self.text,
            "stop": int(frame.get("tokens", 0)),
            **self.figures.as_json(),
            "seen": frame.get("seen", []),
            **({"parts": parts} if any(part["type"] != "text" for part in parts) else {}),
            **more,
        }
        await self._note([record])

    async def _rescue(self, error: MccoreError) -> None:
        """The worker died in the middle of an answer: what was told of it counts, and its tokens go into the history again."""
        if self.dialogue is None or not self.answers or not self.ids or not isinstance(error, WorkerGone):
            return
        self.figures.finish = "interrupted"
        ids = [*self.ids, int(self.link.info["end"])] if self.order["generate"]["plain"] is False else self.ids
        stop = int(self._read["tokens"]) + len(ids) if self._read.get("stops") is not None else 0
        tail = {"ids": ids} if self.link.info.get("megacontext") else {}
        await self._note_answer({"tokens": stop if tail else 0}, **tail)

    async def _note(self, records: list[Record]) -> None:
        dialogue = self.dialogue
        if dialogue is None or not records:
            return
        for record in records:
            record["time"] = round(time.time(), 3)
        await asyncio.to_thread(append_records, dialogue.root, records)
        for record in records:
            dialogue.apply(record)
        if self.dialogues is not None and dialogue.id in self.dialogues.by_id:
            self.dialogues.index(dialogue)
