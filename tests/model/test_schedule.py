"""Schedules at the steps where they change."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mccore.config import BaseConfig, OptimConfig
from mccore.model import schedule
from mccore.model.schedule import lr_multiplier, momentum, weight_decay_multiplier


@pytest.mark.parametrize(
    ("step", "value"),
    [(0, 1 / 40), (39, 1.0), (40, 1.0), (350, 1.0), (675, 1 - 0.95 / 2), (999, 1 - 0.95 * 649 / 650)],
)
def test_lr(step: int, value: float) -> None:
    assert lr_multiplier(step, 1000, 40, 0.65, 0.05) == pytest.approx(value)


def test_lr_without_warmup_or_warmdown() -> None:
    assert [lr_multiplier(s, 10, 0, 0.0, 0.05) for s in (0, 9)] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("step", "value"), [(0, 0.85), (200, 0.91), (400, 0.97), (2000, 0.97), (3500, 0.97), (6750, 0.935)]
)
def test_momentum(step: int, value: float) -> None:
    assert momentum(step, 10_000, (0.85, 0.97, 0.90), 400, 0.65) == pytest.approx(value)


def test_weight_decay() -> None:
    assert [weight_decay_multiplier(s, 100) for s in (0, 50, 100)] == pytest.approx([1.0, 0.5, 0.0], abs=1e-12)


@given(st.integers(1, 3000), st.integers(0, 500), st.floats(0, 1), st.floats(0, 1))
def test_always_in_range_and_without_jumps(steps: int, warmup: int, ratio: float, final: float) -> None:
    train = BaseConfig(warmup_steps=warmup, warmdown_ratio=ratio, final_lr_fraction=final)
    optim = OptimConfig()
    settings = [schedule(step, steps, train, optim) for step in range(steps)]
    assert all(min(final, 1 / max(1, warmup)) - 1e-9 <= s.lr <= 1 for s in settings)
    assert all(0.85 - 1e-9 <= s.momentum <= 0.97 + 1e-9 and 0 <= s.weight_decay <= 1 for s in settings)
    longest = max(1 / max(1, warmup), 1 / max(1, round(ratio * steps)), 1e-9)
    assert all(abs(b.lr - a.lr) <= longest + 1e-9 for a, b in pairwise(settings))
