"""One token behind a cache gives what reading it like any other entries gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mccore.config import ModelConfig
from mccore.model import GPT
from mccore.model.attention import attend

SHAPES: list[dict[str, Any]] = [
    {},
    {"smear": True},
    {"smear": True, "n_kv_head": 1},
    {"window_pattern": "SL", "backout": False, "residual_scalars": False, "value_embeddings": False},
]


def model_of(changes: dict[str, Any]) -> GPT:
    config = ModelConfig(vocab_size=300, depth=4, head_dim=16, n_embd=32, max_seq_len=64, **changes)
    gpt = GPT(config, seed=1).eval()
    with torch.no_grad():
        for parameter in gpt.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.1)
    return gpt


def other_attend(*arguments: Any, **named: Any) -> Tensor:
    """The same attention under another name: entries are read the general way."""
    return attend(*arguments, **named)


@pytest.mark.parametrize("changes", SHAPES, ids=str)
@pytest.mark.parametrize("biased", [True, False])
@torch.inference_mode()
def test_one_token_is_read_as_any_entries_are(changes: dict[str, Any], biased: bool) -> None:
    gpt = model_of(changes)
    draw = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 300, (3, 90), generator=draw)
    weights = torch.randn(4, gpt.config.n_head, 2, generator=draw) if biased else None
    key_bias = torch.randn(3, 60, 2, generator=draw) if biased else None
    caches = [gpt.new_cache(3, 90) for _ in range(2)]
    for cache in caches:
        gpt.hidden(ids[:, :60], cache=cache, key_bias=key_bias, key_bias_weights=weights)
    for at in range(60, 90):
        inputs: dict[str, Any] = {"positions": torch.tensor([[at], [at + 0.5], [2**20]]), "key_bias_weights": weights}
        if at % 3:
            inputs["attn_bias"] = torch.randn(3, 1, 1, at + 1, generator=draw)
        if at % 2:
            inputs["smear_mask"] = torch.tensor([[1.0], [0.0], [1.0]])
        fast = gpt.hidden(ids[:, at : at + 1], cache=caches[0], **inputs)
        plain = gpt.hidden(ids[:, at : at + 1], cache=caches[1], attend=other_attend, **inputs)
        assert torch.allclose(fast, plain, atol=2e-5), at
    for one, other in zip(caches[0].tensors().values(), caches[1].tensors().values(), strict=True):
        assert torch.allclose(one, other, atol=2e-5)


@torch.inference_mode()
def test_weights_that_change_are_seen() -> None:
    gpt = model_of({"smear": True})

    def step() -> Tensor:
        cache = gpt.new_cache(1, 9)
        gpt.hidden(torch.tensor([[1, 2, 3]]), cache=cache)
        return gpt.hidden(torch.tensor([[4]]), cache=cache)

    first = step()
    gpt.load_state_dict(model_of({"smear": True, "qk_scale": 1.0}).state_dict(), assign=True)
    torch.nn.init.normal_(gpt.blocks[0].attn.proj.weight)
    second = step()
    assert not torch.allclose(first, second)
    whole = gpt.hidden(torch.tensor([[1, 2, 3, 4]]))[:, -1:]
    assert torch.allclose(second, whole, atol=2e-5)
