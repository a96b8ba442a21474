"""Reading through a cache, in any portions, gives the logits of one pass."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mccore.model import GPT, CacheFull
from mccore.model.kv_cache import KVCache
from tests.model.conftest import VARIANTS, small_config, stirred

MODELS = {name: stirred(small_config(**changes)) for name, changes in VARIANTS.items()}


def read(model: GPT, tokens: Tensor, portions: list[int], capacity: int, **inputs: Tensor) -> Tensor:
    """Logits of `tokens` read in portions of the given sizes."""
    cache = model.new_cache(tokens.size(0), capacity)
    parts, start = [], 0
    with torch.no_grad():
        for size in portions:
            cut = {name: value[:, start : start + size] for name, value in inputs.items() if name != "key_bias_weights"}
            if "key_bias_weights" in inputs:
                cut["key_bias_weights"] = inputs["key_bias_weights"]
            parts.append(model(tokens[:, start : start + size], cache=cache, **cut))
            start += size
            assert cache.length == start
    return torch.cat(parts, dim=1)


@st.composite
def portions(draw: st.DrawFn) -> list[int]:
    sizes: list[int] = []
    while sum(sizes) < 24:
        sizes.append(draw(st.integers(1, 24 - sum(sizes))))
    return sizes


@pytest.mark.parametrize("variant", VARIANTS)
@given(portions())
@settings(max_examples=15, deadline=None)
def test_any_portions(variant: str, portions: list[int]) -> None:
    model = MODELS[variant]
    tokens = torch.randint(0, 101, (3, 24), generator=torch.Generator().manual_seed(4))
    want = model(tokens)
    torch.testing.assert_close(read(model, tokens, portions, 24), want, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("sizes", [[24], [1] * 24, [1, 7, 9, 1, 6]])
def test_global_positions_and_biases(model: GPT, tokens: Tensor, sizes: list[int]) -> None:
    inputs = {
        "positions": (torch.rand(2, 24) * 50).cumsum(1) + 1e6,
        "key_bias": torch.randn(2, 24, 2),
        "key_bias_weights": torch.randn(model.config.depth, model.config.n_head, 2),
    }
    torch.testing.assert_close(read(model, tokens, sizes, 30, **inputs), model(tokens, **inputs), atol=2e-4, rtol=1e-4)


def test_a_bias_may_begin_late_and_end_early(model: GPT, tokens: Tensor) -> None:
    bias = torch.randn(2, 24, 1)
    bias[:, :4] = 0
    bias[:, 20:] = 0
    weights = torch.randn(model.config.depth, model.config.n_head, 1)
    want = model(tokens, key_bias=bias, key_bias_weights=weights)
    cache = model.new_cache(2, 24)
    with torch.no_grad():
        parts = [
            model(tokens[:, :4], cache=cache),
            model(tokens[:, 4:20], cache=cache, key_bias=bias[:, 4:20], key_bias_weights=weights),
            model(tokens[:, 20:], cache=cache, key_bias_weights=weights),
        ]
    torch.testing.assert_close(torch.cat(parts, dim=1), want, atol=2e-4, rtol=1e-4)


def test_overflow_is_an_error_and_changes_nothing(model: GPT, tokens: Tensor) -> None:
    cache = model.new_cache(2, 10)
    with torch.no_grad():
        model(tokens[:, :8], cache=cache)
        kept = cache.keys.clone()
        with pytest.raises(CacheFull, match="3 more entries don't fit in a cache of 10 that holds 8"):
            model(tokens[:, 8:11], cache=cache)
        assert cache.length == 8
        assert torch.equal(cache.keys, kept)
        model(tokens[:, 8:10], cache=cache)
    assert cache.length == cache.capacity == 10


def test_growing_cache(model: GPT, tokens: Tensor) -> None:
    cache = model.new_cache(2, 1, grow=True)
    with torch.no_grad():
        logits = torch.cat([model(part, cache=cache) for part in tokens.split(5, dim=1)], dim=1)
    torch.testing.assert_close(logits, model(tokens), atol=2e-4, rtol=1e-4)
    assert cache.capacity >= 24


def test_truncate_and_read_on(model: GPT, tokens: Tensor) -> None:
    cache = model.new_cache(2, 24)
    other = tokens.flip(1)
    with torch.no_grad():
        model(torch.cat((tokens[:, :9], other[:, :6]), dim=1), cache=cache)
        cache.truncate(9)
        rest = model(tokens[:, 9:], cache=cache)
    torch.testing.assert_close(rest, model(tokens)[:, 9:], atol=2e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="can't truncate"):
        cache.truncate(25)


def test_one_prompt_many_continuations(model: GPT, tokens: Tensor) -> None:
    prompt = tokens[:1, :10]
    rows = torch.cat((prompt.expand(3, -1), torch.randint(0, 101, (3, 4))), dim=1)
    single = model.new_cache(1, 14)
    with torch.no_grad():
        model(prompt, cache=single)
        cache = single.expand(3)
        rest = model(rows[:, 10:], cache=cache)
    torch.testing.assert_close(rest, model(rows)[:, 10:], atol=2e-4, rtol=1e-4)
    assert single.length == 10
    with pytest.raises(ValueError, match="only a cache of one row"):
        cache.expand(2)


def test_misuse_is_refused(model: GPT, tokens: Tensor) -> None:
    with pytest.raises(ValueError, match="without gradients"):
        model(tokens, cache=model.new_cache(2, 24))
    with torch.no_grad(), pytest.raises(ValueError, match="holds 3 rows"):
        model(tokens, cache=model.new_cache(3, 24))


def test_size_is_the_arithmetic(model: GPT) -> None:
    config = model.config
    numbers = 2 * 5 * 40 * config.depth * config.n_kv_head * config.head_dim
    smear = 5 * 40 * config.n_embd if config.smear else 0
    assert model.new_cache(5, 40).nbytes == 4 * (numbers + smear)


def filled(model: GPT, rows: int, length: int, *, bias: bool = False, seed: int = 0) -> KVCache:
    """A cache with `length` random tokens in every row."""
    cache = model.new_cache(rows, length + 4)
    tokens = torch.randint(0, model.config.vocab_ids, (rows, length), generator=torch.Generator().manual_seed(seed))
    inputs = {}
    if bias:
        inputs["key_bias"] = torch.randn(rows, length, 2, generator=torch.Generator().manual_seed(seed))
        inputs["key_bias_weights"] = torch.randn(model.config.depth, model.config.n_head, 2)
    with torch.inference_mode():
        model.hidden(tokens, cache=cache, **inputs)
    return cache


@pytest.mark.parametrize("bias", [True, False])
def test_rows_that_are_kept_are_those_that_were_there(model: GPT, bias: bool) -> None:
    cache = filled(model, 3, 6, bias=bias)
    before = {name: tensor.clone() for name, tensor in cache.tensors().items()}
    with torch.inference_mode():
        cache.keep_rows([2, 0])
    after = cache.tensors()
    assert after.keys() == before.keys()
    assert ("key_bias" in after) == bias
    for name, tensor in after.items():
        rows = before[name][:, [2, 0]] if name in ("keys", "values") else before[name][[2, 0]]
        assert torch.equal(tensor, rows), name


def test_a_row_is_copied_with_its_biases(model: GPT) -> None:
    source, cache = filled(model, 2, 6, bias=True), filled(model, 3, 9, seed=1)
    with torch.inference_mode():
        cache.copy_row(1, 3, source, 1)
    assert cache.key_bias is not None
    assert source.key_bias is not None
    assert torch.equal(cache.key_bias[1, 3:9], source.key_bias[1, :6])
    assert not cache.key_bias[[0, 2]].any()
    for name in ("keys", "values"):
        assert torch.equal(getattr(cache, name)[:, 1, :, 3:9], getattr(source, name)[:, 1, :, :6])
    assert torch.equal(cache.embeddings[1, 3:9], source.embeddings[1, :6])
    with torch.inference_mode():
        cache.copy_row(1, 3, filled(model, 1, 6, seed=2))
    assert not cache.key_bias.any(), "entries without a bias have none, whatever stood there"


def test_biases_that_are_all_zero_make_no_bias(model: GPT) -> None:
    source, cache = filled(model, 1, 6, bias=True), filled(model, 1, 6)
    assert source.key_bias is not None
    with torch.inference_mode():
        source.key_bias.zero_()
        cache.copy_row(0, 0, source)
    assert cache.key_bias is None


@pytest.mark.parametrize("bias", [True, False])
def test_what_a_cache_holds_fills_another(model: GPT, bias: bool) -> None:
    cache, other = filled(model, 1, 7, bias=bias), filled(model, 1, 9, seed=3)
    with torch.inference_mode():
        other.fill(cache.tensors())
    assert other.length == 7
    assert other.tensors().keys() == cache.tensors().keys()
    assert all(torch.equal(tensor, cache.tensors()[name]) for name, tensor in other.tensors().items())
