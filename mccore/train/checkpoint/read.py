"""Read the tensors of a checkpoint, after checking the files they are in."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from mccore.errors import CheckpointError
from mccore.runs.checkpoints import INDEX, Meta, damaged, group_file, read_meta, read_sums, unreadable, verify_files
from mccore.train.checkpoint.tensor_files import open_tensors


def load_model(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], Meta]:
    """The weights of a checkpoint by name, and its meta data. Needs nothing but the directory.

    Raises CheckpointError when it is missing or damaged.
    """
    meta = read_meta(path)
    file = group_file("model")
    verify_files(path, read_sums(path), [file])
    try:
        with open_tensors(path / file, device) as stored:
            return {name.removeprefix("model/"): stored.get_tensor(name) for name in stored.keys()}, meta  # noqa: SIM118
    except OSError as error:
        raise unreadable(path, file, error) from error
    except SafetensorError as error:
        raise damaged(path, f"{file}: {error}") from error


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


def stored_shapes(path: Path, group: str = "model") -> dict[str, tuple[int, ...]]:
    """Shapes of a checkpoint's tensors by name without the group, from the file's own header: nothing is read or allocated.

    Raises CheckpointError when it is missing or damaged.
    """
    file = group_file(group)
    verify_files(path, read_sums(path), [file])
    try:
        with open_tensors(path / file) as stored:
            names = stored.keys()
            return {name.removeprefix(f"{group}/"): tuple(stored.get_slice(name).get_shape()) for name in names}
    except OSError as error:
        raise unreadable(path, file, error) from error
    except SafetensorError as error:
        raise damaged(path, f"{file}: {error}") from error


def _load(path: Path, state: dict[str, Tensor]) -> None:
    """Fill `state` from the files of its groups, after checking them."""
    # Slow to import, see tensor_files.
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    from mccore.train.checkpoint.tensor_files import TensorReader

    files = sorted({group_file(name) for name in state})
    verify_files(path, read_sums(path), [INDEX, *files])
    reader = TensorReader(path)
    try:
        index = reader.read_index()
    except OSError as error:
        raise unreadable(path, INDEX, error) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, f"{INDEX}: {error}") from error
    stored = {name: entry for name, entry in index.items() if group_file(name) in files}
    wrong = sorted(stored.keys() ^ state.keys())
    wrong += sorted(name for name in stored.keys() & state.keys() if stored[name].size != state[name].shape)
    if wrong:
        raise CheckpointError(
            f"{path} doesn't fit the model: {', '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''}",
            hint="use the configuration that the checkpoint was written with",
        )
    try:
        ignore_no_dist_warning()
        load(state, storage_reader=reader, no_dist=True)
    except (OSError, ValueError, SafetensorError, CheckpointException) as error:
        raise damaged(path, str(error).strip().splitlines()[-1]) from error


def ignore_no_dist_warning() -> None:
    # One process saves and loads here on purpose, also within a group.
    warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
