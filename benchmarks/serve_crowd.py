"""Many conversations beside a long upload: all finish, each says what it says alone, and the server stays quick to answer.

uv run python benchmarks/serve_crowd.py RUN --conversations 64 --turns 20 --upload 1000000

Prints how long it took, the times of `/health` meanwhile, and how many answers differ from those of the same conversations
one after another on a server of their own. With --kill the worker is killed once in the middle; every question whose answer
broke off is asked again, and every history must have each question once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import quantiles

import psutil

from mccore.errors import MccoreError
from mccore.serve.cost import Client, served, upload

TEXT = "The quick brown fox jumps over the lazy dog, while seven wizards brew potions.\n" * 400


def question(number: int, turn: int) -> str:
    """What conversation `number` is asked in a turn."""
    return f"Question {turn} of {number}: " + "what of it? " * (1 + (7 * number + turn) % 40)


def talk(client: Client, number: int, turns: int, tokens: int) -> tuple[str, list[str]]:
    """A conversation from its beginning to its end: its id and its answers."""
    session, said = client.new(), []
    for turn in range(turns):
        body = {"content": question(number, turn), "max_tokens": tokens, "seed": number, "temperature": 0.8}
        path = f"/v1/sessions/{session}/messages"
        while True:
            try:
                said.append(str(client.call("POST", path, body)["text"]))
                break
            except (MccoreError, OSError):  # the worker was killed: the question may be in the history already
                time.sleep(1)
                try:
                    roles = [each["role"] for each in client.call("GET", path)["data"]]
                    body["content"] = None if roles[-1:] == ["user"] else body["content"]  # type: ignore[assignment]
                    if roles.count("user") > turn and roles[-1] == "assistant":
                        said.append("(broken off)")
                        break
                except (MccoreError, OSError):
                    continue
    return session, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--upload", type=int, default=1_000_000)
    parser.add_argument("--kill", action="store_true")
    options = parser.parse_args()
    numbers = range(options.conversations)
    health: list[float] = []
    over = threading.Event()

    def look(client: Client) -> None:
        while not over.wait(0.02):
            began = time.perf_counter()
            try:
                client.call("GET", "/health")
            except MccoreError:
                continue
            health.append(time.perf_counter() - began)

    with tempfile.TemporaryDirectory() as folder:
        with served(options.run, Path(folder) / "together") as (url, pid):
            client = Client(url)
            threading.Thread(target=look, args=(client,), daemon=True).start()
            began = time.perf_counter()
            with ThreadPoolExecutor(options.conversations + 1) as pool:
                book = pool.submit(lambda: upload(client, client.new(), TEXT, options.upload))
                talks = [pool.submit(talk, client, number, options.turns, options.tokens) for number in numbers]
                if options.kill:
                    time.sleep(10)
                    (worker,) = psutil.Process(pid).children()
                    os.kill(worker.pid, signal.SIGKILL)
                together = [each.result() for each in talks]
                failed = book.exception()
            seconds = time.perf_counter() - began
            over.set()
            twice = 0
            for number, (session, _) in zip(numbers, together, strict=True):
                said = [each["text"] for each in client.call("GET", f"/v1/sessions/{session}/messages")["data"]]
                twice += sum(said.count(question(number, turn)) != 1 for turn in range(options.turns))
        different = 0
        if not options.kill:
            with served(options.run, Path(folder) / "alone") as (url, _):
                client = Client(url)
                for number, (_, said) in zip(numbers, together, strict=True):
                    different += talk(client, number, options.turns, options.tokens)[1] != said
    ranks = quantiles(health, n=100)
    found = {
        "seconds": seconds,
        "looks_at_health": len(health),
        "health_p50": ranks[49],
        "health_p99": ranks[98],
        "upload": repr(failed) if failed else "done",
        "questions_not_once": twice,
        "conversations_that_differ": None if options.kill else different,
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
