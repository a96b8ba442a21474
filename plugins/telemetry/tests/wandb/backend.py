"""As much of W&B's server as a run needs, with faults: it keeps rows by their offset, as the real one does."""

from __future__ import annotations

import gzip
import json
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HISTORY = "wandb-history.jsonl"


class Backend:
    """Listens on loopback. `rows` are the rows of each run that arrived."""

    def __init__(self) -> None:
        self.status = 200  # what file streams are answered with
        self.refuse_runs = 0  # what the beginning of a run is answered with, if not 0
        self.silent = False  # accept and never answer
        self.released = threading.Event()
        self.paths: list[str] = []
        self.operations: list[str] = []
        self._lines: dict[str, dict[int, str]] = defaultdict(dict)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._server.block_on_close = False
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def rows(self, run: str) -> list[dict[str, Any]]:
        """What the server has of a run's history, in order."""
        return [json.loads(line) for _, line in sorted(self._lines[run].items())]

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON for a request."""
        self.paths.append(path)
        if path.endswith("/graphql"):
            query = json.loads(body)
            self.operations.append(query.get("operationName") or "")
            if self.refuse_runs:
                return self.refuse_runs, {"errors": [{"message": f"said {self.refuse_runs}"}]}
            return 200, {"data": self._data(self.operations[-1], query.get("variables") or {})}
        if path.endswith("/file_stream"):
            if self.status == 200:
                self._stream(path.split("/")[-2], json.loads(body))
            return self.status, {}
        return 200, {}

    def _stream(self, run: str, body: dict[str, Any]) -> None:
        history = body.get("files", {}).get(HISTORY)
        if history:
            for place, line in enumerate(history["content"], history["offset"]):
                self._lines[run][place] = line

    def _data(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables.get("name")
        match operation:
            case "RunResumeStatus":
                lines = self._lines.get(str(name))
                return {"model": {"id": "p", "name": "p", "entity": _ENTITY, "bucket": _bucket(name, lines)}}
            case "UpsertBucket":
                project = {"id": "p", "name": variables.get("project"), "entity": _ENTITY}
                bucket = {**_bucket(name, self._lines.get(str(name)), empty=True), "project": project}
                return {"upsertBucket": {"bucket": bucket, "inserted": not self._lines.get(str(name))}}
            case "CreateRunFiles":
                edges = [
                    {"node": {"name": file, "uploadUrl": f"{self.url}/upload/{file}"}} for file in variables["files"]
                ]
                return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": {"edges": edges}}}
            case "Viewer":
                return {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}
        return {}


_ENTITY = {"id": "e", "name": "me"}


def _bucket(name: Any, lines: dict[int, str] | None, *, empty: bool = False) -> dict[str, Any]:
    if not lines and not empty:
        return None  # type: ignore[return-value]
    tail = [line for _, line in sorted((lines or {}).items())][-1:]
    return {
        "id": "r", "name": name, "displayName": name, "description": "", "config": "{}", "summaryMetrics": "{}",
        "sweepName": None, "logLineCount": 0, "eventsLineCount": 0, "historyLineCount": len(lines or {}),
        "historyTail": json.dumps(tail), "eventsTail": "[]", "tags": [], "notes": "", "wandbConfig": "{}",
    }  # fmt: skip


def _handler(backend: Backend) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if backend.silent:
                backend.released.wait(60)
            status, answer = backend.answer(self.path, body)
            out = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(out)))
            self.end_headers()
            self.wfile.write(out)

        do_GET = do_POST = do_PUT = do_HEAD = _any

        def log_message(self, format: str, *arguments: Any) -> None:
            """Quiet."""

    return Handler
