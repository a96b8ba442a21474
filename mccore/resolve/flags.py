"""The command-line flags that set configuration values, generated from the schema so that no name or default exists twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from mccore.config import RunConfig, walk_fields


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


# Where the settings of MegaContext stand in a command's help; what isn't named stands first, under MegaContext.
MEGACONTEXT_SECTIONS: dict[str, tuple[str, ...]] = {
    "Training contexts": (
        "num_random_variants", "start_wc_fraction", "train_wc_length", "wc_length_steps", "min_history", "recent_tokens",
        "expanded_blocks", "expanded_run", "random_share", "policy_share", "search_share", "lod2_probability",
        "position_skip", "baseline_share", "baseline_tokens", "auto_batch",
    ),
    "Losses": (
        "variant_weight", "variants_train_gpt", "gist_target_weight", "key_token_weight",
        "distill_weight", "recon_weight", "recon_blocks",
    ),
    "GistNet": ("gistnet",),
    "LensNet": ("lens",),
    "Search": ("search",),
    "Inference": ("refocus_interval", "wc_length", "gist_dtype", "kv_policy", "surprise"),
}  # fmt: skip
SECTION_ORDER = ("Run", "MegaContext", *MEGACONTEXT_SECTIONS)


def flag_table(allocator: type[BaseModel] | None = None, allocator_name: str = "") -> tuple[Flag, ...]:
    """Every flag of `mccore run` that sets a value: from the schema, and from the options model of an allocator.

    `megacontext.a.b` gives `--mc-a-b`; a field's own `flags` come first. An option whose name is taken has only its
    `--set` path.
    """
    table: list[Flag] = []
    for path, info in walk_fields(RunConfig):
        extra = info.json_schema_extra
        own = [f"--{name}" for name in extra.get("flags", ())] if isinstance(extra, dict) else []
        parts = path.split(".")
        generated = [f"--mc-{'-'.join(parts[1:])}"] if parts[0] == "megacontext" and parts[-1] != "enabled" else []
        if own or generated:
            spelled = dict.fromkeys(name.replace("_", "-") for name in [*own, *generated])
            default = info.get_default(call_default_factory=True)
            table.append(_flag(tuple(spelled), path, _section(parts), info, default))
    taken = {name for flag in table for name in flag.names}
    for option, info in (allocator.model_fields if allocator else {}).items():
        name = f"--allocator-{option.replace('_', '-')}"
        if name not in taken:
            default = info.get_default(call_default_factory=True, validated_data={})
            path = f"megacontext.allocator.options.{option}"
            table.append(_flag((name,), path, f"Allocator {allocator_name}".rstrip(), info, default))
    return tuple(table)


def flag_name(path: str) -> str:
    """What to call the flag of a path in a message."""
    prefix = "megacontext.allocator.options."
    if path.startswith(prefix):
        return f"--allocator-{path.removeprefix(prefix).replace('_', '-')}"
    return next((flag.names[0] for flag in flag_table() if flag.path == path), path)


def _section(parts: list[str]) -> str:
    """The section of a command's help that a setting stands in."""
    if parts[0] != "megacontext":
        return "Run"
    return next((name for name, fields in MEGACONTEXT_SECTIONS.items() if parts[1] in fields), "MegaContext")


def _flag(names: tuple[str, ...], path: str, section: str, info: Any, default: Any) -> Flag:
    return Flag(names, path, section, info.description or "", default, info.annotation, tuple(info.metadata))
