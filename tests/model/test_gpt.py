"""What must hold for every variant of the architecture: same logits by every path, no look ahead, reproducible starts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mccore.errors import ConfigError
from mccore.model import GPT, build_optimizer, schedule
from mccore.model.attention import attend_reference
from mccore.model.rotary import Rotary
from mccore.scaling.model import count_parameters, flops_per_token, layer_windows
from mccore.scaling.plan import memory_estimate
from tests.model.conftest import VARIANTS, small_config
from tests.model.optim.test_optimizer import run_config


def test_embedding_path_is_bit_identical(model: GPT, tokens: Tensor) -> None:
    given = model(embeddings=model.embed(tokens), value_embeddings=model.embed_values(tokens))
    assert torch.equal(given, model(tokens))
    explicit = model(tokens, positions=torch.arange(24.0).expand(2, 24))
    assert torch.equal(explicit, model(tokens))
    assert torch.equal(model(tokens, rotary=model.rotary(torch.arange(24))), model(tokens))


def test_fused_attention_equals_reference(model: GPT, tokens: Tensor) -> None:
    fused = model(tokens)
    model.attend = attend_reference
    torch.testing.assert_close(fused, model(tokens), atol=2e-4, rtol=1e-4)


def test_no_logit_depends_on_a_later_token(model: GPT, tokens: Tensor) -> None:
    before = model(tokens)
    for p in (1, 11, 23):
        changed = tokens.clone()
        changed[:, p] = (changed[:, p] + 1) % 101
        after = model(changed)
        assert torch.equal(after[:, :p], before[:, :p])
        assert not torch.equal(after[:, p], before[:, p])


def test_windows_limit_what_a_layer_sees(make_model, tokens) -> None:  # type: ignore[no-untyped-def]
    # Layer 0 sees 5 entries, so with the other layers silenced entry p depends on p - 4 .. p and on nothing older.
    model = make_model(depth=2, window_pattern="SL", window_short=5, backout=False)
    with torch.no_grad():
        model.blocks[1].attn.proj.weight.zero_()
    before = model(tokens)
    changed = tokens.clone()
    changed[:, 6] = (changed[:, 6] + 1) % 101
    moved = (model(changed) != before).any(-1).any(0)
    assert moved.nonzero().flatten().tolist() == [6, 7, 8, 9, 10]
    assert layer_windows(small_config(depth=4, window_pattern="SSSL", window_short=5)) == (5, 5, 5, 0)
    assert layer_windows(small_config(depth=5, window_pattern="S", window_short=5)) == (5, 5, 5, 5, 0)


def test_rows_do_not_mix(model: GPT, tokens: Tensor) -> None:
    torch.testing.assert_close(model(tokens)[1:], model(tokens[1:]), atol=1e-4, rtol=1e-4)


def test_attention_bias_hides_and_key_bias_equals_it(model: GPT, tokens: Tensor) -> None:
    bias, weights = torch.randn(2, 24, 2), torch.randn(model.config.depth, model.config.n_head, 2)
    got = model(tokens, key_bias=bias, key_bias_weights=weights)
    assert not torch.allclose(got, model(tokens), atol=1e-3)
    same = weights[:1].expand_as(weights)
    dense = torch.einsum("hr,bkr->bhk", weights[0], bias).unsqueeze(2)
    torch.testing.assert_close(
        model(tokens, key_bias=bias, key_bias_weights=same), model(tokens, attn_bias=dense), atol=2e-4, rtol=1e-4
    )
    hidden = torch.zeros(1, 1, 24, 24)
    hidden[..., 10:, 3] = float("-inf")
    changed = tokens.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 101
    if not model.config.smear and model.config.depth == 1:  # else other entries pass it on
        assert torch.equal(model(tokens, attn_bias=hidden)[:, 10:], model(changed, attn_bias=hidden)[:, 10:])
    assert not torch.allclose(model(tokens, attn_bias=hidden)[:, 10:], model(tokens)[:, 10:], atol=1e-4)


def test_positions_matter_only_relative_to_each_other(model: GPT, tokens: Tensor) -> None:
    shifted = model(tokens, positions=torch.arange(24) + 500_000)
    torch.testing.assert_close(shifted, model(tokens), atol=1e-3, rtol=1e-3)
    stretched = model(tokens, positions=torch.arange(24) * 2.5)
    assert not torch.allclose(stretched, model(tokens), atol=1e-2)


def test_damped_angles_flatten_scores(make_model, tokens) -> None:  # type: ignore[no-untyped-def]
    model = make_model(depth=1)
    cos, sin = model.rotary(torch.arange(24))
    damping = torch.ones_like(cos)
    damping[:, 5] = 0.0
    damped = model(tokens, rotary=Rotary(cos * damping, sin * damping))
    assert torch.equal(damped[:, :5], model(tokens)[:, :5])
    assert not torch.allclose(damped[:, 5:], model(tokens)[:, 5:], atol=1e-3)


def test_negative_tokens_have_zero_value_embeddings(make_model, tokens) -> None:  # type: ignore[no-untyped-def]
    model = make_model()
    marked = tokens.clone()
    marked[:, 7] = -1
    values = model.embed_values(marked)
    assert values.shape == (2, 2, 24, 32)
    assert not values[:, :, 7].any()
    assert torch.equal(values[:, :, 8:], model.embed_values(tokens)[:, :, 8:])
    without = model(embeddings=model.embed(tokens))
    zeros = model(embeddings=model.embed(tokens), value_embeddings=torch.zeros_like(values))
    torch.testing.assert_close(without, zeros)


def test_smear_mask_cuts_the_share(make_model, tokens) -> None:  # type: ignore[no-untyped-def]
    model = make_model(depth=1, smear=True, smear_init=1.0)
    mask = torch.ones(2, 24)
    assert torch.equal(model(tokens, smear_mask=mask), model(tokens))
    mask[:, 9] = 0
    masked = model(tokens, smear_mask=mask)
    assert torch.equal(masked[:, :9], model(tokens)[:, :9])
    assert not torch.allclose(masked[:, 9], model(tokens)[:, 9], atol=1e-4)


def test_parameter_count_equals_the_arithmetic(model: GPT) -> None:
    count = count_parameters(model.config)
    assert sum(p.numel() for p in model.parameters()) == count.total
    assert sum(p.numel() for n, p in model.named_parameters() if n.startswith("blocks.")) == count.matrices
    linear = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 2 and "embedding" not in n)
    spans = sum(min(w or 24, 24) for w in layer_windows(model.config))
    assert flops_per_token(model.config) == 6 * linear + 12 * model.config.n_embd * spans


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", [{}, {"n_kv_head": 1, "depth": 5}, {"value_embeddings": False, "mlp_ratio": 2}])
def test_memory_estimate_is_within_a_factor_of_two(changes: dict[str, object], dtype: torch.dtype) -> None:
    config = run_config(small_config(**{"n_embd": 64, "max_seq_len": 64} | changes))
    model = GPT(config.model, compute_dtype=dtype)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    rows = torch.randint(0, 265, (config.base.micro_batch_rows, 65))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.loss(rows[:, :-1], rows[:, 1:])
    activations = sum(tensor.untyped_storage().nbytes() for at, tensor in saved.items() if at not in own)
    estimate = memory_estimate(config, activation_bytes=dtype.itemsize)
    assert activations / 2 < estimate.activations < activations * 2
    optimizer = build_optimizer(model, config, "base")
    state = sum(tensor.nbytes for tensor in optimizer.state_dict().values())
    assert state / 1.2 < estimate.optimizer < state * 1.2
    assert estimate.weights == sum(parameter.nbytes for parameter in model.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_start_depends_on_the_seed_alone(variant: str) -> None:
    config = small_config(**VARIANTS[variant])
    torch.manual_seed(1)
    first = GPT(config, seed=3)
    torch.manual_seed(2)
    with torch.device("meta"):
        second = GPT(config, seed=0)
    assert all(p.is_meta for p in second.parameters())
    second.to_empty(device="cpu")
    second.init_weights(3)
    other = GPT(config, seed=4)
    for (name, a), b, c in zip(first.named_parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.dim() < 2 or name.endswith("proj.weight") or not torch.equal(a, c), name


def test_start_has_the_documented_spread() -> None:
    model = GPT(small_config(n_embd=128, depth=2, vocab_size=4096, vocab_ids=None))
    spread = {name: parameter.std().item() for name, parameter in model.named_parameters() if parameter.dim() == 2}
    assert spread["embedding.weight"] == pytest.approx(0.8, rel=0.02)
    assert spread["head.weight"] == pytest.approx(0.001, rel=0.02)
    assert spread["blocks.0.attn.q.weight"] == pytest.approx(128**-0.5, rel=0.05)
    assert spread["blocks.0.mlp.fc.weight"] == pytest.approx(0.4 * 128**-0.5, rel=0.05)
    assert spread["value_embeddings.1.weight"] == pytest.approx(128**-0.5, rel=0.05)
    assert spread["blocks.0.mlp.proj.weight"] == 0.0
    assert model.residual_scale.tolist() == pytest.approx([1.15, 1.05])
    assert model.x0_scale.tolist() == pytest.approx([0.20, 0.05])
    tokens = torch.randint(0, 4096, (2, 24))
    assert model.loss(tokens, tokens.roll(1, 0)).item() == pytest.approx(math.log(4096), abs=0.02)


def test_bad_input_is_refused(model: GPT, tokens: Tensor) -> None:
    with pytest.raises(ValueError, match="either tokens or embeddings"):
        model(tokens, embeddings=model.embed(tokens))
    with pytest.raises(ValueError, match="either tokens or embeddings"):
        model()
    with pytest.raises(ValueError, match="go together"):
        model(tokens, key_bias=torch.zeros(2, 24, 1))
    with pytest.raises(ValueError, match="positions or rotary"):
        model(tokens, positions=torch.arange(24), rotary=model.rotary(torch.arange(24)))
    with pytest.raises(ValueError, match="unknown reduction"):
        model.loss(tokens, tokens, reduction="median")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="n_kv_head"):
        GPT(small_config(n_kv_head=3))


def train(model: GPT, batches, steps: int) -> list[float]:  # type: ignore[no-untyped-def]
    config = run_config(model.config)
    optimizer = build_optimizer(model, config, "base")
    losses = []
    for step in range(steps):
        loss = model.loss(*batches(step))
        loss.backward()
        optimizer.step(schedule(step, steps, config.base, config.optim))
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_overfits_one_batch(make_model) -> None:  # type: ignore[no-untyped-def]
    model = GPT(small_config(**VARIANTS["all"]))
    rows = torch.randint(0, 101, (4, 25), generator=torch.Generator().manual_seed(5))
    losses = train(model, lambda step: (rows[:, :-1], rows[:, 1:]), 150)
    assert losses[0] == pytest.approx(math.log(101), abs=0.05)
    assert losses[-1] < 0.1


def test_floor_on_random_tokens() -> None:
    """Nothing can be learned from uniform noise: a loss below ln V would be a leak of the target."""
    config = small_config(**VARIANTS["all"], vocab_size=64, vocab_ids=32)
    model = GPT(config)
    generator = torch.Generator().manual_seed(6)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        rows = torch.randint(0, 32, (16, 25), generator=generator)
        return rows[:, :-1], rows[:, 1:]

    train(model, batch, 120)
    with torch.no_grad():
        losses = torch.stack([model.loss(*batch(0), reduction="none") for _ in range(30)])
    assert losses.mean().item() > math.log(32) - 0.005
    assert losses.mean().item() < math.log(32) + 0.2
