"""The terminal side of a chat: lines in, answers out as they come, commands that begin with a slash."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from mccore.data.tokenizer.reply import PartType, Piece, merge
from mccore.errors import DataError, Interrupted, MccoreError, UsageError
from mccore.generate.chat import ChatSession, TurnStats
from mccore.generate.memory import TextMemory
from mccore.host.files import FileExists
from mccore.host.paths import expand
from mccore.host.terminal import StatusLine, echo, echo_json, style, write_answer
from mccore.host.text import open_stdin, read_text, spell, stdin_lines, typed

if TYPE_CHECKING:
    from mccore.cli.chat.sessions import ChatHistory
    from mccore.megacontext.sessions.session import Session

PROMPT = "> "
MAX_FILE_BYTES = 16 * 2**20
REPORTED = 2**17  # tokens of a message from which reading it is worth a progress line
MAX_HISTORY_FILE_BYTES = 1 << 30  # of a file that goes into a session, which has no end
SESSION_HELP = (
    "/save             save the session, as every answer does\n"
    "/branch NAME      go on in a copy of the session, under that name\n"
    "/cut              show the Working Context\n"
    "/sources          show what the last answer saw word for word\n"
)


class Terminal:
    """One conversation at a terminal, or through pipes: answers go to standard output, all else to standard error."""

    def __init__(
        self,
        session: ChatSession,
        source: dict[str, Any],
        *,
        as_json: bool = False,
        history: ChatHistory | None = None,
    ) -> None:
        self.session, self.source, self.as_json = session, source, as_json
        self.history = history  # where the conversation has a session of its own
        self.on_answer: Callable[[TurnStats], None] = lambda stats: None
        self.interactive = sys.stdin is not None and sys.stdin.isatty()
        self._attached: list[tuple[str, str]] = []  # files to go with the next message: name, text
        self._interrupted = False
        if history is not None:
            history.memory.on_progress = self._read_on

    def answer_once(self, text: str) -> None:
        """Answer one message. Raises Interrupted when the user stopped it."""
        self._answer(text)
        if self._interrupted:
            raise Interrupted("interrupted")

    def converse(self, banner: str) -> None:
        """Answer line after line until the input ends or /quit."""
        if self.interactive:
            self._note(banner)
            if isinstance(self.session.memory, TextMemory):
                self._note("a base model continues text; it was never taught to answer")
            self._note("/help lists commands, Ctrl-C stops an answer, Ctrl-D leaves")
        for line in self._lines():
            try:
                if line.startswith("/") and not line.startswith("//"):
                    if not self._command(line):
                        return
                elif line.strip():
                    self._answer(line.removeprefix("/") if line.startswith("//") else line)
            except MccoreError as error:
                self._note(error.render())

    def _lines(self) -> Iterator[str]:
        if not self.interactive:
            yield from stdin_lines()
            return
        open_stdin()
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (gives `input` editing and history)
        while True:
            try:
                yield typed(input(PROMPT))
            except KeyboardInterrupt:
                self._note("\n(Ctrl-D or /quit leaves)")
            except EOFError:
                self._note("")
                return

    # --- answers --------------------------------------------------------------------------------------------------------

    def _answer(self, text: str) -> None:
        for name, content in reversed(self._attached):
            text = f"Here is a part of {name}:\n\n{content}\n\n{text}"
        pieces: list[Piece] = []
        with self._interrupts():
            answer = self.session.ask(text)
            try:
                for piece in answer:
                    if not self.as_json:
                        self._show(pieces[-1].type if pieces else "text", piece)
                    pieces.append(piece)
                    if self._interrupted:
                        break
            finally:
                answer.close()
                if self.history is not None:
                    self.history.save()
        self._attached.clear()
        stats = self.session.turns[-1]
        self.on_answer(stats)
        if self.as_json:
            echo_json(self._record(text, pieces, stats), indent=None)
            return
        if pieces and pieces[-1].type != "text":
            write_answer("]", dim=True)
        write_answer("\n")
        for remark in self._remarks(stats):
            self._note(f"({remark})")

    def _read_on(self, done: int, total: int) -> None:
        """A part of a long message has been read. Raises Interrupted where the user doesn't want to wait for the rest."""
        if self._interrupted:
            raise Interrupted(f"stopped: {done:,} of {total:,} tokens are in the history")
        if total >= REPORTED:
            StatusLine().show(f"(reading: {done:,} of {total:,} tokens)")

    def _show(self, before: PartType, piece: Piece) -> None:
        """Write one piece; a tool call reads `[expression = result]`."""
        if before != piece.type:
            opening = {"python": "[", "python_output": " = ", "text": "]"}[piece.type]
            if before == "python_output" and piece.type == "python":
                opening = "] ["
            write_answer(opening, dim=True)
        write_answer(piece.text, dim=piece.type != "text")

    def _remarks(self, stats: TurnStats) -> Iterator[str]:
        if self._interrupted:
            yield "stopped"
        elif stats.new_tokens == 0:
            kept = "the message was taken back" if self.history is None else "the message stays in the session"
            yield f"no answer; {kept}"
        elif stats.finish == "length":
            yield f"cut off after {stats.new_tokens} tokens; --max-new-tokens allows more"
        elif stats.finish == "context":
            yield f"cut off: the model's context of {self.session.memory.size} tokens is full"
        if stats.messages_left_out:
            yield f"the oldest {stats.messages_left_out} messages no longer fit and were left out"
        if stats.tokens_left_out:
            yield f"the message was too long: its first {stats.tokens_left_out} tokens were left out"

    def _record(self, text: str, pieces: list[Piece], stats: TurnStats) -> dict[str, Any]:
        return {
            **self.source,
            "prompt": text,
            "reply": "".join(piece.text for piece in pieces if piece.type == "text"),
            "parts": [piece._asdict() for piece in merge(pieces)],
            "finish": stats.finish or "interrupted",
            "prompt_tokens": stats.prompt_tokens,
            "new_tokens": stats.new_tokens,
            "messages_left_out": stats.messages_left_out,
            "tokens_left_out": stats.tokens_left_out,
            "seconds": round(stats.seconds, 3),
            "sampling": vars(self.session.sampling),
            **({} if self.history is None else {"context": self._context_record(self.history.session)}),
        }

    def _context_record(self, session: Session) -> dict[str, Any]:
        """The Working Context after an answer. `seen`: runs [start, stop, level], the finest the answer saw of the history.
        `looked_up`: [start, stop, source], tokens that were likely because they stood at `source` before."""
        return {
            "tokens": session.tokens,
            "entries": session.entries,
            "budget": session.model.options.wc_length,
            "refocuses": session.refocuses,
            "seen": session.seen(),
            "looked_up": [list(each) for each in session.spoken()],
        }

    @contextlib.contextmanager
    def _interrupts(self) -> Iterator[None]:
        """Ctrl-C asks the answer to stop; a second one, while the model is still busy, interrupts it by force."""
        self._interrupted = False
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask_to_stop(signum: int, frame: FrameType | None) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True

        before = signal.signal(signal.SIGINT, ask_to_stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    # --- commands -------------------------------------------------------------------------------------------------------

    def _command(self, line: str) -> bool:
        """Carry out a command; False to leave."""
        name, _, argument = line[1:].strip().partition(" ")
        argument = argument.strip()
        if name == "save!":
            name, argument = "save", f"! {argument}"
        if name in ("quit", "exit", "q"):
            return False
        commands: dict[str, Callable[[str], None]] = {
            "help": self._help, "clear": self._clear, "stats": self._stats, "save": self._save, "load": self._load,
            "file": self._file, "system": self._system, "temperature": self._temperature, "topk": self._top_k,
        }  # fmt: skip
        if self.history is not None:
            commands |= {"cut": self._cut, "sources": self._sources, "branch": self._branch}
        if name not in commands:
            close = get_close_matches(name, [*commands, "quit"], n=1)
            raise UsageError(
                f"there is no command /{name}",
                hint=f"did you mean /{close[0]}?"
                if close
                else "/help lists those there are; // begins a message with /",
            )
        commands[name](argument)
        return True

    def _help(self, argument: str) -> None:
        self._note(
            "/clear            forget the conversation\n"
            "/file PATH        put a text file before the next message\n"
            "/load FILE        go on with a saved conversation\n"
            "/quit             leave\n"
            "/save FILE        save the conversation as JSON; /save! replaces a file that exists\n"
            + ("" if self.history is None else SESSION_HELP)
            + "/stats            tokens and speed\n"
            "/system [TEXT]    show or set the system message; `-` removes it\n"
            "/temperature [T]  show or set the temperature, 0 to 2\n"
            "/topk [K]         show or set top-k, 0 for all tokens\n"
            "A message that begins with a slash is written with two."
        )

    def _clear(self, argument: str) -> None:
        if self.history is not None:
            self.history.clear()
            self.session.memory = self.history.memory
        self.session.clear()
        self._attached.clear()
        self._note("(forgotten)")

    def _stats(self, argument: str) -> None:
        turns = self.session.turns
        if self.history is not None:
            self._note(describe_session(self.history.session))
        if not turns:
            self._note("(no answer yet)")
            return
        last, total = turns[-1], sum(turn.new_tokens for turn in turns)
        self._note(
            f"last answer: {last.prompt_tokens} tokens {'shown' if self.history is None else 'read'}, "
            f"{last.new_tokens} written, first after "
            f"{last.first_token_seconds:.2f} s, then {last.tokens_per_second:.1f} tokens/s\n"
            + (
                f"context: {last.prompt_tokens + last.new_tokens} of {self.session.memory.size} tokens in use, "
                f"{last.messages_left_out} messages left out\n"
                if self.history is None
                else ""
            )
            + f"session: {len(turns)} answers, {total} tokens in {sum(turn.seconds for turn in turns):.1f} s"
        )

    def _cut(self, argument: str) -> None:
        from mccore.cli.chat.pictures import picture

        assert self.history is not None
        self._note(picture(self.history.session))

    def _sources(self, argument: str) -> None:
        from mccore.cli.chat.pictures import copied, passages

        assert self.history is not None
        session, tokenizer = self.history.session, self.session.tokenizer
        seen = [f"tokens {each.start:,} to {each.stop:,}: {each.text}" for each in passages(session, tokenizer)] or [
            "(the last answer saw nothing word for word but the newest tokens)"
        ]
        self._note("\n".join([*seen, *copied(session, tokenizer)]))

    def _branch(self, argument: str) -> None:
        assert self.history is not None
        if not argument:
            raise UsageError("a name for the branch is missing", hint="/branch NAME")
        before = self.history.session.directory
        self.history.branch(argument)
        left = f"; {before.name!r} stays as it is" if before is not None else ""
        self.source["session"] = argument
        self._note(f"(going on in the session {argument!r}{left})")

    def _save(self, argument: str) -> None:
        if self.history is not None and not argument:
            directory = self.history.session.directory
            if directory is None:
                raise UsageError(
                    "this session has no name", hint="/branch NAME goes on under one, /save FILE writes JSON"
                )
            self.history.save()
            self._note(f"(saved: {directory})")
            return
        sure, argument = argument.startswith("! "), argument.removeprefix("! ").strip()
        path = _path(argument, "/save FILE")
        try:
            self.session.save(path, overwrite=sure)
        except FileExists as error:
            raise UsageError(error.message, hint=f"choose another name, or replace it: /save! {argument}") from None
        self._note(f"({len(self.session.messages)} messages saved in {path})")

    def _load(self, argument: str) -> None:
        path = _path(argument, "/load FILE")
        self.session.load(path)
        if self.history is not None:
            self.history.memory.replace_messages()
        self._note(f"({len(self.session.messages)} messages loaded)")

    def _file(self, argument: str) -> None:
        self.attach(_path(argument, "/file PATH"))

    def attach(self, path: Path) -> None:
        """Put a text file before the next message. Raises UsageError for what isn't one."""
        most = MAX_FILE_BYTES if self.history is None else MAX_HISTORY_FILE_BYTES
        try:
            content = read_text(path, most=most)
        except DataError as error:
            raise UsageError(error.message, hint=error.hint) from error
        self._attached.append((spell(path.name), content.strip("\n")))
        self._note(f"({path.name}: {len(content):,} characters go with the next message)")

    def _system(self, argument: str) -> None:
        if argument:
            self.session.system = None if argument == "-" else argument
        self._note(f"(system message: {self.session.system or 'none'})")

    def _temperature(self, argument: str) -> None:
        if argument:
            temperature = _number(argument, float, 0, 2, "a temperature is a number from 0 to 2")
            self.session.sampling = replace(self.session.sampling, temperature=temperature)
        self._note(f"(temperature {self.session.sampling.temperature:g})")

    def _top_k(self, argument: str) -> None:
        if argument:
            top_k = int(_number(argument, int, 0, 2**31, "top-k is a whole number, 0 for all tokens"))
            self.session.sampling = replace(self.session.sampling, top_k=top_k)
        self._note(f"(top-k {self.session.sampling.top_k})")

    # --- output ---------------------------------------------------------------------------------------------------------

    def _note(self, text: str) -> None:
        echo(style(text, dim=True), err=True)


def describe_session(session: Session) -> str:
    """A session's size, and what its refocuses took."""
    from mccore.units import size

    controller = sorted(1000 * done.duration for done in session.recent)
    lines = [
        f"history: {session.tokens:,} tokens; Working Context: {session.entries:,} of "
        f"{session.model.options.wc_length:,} entries, keys and values {size(session.working_context.cache.nbytes)}"
    ]
    if controller:
        p50, p95 = (controller[int(share * (len(controller) - 1))] for share in (0.5, 0.95))
        lines.append(
            f"refocuses: {session.refocuses:,}, one in {session.model.options.refocus_interval} tokens; "
            f"controller p50 {p50:.1f} ms, p95 {p95:.1f} ms; {session.working_context.entries_read:,} entries read in all"
        )
    if session.search is not None:
        lines.append(f"search: {session.search.tokens:,} tokens searched in spans of {session.search.span}")
    return "\n".join(lines)


def _path(argument: str, usage: str) -> Path:
    if not argument:
        raise UsageError("a file is missing", hint=usage)
    return expand(argument)


def _number(text: str, kind: type[int] | type[float], low: float, high: float, rule: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        raise UsageError(f"{text!r}: {rule}") from None
    if not low <= value <= high:
        raise UsageError(f"{text!r}: {rule}")
    return value
