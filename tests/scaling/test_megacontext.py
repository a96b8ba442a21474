"""The arithmetic of mccore.scaling.megacontext against the real modules: lengths, parameters, operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mccore.config import BaseConfig, GistNetConfig, LensConfig, MegaContextConfig, ModelConfig, RunConfig
from mccore.config import TokenizerConfig as Tokenizer
from mccore.data.batches.loader import Batch
from mccore.errors import ConfigError
from mccore.megacontext.networks.networks import MegaContextNets
from mccore.megacontext.training.draw import StepDraw
from mccore.megacontext.training.objective import MegaContextObjective
from mccore.model.gpt import GPT
from mccore.scaling.derive import derive
from mccore.scaling.megacontext import megacontext_flops, megacontext_parameters, variant_lengths
from mccore.scaling.model import flops_per_token
from mccore.scaling.plan import training_flops

ROWS = 2


def derived(model: ModelConfig, **settings: Any) -> RunConfig:
    return derive(
        RunConfig(
            model=model,
            tokenizer=Tokenizer(vocab_size=512),
            base=BaseConfig(tokens=10_000, batch_tokens=ROWS * model.max_seq_len),
            megacontext=MegaContextConfig.model_validate({"enabled": True, "block_size": 8, "horizon": 16} | settings),
        )
    )


def count(module: nn.Module | None) -> int:
    return sum(parameter.numel() for parameter in module.parameters()) if module is not None else 0


@pytest.mark.parametrize("width", [40, 64, 96])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gistnet": GistNetConfig(kind="mean", head="linear"), "positional": "gaussian_alibi", "max_lod": 3},
        {
            "gistnet": GistNetConfig(layers=4, pooling="cls"),
            "lens": LensConfig(layers=4, head="mlp"),
            "span_bias": False,
        },
        {"gistnet": GistNetConfig(layers=1, pooling="query"), "recon_weight": 0.1, "lens": LensConfig(kl_weight=0.1)},
    ],
)
def test_parameters_are_those_of_the_networks(width: int, settings: dict[str, Any]) -> None:
    config = derived(ModelConfig(depth=2, head_dim=8, n_embd=width, max_seq_len=128), **settings)
    with torch.device("meta"):
        nets = MegaContextNets(config.megacontext, config.model)
    found = megacontext_parameters(config)
    assert found.gistnet == count(nets.gistnet)
    assert found.lensnet == count(nets.lensnet)
    assert found.bias == count(nets.bias)
    assert found.decoder == count(nets.decoder)
    assert found.total == sum(parameter.numel() for parameter in nets.parameters() if parameter.requires_grad)


def objective_of(config: RunConfig) -> MegaContextObjective:
    gpt, nets = GPT(config.model, seed=0), MegaContextNets(config.megacontext, config.model)
    return MegaContextObjective(gpt, nets, StepDraw(config.megacontext, config.model.max_seq_len, 0))


@given(
    st.integers(64, 200),
    st.sampled_from([2, 4, 7]),
    st.integers(2, 3),
    st.floats(0.3, 1.0),
    st.integers(0, 40),
    st.integers(1, 5),
    st.integers(0, 4),
)
@settings(max_examples=25, deadline=None)
def test_lengths_are_those_that_are_drawn(
    tokens: int, size: int, max_lod: int, start: float, last: int, steps: int, expanded: int
) -> None:
    model = ModelConfig(depth=1, head_dim=16, n_embd=16, max_seq_len=tokens)
    changes: dict[str, Any] = {
        "block_size": size, "max_lod": max_lod, "horizon": 4, "start_wc_fraction": start, "wc_length_steps": steps,
        "train_wc_length": min(last, int(start * tokens)) or None,
    }  # fmt: skip
    try:
        config = derived(model, **changes, expanded_blocks=expanded)
    except ConfigError:  # no room for them
        config = derived(model, **changes, expanded_blocks=0)
    objective = objective_of(config)
    plans = [objective.draw.plan(0, (part + 0.5) / steps) for part in range(steps)]
    assert list(variant_lengths(config)) == [
        (plan.expanded.shape.length, plan.gist_only.shape.length) for plan in plans
    ]


def operations(config: RunConfig) -> float:
    """Operations of a forward and backward pass per token, counted as they are dispatched."""
    objective, tokens = objective_of(config), config.model.max_seq_len
    row = torch.arange(ROWS * (tokens + 1)).view(ROWS, -1) % 509
    batch = Batch(row[:, :-1].contiguous(), row[:, 1:].contiguous(), float(ROWS * tokens), progress=0.5)
    with FlopCounterMode(display=False) as counter:
        objective(batch).loss.backward()
    return counter.get_total_flops() / (ROWS * tokens)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lens": LensConfig(start=1.0)},
        {"lens": LensConfig(start=0.0, target="both", kl_weight=0.1), "num_random_variants": 4, "recon_weight": 0.1},
        {"distill_weight": 0.1, "key_token_weight": 1.0, "baseline_share": 0.5},
        {
            "gistnet": GistNetConfig(layers=4, pooling="cls"),
            "lens": LensConfig(start=0.0, layers=4, head="mlp", queries=8),
        },
    ],
)
def test_operations_are_those_of_a_step(settings: dict[str, Any]) -> None:
    model = ModelConfig(depth=2, head_dim=32, n_embd=64, max_seq_len=128, value_embeddings=False)
    settings = {"wc_length_steps": 1, "lens": LensConfig(start=0.0), **settings}
    config = derived(model, **settings)
    # Backward passes recompute some of what they need, and kernels pad: the figure is of what is needed.
    assert megacontext_flops(config).total == pytest.approx(operations(config), rel=0.1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"block_size": 128}, "block_size=128 exceeds model.max_seq_len=64"),
        ({"block_size": 32, "horizon": 16}, "leave no block of megacontext.block_size=32"),
        ({"train_wc_length": 60}, "exceeds the 52 entries that training contexts start with"),
        ({"train_wc_length": 33, "start_wc_fraction": 0.5}, "exceeds the 32 entries"),
    ],
)
def test_sizes_that_make_no_context_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        derived(ModelConfig(depth=1, head_dim=16, n_embd=16, max_seq_len=64), **settings)


@pytest.mark.parametrize("changes", [{"num_random_variants": 1}, {"num_random_variants": 4, "lens": {"start": 0.4}}])
def test_flops_of_every_step_add_up_to_those_of_the_stage(changes: dict[str, Any]) -> None:
    config = derived(
        ModelConfig(depth=2, head_dim=16, n_embd=32, max_seq_len=128),
        block_size=4,
        horizon=8,
        expanded_blocks=1,
        **changes,
    )
    steps, tokens = 240, 512
    total = training_flops(config, steps, tokens)
    assert len(total) == steps + 1
    assert total[-1] == pytest.approx(steps * tokens * megacontext_flops(config).total, rel=1e-6)
    first, last = (total[1] + total[2] - 2 * total[0]) / 2, (total[-1] - total[-3]) / 2
    assert first > total[-1] / steps * (1 if changes["num_random_variants"] == 1 else 0.9)  # contexts shrink
    before, after = (total[steps // 4] - total[steps // 4 - 2]) / 2, (total[steps // 4 + 2] - total[steps // 4]) / 2
    assert before != after
    assert last < before
    plain = training_flops(config.model_copy(update={"megacontext": MegaContextConfig()}), 3, 10)
    assert plain == [step * 10 * flops_per_token(config.model) for step in range(4)]


def test_expanded_blocks_that_do_not_fit_are_refused_and_the_hint_helps() -> None:
    model = ModelConfig(depth=1, head_dim=16, n_embd=16, max_seq_len=256)
    sizes: dict[str, Any] = {"block_size": 16, "horizon": 16}
    for expanded in range(1, 9):
        room = derived(model, **sizes, expanded_blocks=expanded).megacontext.train_wc_length  # derived: there is room
        with pytest.raises(ConfigError, match=f"expanded_blocks={expanded} blocks of 16 tokens don't fit") as refused:
            derived(model, **sizes, expanded_blocks=expanded, train_wc_length=45)
        assert f"train_wc_length={room} or more" in str(refused.value.hint) or room == 52
    with pytest.raises(ConfigError, match="don't fit"):
        derived(model, **sizes, expanded_blocks=14)
