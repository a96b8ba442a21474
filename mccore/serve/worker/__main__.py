"""`python -m mccore.serve.worker`: the worker's process. Orders come from standard input, reports go to standard output."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

from mccore.errors import MccoreError
from mccore.host.json_file import BadJson
from mccore.host.processes import die_with_parent
from mccore.serve.frames import Frame, encode_reports, read_frames
from mccore.serve.orders import Generate, Hello, Item

# Seconds after which a thread that opens a conversation gets a turn beside the loop; Python's own 5 ms, waited for at each call
# that lets go of the interpreter, made a newcomer's first word late.
SWITCHING = 0.0005


def main() -> int:
    """Serve until the orders end. Returns the exit code."""
    die_with_parent(signal.SIGKILL)
    sys.setswitchinterval(SWITCHING)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's: it ends the worker when all is saved
    orders, reports = _pipes()
    out = Reports(reports)
    frames = read_frames(orders)
    try:
        worker = Worker(Hello.model_validate(next(frames)), out)
    except MccoreError as error:
        out.send({"kind": "failed", "message": error.message, "hint": error.hint})
        out.flush()
        return error.exit_code
    inbox: queue.Queue[Frame] = queue.Queue()
    threading.Thread(target=_follow, args=(frames, inbox), name="orders", daemon=True).start()
    worker.run(inbox)
    return 0


def _pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes to the server, for nobody else: what a library prints goes to standard error."""
    orders = os.fdopen(os.dup(0), "rb")
    reports = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return orders, reports


def _follow(frames: Any, inbox: queue.Queue[Frame]) -> None:
    """Hand orders on; the end of the pipe, or what isn't an order, is the order to stop."""
    try:
        for frame in frames:
            inbox.put(frame)
    except (BadJson, OSError):
        pass
    inbox.put({"order": "stop"})


class Reports:
    """What goes to the server: gathered, and sent together."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._waiting: list[Frame] = []

    def send(self, frame: Frame) -> None:
        """Add a report to those that `flush` sends."""
        self._waiting.append(frame)

    def flush(self) -> None:
        """Send all; waits while the server doesn't read."""
        if not self._waiting:
            return
        data = memoryview(encode_reports(self._waiting))
        self._waiting.clear()
        while data:
            data = data[self._pipe.write(data) or 0 :]


class Worker:
    """An open model and its loop."""

    def __init__(self, hello: Hello, out: Reports) -> None:
        import torch

        from mccore.config.stages import stage_spec
        from mccore.contexts.manifest import find_context
        from mccore.generate.engine import Engine
        from mccore.runtime.open import open_on
        from mccore.runtime.sessions import session_options
        from mccore.serve.worker.loop import Loop
        from mccore.serve.worker.shelf import Shelf

        if hello.threads:
            torch.set_num_threads(hello.threads)
        self.out = out
        opened = open_on(Path(hello.checkpoint), hello.device)
        self.chat = stage_spec(opened.meta.stage).chat
        self.shelf: Shelf | None = None
        if opened.nets is not None:
            sessions = opened.sessions(session_options(opened.config.megacontext, **hello.flags))
            context = None if hello.context is None else find_context(hello.context)
            self.shelf = Shelf(sessions, context, most=hello.most_open, most_bytes=hello.most_bytes)
        self.engine = Engine(opened.gpt, opened.tokenizer)
        self.loop = Loop(self.engine, most_rows=hello.most_rows)
        self.out.send(
            {
                "kind": "ready",
                "megacontext": self.shelf is not None,
                "chat": self.chat,
                "vocabulary": opened.gpt.config.vocab_size,
                "end": opened.tokenizer.special("assistant_end"),
                "window": opened.gpt.config.max_seq_len if self.shelf is None else self._wc_length,
                "source": opened.source,
                "device": str(opened.gpt.device),
            }
        )
        self.out.flush()

    @property
    def _wc_length(self) -> int:
        assert self.shelf is not None
        return self.shelf.sessions.model.options.wc_length

    def run(self, inbox: queue.Queue[Frame]) -> None:
        """Follow orders until the one to stop; then save everything."""
        from mccore.serve.worker.loop import next_order

        while True:
            order = next_order(inbox, busy=self.loop.busy)
            while order is not None:
                if order.get("order") == "stop":
                    self._stop()
                    return
                self.obey(order)
                order = next_order(inbox, busy=True)
            if self.loop.busy:
                self.loop.step()
            self.out.flush()

    def _stop(self) -> None:
        self.loop.close()
        failed = self.shelf.close() if self.shelf is not None else []
        self.out.send({"kind": "stopped", "failed": failed})
        self.out.flush()

    def obey(self, order: Frame) -> None:
        """Follow one order. What is wrong with it becomes a report, never the end of the worker."""
        number = int(order.get("job", 0))
        try:
            self._obey(order, number)
        except Exception as error:
            message = error.message if isinstance(error, MccoreError) else f"{type(error).__name__}: {error}"
            self.out.send({"kind": "error", "job": number, "status": 500, "code": "internal_error", "message": message})

    def _obey(self, order: Frame, number: int) -> None:
        from mccore.serve.worker.jobs import Upload

        match order["order"]:
            case "ping":
                nbytes = 0 if self.shelf is None else self.shelf.nbytes
                held = 0 if self.shelf is None else len(self.shelf)
                self.out.send({"kind": "pong", "open": held, "bytes": nbytes, **self.loop.counts})
            case "cancel":
                self.loop.cancel(number)
            case "forget":
                if self.shelf is not None:
                    self.shelf.forget(order["session"])
                self.out.send({"kind": "done", "job": number})
            case "text":
                job = self.loop.jobs.get(number)
                if isinstance(job, Upload):
                    job.texts.append(order["text"])
                    job.complete = bool(order.get("last"))
                    self.loop.wake(number)
            case _:
                self.loop.add(self._job(order, number))

    def _job(self, order: Frame, number: int) -> Any:
        from mccore.serve.worker import jobs
        from mccore.serve.worker.shelf import read_place

        def report(kind: str, **fields: Any) -> None:
            self.out.send({"kind": kind, "job": number, **fields})

        owner, tokenizer = str(order.get("owner", "")), self.engine.tokenizer
        items = [Item.model_validate(item) for item in order.get("items", ())]
        generate = None if order.get("generate") is None else Generate.model_validate(order["generate"])
        job: jobs.Job
        if self.shelf is None:
            job = jobs.WindowTurn(number, owner, report, self.engine, items)
        elif order["order"] == "text_turn":
            job = jobs.TextTurn(number, owner, report, self.shelf.sessions.new(), tokenizer)
            job.items = items
        else:
            common = (number, owner, report, self.shelf, read_place(order["place"]))
            match order["order"]:
                case "turn":
                    job = jobs.SessionTurn(*common, tokenizer=tokenizer)
                    job.items, job.opens_turn = items, self.chat and generate is not None
                case "upload":
                    job = jobs.Upload(*common, tokenizer=tokenizer, name=str(order["name"]))
                case "look":
                    span = order.get("span")
                    job = jobs.Look(*common, tokenizer=tokenizer, span=None if span is None else (span[0], span[1]))
                case unknown:
                    raise ValueError(f"there is no order {unknown!r}")
        job.generate = generate
        return job


if __name__ == "__main__":
    sys.exit(main())
