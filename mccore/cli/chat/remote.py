"""`mccore chat --server`: the same conversation at a terminal, over the session API of a server."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from mccore.cli.chat import lines
from mccore.errors import Interrupted, MccoreError, UsageError
from mccore.host.json_file import BadJson, parse_json
from mccore.host.paths import expand
from mccore.host.terminal import echo_json, write_answer
from mccore.host.text import open_regular, spell, stdin_text, typed

TOKEN_VARIABLE = "MCCORE_SERVE_TOKEN"
PATIENCE = 600.0  # seconds without a word of the server: a long file is read meanwhile
_HELP = """/branch           go on in a copy; the conversation so far stays as it is
/cut              what the Working Context shows
/file PATH        take a text file into the history
/quit             leave
A message that begins with a slash is written with two."""


class ServerError(MccoreError):
    """A server can't be reached, or refuses."""


class RemoteChat:
    """One conversation on a server. sampling: fields of every message; None for the server's own."""

    def __init__(
        self, url: str, sampling: Mapping[str, Any], system: str | None, session: str | None, *, as_json: bool
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} is no address of a server", hint="such as http://127.0.0.1:8000")
        self._parts, self.url, self.as_json = parts, url, as_json
        self.sampling = {name: value for name, value in sampling.items() if value is not None}
        self._system, self.session = system, session

    def run(self, prompt: str | None, files: Sequence[Path], elsewhere: Sequence[object]) -> None:
        """Talk until the input ends. elsewhere: options that are the server's to choose. Raises UsageError, ServerError."""
        if any(value is not None for value in elsewhere):
            raise UsageError(
                "the model and its focus are the server's to choose", hint="give these options to mccore serve"
            )
        if self.session is None:
            body = {} if self._system is None else {"system": typed(self._system)}
            self.session = str(self._json("POST", "sessions", body)["id"])
        for path in files:
            self._file(path)
        if prompt is not None:
            self._answer(stdin_text() if prompt == "-" else typed(prompt))
            return
        lines.note(f"(session {self.session} at {self.url}; /help lists commands)")
        lines.converse(self._answer, lambda: self._commands)

    @property
    def _commands(self) -> dict[str, lines.Command]:
        return {"help": self._help, "file": self._take, "branch": self._branch, "cut": self._cut}

    def _help(self, argument: str) -> None:
        lines.note(_HELP)

    def _take(self, argument: str) -> None:
        if not argument:
            raise UsageError("a file is missing", hint="/file PATH")
        self._file(expand(argument))

    def _branch(self, argument: str) -> None:
        self.session = str(self._json("POST", f"sessions/{self.session}/branch", {})["id"])
        lines.note(f"(going on in the session {self.session})")

    def _cut(self, argument: str) -> None:
        cut = self._json("GET", f"sessions/{self.session}/cut")
        lines.note(
            f"({cut['entries']:,} of {cut['budget']:,} entries show {cut['covered']:,} of {cut['tokens']:,} tokens)"
        )

    def _answer(self, text: str) -> None:
        done: dict[str, Any] = {}
        said: list[dict[str, str]] = []
        response = self._ask(
            "POST", f"sessions/{self.session}/messages", {"content": text, "stream": True, **self.sampling}
        )
        try:
            for line in response:
                if not line.startswith(b"data: "):
                    continue
                event = _json_object(line[6:])
                if event["event"] == "said":
                    said.append(event)
                    if not self.as_json:
                        write_answer(event["text"], dim=event["type"] != "text")
                elif event["event"] == "error":
                    raise ServerError(str(event["error"]["message"]))
                elif event["event"] == "done":
                    done = event
        except KeyboardInterrupt:
            self._json("POST", f"sessions/{self.session}/stop")
            raise Interrupted("stopped; what was said is in the session") from None
        except OSError as error:
            raise ServerError(f"the connection to {self.url} broke: {error}", hint="ask again") from error
        finally:
            response.close()
        if self.as_json:
            reply = "".join(event["text"] for event in said if event["type"] == "text")
            echo_json({"prompt": text, "reply": reply, **done}, indent=None)
        else:
            write_answer("\n")

    def _file(self, path: Path) -> None:
        with open_regular(path) as file:
            length = os.fstat(file.fileno()).st_size
            where = f"sessions/{self.session}/files?name={quote(spell(path.name))}"
            answer = self._ask("POST", where, file, {"Content-Length": str(length), "Content-Type": "text/plain"})
        lines.note(f"({path.name}: {_json_object(answer.read())['tokens']:,} tokens are in the history)")

    def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        return _json_object(self._ask(method, path, body).read())

    def _ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> http.client.HTTPResponse:
        """A response that is no error. Raises ServerError."""
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        assert self._parts.hostname is not None
        connection = kind(self._parts.hostname, self._parts.port, timeout=PATIENCE)
        sent = dict(headers or {})
        if token := os.environ.get(TOKEN_VARIABLE, "").strip():
            sent["Authorization"] = f"Bearer {token}"
        if headers is None and body is not None:
            body = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        try:
            connection.request(method, f"{self._parts.path.rstrip('/')}/v1/{path}", body, sent)
            response = connection.getresponse()
            if response.status < 300:
                return response
            error = _json_object(response.read()).get("error", {})
        except (OSError, http.client.HTTPException) as failed:
            raise ServerError(
                f"can't reach {self.url}: {failed}", hint="is it running? mccore serve starts one"
            ) from failed
        hint = f"set {TOKEN_VARIABLE}" if response.status == 401 else None
        raise ServerError(f"{self.url} says: {error.get('message', response.status)}", hint=hint)


def _json_object(text: bytes) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except BadJson as error:
        raise ServerError(f"what answers there is no mccore serve: {error}") from None
    if not isinstance(value, dict):
        raise ServerError("what answers there is no mccore serve")
    return value
