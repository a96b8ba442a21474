"""A person's lines, one after the other: messages and commands that begin with a slash."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from difflib import get_close_matches

from mccore.errors import MccoreError, UsageError
from mccore.host.terminal import echo, style
from mccore.host.text import open_stdin, stdin_lines, typed

PROMPT = "> "
Command = Callable[[str], None]  # of what stands behind its name


def note(text: str) -> None:
    """Tell a person something beside the answer, on standard error."""
    echo(style(text, dim=True), err=True)


def is_interactive() -> bool:
    """Whether a person types at a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def converse(answer: Callable[[str], None], commands: Callable[[], dict[str, Command]]) -> None:
    """Answer line after line until the input ends or /quit; a line that begins with two slashes is a message with one.

    `commands` gives those there are now. What one of them or an answer refuses is told, and the next line is read.
    """
    for line in _lines():
        try:
            if line.startswith("/") and not line.startswith("//"):
                if not _carry_out(line, commands()):
                    return
            elif line.strip():
                answer(line.removeprefix("/") if line.startswith("//") else line)
        except MccoreError as error:
            note(error.render())


def _carry_out(line: str, commands: dict[str, Command]) -> bool:
    """Carry out a command; False to leave."""
    name, _, argument = line[1:].strip().partition(" ")
    if name in ("quit", "exit", "q"):
        return False
    if name not in commands:
        close = get_close_matches(name, [*commands, "quit"], n=1)
        hint = f"did you mean /{close[0]}?" if close else "/help lists those there are; // begins a message with /"
        raise UsageError(f"there is no command /{name}", hint=hint)
    commands[name](argument.strip())
    return True


def _lines() -> Iterator[str]:
    if not is_interactive():
        yield from stdin_lines()
        return
    open_stdin()
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives `input` editing and history)
    while True:
        try:
            yield typed(input(PROMPT))
        except KeyboardInterrupt:
            note("\n(Ctrl-D or /quit leaves)")
        except EOFError:
            note("")
            return
