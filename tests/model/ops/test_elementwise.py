"""Hand-written gradients equal autograd's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mccore.model.ops import elementwise as kernels


def check(function, plain, *shapes: tuple[int, ...]) -> None:  # type: ignore[no-untyped-def]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    weight = torch.randn_like(plain(*inputs))
    # Each gets its own copy: relu_squared overwrites its input.
    got, want = (call(*[x * 1 for x in inputs]) for call in (function, plain))
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)
    got_grads, want_grads = (torch.autograd.grad((y * weight).sum(), inputs) for y in (got, want))
    for a, b in zip(got_grads, want_grads, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_rms_norm() -> None:
    check(
        lambda x: kernels.rms_norm(x, 1e-3),
        lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt(),
        (3, 5, 2, 8),
    )


def test_relu_squared() -> None:
    check(kernels.relu_squared, lambda x: x.clamp(min=0) ** 2, (4, 7))


def test_rotate_pairs() -> None:
    angle = torch.randn(3, 5, 1, 4, dtype=torch.float64)
    cos, sin = angle.cos(), angle.sin()

    def plain(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, a * sin + b * cos), -1)

    check(lambda x: kernels.rotate_pairs(x, cos, sin), plain, (3, 5, 2, 8))


def test_mix() -> None:
    check(kernels.mix, lambda x, y, a, b: a * x + b * y, (2, 3, 4), (2, 3, 4), (), ())


@pytest.mark.parametrize("name", ["rms_norm", "relu_squared"])
def test_bf16_stays_close_to_fp32(name: str) -> None:
    x = torch.randn(64, 32)
    call = (lambda t: kernels.rms_norm(t, 1e-6)) if name == "rms_norm" else kernels.relu_squared
    torch.testing.assert_close(call(x.bfloat16()).float(), call(x.clone()), atol=0.03, rtol=0.02)
