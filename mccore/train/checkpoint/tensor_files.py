"""torch.distributed.checkpoint on safetensors and JSON: its planners decide what to write, nothing is ever pickled.

A directory holds one safetensors file per group, the part of a tensor's name before the first `/` (`model/...` goes to
`model.safetensors`), and `index.json`: name -> {file, dtype, shape}. Only tensors can be stored.

torch.distributed.checkpoint takes as long to import as the rest of torch, so `checkpoint` imports this module when it
writes or resumes; whoever only wants the weights reads the safetensors file itself.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner, WriteItemType
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from mccore.host.files import share_file, sync_directory, sync_file
from mccore.host.json_file import read_object
from mccore.host.regular import regular_descriptor
from mccore.runs.checkpoints import INDEX, group_file


class TensorWriter(StorageWriter):
    """Writes a state of plain tensors into `directory`, synced to disk. One process writes all of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between saves."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        if len(plans) != 1:
            raise ValueError("a checkpoint is written by one process")
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        files: dict[str, dict[str, Tensor]] = {}
        results: list[WriteResult] = []
        for item in plan.items:
            name = item.index.fqn
            if item.type is WriteItemType.BYTE_IO:
                raise TypeError(f"{name} is no tensor; what isn't belongs into meta.json")
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor)
            files.setdefault(group_file(name), {})[name] = tensor.detach().contiguous()
            results.append(WriteResult(item.index, tensor.nbytes, None))
        for file, tensors in files.items():
            save_file(tensors, self.directory / file)
            share_file(self.directory / file)  # the library makes it 0600 whatever the umask
            sync_file(self.directory / file)
        future: Future[list[WriteResult]] = Future()
        future.set_result(results)
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        index = {}
        for name, tensor in metadata.state_dict_metadata.items():
            assert isinstance(tensor, TensorStorageMetadata)
            dtype = str(tensor.properties.dtype).removeprefix("torch.")
            index[name] = {"file": group_file(name), "dtype": dtype, "shape": list(tensor.size)}
        path = self.directory / INDEX
        path.write_text(json.dumps(index, indent=0), encoding="utf-8")
        sync_file(path)
        sync_directory(self.directory)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return Path(checkpoint_id).is_dir()


@contextlib.contextmanager
def open_tensors(path: Path, device: torch.device | str = "cpu") -> Iterator[Any]:
    """A safetensors file, opened by safetensors itself. Raises OSError and SafetensorError.

    It takes no path that isn't UTF-8, and would call a sound file damaged: such a file is opened here and named by descriptor.
    """
    if os.fsencode(path) == str(path).encode("utf-8", "replace"):
        with safe_open(path, framework="pt", device=str(device)) as stored:
            yield stored
        return
    descriptor = regular_descriptor(path)
    try:
        with safe_open(f"/dev/fd/{descriptor}", framework="pt", device=str(device)) as stored:
            yield stored
    finally:
        os.close(descriptor)


class TensorReader(StorageReader):
    """Reads what `TensorWriter` wrote. Raises ValueError, KeyError or safetensors' own error for a damaged directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between loads."""

    def read_index(self) -> dict[str, TensorStorageMetadata]:
        """Name -> dtype and shape of every tensor."""
        index = read_object(self.directory / INDEX)
        return {name: _tensor_metadata(name, entry) for name, entry in index.items()}

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        index = self.read_index()
        places = {MetadataIndex(name, [0] * len(entry.size)): group_file(name) for name, entry in index.items()}
        return Metadata(state_dict_metadata=dict(index), storage_data=places)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to prepare: a tensor's name says its file."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        files: dict[str, list[Any]] = {}
        for item in plan.items:
            files.setdefault(group_file(item.storage_index.fqn), []).append(item)
        for file, items in files.items():
            with open_tensors(self.directory / file) as stored:
                for item in items:
                    name = item.storage_index.fqn
                    if item.lengths:
                        ranges = zip(item.storage_offsets, item.lengths, strict=True)
                        source = stored.get_slice(name)[tuple(slice(at, at + length) for at, length in ranges)]
                    else:
                        source = stored.get_tensor(name)
                    target = planner.resolve_tensor(item).detach()
                    if target.shape != source.shape or target.dtype != source.dtype:
                        raise ValueError(f"{name} is {source.dtype} {tuple(source.shape)} in {file}")
                    target.copy_(source)
                    planner.commit_tensor(item, target)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return Path(checkpoint_id).is_dir()


def _tensor_metadata(name: str, entry: dict[str, Any]) -> TensorStorageMetadata:
    dtype = getattr(torch, str(entry["dtype"]), None)
    shape = entry["shape"]
    counts = isinstance(shape, list) and len(shape) <= 8 and all(type(n) is int and 0 <= n < 2**40 for n in shape)
    if not isinstance(dtype, torch.dtype) or entry["file"] != group_file(name) or not counts:
        raise ValueError(f"{INDEX} is wrong about {name[:80]}")
    size = torch.Size(shape)
    chunk = ChunkStorageMetadata(offsets=torch.Size([0] * len(size)), sizes=size)
    return TensorStorageMetadata(TensorProperties(dtype=dtype), size, [chunk])
