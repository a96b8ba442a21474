from __future__ import annotations

import math

import pytest

from mccore.eval.statistics import mean_and_stderr, share


def test_share_by_hand() -> None:
    found = share([True, True, True, False], [0.25, 0.25, 0.5, 0.5])
    assert (found.n, found.accuracy, found.chance) == (4, 0.75, 0.375)
    assert found.stderr == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    assert found.z == pytest.approx((0.75 - 0.375) / math.sqrt((2 * 0.1875 + 2 * 0.25) / 16))


def test_nothing_asked_is_no_accuracy_rather_than_zero() -> None:
    assert share([]).accuracy is None
    assert share([], []).z is None
    assert share([True]).chance is None
    assert share([True], [1.0]).z is None
    with pytest.raises(ValueError, match="1 answers but 2 chances"):
        share([True], [0.5, 0.5])


def test_mean_and_stderr_by_hand() -> None:
    assert mean_and_stderr([]) == (None, None)
    assert mean_and_stderr([2.0]) == (2.0, None)
    mean, stderr = mean_and_stderr([1.0, 2.0, 3.0, 6.0])
    assert mean == 3.0
    assert stderr == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3 / 4))
