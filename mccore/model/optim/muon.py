"""Muon: momentum, orthogonalised. All functions work on stacks of matrices of one shape, [K, m, n]."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Polynomials a*X + b*X(X'X) + c*X(X'X)^2 that drive singular values to 1, best for one another in this order: "The Polar
# Express" (arXiv 2505.16932), for singular values from 1e-3 and a safety factor of 1.01. More steps repeat the last.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
NORM_MARGIN = 1.01  # keeps the largest singular value below 1 before the first polynomial
EPS = 1e-20  # an all-zero gradient stays zero instead of becoming NaN


def _norm(x: Tensor) -> Tensor:
    """Frobenius norm of each matrix: fp32 [K, 1, 1]."""
    return torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=torch.float32)


def equalize_rows(x: Tensor) -> Tensor:
    """Give every row of a matrix the same norm, leaving the matrix's norm as it was (MuonEq); zero rows stay zero."""
    rows = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    target = _norm(x) / x.size(-2) ** 0.5
    return x * torch.where(rows > EPS, target / rows.clamp(min=EPS), 0.0).to(x.dtype)


def orthogonalize(x: Tensor, steps: int) -> Tensor:
    """The nearest orthogonal matrices, roughly: singular values of the result lie near 1 (within about 0.8 to 1.2)."""
    x = x / (_norm(x) * NORM_MARGIN).clamp(min=EPS).to(x.dtype)
    tall = x.size(-2) > x.size(-1)
    if tall:  # the Gram matrix of the shorter side
        x = x.mT
    for step in range(steps):
        a, b, c = POLAR_EXPRESS[min(step, len(POLAR_EXPRESS) - 1)]
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def snap_norm(x: Tensor) -> Tensor:
    """Scale each matrix to the Frobenius norm of an orthogonal one, sqrt(min(m, n)) (Muon+); zero stays zero."""
    norm = _norm(x)
    target = min(x.size(-2), x.size(-1)) ** 0.5
    return x * torch.where(norm > EPS, target / norm.clamp(min=EPS), 0.0).to(x.dtype)


def variance_shape(rows: int, columns: int) -> tuple[int, int]:
    """Shape of the running variance of an m x n matrix: one number per index of its longer side."""
    return (rows, 1) if rows >= columns else (1, columns)


def balance_variance(x: Tensor, variance: Tensor, decay: float) -> Tensor:
    """Divide by the running root mean square along the longer side, keeping each matrix's norm (NorMuon).

    variance: fp32, [K, m, 1] or [K, 1, n], updated in place.
    """
    square = x.float().square().mean(dim=-1 if variance.size(-1) == 1 else -2, keepdim=True)
    variance.lerp_(square, 1.0 - decay)
    balanced = x * variance.clamp(min=1e-10).rsqrt().to(x.dtype)
    return balanced * (_norm(x) / _norm(balanced).clamp(min=EPS)).to(x.dtype)


class MuonRates(NamedTuple):
    """How an update is made: the decay of both running means, and how well matrices are orthogonalised, in which dtype."""

    momentum: float
    second_momentum: float
    steps: int  # of the polynomial
    dtype: torch.dtype = torch.float32


def muon_update(gradient: Tensor, velocity: Tensor, variance: Tensor, rates: MuonRates) -> Tensor:
    """The direction to subtract, [K, m, n] in the rates' dtype; `velocity` [K, m, n] and `variance` are updated in place."""
    velocity.lerp_(gradient, 1.0 - rates.momentum)
    update = gradient.lerp(velocity, rates.momentum).to(rates.dtype)  # a look ahead, as in Nesterov's method
    update = snap_norm(orthogonalize(equalize_rows(update), rates.steps))
    return balance_variance(update, variance, rates.second_momentum)


def descend(weight: Tensor, update: Tensor, lr: float, weight_decay: float) -> Tensor:
    """`weight` after a step with cautious decay: only entries that the update already shrinks decay."""
    if weight_decay:
        update = update + weight_decay * weight * (update * weight >= 0)
    return weight - lr * update
