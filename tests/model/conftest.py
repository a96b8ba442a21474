"""Small models whose every path carries signal: projections and gates, zero at the start of training, are made random."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mccore.config import ModelConfig
from mccore.model import GPT

# Each variant switches one part of the architecture; "all" combines them.
VARIANTS: dict[str, dict[str, object]] = {
    "plain": {"value_embeddings": False, "residual_scalars": False, "backout": False, "logit_softcap": 0.0},
    "default": {},
    "gqa": {"n_kv_head": 1},
    "windows": {"window_pattern": "SL", "window_short": 5},
    "smear": {"smear": True, "smear_init": 0.7},
    "one_layer": {"depth": 1},
    "all": {"n_kv_head": 2, "window_pattern": "SSL", "window_short": 7, "smear": True, "smear_init": 0.5},
}


def small_config(**changes: object) -> ModelConfig:
    settings: dict[str, object] = {
        "depth": 3,
        "n_embd": 32,
        "head_dim": 8,
        "vocab_size": 128,
        "vocab_ids": 101,
        "max_seq_len": 24,
        "value_gate_channels": 6,
        "smear_gate_channels": 10,
    }
    return ModelConfig.model_validate(settings | changes)


def stirred(config: ModelConfig, seed: int = 0) -> GPT:
    model = GPT(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("proj.weight"):
                parameter.normal_(0.0, 0.2, generator=generator)
            elif "gate" in name or name == "head.weight":
                parameter.normal_(0.0, 0.5, generator=generator)
    return model


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest) -> GPT:
    return stirred(small_config(**VARIANTS[request.param]))


@pytest.fixture
def make_model() -> Callable[..., GPT]:
    """`make_model(**changes of the small configuration)`."""
    return lambda seed=0, **changes: stirred(small_config(**changes), seed)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 101, (2, 24), generator=torch.Generator().manual_seed(1))
