"""The one exception family of mccore: what went wrong, which package is to blame, what to do about it.

Raise where the cause is known; `mccore.cli` renders once, at the edge. Everything that isn't an `MccoreError` is a bug of
ours and keeps its traceback.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_LETTERS = 2000  # of a message: what a stranger's file holds may be in it, and mustn't bury what it says


@dataclass(frozen=True)
class Blame:
    """The distribution and module a fault comes from, as a user would report it."""

    distribution: str
    version: str = ""
    module: str = ""

    def __str__(self) -> str:
        version = f" {self.version}" if self.version else ""
        module = f" ({self.module})" if self.module else ""
        return f"{self.distribution}{version}{module}"


def cause(error: BaseException) -> str:
    """Why something failed, in the system's words and without the path, which the message has said already."""
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


class MccoreError(Exception):
    """An error that a user can act on.

    `message` says what and where, `hint` says what to do, `blame` names the package at fault when it isn't mccore itself.
    """

    exit_code = 1

    def __init__(self, message: str, *, blame: Blame | None = None, hint: str | None = None) -> None:
        if len(message) > MOST_LETTERS:
            left_out = len(message) - MOST_LETTERS
            message = f"{message[: MOST_LETTERS * 3 // 4]} [{left_out:,} letters] {message[-MOST_LETTERS // 4 :]}"
        super().__init__(message)
        self.message = message
        self.blame = blame
        self.hint = hint

    def render(self) -> str:
        """The error as a user reads it: `error:`, then `from:` and `hint:` where they are known."""
        lines = [f"error: {self.message}"]
        if self.blame is not None:
            lines.append(f"from: {self.blame}")
        if self.hint is not None:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)


class UsageError(MccoreError):
    """The command line asks for something that doesn't exist or contradicts itself."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration value is unknown, invalid or would have no effect."""


class PluginError(MccoreError):
    """A plugin is missing, broken, ambiguous or doesn't keep its contract."""


class UnknownPlugin(PluginError):
    """No plugin has the name that was asked for."""

    exit_code = 2


class RunError(MccoreError):
    """A run can't start, go on or be read."""


class DataError(MccoreError):
    """A corpus, a conversation file or a tokenizer can't be used."""

    exit_code = 2


class CheckpointError(MccoreError):
    """A checkpoint is missing, damaged or doesn't fit the model."""

    exit_code = 2


class Interrupted(MccoreError):
    """The user stopped the command; what was reached is saved."""

    exit_code = 130
