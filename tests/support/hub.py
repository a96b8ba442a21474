"""A stand-in for the Hugging Face hub: a small HTTP server that speaks its API for datasets and their files.

The real `huggingface_hub` and `datasets` talk to it, as to a mirror (HF_ENDPOINT). Large files are answered as the hub answers
them, with a redirect to a second place that knows ranges. Faults are put into the next answers of a file by name.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer: it ends after `cut` bytes, has a `status`, one flipped byte, or knows no ranges."""

    cut: int | None = None
    status: int | None = None
    retry_after: str | None = None
    corrupt: bool = False
    no_ranges: bool = False


@dataclass
class Sent:
    """An answer that carried bytes of a file: from which byte on, and how many went out."""

    path: str
    start: int
    size: int


@dataclass
class Repository:
    """A dataset: its files at each commit, the branches that lead there, and the token that it asks for."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    token: str | None = None
    stored_plainly: set[str] = field(default_factory=set)  # files that aren't in LFS

    def files(self, revision: str) -> tuple[str, dict[str, bytes]]:
        commit = self.refs.get(revision, revision)
        return commit, self.commits[commit]


class StandInHub:
    """The server. `url` is its endpoint; `sent` and `asked` tell what was asked of it."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.sent: list[Sent] = []
        self.asked: list[str] = []
        self.tokens: list[str | None] = []
        self.lock = threading.Lock()
        self.pace, self.chunk = 0.0, 1 << 14  # seconds between chunks, and their bytes: for tests that end a download
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, name: str, files: dict[str, bytes], *, token: str | None = None, branch: str = "main") -> str:
        """Commit `files` to a dataset's branch; returns the commit."""
        commit = hashlib.sha1(repr((name, sorted(files.items()))).encode()).hexdigest()
        repository = self.repositories.setdefault(name, Repository({}, {}, token))
        repository.commits[commit] = files
        repository.refs[branch] = commit
        repository.stored_plainly |= {path for path in files if path.endswith((".md", ".json", ".yaml"))}
        return commit

    def fail(self, path: str, *faults: Fault) -> None:
        """Let the next answers about a file (or an address of the API) go wrong, one after the other."""
        self.faults[path] += faults

    def wait(self, seconds: float) -> None:
        """Let others come to their turn."""
        threading.Event().wait(seconds)

    def bytes_of(self, path: str) -> int:
        """How many bytes of a file went out, over all answers."""
        return sum(sent.size for sent in self.sent if sent.path == path)


@contextmanager
def stand_in_hub() -> Iterator[StandInHub]:
    """A running hub."""
    hub = StandInHub()
    try:
        yield hub
    finally:
        hub.close()


def _handler(hub: StandInHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
            self._answer(body)

        def _answer(self, body: Any = None) -> None:
            url = urlsplit(self.path)
            path = unquote(url.path)
            with hub.lock:
                hub.asked.append(f"{self.command} {path}")
                hub.tokens.append(self.headers.get("Authorization"))
            if path.startswith("/cdn/"):
                _, _, name, commit, file = path.split("/", 4)
                return self._send_file(file, hub.repositories[name.replace("--", "/")].commits[commit][file])
            parts = path.strip("/").split("/")
            api = parts[:2] == ["api", "datasets"]
            name = "/".join(parts[2:4] if api else parts[1:3])
            if not (api or parts[0] == "datasets"):
                return self._json({"error": "not here"}, 404)
            repository = hub.repositories.get(name)
            if repository is None or (
                repository.token and self.headers.get("Authorization") != f"Bearer {repository.token}"
            ):
                return self._json({"error": "Repository not found"}, 401, {"X-Error-Code": "RepoNotFound"})
            rest = parts[4:] if api else parts[3:]
            return (
                self._api(repository, name, rest, parse_qs(url.query), body)
                if api
                else self._resolve(repository, name, rest)
            )

        def _api(self, repository: Repository, name: str, rest: list[str], query: Any, body: Any) -> None:
            if self._fault_of_api(f"api/{name}"):
                return None
            kind, revision, below = _split_revision(repository, rest)
            try:
                commit, files = repository.files(revision)
            except KeyError:
                return self._json({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
            if kind in ("", "revision"):
                return self._json(
                    {
                        "id": name, "_id": "0", "sha": commit, "private": False, "gated": False, "disabled": False,
                        "tags": [], "downloads": 0, "likes": 0, "siblings": [{"rfilename": each} for each in files],
                    }
                )  # fmt: skip
            if kind == "paths-info":
                wanted = body.get("paths", [])
                return self._json([_entry(repository, path, files[path]) for path in wanted if path in files])
            entries = _tree(repository, files, below, "true" in str(query.get("recursive", "")).lower())
            if entries is None:
                return self._json({"error": "not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return self._json(entries)

        def _resolve(self, repository: Repository, name: str, rest: list[str]) -> None:
            _, revision, path = _split_revision(repository, rest)
            try:
                commit, files = repository.files(revision)
                content = files[path]
            except KeyError:
                return self._json({"error": "not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            if path in repository.stored_plainly:
                return self._send_file(path, content, {"ETag": f'"{git_oid(content)}"', "X-Repo-Commit": commit})
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            self.send_response(302)
            for header, value in {
                "Location": f"{hub.url}/cdn/{name.replace('/', '--')}/{commit}/{path}", "X-Repo-Commit": commit,
                "X-Linked-Etag": etag, "X-Linked-Size": str(len(content)), "ETag": etag, "Content-Length": "0",
            }.items():  # fmt: skip
                self.send_header(header, value)
            self.end_headers()
            return None

        def _send_file(self, path: str, content: bytes, headers: dict[str, str] | None = None) -> None:
            fault = self._fault(path)
            if fault.status:
                return self._status(fault)
            start, asked = 0, self.headers.get("Range")
            if asked and not fault.no_ranges:
                start = int(asked.removeprefix("bytes=").split("-")[0])
                if start >= len(content):
                    return self._json({"error": "range"}, 416)
            rest = content[start:]
            if fault.corrupt:
                rest = bytes([rest[0] ^ 1]) + rest[1:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(rest)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            for header, value in (headers or {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}).items():
                self.send_header(header, value)
            self.end_headers()
            if self.command == "HEAD":
                return None
            return self._send_bytes(path, start, rest if fault.cut is None else rest[: fault.cut], whole=len(rest))

        def _send_bytes(self, path: str, start: int, content: bytes, whole: int) -> None:
            record = Sent(path, start, 0)
            with hub.lock:
                hub.sent.append(record)
            try:
                for at in range(0, len(content), hub.chunk):
                    self.wfile.write(content[at : at + hub.chunk])
                    record.size += len(content[at : at + hub.chunk])
                    if hub.pace:
                        threading.Event().wait(hub.pace)
            except OSError:  # the client went away
                self.close_connection = True
            if len(content) < whole:  # a line that breaks: the connection ends before what was promised
                self.close_connection = True

        def _fault(self, path: str) -> Fault:
            with hub.lock:
                waiting = hub.faults[path]
                return waiting.pop(0) if waiting and self.command == "GET" else Fault()

        def _fault_of_api(self, name: str) -> bool:
            fault = self._fault(name)
            if fault.status:
                self._status(fault)
            return fault.status is not None

        def _status(self, fault: Fault) -> None:
            assert fault.status is not None
            extra = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            self._json({"error": f"status {fault.status}"}, fault.status, extra)

        def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            for header, text in (
                {"Content-Type": "application/json", "Content-Length": str(len(data))} | (headers or {})
            ).items():
                self.send_header(header, text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

    return Handler


def _split_revision(repository: Repository, rest: list[str]) -> tuple[str, str, str]:
    """(kind, revision, path below) of the part of an address after the dataset's name; a branch's name may have slashes."""
    if not rest:
        return "", "main", ""
    for end in range(len(rest), 1, -1):
        revision = "/".join(rest[1:end])
        if revision in repository.refs or revision in repository.commits:
            return rest[0], revision, "/".join(rest[end:])
    return rest[0], rest[1] if len(rest) > 1 else "main", "/".join(rest[2:])


def _tree(repository: Repository, files: dict[str, bytes], below: str, recursive: bool) -> list[dict[str, Any]] | None:
    prefix = f"{below}/" if below else ""
    inside = [path for path in sorted(files) if path.startswith(prefix)]
    if below and not inside:
        return None
    folders = {prefix + path[len(prefix) :].split("/")[0] for path in inside if "/" in path[len(prefix) :]}
    if recursive:
        folders = {"/".join(path.split("/")[:n]) for path in inside for n in range(1, len(path.split("/")))} - {below}
    entries: list[dict[str, Any]] = [
        {"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in folders
    ]
    return entries + [
        _entry(repository, path, files[path]) for path in inside if recursive or "/" not in path[len(prefix) :]
    ]


def _entry(repository: Repository, path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": git_oid(content), "size": len(content), "path": path}
    if path not in repository.stored_plainly:
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def git_oid(content: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandInHub]:
    """A running hub that this process and those it starts take for theirs."""
    import huggingface_hub.constants

    with stand_in_hub() as running:
        for variable in ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
        # Both libraries read the environment when they are imported, which may have been long ago.
        constants = huggingface_hub.constants
        template = running.url + constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        if "datasets.config" in sys.modules:
            monkeypatch.setattr("datasets.config.HF_ENDPOINT", running.url)
        yield running


def parquet(**columns: list[Any]) -> bytes:
    """A parquet file of these columns."""
    import pyarrow
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer, row_group_size=100)
    return buffer.getvalue()
