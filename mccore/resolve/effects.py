"""Settings of MegaContext that another setting takes the effect from. Asking for one of them is an error, not a silence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from mccore.config import RunConfig
from mccore.scaling.megacontext import shortest_context, variant_lengths

_PREFERENCE = ("temperature", "adv_norm_beta", "rank_weight", "rank_margin", "hard_negative_ratio", "max_pairs")
_LENS_TRAINING = (
    "lr", "start", "target", "queries", "question_weight", "gist_gradient", "key_floor", *_PREFERENCE, "kl_weight",
    "budget_weight", "budget_smooth_weight", "budget_smooth_beta",
)  # fmt: skip
_VARIANTS = (
    "start_wc_fraction", "train_wc_length", "wc_length_steps", "min_history", "expanded_blocks", "expanded_run",
    "random_share", "policy_share", "search_share", "lod2_probability", "position_skip", "variant_weight",
    "variants_train_gpt", "gist_target_weight", "key_token_weight", "distill_weight", "recent_tokens", "lens.loss_weight",
)  # fmt: skip


class Idle(NamedTuple):
    """Why a setting does nothing, and what would make it do something."""

    reason: str
    hint: str


def without_effect(config: RunConfig, path: str) -> Idle | None:
    """Why the setting at `path` of a derived configuration has no effect, or None where it has one."""
    section, _, name = path.partition(".")
    if section != "megacontext" or not config.megacontext.enabled:
        return None
    return next((idle for names, idle in _idle(config) if name in names), None)


def _idle(config: RunConfig) -> Iterator[tuple[tuple[str, ...], Idle]]:
    """Settings without effect, with why; what explains most comes first."""
    mc, lens, tokens = config.megacontext, config.megacontext.lens, config.model.max_seq_len
    lens_training = tuple(f"lens.{name}" for name in _LENS_TRAINING)
    if not mc.num_random_variants:
        reason = "no training contexts are drawn, megacontext.num_random_variants is 0"
        yield (*_VARIANTS, *lens_training), Idle(reason, "set megacontext.num_random_variants=2 or more")
        return
    if mc.num_random_variants == 1:
        reason = "with one variant per sequence LensNet has seen none before it could choose"
        yield ("policy_share",), Idle(reason, "set megacontext.num_random_variants=2 or more")
    if not lens.loss_weight or lens.start == 1:
        which = "lens.start is 1" if lens.loss_weight else "lens.loss_weight is 0"
        hint = "set megacontext.lens.start=0.2" if lens.loss_weight else "set megacontext.lens.loss_weight=1"
        names = tuple(name for name in lens_training if name != "lens.start" or not lens.loss_weight)
        yield (*names, "policy_share"), Idle(f"LensNet isn't trained, megacontext.{which}", hint)
    if lens.target == "attention":
        yield (
            tuple(f"lens.{name}" for name in _PREFERENCE),
            Idle("megacontext.lens.target=attention has no preferences", "set megacontext.lens.target=both"),
        )
    elif not lens.rank_weight:
        yield (
            ("lens.rank_margin",),
            Idle("megacontext.lens.rank_weight is 0", "set megacontext.lens.rank_weight above 0"),
        )
    if lens.target == "preference":
        yield (
            ("lens.key_floor", "lens.question_weight"),
            Idle("megacontext.lens.target=preference learns from no attention", "set megacontext.lens.target=both"),
        )
    if not lens.budget_smooth_weight:
        yield (
            ("lens.budget_smooth_beta",),
            Idle("megacontext.lens.budget_smooth_weight is 0", "set megacontext.lens.budget_smooth_weight above 0"),
        )
    if mc.gistnet.kind == "mean":
        no_layers = "megacontext.gistnet.kind=mean has no layers"
        yield ("gistnet.layers",), Idle(no_layers, "set megacontext.gistnet.kind=transformer")
        if mc.gistnet.pooling == "cls":
            reason = f"{no_layers} through which an extra entry would hear of the children; pooling=cls is then mean"
            yield ("gistnet.pooling",), Idle(reason, "set megacontext.gistnet.pooling=query or mean")
    if not mc.recon_weight:
        yield ("recon_blocks",), Idle("megacontext.recon_weight is 0", "set megacontext.recon_weight above 0")
    if not mc.expanded_blocks:
        reason = "no blocks are expanded, megacontext.expanded_blocks is 0"
        yield ("policy_share", "search_share", "expanded_run"), Idle(reason, "set megacontext.expanded_blocks=2")
    if not mc.span_bias:
        reason = "megacontext.span_bias is off, and it is what gives gists their mass"
        yield ("gist_mass",), Idle(reason, "leave megacontext.span_bias on")
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
