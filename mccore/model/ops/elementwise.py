"""Elementwise pieces of the model: plain compositions on GPUs, hand-written gradients on CPUs.

A GPU has fused kernels and torch.compile. On a CPU every operation is a pass over memory, and autograd's own chains take
about twice the passes that the formulas need; measured by benchmarks/model_step.py. Gradients are first order only.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x^2) + eps)` over the last dimension."""
    if x.device.type != "cpu":
        return F.rms_norm(x, (x.size(-1),), eps=eps)
    return _RMSNorm.apply(x, eps)


def relu_squared(x: Tensor) -> Tensor:
    """`max(x, 0)^2`. On a CPU it overwrites `x`: pass a tensor that nothing else reads."""
    if x.device.type != "cpu":
        return F.relu(x).square()
    return _ReluSquared.apply(x)


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channel pairs (c, c + C/2) of x [..., C] by angles given as cos, sin broadcastable to [..., C/2].

    No gradient flows into the angles.
    """
    if x.device.type != "cpu":
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return _RotatePairs.apply(x, cos, sin)


def mix(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a * x + b * y` for tensors x, y of one shape and learned numbers a, b."""
    if x.device.type != "cpu":
        return a.to(x.dtype) * x + b.to(x.dtype) * y
    return _Mix.apply(x, y, a, b)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
        scale = length.square_().div_(x.size(-1)).add_(eps).rsqrt_().to(x.dtype)  # [..., 1]
        y = x * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        y, scale = ctx.saved_tensors
        along = (grad * y).mean(dim=-1, keepdim=True)
        return torch.addcmul(grad, y, along, value=-1.0).mul_(scale), None


class _ReluSquared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = x.detach().clamp_(min=0)
        ctx.save_for_backward(positive)
        return positive.square()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (positive,) = ctx.saved_tensors
        return torch.mul(grad, positive).mul_(2.0)


class _RotatePairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, sin, -1.0), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, direction: float) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    y_first, y_second = y.chunk(2, dim=-1)
    torch.mul(first, cos, out=y_first).addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=y_second).addcmul_(first, sin, value=direction)
    return y


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, y, a, b)
        return (x * a.to(x.dtype)).addcmul_(y, b.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, y, a, b = ctx.saved_tensors
        flat = grad.flatten()
        grad_a = torch.dot(flat, x.flatten()).to(a.dtype)
        grad_b = torch.dot(flat, y.flatten()).to(b.dtype)
        return grad * a.to(grad.dtype), grad * b.to(grad.dtype), grad_a, grad_b
