"""The layout of checkpoints: where they are, which are complete, what each says of itself.

    checkpoints/<stage>/step_00001234/
        meta.json           format, stage, step, tokens, loader position, configuration, versions, tokenizer (JSON)
        index.json          the tensors' names, files, dtypes and shapes
        model.safetensors   weights, named as in the trained module (`gpt.` and so on)
        optim.safetensors   optimizer state
        SHA256SUMS          checksums of the files above; `sha256sum -c` reads it

A checkpoint is written to a directory beside its final place, synced and renamed. All ranks hold the same state, so rank 0
writes and any number of ranks can read. Randomness in training is keyed by (seed, step, rank), so there is no generator
state to save.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from mccore.config import validate_stored
from mccore.errors import CheckpointError
from mccore.host.json_file import OtherVersion, check_format, read_object, read_regular
from mccore.host.regular import regular_descriptor

FORMAT = "mccore-checkpoint"

FORMAT_VERSION = 1

INDEX = "index.json"

META_FILE = "meta.json"

SUMS_FILE = "SHA256SUMS"

_NAME = re.compile(r"step_(\d{8,18})", re.ASCII)
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,80}")
_REQUIRED = {META_FILE, INDEX, "model.safetensors"}
_READABLE = "check its permissions: whoever uses a run must be able to read it"


@dataclass(frozen=True)
class Meta:
    """Everything of a checkpoint that isn't a tensor. `config` is the whole run.json; `state` what the loop goes on with."""

    stage: str
    step: int
    tokens: int
    config: dict[str, Any]
    tokenizer: str  # fingerprint
    state: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: _versions())

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, "version": FORMAT_VERSION, **asdict(self)}, indent=1) + "\n"


def checkpoint_path(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step is, below a stage's directory."""
    return directory / f"step_{step:08d}"


def group_file(name: str) -> str:
    """The file that holds the tensor `name`: its group is what comes before the first `/`."""
    return f"{name.partition('/')[0]}.safetensors"


def list_checkpoints(directory: Path) -> list[Path]:
    """The complete checkpoints in a stage's directory, oldest first. This is the one reader of the layout: a copy under
    another name, a link that leads nowhere and a directory with files missing aren't checkpoints."""
    found = []
    try:
        for path in directory.iterdir():
            if (match := _NAME.fullmatch(path.name)) and is_complete(path):
                found.append((int(match[1]), path))
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise CheckpointError(f"can't read {directory}: {error.strerror}", hint=_READABLE) from error
    return [path for _, path in sorted(found)]


def is_complete(path: Path) -> bool:
    """Whether a checkpoint names its files and all of them are there. What is in them is checked when they are read."""
    return not missing_parts(path)


def missing_parts(path: Path) -> str:
    """Why a checkpoint isn't complete, in a few words; empty for one that is."""
    try:
        names = read_sums(path)
    except UnreadableCheckpoint:
        return ""  # complete for all that is known
    except CheckpointError as error:
        if not (path / SUMS_FILE).exists():
            return f"{SUMS_FILE} is missing: writing or copying it was cut off"
        return error.message
    lacking = sorted(name for name in names.keys() | _REQUIRED if name not in names or not (path / name).is_file())
    return f"{', '.join(lacking)} is missing" if lacking else ""


def incomplete_checkpoints(directory: Path) -> list[Path]:
    """Directories that are named as checkpoints and aren't complete, oldest first."""
    try:
        named = [path for path in directory.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    except OSError:
        return []
    return sorted(path for path in named if not is_complete(path))


def step_of(path: Path) -> int:
    """The step of a checkpoint by its directory's name."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path} isn't named as a checkpoint is", hint="a checkpoint's name is step_00001234")
    return int(match[1])


def latest(directory: Path) -> Path | None:
    """The newest checkpoint in a stage's directory, or None."""
    found = list_checkpoints(directory)
    return found[-1] if found else None


def identity_of(checkpoint: Path, tokenizer: str) -> str:
    """What tells a model and its tokenizer from every other: a digest of the checkpoint's checksums and the tokenizer's."""
    try:
        sums = read_regular(checkpoint / SUMS_FILE, max_bytes=2**20)
    except OSError as error:
        raise unreadable(checkpoint, SUMS_FILE, error) from error
    return hashlib.sha256(sums + tokenizer.encode("utf-8", "surrogatepass")).hexdigest()


def remove_old(directory: Path, keep_last: int) -> None:
    """Remove all but the newest checkpoints, and what a crash left of unfinished ones."""
    for path in list_checkpoints(directory)[:-keep_last]:
        # Renamed first: a removal that is cut short must not look like a damaged checkpoint.
        doomed = path.with_name(f".{path.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(path, doomed)
    for leftover in [*directory.glob(".step_*.old"), *directory.glob(".step_*.part")]:
        shutil.rmtree(leftover, ignore_errors=True)


def read_meta(path: Path) -> Meta:
    """What a checkpoint says of itself. Raises CheckpointError when it is missing, damaged, newer or can't be read."""
    verify_files(path, read_sums(path), [META_FILE])
    try:
        content = check_format(read_object(path / META_FILE), FORMAT, FORMAT_VERSION)
        del content["format"], content["version"]
        return Meta(**validate_stored(_Fields, content).model_dump())
    except OtherVersion as error:
        raise CheckpointError(f"{path}: {error}", hint="use the version of mccore that wrote it") from error
    except OSError as error:
        raise unreadable(path, META_FILE, error) from error
    except ValueError as error:
        raise damaged(path, f"{META_FILE}: {error}") from error


class _Fields(BaseModel):
    """What meta.json holds beside format and version."""

    model_config = ConfigDict(extra="forbid", strict=True)

    stage: str
    step: int = Field(ge=0, lt=2**63)
    tokens: int = Field(ge=0, lt=2**63)
    config: dict[str, Any]
    tokenizer: str
    state: dict[str, Any] = {}
    versions: dict[str, str]


def read_sums(path: Path) -> dict[str, str]:
    """File -> SHA-256 of a checkpoint. Raises CheckpointError for one that isn't complete, is damaged or can't be read."""
    try:
        lines = read_regular(path / SUMS_FILE, max_bytes=2**20).decode("ascii").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"there is no complete checkpoint at {path}", hint="`mccore runs show` lists those there are"
        ) from None
    except OSError as error:
        raise unreadable(path, SUMS_FILE, error) from error
    except ValueError as error:
        raise damaged(path, f"{SUMS_FILE}: {error}") from error
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if wrong := [name for name in sums if not _FILE.fullmatch(name)]:
        raise damaged(path, f"{SUMS_FILE} names {wrong[0][:80]!r}")
    return sums


def verify_files(path: Path, sums: Mapping[str, str], names: list[str]) -> None:
    """Raise CheckpointError unless these files are what was written."""
    for name in names:
        try:
            if sums.get(name) != file_sha256(path / name):
                raise damaged(path, f"the checksum of {name} is wrong")
        except FileNotFoundError:
            raise damaged(path, f"{name} is missing") from None
        except OSError as error:
            raise unreadable(path, name, error) from error


class UnreadableCheckpoint(CheckpointError):
    """The system doesn't give a checkpoint's file out; nothing is known of what is in it."""


def unreadable(path: Path, name: str, error: OSError) -> UnreadableCheckpoint:
    """The error for a file that the system refuses, whose content nothing can be said of."""
    return UnreadableCheckpoint(f"can't read {path / name}: {error.strerror}", hint=_READABLE)


def damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {path} is damaged: {what}", hint="delete it to go on from the one before, or copy it again"
    )


def _versions() -> dict[str, str]:
    return {
        "mccore": metadata.version("mccore"),
        "torch": metadata.version("torch"),
        "python": platform.python_version(),
    }


def file_sha256(path: Path) -> str:
    """The SHA-256 of a regular file. Raises OSError, also for anything else."""
    with os.fdopen(regular_descriptor(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
