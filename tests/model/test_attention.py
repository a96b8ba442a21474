"""The fused path equals attention by its definition and never builds a square of the sequence."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mccore.model.attention import attend, attend_reference, with_key_bias


class Shapes(TorchDispatchMode):
    """Records the shape of every tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, torch.Tensor):
                self.seen.append(tuple(value.shape))
        return result


def qkv(queries: int, keys: int, heads: int = 4, kv_heads: int = 2, channels: int = 8) -> list[torch.Tensor]:
    shapes = [(2, heads, queries, channels), (2, kv_heads, keys, channels), (2, kv_heads, keys, channels)]
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [0, 1, 3, 8, 13, 40])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (16, 16), (17, 17), (1, 23), (5, 23), (23, 24)])
def test_fused_equals_reference(queries: int, keys: int, window: int, kv_heads: int) -> None:
    q, k, v = qkv(queries, keys, kv_heads=kv_heads)
    for bias in (None, torch.randn(1, 4, queries, keys), torch.randn(2, 1, 1, keys)):
        got = attend(q, k, v, scale=0.4, window=window, bias=bias)
        want = attend_reference(q, k, v, scale=0.4, window=window, bias=bias)
        torch.testing.assert_close(got, want, atol=2e-6, rtol=2e-5)
    weight = torch.randn_like(want)
    got_grads = torch.autograd.grad((attend(q, k, v, scale=0.4, window=window) * weight).sum(), (q, k, v))
    want_grads = torch.autograd.grad((attend_reference(q, k, v, scale=0.4, window=window) * weight).sum(), (q, k, v))
    for got, want in zip(got_grads, want_grads, strict=True):
        torch.testing.assert_close(got, want, atol=5e-6, rtol=1e-4)


@pytest.mark.parametrize("window", [0, 16])
def test_no_square_of_the_sequence_is_built(window: int) -> None:
    length = 96
    q, k, v = qkv(length, length)
    with Shapes() as shapes:
        attend(q, k, v, scale=0.4, window=window).sum().backward()
    assert not [shape for shape in shapes.seen if shape.count(length) > 1]
    with Shapes() as shapes:
        attend_reference(q, k, v, scale=0.4, window=window)
    assert [shape for shape in shapes.seen if shape.count(length) > 1], (
        "the probe must see squares where there are some"
    )


def test_key_bias_rides_in_extra_channels() -> None:
    q, k, v = qkv(12, 12)
    bias, weights = torch.randn(2, 12, 3), torch.randn(4, 3)
    wide = with_key_bias(q, k, v, bias, weights, scale=0.4)
    added = torch.einsum("hr,bkr->bhk", weights, bias).unsqueeze(2)
    got = attend(*wide, scale=0.4)[..., :8]
    torch.testing.assert_close(got, attend_reference(q, k, v, scale=0.4, bias=added), atol=2e-6, rtol=2e-5)
