"""Checkpoints: complete or absent, checked when read, free of anything that could run code.

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
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mccore.errors import CheckpointError
from mccore.files import disk_hint, sync_directory

FORMAT = "mccore-checkpoint"
FORMAT_VERSION = 1
INDEX = "index.json"
_META = "meta.json"
_SUMS = "SHA256SUMS"
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


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is complete on disk."""

    path: Path
    step: int
    tokens: int
    bytes: int
    seconds: float  # to write it, in the background


class CheckpointWriter:
    """Writes a stage's checkpoints on a background thread, one at a time, and keeps the last few.

    `save` returns when the state is copied; `join` waits for the disk. Both raise the CheckpointError of the write before.
    `on_saved` hears of every complete checkpoint, on the writing thread.
    """

    def __init__(self, directory: Path, *, keep_last: int, on_saved: Callable[[Saved], None] | None = None) -> None:
        self.directory = directory
        self.keep_last = keep_last
        self._on_saved = on_saved
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, model: Mapping[str, Tensor], optim: Mapping[str, Tensor], meta: Meta) -> None:
        """Copy the state to memory of our own and write it as `step_<meta.step>`. A checkpoint that is there stays."""
        self.join()
        if checkpoint_path(self.directory, meta.step).exists():
            return
        state = {f"model/{name}": _copy(tensor) for name, tensor in model.items()}
        state |= {f"optim/{name}": _copy(tensor) for name, tensor in optim.items()}
        self._thread = threading.Thread(target=self._write, args=(state, meta), name="checkpoint")
        self._thread.start()

    def join(self) -> None:
        """Wait until the last checkpoint is on disk."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.join()
        elif self._thread is not None:  # what ends the stage matters more than a checkpoint that failed as well
            self._thread.join()

    def _write(self, state: dict[str, Tensor], meta: Meta) -> None:
        try:
            saved = write_checkpoint(self.directory, state, meta)
            remove_old(self.directory, self.keep_last)
            if self._on_saved is not None:
                self._on_saved(saved)
        except BaseException as error:  # raised in the training thread by `join`
            self._error = error


def write_checkpoint(directory: Path, state: Mapping[str, Tensor], meta: Meta) -> Saved:
    """Write `state` (`model/...`, `optim/...`) and `meta` as a checkpoint in `directory`.

    Raises CheckpointError when the disk doesn't take it; earlier checkpoints are untouched and nothing is left behind.
    """
    # Slow to import, see tensor_files.
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_saver import save

    from mccore.train.tensor_files import TensorWriter

    began = time.perf_counter()
    path = checkpoint_path(directory, meta.step)
    partial = directory / f".{path.name}.part"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            _ignore_no_dist_warning()
            save(dict(state), storage_writer=TensorWriter(partial), no_dist=True)
            (partial / _META).write_text(meta.to_json(), encoding="utf-8")
            sync_file(partial / _META)
            names = sorted(file.name for file in partial.iterdir())
            sums = "".join(f"{_sha256(partial / name)}  {name}\n" for name in names)
            (partial / _SUMS).write_text(sums, encoding="ascii")
            sync_file(partial / _SUMS)
            sync_directory(partial)
            size = sum(file.stat().st_size for file in partial.iterdir())
            os.rename(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_directory(directory)
    except (OSError, SafetensorError, CheckpointException) as error:
        cause = _os_error(error)
        reason = cause.strerror if cause else str(error)
        hint = disk_hint(cause) if cause else "free some disk space, then go on with `mccore run --resume`"
        raise CheckpointError(
            f"can't write the checkpoint {path}: {reason}", hint=f"{hint}; earlier checkpoints are intact"
        ) from error
    return Saved(path, meta.step, meta.tokens, size, time.perf_counter() - began)


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
            if (match := _NAME.fullmatch(path.name)) and (path / _SUMS).is_file():
                found.append((int(match[1]), path))
    except FileNotFoundError:
        pass
    return [path for _, path in sorted(found)]


def latest(directory: Path) -> Path | None:
    """The newest checkpoint in a stage's directory, or None."""
    found = list_checkpoints(directory)
    return found[-1] if found else None


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
    sums = _read_sums(path)
    _verify(path, sums, [_META])
    try:
        content = json.loads((path / _META).read_bytes())
        kind, version = content.pop("format"), content.pop("version")
        if kind != FORMAT or version != FORMAT_VERSION:
            raise CheckpointError(
                f"{path} has format {kind} version {version}, not {FORMAT} version {FORMAT_VERSION}",
                hint="use the version of mccore that wrote it",
            )
        return Meta(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"{_META}: {error}") from error


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], Meta]:
    """The weights of a checkpoint by name, and its meta data. Needs nothing but the directory.

    Raises CheckpointError when it is missing or damaged.
    """
    meta = read_meta(path)
    file = group_file("model")
    _verify(path, _read_sums(path), [file])
    try:
        with safe_open(path / file, framework="pt", device=str(device)) as stored:
            return {name.removeprefix("model/"): stored.get_tensor(name) for name in stored.keys()}, meta  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _damaged(path, f"{file}: {error}") from error


def load_into(path: Path, model: Mapping[str, Tensor], optim: Mapping[str, Tensor] | None = None) -> Meta:
    """Copy a checkpoint's weights, and optimizer state where given, into these tensors; returns its meta data.

    Raises CheckpointError, before anything is changed, when it is damaged or its tensors are others.
    """
    meta = read_meta(path)
    state = {f"model/{name}": tensor.detach() for name, tensor in model.items()}
    if optim is not None:
        state |= {f"optim/{name}": tensor.detach() for name, tensor in optim.items()}
    _load(path, state)
    return meta


def _load(path: Path, state: dict[str, Tensor]) -> None:
    """Fill `state` from the files of its groups, after checking them."""
    # Slow to import, see tensor_files.
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    from mccore.train.tensor_files import TensorReader

    files = sorted({group_file(name) for name in state})
    _verify(path, _read_sums(path), [INDEX, *files])
    reader = TensorReader(path)
    try:
        index = reader.read_index()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"{INDEX}: {error}") from error
    stored = {name: entry for name, entry in index.items() if group_file(name) in files}
    wrong = sorted(stored.keys() ^ state.keys())
    wrong += sorted(name for name in stored.keys() & state.keys() if stored[name].size != state[name].shape)
    if wrong:
        raise CheckpointError(
            f"{path} doesn't fit the model: {', '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''}",
            hint="use the configuration that the checkpoint was written with",
        )
    try:
        _ignore_no_dist_warning()
        load(state, storage_reader=reader, no_dist=True)
    except (OSError, ValueError, SafetensorError, CheckpointException) as error:
        raise _damaged(path, str(error).strip().splitlines()[-1]) from error


def _read_sums(path: Path) -> dict[str, str]:
    try:
        lines = (path / _SUMS).read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        raise CheckpointError(
            f"there is no complete checkpoint at {path}", hint="`mccore runs show` lists those there are"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, f"{_SUMS}: {error}") from error
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _verify(path: Path, sums: Mapping[str, str], names: list[str]) -> None:
    for name in names:
        try:
            if sums.get(name) != _sha256(path / name):
                raise _damaged(path, f"the checksum of {name} is wrong")
        except OSError as error:
            raise _damaged(path, f"{name}: {error.strerror}") from error


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {path} is damaged: {what}", hint="delete it to go on from the one before, or copy it again"
    )


def _os_error(error: BaseException) -> OSError | None:
    """The OSError behind an error, where there is one."""
    if isinstance(error, OSError):
        return error
    failures = getattr(error, "failures", {})  # a CheckpointException: rank -> (error, traceback)
    return next((failure for failure, _ in failures.values() if isinstance(failure, OSError)), None)


def _versions() -> dict[str, str]:
    return {"mccore": metadata.version("mccore"), "torch": torch.__version__, "python": platform.python_version()}


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ignore_no_dist_warning() -> None:
    # One process saves and loads here on purpose, also within a group.
    warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)


def sync_file(path: Path) -> None:
    """Make a file's content survive a power cut."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
