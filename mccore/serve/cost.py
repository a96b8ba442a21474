"""What serving costs on this machine: a real server is started, and asked as many clients would."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlsplit

import psutil

from mccore.config.stages import TRAINING_STAGES
from mccore.errors import MccoreError
from mccore.host.json_file import parse_json

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Load:
    """How much is asked. side_by_side: conversations at once; tokens: of an answer; history: tokens of the long conversation;
    idle, idle_tokens: conversations that nobody uses, and tokens of each; rounds: of what is timed. stage: whose model;
    by default that of the first, whose text goes on for as long as it is asked to: a chat model ends an answer when it likes."""

    side_by_side: int = 32
    tokens: int = 128
    history: int = 100_000
    idle: int = 1000
    idle_tokens: int = 10_000
    rounds: int = 5
    stage: str | None = None


@dataclass(frozen=True)
class Costs:
    """What was measured; times in seconds, medians over rounds. idle_bytes: what idle conversations add to the resident memory of
    server and worker, which is resident_bytes in the end."""

    alone_tokens_per_second: float
    together_tokens_per_second: float
    first_token_alone: float
    first_token_beside: float
    second_turn: float
    twentieth_turn: float
    idle_bytes: int
    resident_bytes: int
    reopen: float
    health_p50: float
    health_p99: float

    def as_dict(self) -> dict[str, float]:
        """The figures and the ratios that are looked at."""
        ratios = {
            "throughput_ratio": self.together_tokens_per_second / self.alone_tokens_per_second,
            "first_token_ratio": self.first_token_beside / self.first_token_alone,
            "turn_ratio": self.twentieth_turn / self.second_turn,
        }
        return {**asdict(self), **ratios}


@dataclass
class HeardAnswer:
    """One answer as a client saw it."""

    first: float
    seconds: float
    tokens: int


class Client:
    """A client of the session API, for any number of threads."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)

    def call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """A request and its answer. Raises MccoreError for a refusal."""
        connection = self._open()
        try:
            self._send(connection, method, path, body)
            response = connection.getresponse()
            value: dict[str, Any] = parse_json(response.read())
            if response.status >= 300:
                raise MccoreError(f"{method} {path}: {response.status} {value}")
            return value
        finally:
            connection.close()

    def answer(
        self, session: str, text: str, tokens: int, on_first: Callable[[], Any] = lambda: None, **more: Any
    ) -> HeardAnswer:
        """Ask, and read the answer as it comes; `more` are fields of the request, `on_first` is called at the first token."""
        connection = self._open()
        try:
            began = time.perf_counter()
            body = {"content": text, "max_tokens": tokens, "seed": 1, "stream": True, **more}
            self._send(connection, "POST", f"/v1/sessions/{session}/messages", body)
            response, first, heard = connection.getresponse(), 0.0, b""
            while piece := response.read1(2**16):
                if not first and b'"event":"said"' in piece:
                    first = time.perf_counter() - began
                    on_first()
                heard = heard[-(2**16) :] + piece  # the last event is what counts
            event = parse_json(heard.rstrip().rpartition(b"\n")[2].removeprefix(b"data: "))
            if event.get("event") != "done":
                raise MccoreError(f"an answer broke off: {event}")
            return HeardAnswer(first, time.perf_counter() - began, event["new_tokens"])
        finally:
            connection.close()

    def new(self) -> str:
        """The id of a new session."""
        return str(self.call("POST", "/v1/sessions", {})["id"])

    def _open(self) -> http.client.HTTPConnection:
        assert self._address.hostname is not None
        return http.client.HTTPConnection(self._address.hostname, self._address.port, timeout=3600)

    def _send(self, connection: http.client.HTTPConnection, method: str, path: str, body: Any) -> None:
        if isinstance(body, bytes):
            connection.request(method, path, body, {"Content-Type": "text/plain"})
        elif body is None:
            connection.request(method, path)
        else:
            connection.request(method, path, json.dumps(body).encode(), {"Content-Type": "application/json"})


@contextlib.contextmanager
def served(run: str, sessions: Path, *arguments: str) -> Iterator[tuple[str, int]]:
    """A server of a run on a free port: its address and its process."""
    command = [
        sys.executable,
        "-m",
        "mccore",
        "serve",
        run,
        "--port",
        "0",
        "--sessions",
        str(sessions),
        "--no-telemetry",
    ]
    process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    assert process.stderr is not None
    try:
        log = []
        for line in process.stderr:
            log.append(line)
            if found := re.search(r"at (http://\S+)", line):
                break
        else:
            raise MccoreError(f"the server didn't start: {''.join(log)[-500:]}")
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        yield found[1], process.pid
    finally:
        process.terminate()
        process.wait(120)


def measure_serving(run: str, load: Load, sessions: Path, text: str, progress: Progress) -> Costs:
    """Measure a server of `run`, whose conversations go below `sessions`; `text` is what is uploaded, again and again."""
    with served(run, sessions, "--stage", load.stage or TRAINING_STAGES[0]) as (url, pid):
        client = Client(url)
        client.answer(client.new(), "hello", 8)  # the first pass of a model isn't like the others
        progress("one conversation, then many")
        alone = [client.answer(client.new(), "Tell me more.", load.tokens) for _ in range(load.rounds)]
        together = [_side_by_side(client, load) for _ in range(load.rounds)]
        progress("a newcomer beside many")
        health: list[float] = []
        beside = [_newcomer(client, load, health) for _ in range(load.rounds)]
        progress("a long conversation")
        second, twentieth = _long_turns(client, load, text)
        progress("idle conversations")
        idle, resident, reopen = _idle(client, pid, load, text, progress)
    ranks = quantiles(health, n=100) if len(health) > 1 else [0.0] * 99
    return Costs(
        median(each.tokens / each.seconds for each in alone),
        median(together),
        median(each.first for each in alone),
        median(beside),
        second,
        twentieth,
        idle,
        resident,
        reopen,
        median(health),
        ranks[98],
    )


def _side_by_side(client: Client, load: Load) -> float:
    """Tokens per second of many conversations together."""
    sessions = [client.new() for _ in range(load.side_by_side)]
    began = time.perf_counter()
    with ThreadPoolExecutor(load.side_by_side) as pool:
        done = list(pool.map(lambda session: client.answer(session, "Tell me more.", load.tokens), sessions))
    return sum(each.tokens for each in done) / (time.perf_counter() - began)


def _newcomer(client: Client, load: Load, health: list[float]) -> float:
    """Seconds to the first token of a short conversation while the others decode; `health` gets times of `/health` meanwhile."""
    sessions = [client.new() for _ in range(load.side_by_side - 1)]
    newcomer = client.new()
    decoding = threading.Semaphore(0)
    with ThreadPoolExecutor(load.side_by_side) as pool:
        running = [
            pool.submit(client.answer, session, "Tell me more.", 8 * load.tokens, decoding.release)
            for session in sessions
        ]
        for _ in running:  # all of them have begun to decode, and none is near its end
            decoding.acquire()
        first = client.answer(newcomer, "Tell me more.", 8).first
        while not all(each.done() for each in running):
            began = time.perf_counter()
            client.call("GET", "/health")
            health.append(time.perf_counter() - began)
            time.sleep(0.01)
    return first


def _long_turns(client: Client, load: Load, text: str) -> tuple[float, float]:
    """Seconds of the second and of the twentieth turn behind a long history."""
    book = client.new()
    upload(client, book, text, load.history)
    times = []
    for _ in range(load.rounds):
        session = str(client.call("POST", f"/v1/sessions/{book}/branch", {})["id"])
        times.append([client.answer(session, f"Question {turn}.", load.tokens).seconds for turn in range(20)])
    return median(each[1] for each in times), median(each[19] for each in times)


def _idle(client: Client, pid: int, load: Load, text: str, progress: Progress) -> tuple[int, int, float]:
    """Bytes that idle conversations add to what the server holds, that in all, and seconds to open one again."""
    before = _resident(pid)
    sessions = []
    for number in range(load.idle):
        progress(f"idle conversations: {number:,} of {load.idle:,}")
        sessions.append(client.new())
        upload(client, sessions[-1], text, load.idle_tokens)
    after = _resident(pid)
    times = []
    for session in sessions[: load.rounds]:
        began = time.perf_counter()
        client.call("GET", f"/v1/sessions/{session}/cut")
        times.append(time.perf_counter() - began)
    return after - before, after, median(times)


def upload(client: Client, session: str, text: str, tokens: int) -> None:
    """Take so many tokens into a session, about: text once, and then as much more of it as is missing."""
    there = sent = 0
    while there < tokens:
        letters = sent * (tokens - there) // there + 1 if there else len(text)
        part = (text * (1 + letters // len(text)))[:letters]
        there = int(client.call("POST", f"/v1/sessions/{session}/files?name=text", part.encode())["total"])
        sent += letters


def _resident(pid: int) -> int:
    """Resident bytes of the server and its worker."""
    server = psutil.Process(pid)
    return sum(each.memory_info().rss for each in (server, *server.children()))
