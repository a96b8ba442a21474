"""What a lookup's say was fitted to be, beside the checkpoint that it was fitted for: `lookup.json`.

The file isn't among the checkpoint's checksums, as it is made when the checkpoint is complete. It names the model that it
belongs to, so that it can't speak for another one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from mccore.config import validate_stored
from mccore.errors import CheckpointError
from mccore.host.files import write_atomic
from mccore.host.json_file import OtherVersion, check_format, read_object
from mccore.megacontext.search.mixing import LookupMixer

NAME = "lookup.json"
VERSION = 1
_FORMAT = "mccore lookup"

Number = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]


class MixerFile(BaseModel):
    """What lookup.json holds. `weights`: each of `LookupMixer`'s tensors, row by row; `fit`: what it was fitted to."""

    model_config = ConfigDict(extra="forbid")

    format: str = _FORMAT
    version: int = VERSION
    model: str
    weights: dict[str, Annotated[list[Number], Field(max_length=4096)]]
    fit: dict[str, Any]


def write_mixer(checkpoint: Path, model: str, mixer: LookupMixer, fit: dict[str, Any]) -> None:
    """Keep a mixer beside the checkpoint of the model with this identity. Raises RunError where it can't be written."""
    weights = {name: tensor.double().flatten().tolist() for name, tensor in mixer.state_dict().items()}
    # A float32 as short as it can be written and read back.
    weights = {name: [float(f"{value:.9g}") for value in values] for name, values in weights.items()}
    content = MixerFile(model=model, weights=weights, fit=fit)
    write_atomic(checkpoint / NAME, json.dumps(content.model_dump(), indent=1) + "\n")


def read_mixer(checkpoint: Path, model: str) -> LookupMixer | None:
    """The mixer of a checkpoint, None where there is none. Raises CheckpointError for one that is damaged or another model's."""
    path = checkpoint / NAME
    again = "delete it and fit another one: mccore eval fit-lookup RUN"
    try:
        stored = validate_stored(MixerFile, check_format(read_object(path), _FORMAT, VERSION))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CheckpointError(f"can't read {path}: {error.strerror}", hint="check its permissions") from error
    except OtherVersion as error:
        raise CheckpointError(f"{path}: {error}", hint="use the version of mccore that wrote it") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}", hint=again) from error
    if stored.model != model:
        raise CheckpointError(f"{path} was fitted for another model than the checkpoint it lies beside", hint=again)
    mixer = LookupMixer()
    wanted = {name: tensor.shape for name, tensor in mixer.state_dict().items()}
    if {name: len(values) for name, values in stored.weights.items()} != {n: s.numel() for n, s in wanted.items()}:
        raise CheckpointError(f"{path} is damaged: it has other numbers than a lookup", hint=again)
    mixer.load_state_dict({name: torch.tensor(stored.weights[name]).view(shape) for name, shape in wanted.items()})
    return mixer.eval().requires_grad_(False)
