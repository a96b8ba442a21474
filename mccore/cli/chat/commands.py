"""What a person can do in a chat beside asking: one method for each command that begins with a slash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mccore.cli.chat.front import ChatFront
from mccore.cli.chat.lines import note
from mccore.errors import UsageError
from mccore.host.files import FileExists
from mccore.host.paths import expand

if TYPE_CHECKING:
    from mccore.megacontext.sessions.session import Session

SESSION_HELP = (
    "/save             save the session, as every answer does\n"
    "/branch NAME      go on in a copy of the session, under that name\n"
    "/cut              show the Working Context\n"
    "/sources          show what the last answer saw word for word\n"
)


class Commands:
    """The commands of one conversation."""

    def __init__(self, chat: ChatFront) -> None:
        self.chat = chat

    def table(self) -> dict[str, Callable[[str], None]]:
        """Command -> what it does with the text behind its name; those of a session where there is one."""
        commands: dict[str, Callable[[str], None]] = {
            "help": self._help, "clear": self._clear, "stats": self._stats, "save": self._save, "save!": self._replace,
            "load": self._load, "file": self._file, "system": self._system, "temperature": self._temperature,
            "topk": self._top_k,
        }  # fmt: skip
        if self.chat.history is not None:
            commands |= {"cut": self._cut, "sources": self._sources, "branch": self._branch}
        return commands

    def _help(self, argument: str) -> None:
        note(
            "/clear            forget the conversation\n"
            "/file PATH        put a text file before the next message\n"
            "/load FILE        go on with a saved conversation\n"
            "/quit             leave\n"
            "/save FILE        save the conversation as JSON; /save! replaces a file that exists\n"
            + ("" if self.chat.history is None else SESSION_HELP)
            + "/stats            tokens and speed\n"
            "/system [TEXT]    show or set the system message; `-` removes it\n"
            "/temperature [T]  show or set the temperature, 0 to 2\n"
            "/topk [K]         show or set top-k, 0 for all tokens\n"
            "A message that begins with a slash is written with two."
        )

    def _clear(self, argument: str) -> None:
        self.chat.clear()
        note("(forgotten)")

    def _stats(self, argument: str) -> None:
        turns = self.chat.session.turns
        if self.chat.history is not None:
            note(describe_session(self.chat.history.session))
        if not turns:
            note("(no answer yet)")
            return
        last, total = turns[-1], sum(turn.new_tokens for turn in turns)
        note(
            f"last answer: {last.prompt_tokens} tokens {'shown' if self.chat.history is None else 'read'}, "
            f"{last.new_tokens} written, first after "
            f"{last.first_token_seconds:.2f} s, then {last.tokens_per_second:.1f} tokens/s\n"
            + (
                f"context: {last.prompt_tokens + last.new_tokens} of {self.chat.session.memory.size} tokens in use, "
                f"{last.messages_left_out} messages left out\n"
                if self.chat.history is None
                else ""
            )
            + f"session: {len(turns)} answers, {total} tokens in {sum(turn.seconds for turn in turns):.1f} s"
        )

    def _cut(self, argument: str) -> None:
        from mccore.cli.chat.pictures import picture

        assert self.chat.history is not None
        note(picture(self.chat.history.session))

    def _sources(self, argument: str) -> None:
        from mccore.cli.chat.pictures import copied, passages

        assert self.chat.history is not None
        session, tokenizer = self.chat.history.session, self.chat.session.tokenizer
        seen = [f"tokens {each.start:,} to {each.stop:,}: {each.text}" for each in passages(session, tokenizer)] or [
            "(the last answer saw nothing word for word but the newest tokens)"
        ]
        note("\n".join([*seen, *copied(session, tokenizer)]))

    def _branch(self, argument: str) -> None:
        assert self.chat.history is not None
        if not argument:
            raise UsageError("a name for the branch is missing", hint="/branch NAME")
        before = self.chat.history.session.directory
        self.chat.history.branch(argument)
        left = f"; {before.name!r} stays as it is" if before is not None else ""
        self.chat.source["session"] = argument
        note(f"(going on in the session {argument!r}{left})")

    def _save(self, argument: str) -> None:
        if self.chat.history is None or argument:
            self._write(argument, overwrite=False)
            return
        directory = self.chat.history.session.directory
        if directory is None:
            raise UsageError("this session has no name", hint="/branch NAME goes on under one, /save FILE writes JSON")
        self.chat.history.save()
        note(f"(saved: {directory})")

    def _replace(self, argument: str) -> None:
        self._write(argument, overwrite=True)

    def _write(self, argument: str, *, overwrite: bool) -> None:
        path = _path(argument, "/save FILE")
        try:
            self.chat.session.save(path, overwrite=overwrite)
        except FileExists as error:
            raise UsageError(error.message, hint=f"choose another name, or replace it: /save! {argument}") from None
        note(f"({len(self.chat.session.messages)} messages saved in {path})")

    def _load(self, argument: str) -> None:
        path = _path(argument, "/load FILE")
        self.chat.session.load(path)
        if self.chat.history is not None:
            self.chat.history.memory.replace_messages()
        note(f"({len(self.chat.session.messages)} messages loaded)")

    def _file(self, argument: str) -> None:
        note(f"({self.chat.attach(_path(argument, '/file PATH'))})")

    def _system(self, argument: str) -> None:
        if argument:
            self.chat.session.system = None if argument == "-" else argument
        note(f"(system message: {self.chat.session.system or 'none'})")

    def _temperature(self, argument: str) -> None:
        if argument:
            temperature = _number_in(argument, float, 0, 2, "a temperature is a number from 0 to 2")
            self.chat.session.sampling = replace(self.chat.session.sampling, temperature=temperature)
        note(f"(temperature {self.chat.session.sampling.temperature:g})")

    def _top_k(self, argument: str) -> None:
        if argument:
            top_k = int(_number_in(argument, int, 0, 2**31, "top-k is a whole number, 0 for all tokens"))
            self.chat.session.sampling = replace(self.chat.session.sampling, top_k=top_k)
        note(f"(top-k {self.chat.session.sampling.top_k})")


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


def _number_in(text: str, kind: type[int] | type[float], low: float, high: float, rule: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        raise UsageError(f"{text!r}: {rule}") from None
    if not low <= value <= high:
        raise UsageError(f"{text!r}: {rule}")
    return value
