"""The server's end of the pipes to its worker: jobs go out, reports come back; a worker that dies is started again."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from typing import Literal

from mccore.errors import MccoreError
from mccore.host.processes import NOTHING_INSTALLED
from mccore.serve.frames import MOST_BYTES, Frame, decode_reports, encode_frame
from mccore.serve.orders import Hello

LinkState = Literal["starting", "ready", "restarting", "failed", "stopping"]

PING = 2.0  # seconds between two looks at the worker
HANGS = 300.0  # seconds of silence after which a worker is taken for dead
STOPPING = 60.0  # seconds that a worker gets to save everything
_BACKOFF = (0.1, 0.5, 2.0, 5.0)  # seconds before the worker is started again, longer each time


class WorkerGone(MccoreError):
    """The worker died, or isn't there yet: the request may be repeated."""


class Overloaded(MccoreError):
    """More is asked for than is taken at once. `retry_after` seconds are a good time to ask again."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message, hint=f"try again in {retry_after} s")
        self.retry_after = retry_after


class Reported:
    """The reports on one job, in order."""

    def __init__(self, number: int, link: WorkerLink) -> None:
        self.number = number
        self._link = link
        self._queue: asyncio.Queue[Frame | None] = asyncio.Queue()

    def put(self, frame: Frame | None) -> None:
        """A report has come; None: there will be none any more, the worker is gone."""
        self._queue.put_nowait(frame)

    async def next(self) -> Frame:
        """The next report. Raises WorkerGone."""
        frame = await self._queue.get()
        if frame is None:
            raise WorkerGone("the model's process died; it is being started again", hint="try again in a moment")
        return frame

    async def send(self, **order: object) -> None:
        """Another order about this job; none where the worker is gone."""
        with contextlib.suppress(WorkerGone):
            await self._link.send({**order, "job": self.number})


class WorkerLink:
    """One worker process, kept running. most_jobs: more at once are refused with Overloaded."""

    def __init__(self, hello: Hello, *, most_jobs: int = 256, on_state: Callable[[str], None] | None = None) -> None:
        self.hello, self.most_jobs = hello, most_jobs
        self.state: LinkState = "starting"
        self.reason = ""  # why it failed
        self.info: Frame = {}
        self.counts: Frame = {}
        self.restarts = 0
        self._on_state = on_state or (lambda state: None)
        self._jobs: dict[int, Reported] = {}
        self._numbers = itertools.count(1)
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._heard = 0.0

    @property
    def jobs(self) -> int:
        """Jobs on their way."""
        return len(self._jobs)

    @property
    def pid(self) -> int | None:
        """The worker's process."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the worker and wait until its model is read. Raises MccoreError where it can't be."""
        self._task = asyncio.create_task(self._keep(), name="worker")
        await self._ready.wait()
        if self.state == "failed":
            raise MccoreError(self.reason or "the model's process ended at once", hint=self.info.get("hint"))

    async def stop(self) -> list[str]:
        """Let the worker save everything and end; what couldn't be saved."""
        if self.state in ("failed", "stopping") or self._task is None:
            return []
        self._set("stopping")
        with contextlib.suppress(WorkerGone):
            await self.send({"order": "stop"})
        try:
            await asyncio.wait_for(asyncio.shield(self._task), STOPPING)
        except TimeoutError:
            self._kill()
            await self._task
        return list(self.info.get("failed", ()))

    async def begin(self, order: Frame) -> Reported:
        """Give the worker a job. Raises WorkerGone, Overloaded."""
        if self.state != "ready":
            raise WorkerGone(f"the model isn't there: it is {self.state}", hint="try again in a moment")
        if len(self._jobs) >= self.most_jobs:
            raise Overloaded(f"{len(self._jobs)} requests are being answered or wait", 1 + len(self._jobs) // 64)
        job = Reported(next(self._numbers), self)
        self._jobs[job.number] = job
        try:
            await self.send({**order, "job": job.number})
        except BaseException:
            self._jobs.pop(job.number, None)
            raise
        return job

    async def send(self, order: Frame) -> None:
        """Send an order; waits while the worker doesn't read. Raises WorkerGone."""
        process = self._process
        if process is None or process.stdin is None:
            raise WorkerGone("the model's process isn't there", hint="try again in a moment")
        try:
            process.stdin.write(encode_frame(order))
            await process.stdin.drain()
        except (ConnectionError, RuntimeError) as error:
            raise WorkerGone("the model's process died", hint="try again in a moment") from error

    def _set(self, state: LinkState) -> None:
        self.state = state
        self._on_state(state)

    async def _keep(self) -> None:
        """Run one worker after another."""
        for attempt in itertools.count():
            began = time.monotonic()
            await self._run()
            for job in list(self._jobs.values()):
                job.put(None)
            self._jobs.clear()
            if self.state in ("stopping", "failed"):
                break
            if not self._ready.is_set():  # it never was there: its reason is on standard error
                self.reason = self.reason or "the model's process ended before it was ready"
                self._set("failed")
                break
            self.restarts += 1
            self._set("restarting")
            attempt = 0 if time.monotonic() - began > 60 else attempt
            await asyncio.sleep(_BACKOFF[min(attempt, len(_BACKOFF) - 1)])
        self._ready.set()

    async def _run(self) -> None:
        environment = {**NOTHING_INSTALLED, **os.environ}
        command = [sys.executable, "-m", "mccore.serve.worker"]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, env=environment, limit=MOST_BYTES
        )
        self._process = process
        watch = asyncio.create_task(self._watch())
        try:
            await self.send(self.hello.model_dump(mode="json"))
            await self._follow(process)
        except WorkerGone:
            pass
        finally:
            watch.cancel()
            self._kill()
            await process.wait()
            self._process = None

    async def _follow(self, process: Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
                if not line.endswith(b"\n"):
                    return
                for frame in decode_reports(line):
                    self._take(frame)
            except ValueError:  # not one of its reports: it isn't to be trusted any more
                return

    def _take(self, frame: Frame) -> None:
        self._heard = time.monotonic()
        kind = frame.get("kind")
        if kind == "ready":
            self.info = frame
            self._set("ready")
            self._ready.set()
        elif kind == "failed":
            self.reason, self.info = str(frame.get("message")), frame
            self._set("failed")
        elif kind == "stopped":
            self.info = {**self.info, "failed": frame.get("failed", [])}
        elif kind == "pong":
            self.counts = frame
        elif (job := self._jobs.get(frame.get("job", 0))) is not None:
            job.put(frame)
            if kind in ("done", "error"):
                del self._jobs[job.number]

    async def _watch(self) -> None:
        """Ask the worker now and then whether it is there; end one that hangs."""
        self._heard = time.monotonic()
        while True:
            await asyncio.sleep(PING)
            if self.state != "ready":
                self._heard = time.monotonic()
                continue
            with contextlib.suppress(WorkerGone):
                await asyncio.wait_for(self.send({"order": "ping"}), HANGS)
            if time.monotonic() - self._heard > HANGS:
                self._kill()

    def _kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
