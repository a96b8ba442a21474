"""Muon's steps, each against its definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mccore.model.optim.muon import (
    MuonRates,
    balance_variance,
    descend,
    equalize_rows,
    muon_update,
    orthogonalize,
    snap_norm,
    variance_shape,
)


@given(st.integers(2, 48), st.integers(2, 48), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_singular_values_come_near_one(rows: int, columns: int, seed: int) -> None:
    x = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(seed))
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    x = (u * s.clamp(min=0.01 * s.amax(-1, keepdim=True)).unsqueeze(-2)) @ v  # a tiny singular value may stay small
    values = torch.linalg.svdvals(orthogonalize(x, 5))
    assert values.min() > 0.7
    assert values.max() < 1.25


def test_orthogonalisation_keeps_singular_vectors_and_scale_free() -> None:
    x = torch.randn(2, 12, 30)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    torch.testing.assert_close(orthogonalize(x, 8), u @ v, atol=0.2, rtol=0.2)
    torch.testing.assert_close(orthogonalize(x * 1e-6, 5), orthogonalize(x, 5), atol=1e-3, rtol=1e-3)


def test_bf16_orthogonalisation() -> None:
    values = torch.linalg.svdvals(orthogonalize(torch.randn(2, 24, 60).bfloat16(), 5).float())
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_rows_are_equalised_and_norms_kept() -> None:
    x = torch.randn(2, 5, 7) * torch.logspace(-3, 3, 5)[None, :, None]
    y = equalize_rows(x)
    torch.testing.assert_close(y.norm(dim=(1, 2)), x.norm(dim=(1, 2)))
    rows = y.norm(dim=2)
    torch.testing.assert_close(rows, rows[:, :1].expand_as(rows))


def test_norm_is_snapped_to_an_orthogonal_matrix() -> None:
    torch.testing.assert_close(snap_norm(torch.randn(3, 4, 9) * 50).norm(dim=(1, 2)), torch.full((3,), 2.0))


@pytest.mark.parametrize(("rows", "columns", "shape"), [(8, 3, (8, 1)), (3, 8, (1, 8)), (5, 5, (5, 1))])
def test_variance_is_balanced_along_the_longer_side(rows: int, columns: int, shape: tuple[int, int]) -> None:
    assert variance_shape(rows, columns) == shape
    x = torch.randn(2, rows, columns)
    x[:, 0] *= 100 if shape[1] == 1 else 1
    x[:, :, 0] *= 100 if shape[0] == 1 else 1
    variance = torch.zeros(2, *shape)
    y = balance_variance(x, variance, 0.9)
    torch.testing.assert_close(y.norm(dim=(1, 2)), x.norm(dim=(1, 2)))
    sizes = y.square().mean(dim=2 if shape[1] == 1 else 1)
    torch.testing.assert_close(sizes, sizes.mean(1, keepdim=True).expand_as(sizes))
    torch.testing.assert_close(variance, 0.1 * x.square().mean(dim=2 if shape[1] == 1 else 1, keepdim=True))


def test_momentum_looks_ahead() -> None:
    gradient, velocity = torch.randn(1, 6, 6), torch.randn(1, 6, 6)
    moved = 0.9 * velocity + 0.1 * gradient
    ahead = 0.1 * gradient + 0.9 * moved
    expected = snap_norm(orthogonalize(equalize_rows(ahead), 5))
    state, variance = velocity.clone(), torch.zeros(1, 6, 1)
    got = muon_update(gradient, state, variance, MuonRates(0.9, 0.9, 5))
    torch.testing.assert_close(state, moved)
    torch.testing.assert_close(got, balance_variance(expected, torch.zeros(1, 6, 1), 0.9))


def test_zero_gradient_gives_zero_update() -> None:
    update = muon_update(torch.zeros(2, 4, 8), torch.zeros(2, 4, 8), torch.zeros(2, 1, 8), MuonRates(0.9, 0.9, 5))
    assert not update.any()


def test_decay_is_cautious() -> None:
    weight, update = torch.tensor([[2.0, -2.0, 2.0, -2.0]]), torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    got = descend(weight, update, 0.1, 0.5)
    want = weight - 0.1 * (update + 0.5 * weight * torch.tensor([[1.0, 0.0, 0.0, 1.0]]))
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(descend(weight, update, 0.1, 0.0), weight - 0.1 * update)
