"""Command lines as people of the prototype have them in their notes: a switch followed by 0 or 1, a length as a share of the
sequence, one batch for all stages."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from mccore.config import RunConfig, walk_settings
from mccore.errors import ConfigError
from mccore.resolve.draft import Leaf, parse_value

DEVICE_BATCH = "device_batch_size"
"""What `--device-batch-size` is called among flags: sequences of a forward pass in every stage that trains."""

SHARES = frozenset(described.path for described in walk_settings(RunConfig) if described.takes_share)
"""Lengths that may also be given as a share of `model.max_seq_len`: `0.2` or `20%`."""


def without_shares(asked: Sequence[Leaf], length: Any) -> list[Leaf]:
    """`asked` with every share of a sequence of `length` tokens as a number of tokens, rounded up. Raises ConfigError for a
    share that is none."""
    return [_counted(leaf, length) if leaf.path in SHARES else leaf for leaf in asked]


def _counted(leaf: Leaf, length: Any) -> Leaf:
    value = parse_value(replace(leaf.setting, text=True), None) if isinstance(leaf.setting.value, str) else None
    value = leaf.setting.value if value is None else value
    share: float | None = None
    if isinstance(value, str) and value.rstrip().endswith("%"):
        try:
            share = float(value.rstrip().removesuffix("%")) / 100
        except ValueError:
            share = math.nan
    elif isinstance(value, float):
        share = value
    if share is None or not isinstance(length, int):  # a length that is none is told when all is validated
        return replace(leaf, setting=replace(leaf.setting, value=value, text=False))
    if not 0 < share <= 1:
        raise ConfigError(
            f"`{leaf.setting.origin}`: {value} is no share of a sequence",
            hint="give entries as a whole number, or a share such as 0.2 or 20%",
        )
    # A share in percent is rarely a sum of powers of two: what it misses by is no entry.
    return replace(leaf, setting=replace(leaf.setting, value=math.ceil(share * length - 1e-9), text=False))


_ON, _OFF = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def plain_switches(args: Sequence[str], switches: Collection[str]) -> list[str]:
    """`args` with every switch that has a value as the bare switch: `--mc_auto_batch 0` and `--mc-auto-batch=0` become
    `--no-mc-auto-batch`.

    switches: their names with dashes, as `--mc-auto-batch`. Behind `--` nothing is read. A word that is no truth value stays:
    it is somebody's argument.

    >>> plain_switches(["tiny", "--mc_enabled=1", "--mc_auto_batch", "0"], {"--mc-enabled", "--mc-auto-batch"})
    ['tiny', '--mc-enabled', '--no-mc-auto-batch']
    """
    found: list[str] = []
    rest = list(args)
    while rest:
        token = rest.pop(0)
        if token == "--":
            return [*found, token, *rest]
        name, equals, value = token.partition("=")
        dashes = name.replace("_", "-")
        if dashes not in switches:
            found.append(token)
            continue
        if not equals and rest and rest[0] in ("0", "1"):  # words such as `on` may be a recipe's name
            value, equals = rest.pop(0), "="
        if not equals or value.lower() in _ON:
            found.append(dashes)
        elif value.lower() in _OFF:
            found.append(f"--no-{dashes.removeprefix('--')}")
        else:
            found.append(token)  # refused by its parser, which says what it takes
    return found
