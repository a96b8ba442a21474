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

from mccore.errors import CheckpointError

FORMAT = "mccore-checkpoint"

FORMAT_VERSION = 1

INDEX = "index.json"

META_FILE = "meta.json"

SUMS_FILE = "SHA256SUMS"

_NAME = re.compile(r"step_(\d{8,})")


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
    """The complete checkpoints in a stage's directory, oldest first."""
    found = []
    try:
        for path in directory.iterdir():
            if (match := _NAME.fullmatch(path.name)) and (path / SUMS_FILE).is_file():
                found.append((int(match[1]), path))
    except FileNotFoundError:
        pass
    return [path for _, path in sorted(found)]


def latest(directory: Path) -> Path | None:
    """The newest checkpoint in a stage's directory, or None."""
    found = list_checkpoints(directory)
    return found[-1] if found else None


def identity_of(checkpoint: Path, tokenizer: str) -> str:
    """What tells a model and its tokenizer from every other: a digest of the checkpoint's checksums and the tokenizer's."""
    return hashlib.sha256((checkpoint / "SHA256SUMS").read_bytes() + tokenizer.encode()).hexdigest()


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
    """What a checkpoint says of itself. Raises CheckpointError when it is missing, damaged or of another format."""
    sums = read_sums(path)
    verify_files(path, sums, [META_FILE])
    try:
        content = json.loads((path / META_FILE).read_bytes())
        kind, version = content.pop("format"), content.pop("version")
        if kind != FORMAT or version != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format {kind} version {version}, not {FORMAT} version {FORMAT_VERSION}",
                hint="use the version of mccore that wrote it",
            )
        return Meta(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, f"{META_FILE}: {error}") from error


def read_sums(path: Path) -> dict[str, str]:
    try:
        lines = (path / SUMS_FILE).read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        raise CheckpointError(
            f"there is no complete checkpoint at {path}", hint="`mccore runs show` lists those there are"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(path, f"{SUMS_FILE}: {error}") from error
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def verify_files(path: Path, sums: Mapping[str, str], names: list[str]) -> None:
    for name in names:
        try:
            if sums.get(name) != file_sha256(path / name):
                raise damaged(path, f"the checksum of {name} is wrong")
        except OSError as error:
            raise damaged(path, f"{name}: {error.strerror}") from error


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
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
