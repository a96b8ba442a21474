"""Settings that another setting takes the effect from. Asking for one of them is an error, not a silence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from mccore.config import Need, RunConfig, walk_settings
from mccore.scaling.megacontext import shortest_context, variant_lengths


class Idle(NamedTuple):
    """Why a setting does nothing, and what would make it do something."""

    reason: str
    hint: str


def without_effect(config: RunConfig, path: str) -> Idle | None:
    """Why the setting at `path` of a derived configuration has no effect, or None where it has one."""
    if path.startswith("megacontext.") and not config.megacontext.enabled:
        return None
    for need in _NEEDS.get(path, ()):
        if not _is_met(need, _value_at(config, need["path"])):
            return Idle(need["reason"], need["hint"])
    if not path.startswith("megacontext.") or not config.megacontext.num_random_variants:
        return None  # no shapes to compare
    name = path.removeprefix("megacontext.")
    return next((idle for names, idle in _idle(config) if name in names), None)


_NEEDS = {described.path: described.needs for described in walk_settings(RunConfig) if described.needs}


def _value_at(config: RunConfig, path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _is_met(need: Need, value: Any) -> bool:
    if "one_of" in need:
        return value in need["one_of"]
    return bool(need.get("above", -math.inf) < value < need.get("below", math.inf))


def _idle(config: RunConfig) -> Iterator[tuple[tuple[str, ...], Idle]]:
    """Settings without effect for a reason that takes more than one other setting to see."""
    mc, tokens = config.megacontext, config.model.max_seq_len
    if mc.gistnet.kind == "mean" and mc.gistnet.pooling == "cls":
        reason = "megacontext.gistnet.kind=mean has no layers through which an extra entry would see the children"
        hint = "set megacontext.gistnet.pooling=query or mean"
        yield ("gistnet.pooling",), Idle(f"{reason}; pooling=cls is then mean", hint)
    if mc.positional == "gaussian_alibi" and not mc.span_bias:
        reason = "the penalty of positional=gaussian_alibi is part of the span bias, and megacontext.span_bias is off"
        yield ("positional", "span_bias"), Idle(reason, "leave megacontext.span_bias on, or take positional=gaussian")
    yield from _idle_shapes(config, tokens)


def _idle_shapes(config: RunConfig, tokens: int) -> Iterator[tuple[tuple[str, ...], Idle]]:
    """Settings that the sizes of sequence, block and recent tokens leave nothing to decide."""
    mc = config.megacontext
    least = shortest_context(config, tokens)
    if mc.train_wc_length < least:
        reason = f"{tokens} tokens in blocks of {mc.block_size} with {mc.recent_tokens} recent ones make {least} entries at least"
        yield ("train_wc_length",), Idle(reason, f"set megacontext.train_wc_length={least} or more")
    lengths = variant_lengths(config)
    if mc.wc_length_steps == 1:
        reason = "megacontext.wc_length_steps=1 leaves the last length only"
        yield ("start_wc_fraction",), Idle(reason, "set megacontext.wc_length_steps=4")
    elif lengths[0] == lengths[-1]:
        reason = f"the first and the last training context have {lengths[0].expanded} entries alike"
        yield ("wc_length_steps",), Idle(reason, "raise megacontext.start_wc_fraction, or lower train_wc_length")
    if (tokens - mc.recent_tokens) // mc.block_size**2 == 0:
        reason = f"no LOD2 node of {mc.block_size**2} tokens fits before the recent tokens of a sequence of {tokens}"
        yield ("lod2_probability",), Idle(reason, "lower megacontext.block_size, or raise model.max_seq_len")
    if mc.min_history < 1 and tokens - math.ceil(tokens * mc.min_history) < mc.block_size - 1:
        reason = (
            f"training contexts end at steps of {mc.block_size - 1} tokens, and behind {mc.min_history:g} of {tokens} tokens "
            "there is one"
        )
        yield ("min_history",), Idle(reason, "lower megacontext.min_history")
