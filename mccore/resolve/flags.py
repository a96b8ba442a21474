"""The command-line flags that set configuration values, generated from the schema so that no name or default exists twice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mccore.config import Described, Positive, RunConfig, walk_settings
from mccore.resolve.notes import DEVICE_BATCH


@dataclass(frozen=True)
class Flag:
    """One command-line flag, generated from the schema. `names` start with the one to show; `annotation` and `metadata`
    are the field's type and bounds."""

    names: tuple[str, ...]
    path: str
    section: str
    description: str
    default: Any
    annotation: Any
    metadata: tuple[Any, ...] = ()
    share: bool = False
    """It also takes a share of the sequence, as text."""


def section_order() -> tuple[str, ...]:
    """The sections of a command's help: everything but MegaContext, MegaContext, then its groups as the schema has them."""
    return tuple(dict.fromkeys(["Run", *(_section(described) for described in walk_settings(RunConfig))]))


def flag_table(allocator: type[BaseModel] | None = None, allocator_name: str = "") -> tuple[Flag, ...]:
    """Every flag of `mccore run` that sets a value: from the schema, and from the options model of an allocator.

    `megacontext.a.b` gives `--mc-a-b`; a field's own `flags` come first. An option whose name is taken has only its
    `--set` path.
    """
    table: list[Flag] = []
    for described in walk_settings(RunConfig):
        path, info = described.path, described.info
        own = [f"--{name}" for name in described.flags]
        parts = path.split(".")
        generated = [f"--mc-{'-'.join(parts[1:])}"] if parts[0] == "megacontext" and parts[-1] != "enabled" else []
        if own or generated:
            spelled = dict.fromkeys(name.replace("_", "-") for name in [*own, *generated])
            default = info.get_default(call_default_factory=True)
            flag = _flag(tuple(spelled), path, _section(described), info, default)
            table.append(replace(flag, share=described.takes_share))
    table.insert(_after_hardware(table), _DEVICE_BATCH)
    taken = {name for flag in table for name in flag.names}
    for option, info in (allocator.model_fields if allocator else {}).items():
        name = f"--allocator-{option.replace('_', '-')}"
        if name not in taken:
            default = info.get_default(call_default_factory=True, validated_data={})
            path = f"megacontext.allocator.options.{option}"
            table.append(_flag((name,), path, f"Allocator {allocator_name}".rstrip(), info, default))
    return tuple(table)


_DEVICE_BATCH = Flag(
    ("--device-batch-size",),
    DEVICE_BATCH,
    "Run",
    "sequences of one forward pass per rank in every stage that trains, at most; the batch of a step stays the same",
    None,
    int,
    tuple(FieldInfo.from_annotation(Positive).metadata),
)
"""One name for `micro_batch_rows` of every stage."""


def _after_hardware(table: list[Flag]) -> int:
    return 1 + max(place for place, flag in enumerate(table) if flag.path.startswith("hardware."))


def switch_names(flags: Iterable[Flag]) -> set[str]:
    """The names of all flags that switch something on."""
    return {name for flag in flags for name in flag.names if flag.annotation is bool}


def flag_name(path: str) -> str:
    """What to call the flag of a path in a message."""
    prefix = "megacontext.allocator.options."
    if path.startswith(prefix):
        return f"--allocator-{path.removeprefix(prefix).replace('_', '-')}"
    return next((flag.names[0] for flag in flag_table() if flag.path == path), path)


def _section(described: Described) -> str:
    """The section of a command's help that a setting stands in."""
    return described.group if described.path.startswith("megacontext.") else "Run"


def _flag(names: tuple[str, ...], path: str, section: str, info: Any, default: Any) -> Flag:
    return Flag(names, path, section, info.description or "", default, info.annotation, tuple(info.metadata))
