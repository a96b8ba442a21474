"""What session.json says of a saved session, readable without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from mccore.errors import MccoreError

VERSION = 1
STATE, TREE = "session.json", "tree"
_FORMAT = "mccore session"

Count = Annotated[int, Field(ge=0, lt=2**63)]


class SessionError(MccoreError):
    """A saved session that can't be opened: it is damaged, or another model's."""


class BaseReference(BaseModel):
    """The saved session that a mounted one begins with: where it is, how many of its tokens count, what they are by."""

    model_config = ConfigDict(extra="forbid")

    path: str
    tokens: int
    digest: str


class SessionState(BaseModel):
    """What session.json holds. `cut` are runs (level, entries), `recent` the edits of the last refocuses; `tokens` are those of
    the base, where there is one, and its own."""

    model_config = ConfigDict(extra="forbid")

    format: str = _FORMAT
    version: int = VERSION
    model: str
    block_size: int
    levels: int
    stored: str
    budget: int
    kv_policy: str
    tokens: Count
    covered: Count
    cut: list[tuple[Count, Count]]
    age: list[Annotated[int, Field(ge=0, lt=2**31)]]
    recent: list[tuple[list[tuple[Count, Count]], list[tuple[Count, Count]]]]
    since: Count
    refocuses: Count
    seed: int
    keys: str | None
    keys_sha256: str | None
    base: BaseReference | None = None
    notes: dict[str, JsonValue]


def read_state(directory: Path) -> SessionState:
    """What a saved session's session.json says. Raises SessionError for what isn't a session, or a damaged one."""
    path = directory / STATE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise SessionError(f"{path} isn't the state of a session", hint="choose another directory")
        if content.get("version") != VERSION:
            raise SessionError(
                f"{path} is of format version {content.get('version')}, and this is version {VERSION}",
                hint="use the version of mccore that wrote it",
            )
        return SessionState.model_validate(content)
    except FileNotFoundError:
        raise SessionError(
            f"there is no session in {directory}", hint="`mccore chat --session NAME` begins one"
        ) from None
    except OSError as error:
        raise SessionError(f"can't read {path}: {error.strerror}") from error
    except (ValueError, ValidationError) as error:
        raise SessionError(
            f"{path} is damaged: {str(error).splitlines()[0]}", hint="restore the directory from a copy"
        ) from error
