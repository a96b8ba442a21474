"""The worker's loop: between two tokens of all running answers, a little of what else is to be read.

One step of every answer, then for some milliseconds steps of the jobs that read, each in turn, then at most one prompt that
joins the answers. So an upload of any length delays the others by one step of it, and a slow disk delays nobody else: what
waits for it runs in a thread, and the job that asked goes on when it is done.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mccore.data.tokenizer.reply import Piece
from mccore.errors import DataError, MccoreError
from mccore.generate.answer import Answer, ContextOverflow, Request
from mccore.generate.sampling import Sampling
from mccore.megacontext.sessions.state import SessionError
from mccore.serve.orders import Generate
from mccore.serve.worker.jobs import Cancelled, Ending, Job, Steps, Upload
from mccore.serve.worker.queue import FairQueue
from mccore.serve.worker.said import Said

if TYPE_CHECKING:
    from mccore.generate.engine import Engine

READING = 0.015  # seconds of reading between two tokens of the running answers
IDLE = 1.0  # seconds that an idle worker waits before it looks around
AWAY = 0.005  # seconds that it waits for the disk before it looks for orders
THREADS = 8  # that wait for the disk; a file system writes one journal for all that wait at once


@dataclass(eq=False)
class Answering:
    """A job whose answer is on its way."""

    job: Job
    answer: Answer
    said: Said
    given: int = 0  # tokens that were told
    began: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class ReadingJob:
    """A job that reads, or that keeps the answer it has given, and how far it is.

    ends: what is told at the end of an answer. back: what was done in a thread for the next step.
    """

    job: Job
    steps: Steps | Ending
    ends: dict[str, Any] | None = None
    back: Future[Any] | None = None

    @property
    def owner(self) -> str:
        """Whose job it is."""
        return self.job.owner

    def advance(self) -> Callable[[], Any] | None:
        """Take a step. Returns what has to be done in a thread before the next; raises StopIteration behind the last."""
        back, self.back = self.back, None
        if back is None:
            return next(self.steps)
        error = back.exception()
        return self.steps.send(back.result()) if error is None else self.steps.throw(error)


class Loop:
    """Runs jobs over one engine until it is told to stop.

    most_rows: answers that run side by side; more wait. threads: where the disk is waited for.
    """

    def __init__(self, engine: Engine, *, most_rows: int, threads: Executor | None = None) -> None:
        self.engine, self.most_rows = engine, most_rows
        self.jobs: dict[int, Job] = {}
        self._reading: FairQueue[ReadingJob] = FairQueue()
        self._parked: dict[int, ReadingJob] = {}  # uploads whose text hasn't come yet
        self._threads = threads or ThreadPoolExecutor(THREADS, thread_name_prefix="disk")
        self._away: list[ReadingJob] = []  # what is done for them in a thread isn't over
        self._ready: FairQueue[Job] = FairQueue()
        self._running: dict[int, Answering] = {}  # by the identity of the answer

    @property
    def busy(self) -> bool:
        """Whether there is something to do now."""
        return bool(self._running or self._away or len(self._reading) or len(self._ready))

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs read, wait to answer, and answer."""
        return {
            "reading": len(self._reading) + len(self._parked) + len(self._away),
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
        reader = self._taken_out(job)
        if reader is not None and reader.ends is not None:  # all was said
            self._reading.push(reader)
            return
        if reader is not None and reader.back is not None:  # a session that was just opened has to be closed
            reader.back.exception()
            self._read(reader)
            reader = self._taken_out(job) or reader
        if number in self.jobs:
            self._ready.remove(job)
            if reader is not None:
                reader.steps.close()
            self._fail(job, Cancelled("cancelled"))

    def step(self) -> None:
        """A token of every answer, some reading, and one more answer."""
        self._decode()
        self._take_back()
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
        while self.busy:
            self.step()
        self._threads.shutdown()

    def _take_back(self) -> None:
        """Let those go on for whom a thread is done. Where there is nothing else to do, wait a little for one."""
        if self._away and not (self._running or len(self._reading) or len(self._ready)):
            wait([reader.back for reader in self._away if reader.back], AWAY, FIRST_COMPLETED)
        for reader in [reader for reader in self._away if reader.back is None or reader.back.done()]:
            self._away.remove(reader)
            self._reading.push(reader)

    def _taken_out(self, job: Job) -> ReadingJob | None:
        """The job as it reads, and no longer where it waited; None if it doesn't read."""
        for reader in self._away:
            if reader.job is job:
                self._away.remove(reader)
                return reader
        if (parked := self._parked.pop(job.number, None)) is not None:
            return parked
        found, kept = None, FairQueue[ReadingJob]()
        while len(self._reading):
            reader = self._reading.pop()
            if reader.job is job:
                found = reader
            else:
                kept.push(reader)
        self._reading = kept
        return found

    def _read(self, reader: ReadingJob) -> None:
        job = reader.job
        try:
            work = reader.advance()
        except StopIteration as stop:
            if reader.ends is not None:
                self._done(job, (stop.value or {}) | reader.ends)
            elif job.generate is None:
                self._done(job, {})
            else:
                self._ready.push(job)
        except Exception as error:
            self._fail(job, error)
        else:
            if work is not None:
                reader.back = self._threads.submit(work)
                self._away.append(reader)
            elif isinstance(job, Upload) and job.waits:
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
        seconds = round(time.monotonic() - running.began, 6)
        ends = {"finish": finish, "generated": len(running.answer.tokens), "seconds": seconds}
        self._reading.push(ReadingJob(running.job, running.job.end(), ends))

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


def next_order(inbox: queue.Queue[Any], *, busy: bool) -> Any:
    """The next order, or None: a busy worker doesn't wait for one."""
    try:
        return inbox.get_nowait() if busy else inbox.get(timeout=IDLE)
    except queue.Empty:
        return None
