"""Write checkpoints: on a background thread, complete or absent, synced to disk."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from safetensors import SafetensorError
from torch import Tensor

from mccore.errors import CheckpointError
from mccore.host.files import RESUME, disk_hint, sync_directory, sync_file
from mccore.runs.checkpoints import META_FILE, SUMS_FILE, Meta, checkpoint_path, file_sha256, is_complete, remove_old
from mccore.train.checkpoint.read import ignore_no_dist_warning


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
        """Copy the state to memory of our own and write it as `step_<meta.step>`. A complete checkpoint that is there stays; a
        directory of that name that isn't one makes room for it."""
        self.join()
        if is_complete(checkpoint_path(self.directory, meta.step)):
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

    from mccore.train.checkpoint.tensor_files import TensorWriter

    began = time.perf_counter()
    path = checkpoint_path(directory, meta.step)
    partial = directory / f".{path.name}.part"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            ignore_no_dist_warning()
            save(dict(state), storage_writer=TensorWriter(partial), no_dist=True)
            (partial / META_FILE).write_text(meta.to_json(), encoding="utf-8")
            sync_file(partial / META_FILE)
            names = sorted(file.name for file in partial.iterdir())
            sums = "".join(f"{file_sha256(partial / name)}  {name}\n" for name in names)
            (partial / SUMS_FILE).write_text(sums, encoding="ascii")
            sync_file(partial / SUMS_FILE)
            sync_directory(partial)
            size = sum(file.stat().st_size for file in partial.iterdir())
            _make_room(path)
            os.rename(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_directory(directory)
    except (OSError, SafetensorError, CheckpointException, RuntimeError) as error:
        cause = _os_error(error)
        if cause is None and isinstance(error, RuntimeError):
            raise  # nothing of the disk's
        reason = cause.strerror if cause else (str(error).strip().splitlines() or [type(error).__name__])[-1]
        hint = disk_hint(cause) if cause else f"free some disk space, then {RESUME}"
        raise CheckpointError(
            f"can't write the checkpoint {path}: {reason}", hint=f"{hint}; earlier checkpoints are intact"
        ) from error
    return Saved(path, meta.step, meta.tokens, size, time.perf_counter() - began)


def _make_room(path: Path) -> None:
    """Move what has a checkpoint's name and isn't one out of the way; `remove_old` deletes it with the next checkpoint."""
    if path.exists() or path.is_symlink():
        doomed = path.with_name(f".{path.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(path, doomed)


def _os_error(error: BaseException) -> OSError | None:
    """The OSError behind an error, where there is one."""
    if isinstance(error, OSError):
        return error
    failures = getattr(error, "failures", {})  # a CheckpointException: rank -> (error, traceback)
    causes = [failure for failure, _ in failures.values()] or [error]
    for cause in causes:
        if isinstance(cause, OSError):
            return cause
        # safetensors and torch write from native code and put the number into their text: "... (os error 28)"
        if (number := re.search(r"\(os error (\d+)\)", str(cause))) is not None:
            return OSError(int(number[1]), os.strerror(int(number[1])))
    return None


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)
