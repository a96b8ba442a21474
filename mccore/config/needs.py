"""What other settings of MegaContext must be for a setting to have an effect. Fields name these where they are declared.

A field lists what explains most first: that is what a refusal says.
"""

from __future__ import annotations

from typing import Any, cast

from mccore.config.section import Need


def _need(path: str, reason: str, hint: str, **met: Any) -> Need:
    return cast(Need, {"path": f"megacontext.{path}", "reason": reason, "hint": hint, **met})


def _positive(path: str) -> Need:
    return _need(path, f"megacontext.{path} is 0", f"set megacontext.{path} above 0", above=0)


VARIANTS_DRAWN = _need(
    "num_random_variants",
    "no training contexts are drawn, megacontext.num_random_variants is 0",
    "set megacontext.num_random_variants=2 or more",
    above=0,
)
SEVERAL_VARIANTS = _need(
    "num_random_variants",
    "with one variant per sequence LensNet has seen none before it could choose",
    "set megacontext.num_random_variants=2 or more",
    above=1,
)
LENS_TRAINED = _need(
    "lens.loss_weight",
    "LensNet isn't trained, megacontext.lens.loss_weight is 0",
    "set megacontext.lens.loss_weight=1",
    above=0,
)
LENS_STARTED = _need(
    "lens.start",
    "LensNet isn't trained, megacontext.lens.start is 1",
    "set megacontext.lens.start=0.2",
    below=1,
)
PREFERENCE_TARGET = _need(
    "lens.target",
    "megacontext.lens.target=attention has no preferences",
    "set megacontext.lens.target=both",
    one_of=("preference", "both"),
)
ATTENTION_TARGET = _need(
    "lens.target",
    "megacontext.lens.target=preference learns from no attention",
    "set megacontext.lens.target=both",
    one_of=("attention", "both"),
)
RANK_LOSS = _positive("lens.rank_weight")
SMOOTH_BUDGET = _positive("lens.budget_smooth_weight")
RECONSTRUCTION = _positive("recon_weight")
BLOCKS_EXPANDED = _need(
    "expanded_blocks",
    "no blocks are expanded, megacontext.expanded_blocks is 0",
    "set megacontext.expanded_blocks=2",
    above=0,
)
TRANSFORMER = _need(
    "gistnet.kind",
    "megacontext.gistnet.kind=mean has no layers",
    "set megacontext.gistnet.kind=transformer",
    one_of=("transformer",),
)
SPAN_BIAS_ON = _need(
    "span_bias",
    "megacontext.span_bias is off, and it is what gives gists their mass",
    "leave megacontext.span_bias on",
    one_of=(True,),
)
