"""The worker's loop: between two tokens of all running answers, a little of what else is to be read.

One step of every answer, then for some milliseconds steps of the jobs that read, each in turn, then at most one prompt that
joins the answers. So an upload of any length delays the others by one step of it.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mccore.data.tokenizer.reply import Piece
from mccore.errors import DataError, MccoreError
from mccore.generate.answer import Answer, ContextOverflow, Request
from mccore.generate.sampling import Sampling
from mccore.megacontext.sessions.state import SessionError
from mccore.serve.orders import Generate
from mccore.serve.worker.jobs import Cancelled, Job, Upload
from mccore.serve.worker.queue import FairQueue
from mccore.serve.worker.said import Said

if TYPE_CHECKING:
    from mccore.generate.engine import Engine

READING = 0.015  # seconds of reading between two tokens of the running answers
IDLE = 1.0  # seconds that an idle worker waits before it looks around


@dataclass(eq=False)
class Answering:
    """A job whose answer is on its way."""

    job: Job
    answer: Answer
    said: Said
    given: int = 0  # tokens that were told
    began: float = field(default_factory=time.monotonic)


@dataclass
class ReadingJob:
    """A job that reads, and how far it is."""

    job: Job
    steps: Iterator[None]

    @property
    def owner(self) -> str:
        """Whose job it is."""
        return self.job.owner


class Loop:
    """Runs jobs over one engine until it is told to stop. most_rows: answers that run side by side; more wait."""

    def __init__(self, engine: Engine, *, most_rows: int) -> None:
        self.engine, self.most_rows = engine, most_rows
        self.jobs: dict[int, Job] = {}
        self._reading: FairQueue[ReadingJob] = FairQueue()
        self._parked: dict[int, ReadingJob] = {}  # uploads whose text hasn't come yet
        self._ready: FairQueue[Job] = FairQueue()
        self._running: dict[int, Answering] = {}  # by the identity of the answer

    @property
    def busy(self) -> bool:
        """Whether there is something to do now."""
        return bool(self._running or len(self._reading) or len(self._ready))

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs read, wait to answer, and answer."""
        return {
            "reading": len(self._reading) + len(self._parked),
            "waiting": len(self._ready),
            "running": len(self._running),
        }

    def add(self, job: Job) -> None:
        """Begin a job."""
        self.jobs[job.number] = job
        self._reading.push(ReadingJob(job, job.steps()))

    def wake(self, number: int) -> None:
        """Text has come for an upload."""
        if (reader := self._parked.pop(number, None)) is not None:
            self._reading.push(reader)

    def cancel(self, number: int) -> None:
        """End a job here. What was said so far stays in its history; what was being read is cut away at the next turn."""
        job = self.jobs.get(number)
        if job is None:
            return
        for running in list(self._running.values()):
            if running.job is job:
                self.engine.cancel(running.answer)
                self._finish(running, "cancelled")
                return
        self._parked.pop(number, None)
        self._ready.remove(job)
        self._reading = _without(self._reading, job)
        self._fail(job, Cancelled("cancelled"))

    def step(self) -> None:
        """A token of every answer, some reading, and one more answer."""
        self._decode()
        until = time.monotonic() + READING
        while len(self._reading):
            self._read(self._reading.pop())
            if time.monotonic() >= until:
                break
        if len(self._ready) and len(self._running) < self.most_rows:
            self._admit(self._ready.pop())

    def close(self) -> None:
        """End all jobs: running answers keep what was said."""
        for number in list(self.jobs):
            self.cancel(number)

    def _read(self, reader: ReadingJob) -> None:
        job = reader.job
        try:
            next(reader.steps)
        except StopIteration:
            if job.generate is None:
                self._done(job, {})
            else:
                self._ready.push(job)
        except Exception as error:
            self._fail(job, error)
        else:
            if isinstance(job, Upload) and job.waits:
                self._parked[job.number] = reader
            else:
                self._reading.push(reader)

    def _admit(self, job: Job) -> None:
        assert job.generate is not None
        try:
            answer = self.engine.add(self._request(job, job.generate))
        except Exception as error:
            self._fail(job, error)
            return
        running = Answering(job, answer, Said(self.engine.tokenizer, job.generate.stop))
        self._running[id(answer)] = running
        if answer.finish is not None:
            self._finish(running, answer.finish)

    def _request(self, job: Job, how: Generate) -> Request:
        ids, session = job.request()
        sampling = Sampling(how.temperature, how.top_k, how.max_tokens, how.seed, how.top_p)
        stop = (self.engine.tokenizer.bos_id,) if how.plain else None
        return Request(ids, sampling, session, stop, how.stream, logprobs=how.logprobs)

    def _decode(self) -> None:
        if not self._running:
            return
        try:
            self.engine.step()
        except Exception as error:
            if all(running.answer.error is None for running in self._running.values()):  # nobody's in particular
                for running in self._running.values():
                    running.answer.error = error
        for running in list(self._running.values()):
            if running.answer.error is None:
                self._tell(running)
            else:
                del self._running[id(running.answer)]
                self._fail(running.job, running.answer.error)

    def _tell(self, running: Answering) -> None:
        """Report what is new of an answer, and its end."""
        answer, said, job = running.answer, running.said, running.job
        first, running.given = running.given, len(answer.tokens)
        new = answer.tokens[first:]
        pieces: list[Piece] = []
        for token in new:
            pieces += said.feed(token)
        stopped = said.stopped
        if stopped and answer.finish is None:
            self.engine.cancel(answer)
        finish = "stop" if stopped else answer.finish
        if finish is not None:
            pieces += said.flush()
        if new or pieces:
            fields: dict[str, Any] = {"ids": new, "pieces": [list(piece) for piece in pieces]}
            if job.generate is not None and job.generate.logprobs is not None:
                fields["logprobs"] = [self._logprobs(answer, place) for place in range(first, len(answer.tokens))]
            job.report("said", **fields)
        if finish is not None:
            self._finish(running, finish)

    def _logprobs(self, answer: Answer, place: int) -> dict[str, Any]:
        tokenizer, told = self.engine.tokenizer, answer.logprobs[place]
        return {
            "token": list(tokenizer.decode_bytes([answer.tokens[place]])),
            "logprob": told.logprob,
            "top": [[list(tokenizer.decode_bytes([token])), logprob] for token, logprob in told.likeliest],
        }

    def _finish(self, running: Answering, finish: str) -> None:
        self._running.pop(id(running.answer), None)
        if finish == "cancelled":
            running.job.report("said", ids=[], pieces=[list(piece) for piece in running.said.flush()])
        try:
            ending = running.job.end()
        except Exception as error:
            self._fail(running.job, error)
            return
        seconds = round(time.monotonic() - running.began, 6)
        ending |= {"finish": finish, "generated": len(running.answer.tokens), "seconds": seconds}
        self._done(running.job, ending)

    def _done(self, job: Job, fields: dict[str, Any]) -> None:
        self.jobs.pop(job.number, None)
        job.close()
        job.report("done", **fields)

    def _fail(self, job: Job, error: Exception) -> None:
        self.jobs.pop(job.number, None)
        job.close()
        status, code = _status(error)
        message = error.message if isinstance(error, MccoreError) else f"{type(error).__name__}: {error}"
        hint = error.hint if isinstance(error, MccoreError) else None
        job.report("error", status=status, code=code, message=message, hint=hint)


def _status(error: Exception) -> tuple[int, str]:
    """The HTTP status and the code that an error means to a client."""
    match error:
        case Cancelled():
            return 499, "cancelled"
        case ContextOverflow():
            return 400, "context_length_exceeded"
        case DataError():
            return 400, "invalid_text"
        case SessionError():
            return 500, "session_damaged"
        case MccoreError():
            return 500, "session_failed"
    return 500, "internal_error"


def _without(waiting: FairQueue[ReadingJob], job: Job) -> FairQueue[ReadingJob]:
    kept: FairQueue[ReadingJob] = FairQueue()
    while len(waiting):
        reader = waiting.pop()
        if reader.job is job:
            reader.steps.close()  # type: ignore[attr-defined]
        else:
            kept.push(reader)
    return kept


def next_order(inbox: queue.Queue[Any], *, busy: bool) -> Any:
    """The next order, or None: a busy worker doesn't wait for one."""
    try:
        return inbox.get_nowait() if busy else inbox.get(timeout=IDLE)
    except queue.Empty:
        return None
