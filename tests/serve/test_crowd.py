"""Many conversations beside an upload, clients that do not read, a worker that dies, a full disk: each loses only itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.served import Server, serving

TALKS, TURNS = 6, 4


@pytest.fixture(scope="module")
def server(served_base: Path) -> Iterator[Server]:
    with serving(served_base, "--most-open", "2", "--most-running", "4") as running:
        yield running


def question(number: int, turn: int) -> str:
    return f"question {turn} of {number}: " + "what of it? " * (1 + (7 * number + turn) % 9)


def new_session(http: httpx.Client) -> str:
    return f"/v1/sessions/{http.post('/v1/sessions', json={}).json()['id']}"


def talk(server: Server, number: int, path: str, until: int = TURNS) -> list[str]:
    """A conversation from where it is to its end: its answers. What breaks off is asked again, as a client would."""
    with httpx.Client(base_url=server.url, timeout=120) as http:
        while True:
            roles = [each["role"] for each in http.get(f"{path}/messages").json()["data"]]
            turn = roles.count("user")
            body: dict[str, Any] = {"max_tokens": 8, "seed": number, "temperature": 0.8}
            if roles[-1:] == ["user"]:  # it is safe, and has no answer
                body["content"] = None
            elif turn == until:
                break
            else:
                body["content"] = question(number, turn)
            answer = http.post(f"{path}/messages", json=body)
            assert answer.status_code in (200, 503), answer.text
            if answer.status_code == 503:
                server.wait_until_ready()
        data = http.get(f"{path}/messages").json()["data"]
    return [each["text"] for each in data if each["role"] == "assistant"]


def test_many_beside_an_upload_say_what_each_says_alone(server: Server) -> None:
    http = server.http
    book = new_session(http)
    paths = [new_session(http) for _ in range(TALKS)]
    text = b"Some words of a long book, line after line.\n" * 4000
    with ThreadPoolExecutor(TALKS + 1) as pool:
        upload = pool.submit(httpx.post, f"{server.url}{book}/files", content=text, timeout=600)
        together = list(pool.map(lambda number: talk(server, number, paths[number]), range(TALKS)))
        assert upload.result().status_code == 201
    assert upload.result().json()["tokens"] > len(text)
    for number in range(TALKS):
        assert talk(server, number, new_session(http)) == together[number]


def test_a_worker_that_dies_among_many_loses_nothing_that_was_acknowledged(server: Server) -> None:
    http = server.http
    paths = [new_session(http) for _ in range(TALKS)]
    restarts = http.get("/health").json()["restarts"]
    with ThreadPoolExecutor(TALKS) as pool:
        talks = [pool.submit(talk, server, number, paths[number]) for number in range(TALKS)]
        while sum(len(http.get(f"{path}/messages").json()["data"]) for path in paths) < 2 * TALKS:
            time.sleep(0.02)
        acknowledged = [http.get(f"{path}/messages").json()["data"] for path in paths]
        os.kill(server.worker, signal.SIGKILL)
        for each in talks:
            each.result()
    server.wait_until_ready()
    assert http.get("/health").json()["restarts"] == restarts + 1
    for number, path in enumerate(paths):
        said = http.get(f"{path}/messages").json()["data"]
        assert said[: len(acknowledged[number])] == acknowledged[number]
        assert [each["role"] for each in said] == ["user", "assistant"] * TURNS
        asked = [each["text"] for each in said if each["role"] == "user"]
        assert asked == [question(number, turn) for turn in range(TURNS)]
        history = http.get(f"{path}/text", params={"start": 0, "stop": 4000}).json()["text"]
        assert [history.count(f"<|user_start|>{each}<|user_end|>") for each in asked] == [1] * TURNS


def test_a_client_that_does_not_read_holds_nobody_up(server: Server) -> None:
    http = server.http
    wanted = talk(server, 1, new_session(http), 1)
    slow = new_session(http)
    body = b'{"content": "on and on", "max_tokens": 3000, "stream": true, "seed": 5}'
    head = f"POST {slow}/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    address = urlsplit(server.url)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)  # it takes next to nothing that isn't read
        connection.connect((address.hostname, address.port))
        connection.sendall(head.encode() + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
        while not http.get(slow).json()["running"]:
            time.sleep(0.02)
        assert talk(server, 1, new_session(http), 1) == wanted
        while http.get(slow).json()["running"]:  # the answer comes to its end, read or not
            time.sleep(0.05)
        heard = b""
        while piece := connection.recv(2**16):
            heard += piece
    (last,) = [each for each in http.get(f"{slow}/messages").json()["data"] if each["role"] == "assistant"]
    assert heard.count(b'"event":"done"') == 1
    assert heard.rindex(b'"event":"done"') > heard.rindex(b'"event":"said"')
    assert last["new_tokens"] == 3000 or last["finish"] == "stop"


# --- a full disk ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system can be mounted by root alone")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(path: Path) -> None:
    """Leave no byte of the disk."""
    with open(path, "wb", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue


def test_a_full_disk_is_told_and_forgotten_when_there_is_room_again(served_base: Path, small_disk: Path) -> None:
    with serving(served_base, "--sessions", str(small_disk / "sessions")) as server:
        http = server.http
        path = new_session(http)
        first = http.post(f"{path}/messages", json={"content": "one", "max_tokens": 4, "seed": 1})
        assert first.status_code == 200
        before = http.get(f"{path}/messages").json()["data"]
        fill(small_disk / "filler")
        for _ in range(2):
            refused = http.post(f"{path}/messages", json={"content": "two " * 3000, "max_tokens": 4})
            assert refused.status_code == 500
            assert "No space left" in refused.json()["error"]["message"]
        assert http.post("/v1/sessions", json={}).status_code == 500
        assert http.get("/health").json() == {"status": "ready", "restarts": 0}
        assert http.get(f"{path}/messages").json()["data"] == before
        (small_disk / "filler").unlink()
        after = http.post(f"{path}/messages", json={"content": "three", "max_tokens": 4})
        assert after.status_code == 200
        assert after.json()["cached_tokens"] == before[-1]["stop"]
        said = http.get(f"{path}/messages").json()["data"]
        assert [each["text"] for each in said if each["role"] == "user"] == ["one", "three"]
        assert new_session(http)
