"""Settings of MegaContext that contradict each other or do nothing: refused, each with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from mccore.api import Extension, Options, Recipe
from mccore.config import BaseConfig, MegaContextConfig, ModelConfig, RunConfig
from mccore.errors import ConfigError
from mccore.resolve.effects import without_effect
from mccore.resolve.resolve import resolve
from mccore.scaling.derive import derive

RECIPE = Recipe(
    config=RunConfig(
        model=ModelConfig(depth=2, head_dim=16, n_embd=32, max_seq_len=256),
        base=BaseConfig(tokens=100_000, batch_tokens=1024),
        megacontext=MegaContextConfig(block_size=8, horizon=16),
    )
)


def load(kind: str, name: str) -> Any:
    return RECIPE if kind == "recipe" else Extension(build=lambda *_: None, options=Options)


def resolved(*sets: str) -> RunConfig:
    return resolve("r", sets=[f"megacontext.{text}" for text in sets], flags={"megacontext.enabled": True}, load=load)


def refusal(*sets: str) -> str:
    with pytest.raises(ConfigError) as caught:
        resolved(*sets)
    return caught.value.render()


BOTH = ("lens.target=both", "num_random_variants=4")


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["lens.target=preference"], "num_random_variants=2 has 1: it takes 4 or more"),
        (["lens.target=both", "num_random_variants=3"], "compares the expanded variants of a sequence in pairs"),
        (["random_share=0.7", "policy_share=0.5"], "together they are at most 1"),
        (["recent_tokens=8"], "recent_tokens=8 is less than horizon=16"),
        (["block_size=128", "horizon=200"], "leave no block"),
        (["train_wc_length=220"], "exceeds the 205 entries that training contexts start with"),
    ],
)
def test_contradictions_are_refused(sets: list[str], words: str) -> None:
    assert words in refusal(*sets)


def test_a_contradiction_names_what_was_typed() -> None:
    message = refusal("lens.target=both", "horizon=8")
    assert "it was set by `--set megacontext.lens.target`" in message
    assert "megacontext.horizon" not in message
    message = refusal("random_share=0.7", "policy_share=0.5")
    assert "`--set megacontext.random_share` and `--set megacontext.policy_share`" in message


def test_a_contradiction_is_one_without_enabling_too() -> None:
    with pytest.raises(ValueError, match="at most 1"):
        MegaContextConfig(random_share=0.7, policy_share=0.5)


# Settings asked for, the one of them that does nothing, why, and what else to set so that it does something.
IDLE = [
    *((["lens.target=attention", f"lens.{name}"], "lens.target=attention has no preferences", BOTH) for name in (
        "temperature=2", "adv_norm_beta=0.5", "rank_weight=1", "hard_negative_ratio=0.5", "max_pairs=3",
    )),
    (["lens.rank_margin=1"], "has no preferences", (*BOTH, "lens.rank_weight=1")),
    ([*BOTH, "lens.rank_margin=1"], "lens.rank_weight is 0", ("lens.rank_weight=1",)),
    (["num_random_variants=4", "lens.target=preference", "lens.key_floor=0.5"], "no attention", ("lens.target=both",)),
    (["num_random_variants=4", "lens.target=preference", "lens.question_weight=0.5"], "no attention", ("lens.target=both",)),
    (["lens.budget_smooth_beta=0.5"], "budget_smooth_weight is 0", ("lens.budget_smooth_weight=1",)),
    (["gistnet.kind=mean", "gistnet.layers=4"], "has no layers", ("gistnet.kind=transformer",)),
    (["gistnet.kind=mean", "gistnet.pooling=cls"], "is then mean", ("gistnet.kind=transformer",)),
    (["recon_blocks=2"], "recon_weight is 0", ("recon_weight=0.1",)),
    (["num_random_variants=0", "expanded_blocks=2"], "num_random_variants is 0", ("num_random_variants=1",)),
    (["num_random_variants=0", "distill_weight=1"], "num_random_variants is 0", ("num_random_variants=1",)),
    (["num_random_variants=0", "lens.lr=0.1"], "num_random_variants is 0", ("num_random_variants=1",)),
    (["expanded_blocks=0", "policy_share=0.5"], "expanded_blocks is 0", ("expanded_blocks=1",)),
    (["expanded_blocks=0", "search_share=0.5"], "expanded_blocks is 0", ("expanded_blocks=1",)),
    (["expanded_blocks=0", "expanded_run=2"], "expanded_blocks is 0", ("expanded_blocks=1",)),
    (["lens.loss_weight=0", "policy_share=0.5"], "lens.loss_weight is 0", ("lens.loss_weight=1",)),
    (["lens.loss_weight=0", "lens.kl_weight=0.5"], "lens.loss_weight is 0", ("lens.loss_weight=1",)),
    (["lens.start=1", "lens.lr=0.5"], "lens.start is 1", ("lens.start=0.5",)),
    (["span_bias=false", "positional=gaussian_alibi"], "part of the span bias", ("span_bias=true",)),
    (["wc_length_steps=1", "start_wc_fraction=0.5"], "leaves the last length only", ("wc_length_steps=2",)),
    (["start_wc_fraction=0.25", "train_wc_length=64", "wc_length_steps=3"], "67 entries alike", ("start_wc_fraction=0.9",)),
    (["train_wc_length=30", "expanded_blocks=0"], "make 32 entries at least", ("train_wc_length=60",)),
    (["block_size=32", "lod2_probability=0.5"], "no LOD2 node of 1024 tokens", ("block_size=8",)),
    (["min_history=0.99"], "steps of 7 tokens", ("min_history=0.5",)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sets", "words", "cure"), IDLE, ids=lambda value: None if isinstance(value, str) else "+".join(value)
)
def test_settings_without_effect_are_refused(sets: list[str], words: str, cure: tuple[str, ...]) -> None:
    message = refusal(*sets)
    assert "has no effect" in message
    assert words in message
    assert (
        "set megacontext." in message
        or "leave megacontext." in message
        or "lower megacontext." in message
        or "raise" in message
    )
    resolved(*sets, *cure)


def test_only_what_was_asked_for_is_refused() -> None:
    config = resolved("lens.loss_weight=0")
    assert without_effect(config, "megacontext.lens.temperature") is not None
    assert config.megacontext.lens == RECIPE.config.megacontext.lens.model_copy(update={"loss_weight": 0.0})


def test_nothing_is_idle_in_a_configuration_that_uses_everything() -> None:
    config = resolved(*BOTH, "lens.rank_weight=1", "lens.budget_smooth_weight=1", "recon_weight=1", "min_history=0.5")
    paths = [f"megacontext.{name}" for name in MegaContextConfig.model_fields]
    paths += [f"megacontext.lens.{name}" for name in type(config.megacontext.lens).model_fields]
    paths += [f"megacontext.gistnet.{name}" for name in type(config.megacontext.gistnet).model_fields]
    assert [path for path in paths if without_effect(config, path)] == []
    assert without_effect(derive(RECIPE.config), "megacontext.recon_blocks") is None  # not enabled: others refuse it
    assert without_effect(config, "model.depth") is None


def test_without_megacontext_that_is_all_there_is_to_say() -> None:
    for enabled in ("false", "no"):
        with pytest.raises(ConfigError, match="has no effect without --mc"):
            resolve("r", sets=[f"megacontext.enabled={enabled}", "megacontext.block_size=16"], load=load)
    with pytest.raises(ConfigError, match="has no effect without --mc"):
        resolve("r", sets=["megacontext.lens.target=both"], load=load)
