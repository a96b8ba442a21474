"""Next-token loss in chunks: the fp32 logits of a whole batch never exist at once.

Both functions take hidden states [N, D], the head's weight [V, D] and targets [N] with `ignore_index` where nothing is
scored. Logits are `softcap * tanh(z / softcap)` in fp32 over the first `ids` rows of the head.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Head(NamedTuple):
    """What turns hidden states into logits, beside the weight."""

    ids: int  # logits that exist; rows of the weight beyond are padding
    softcap: float  # 0 switches it off
    chunk: int  # rows of hidden states per chunk


def capped_logits(hidden: Tensor, weight: Tensor, head: Head) -> Tensor:
    """Logits of hidden states [..., D]: fp32 [..., ids]."""
    logits = torch.nn.functional.linear(hidden, weight[: head.ids].to(hidden.dtype)).float()
    return torch.tanh(logits / head.softcap) * head.softcap if head.softcap else logits


def chunk_rows(ids: int, device: torch.device) -> int:
    """Rows per chunk: about 4 MB of logits on a CPU, whose caches are small, 512 MB on a GPU, which wants large products."""
    elements = 2**20 if device.type == "cpu" else 2**27
    return max(16, elements // ids)


def weighted_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, head: Head) -> Tensor:
    """`sum(weights * nll)` as one fp32 number. weights: fp32 [N], no gradient; targets outside [0, ids) need weight 0.

    The gradients are formed along with the loss, chunk by chunk, so logits are computed once.
    """
    if not _needs_gradient(hidden, weight):
        return (_forward_chunks(hidden, weight, targets, head) * weights).sum()
    return _WeightedCrossEntropy.apply(hidden, weight, targets, weights, head)  # type: ignore[no-any-return]


def cross_entropy_and_tokens(
    hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, head: Head
) -> tuple[Tensor, Tensor]:
    """`weighted_cross_entropy`, and beside it each target's loss, fp32 [N], 0 where it is negative, without gradient."""
    if not _needs_gradient(hidden, weight):
        losses = _forward_chunks(hidden, weight, targets, head)
        return (losses * weights).sum(), losses
    return _CrossEntropyAndTokens.apply(hidden, weight, targets, weights, head)  # type: ignore[no-any-return]


def distillation(hidden: Tensor, teacher: Tensor, weight: Tensor, weights: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """`sum(weights * KL(p || q))` with p from the teacher's states and q from `hidden`, both [N, D]; and each KL, fp32
    [N], without gradient. weights: fp32 [N], no gradient. The gradient reaches `hidden` and, through q alone, `weight`.
    """
    if not _needs_gradient(hidden, weight):
        each = _distill_chunks(hidden, teacher, weight, weights, head, gradients=False)[0]
        return (each * weights).sum(), each
    return _Distillation.apply(hidden, teacher, weight, weights, head)  # type: ignore[no-any-return]


def token_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, head: Head) -> Tensor:
    """The negative log-likelihood of each target: fp32 [N], 0 where the target is negative.

    Each token has its own gradient, so backward computes the logits a second time.
    """
    if not _needs_gradient(hidden, weight):
        return _forward_chunks(hidden, weight, targets, head)
    return _TokenCrossEntropy.apply(hidden, weight, targets, head)  # type: ignore[no-any-return]


def _needs_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _chunk(
    hidden: Tensor, weight: Tensor, targets: Tensor, head: Head, upstream: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """One chunk: its losses [n], 0 where the target is negative, and, given d loss / d nll [n], d loss / d z [n, ids].

    cap * tanh(z / cap) = 2 cap * sigmoid(2 z / cap) - cap, and softmax doesn't see the constant: on a CPU a sigmoid costs a
    sixth of a tanh.
    """
    z = torch.mm(hidden, weight.t()).float()  # the logits before the cap
    cap = head.softcap
    share = z.mul_(2 / cap).sigmoid_() if cap else None
    scores = z.clone() if share is None else share * (2 * cap)
    if not 0 < cap <= 20:  # scores below 40 have exponentials whose sum can't overflow
        scores.sub_(scores.amax(dim=-1, keepdim=True))
    index = targets.clamp(min=0).unsqueeze(1)
    picked = scores.gather(1, index)
    exponentials = scores.exp_()
    total = exponentials.sum(dim=-1, keepdim=True)
    nll = (total.log() - picked).squeeze(1).masked_fill_(targets < 0, 0.0)
    if upstream is None:
        return nll, None
    upstream = upstream.masked_fill(targets < 0, 0.0).unsqueeze(1)
    if share is not None:
        upstream = 4 * upstream  # the cap's slope is 4 * share * (1 - share)
    gradient = exponentials.mul_(upstream / total)
    gradient.scatter_add_(1, index, -upstream)
    if share is not None:
        gradient.mul_(share.addcmul_(share, share, value=-1.0))
    return nll, gradient


def _backward_chunks(
    hidden: Tensor, weight: Tensor, targets: Tensor, upstream: Tensor, head: Head
) -> tuple[Tensor, Tensor, Tensor]:
    """The losses [N] and the gradients of `sum(upstream * nll)` by hidden states [N, D] and weight [V, D]."""
    used = weight[: head.ids].to(hidden.dtype)
    losses = torch.empty(hidden.size(0), device=hidden.device)
    grad_hidden = torch.empty_like(hidden)
    grad_weight = torch.zeros_like(weight, dtype=torch.float32)
    for start in range(0, hidden.size(0), head.chunk):
        rows = slice(start, start + head.chunk)
        nll, gradient = _chunk(hidden[rows], used, targets[rows], head, upstream[rows])
        assert gradient is not None
        gradient = gradient.to(hidden.dtype)
        losses[rows] = nll
        torch.mm(gradient, used, out=grad_hidden[rows])
        if hidden.dtype == torch.float32:
            grad_weight[: head.ids].addmm_(gradient.t(), hidden[rows])
        else:
            grad_weight[: head.ids] += gradient.t() @ hidden[rows]
    return losses, grad_hidden, grad_weight.to(weight.dtype)


def _forward_chunks(hidden: Tensor, weight: Tensor, targets: Tensor, head: Head) -> Tensor:
    used = weight[: head.ids].to(hidden.dtype)
    starts = range(0, hidden.size(0), head.chunk)
    parts = [_chunk(hidden[s : s + head.chunk], used, targets[s : s + head.chunk], head, None)[0] for s in starts]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def _distill_chunks(
    hidden: Tensor, teacher: Tensor, weight: Tensor, weights: Tensor, head: Head, *, gradients: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Each KL [N] and, if asked, the gradients of their weighted sum by hidden states [N, D] and weight [V, D]."""
    used = weight[: head.ids].to(hidden.dtype)
    each = torch.empty(hidden.size(0), device=hidden.device)
    grad_hidden = torch.empty_like(hidden) if gradients else None
    grad_weight = torch.zeros_like(weight, dtype=torch.float32) if gradients else None
    for start in range(0, hidden.size(0), head.chunk):
        rows = slice(start, start + head.chunk)
        logits, slope = _cap((hidden[rows] @ used.t()).float(), head.softcap)
        own = torch.log_softmax(logits, dim=-1)
        known = torch.log_softmax(_cap((teacher[rows] @ used.t()).float(), head.softcap)[0], dim=-1)
        p = known.exp()
        each[rows] = (p * (known - own)).sum(dim=-1)
        if grad_hidden is None or grad_weight is None:
            continue
        gradient = (own.exp() - p) * weights[rows].unsqueeze(1)
        if slope is not None:
            gradient *= slope
        gradient = gradient.to(hidden.dtype)
        grad_hidden[rows] = gradient @ used
        grad_weight[: head.ids] += (gradient.t() @ hidden[rows]).float()
    return each, grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype)


def _cap(z: Tensor, softcap: float) -> tuple[Tensor, Tensor | None]:
    """Capped logits and d capped / d z."""
    if not softcap:
        return z, None
    share = torch.tanh(z / softcap)
    return share * softcap, 1 - share * share


class _WeightedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, head: Head) -> Tensor:
        losses, grad_hidden, grad_weight = _backward_chunks(hidden, weight, targets, weights, head)
        ctx.save_for_backward(grad_hidden, grad_weight)
        return (losses * weights).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * upstream.to(grad_hidden.dtype), grad_weight * upstream, None, None, None


class _TokenCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, head: Head) -> Tensor:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.head = head
        return _forward_chunks(hidden, weight, targets, head)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, targets = ctx.saved_tensors
        _, grad_hidden, grad_weight = _backward_chunks(hidden, weight, targets, upstream.float(), ctx.head)
        return grad_hidden, grad_weight, None, None


class _CrossEntropyAndTokens(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, head: Head
    ) -> tuple[Tensor, Tensor]:
        losses, grad_hidden, grad_weight = _backward_chunks(hidden, weight, targets, weights, head)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(losses)
        return (losses * weights).sum(), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * upstream.to(grad_hidden.dtype), grad_weight * upstream, None, None, None


class _Distillation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, teacher: Tensor, weight: Tensor, weights: Tensor, head: Head
    ) -> tuple[Tensor, Tensor]:
        each, grad_hidden, grad_weight = _distill_chunks(hidden, teacher, weight, weights, head, gradients=True)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.mark_non_differentiable(each)
        return (each * weights).sum(), each

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grad_hidden, grad_weight = ctx.saved_tensors
        return grad_hidden * upstream.to(grad_hidden.dtype), None, grad_weight * upstream, None, None
