"""What session.json says of a saved session, readable without torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote_to_bytes

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from mccore.config import validate_stored
from mccore.errors import MccoreError
from mccore.host.json_file import NotOurs, OtherVersion, check_format, read_json
from mccore.host.text import mend

VERSION = 1
STATE, TREE = "session.json", "tree"
_FORMAT = "mccore session"

# What a session of ours can hold at most. Arithmetic on spans stays within 64 bits, loops over levels stay short.
Count = Annotated[int, Field(ge=0, lt=2**56)]
MOST_TOKENS, MOST_BLOCK, MOST_LEVELS, MOST_BUDGET = 2**48, 128, 8, 2**31


class SessionError(MccoreError):
    """A saved session that can't be opened: it is damaged, or another model's."""


class BaseReference(BaseModel):
    """The saved session that a mounted one begins with: where it is, how many of its tokens count, what they are by.

    `path` is a path, or, where its name isn't UTF-8 and JSON has no text for it, a `file:` address; `place` reads both.
    """

    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
    tokens: Count
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @property
    def place(self) -> Path:
        """The directory that `path` names."""
        address = self.path.removeprefix("file://")
        return Path(self.path if address == self.path else os.fsdecode(unquote_to_bytes(address)))

    @staticmethod
    def name_of(directory: Path) -> str:
        """What `path` is for a directory."""
        path = directory.resolve()
        return str(path) if mend(str(path)) == str(path) else path.as_uri()


class SessionState(BaseModel):
    """What session.json holds. `cut` are runs (level, entries), `recent` the edits of the last refocuses; `tokens` are those of
    the base, where there is one, and its own."""

    model_config = ConfigDict(extra="forbid")

    format: str = _FORMAT
    version: int = VERSION
    model: str
    block_size: Annotated[int, Field(ge=2, le=MOST_BLOCK)]
    levels: Annotated[int, Field(ge=1, le=MOST_LEVELS)]
    stored: str
    budget: Annotated[int, Field(ge=1, le=MOST_BUDGET)]
    kv_policy: str
    tokens: Annotated[int, Field(ge=0, le=MOST_TOKENS)]
    covered: Annotated[int, Field(ge=0, le=MOST_TOKENS)]
    cut: list[tuple[Count, Count]]
    age: list[Annotated[int, Field(ge=0, lt=2**31)]]
    recent: list[tuple[list[tuple[Count, Count]], list[tuple[Count, Count]]]]
    since: Count
    refocuses: Count
    seed: int
    keys: Annotated[str, Field(pattern=r"^keys-[0-9a-f]{12}\.safetensors$")] | None
    keys_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    base: BaseReference | None = None
    notes: dict[str, JsonValue]

    @model_validator(mode="after")
    def _fits_together(self) -> SessionState:
        """The cut lies within the levels, covers what it says, and has an age for each entry: all in whole numbers of any size,
        so that nothing is allocated for a cut that can't be."""
        if any(level > self.levels for level, _ in self.cut):
            raise ValueError(f"its cut has an entry above level {self.levels}")
        entries = sum(count for _, count in self.cut)
        if len(self.age) != entries:
            raise ValueError(f"its cut has {entries} entries, and {len(self.age)} ages")
        covered = sum(count * self.block_size**level for level, count in self.cut)
        if covered != self.covered or covered > self.tokens:
            raise ValueError(f"its cut covers {covered} tokens, not {self.covered} of {self.tokens}")
        return self


def read_state(directory: Path) -> SessionState:
    """What a saved session's session.json says. Raises SessionError for what isn't a session, is damaged or newer."""
    path = directory / STATE
    try:
        state = validate_stored(SessionState, check_format(read_json(path), _FORMAT, VERSION))
        json.dumps(
            state.model_dump(), ensure_ascii=False
        ).encode()  # half a surrogate pair could never be written again
        return state
    except (FileNotFoundError, NotADirectoryError):
        raise SessionError(
            f"there is no session in {directory}", hint="`mccore chat --session NAME` begins one"
        ) from None
    except OSError as error:
        raise SessionError(f"can't read {path}: {error.strerror}", hint="check the file and its permissions") from error
    except NotOurs as error:
        raise SessionError(f"{path} isn't the state of a session", hint="choose another directory") from error
    except OtherVersion as error:
        raise SessionError(f"{path}: {error}", hint="use the version of mccore that wrote it") from error
    except ValueError as error:
        raise SessionError(f"{path} is damaged: {error}", hint="restore the directory from a copy") from error
