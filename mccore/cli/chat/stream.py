"""A chat for programs: a JSON object a line in, a JSON object a line out, the answer as it comes.

In: `{"message": TEXT}` asks, `{"new": true}` forgets the conversation. SIGINT stops an answer; the end of the input leaves.

Out, by `type`: `ready` (run, stage, step, words), `piece` (part, text), `context` (a `working_context_snapshot` after each
refocus), `answer` (what `--json` prints), `cleared`, and `error` (message, hint) for what was refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mccore.cli.chat.front import ChatFront
from mccore.data.tokenizer.reply import Piece
from mccore.errors import MccoreError, UsageError
from mccore.host.json_file import BadJson, parse_json
from mccore.host.terminal import echo_json
from mccore.host.text import mend, stdin_lines
from mccore.megacontext.sessions.session import Session
from mccore.megacontext.tree.cut import encode_runs


class Stream(ChatFront):
    """One conversation with a program."""

    _shown = -1  # refocuses of the session that the program knows of

    def converse(self, banner: str) -> None:
        """Answer line after line until the input ends. What can't be answered is an `error`, and the next line is read."""
        _say("ready", **self.source, words=banner, megacontext=self.history is not None)
        for line in stdin_lines():
            if not line.strip():
                continue
            try:
                self._take(line)
            except MccoreError as error:
                _say("error", message=error.message, hint=error.hint or "")

    def _take(self, line: str) -> None:
        try:
            request = parse_json(line)
        except BadJson as error:
            raise UsageError(f"a line isn't JSON: {error}", hint='write {"message": "..."}') from error
        if isinstance(request, Mapping) and isinstance(text := request.get("message"), str) and text.strip():
            self._answer(mend(text))
        elif isinstance(request, Mapping) and request.get("new") is True:
            self.clear()
            self._shown = -1
            _say("cleared")
        else:
            raise UsageError("a line has no message", hint='write {"message": "..."} or {"new": true}')

    def _answer(self, text: str) -> None:
        text, pieces, stats = self.ask(text, self._show)
        self._shown = -1
        self._show_context()
        _say("answer", **self.record(text, pieces, stats), remarks=list(self.remarks(stats)))

    def _show(self, piece: Piece) -> None:
        _say("piece", part=piece.type, text=piece.text)
        self._show_context()

    def _show_context(self) -> None:
        if self.history is not None and self.history.session.refocuses != self._shown:
            self._shown = self.history.session.refocuses
            if len(self.history.session.focus.cut):
                _say("context", **snapshot(self.history.session))


def snapshot(session: Session) -> dict[str, Any]:
    """The Working Context of a session, as a `working_context_snapshot` event has it."""
    return {
        "session": "chat",
        "history": session.covered,
        "entries": session.entries,
        "budget": session.model.options.wc_length,
        "block_size": session.model.block_size,
        "recent_tokens": session.model.recent_tokens,
        "runs": [list(run) for run in encode_runs(session.focus.cut)],
    }


def _say(kind: str, **data: Any) -> None:
    echo_json({"type": kind, **data}, indent=None)
