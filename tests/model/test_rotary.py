"""Rotary positions tell distances, however far out, and change no length."""

from __future__ import annotations

import pytest
import torch

from mccore.model.rotary import rotary, rotate


def test_scores_depend_on_distance_alone_however_far_out() -> None:
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def score(at: float, distance: float) -> float:
        turn = [rotary(torch.tensor([position]), 16, 1e5) for position in (at + distance, at)]
        return float((rotate(q, turn[0]) * rotate(k, turn[1])).sum())

    near = score(0, 7)
    assert abs(near - score(0, 8)) > 1e-2
    for far in (1000, 123_456, 16_000_000):
        assert score(far, 7) == pytest.approx(near, abs=1e-5)


def test_rotation_keeps_lengths_and_takes_fractions() -> None:
    x = torch.randn(2, 5, 3, 8)
    turn = rotary(torch.rand(2, 5) * 100, 8, 1e4)
    torch.testing.assert_close(rotate(x, turn).norm(dim=-1), x.norm(dim=-1))
    zero = rotary(torch.zeros(1), 8, 1e4)
    assert torch.equal(rotate(x, zero), x)
