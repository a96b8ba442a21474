"""pass@k against counting by hand."""

from __future__ import annotations

from itertools import combinations

import pytest

from mccore.eval.pass_at import PassAt, curve_points, pass_at_k, together


@pytest.mark.parametrize(("samples", "right"), [(1, 0), (1, 1), (5, 0), (5, 2), (6, 5), (7, 7)])
def test_it_is_the_share_of_draws_that_hold_a_right_reply(samples: int, right: int) -> None:
    replies = [number < right for number in range(samples)]
    for k in range(1, samples + 1):
        draws = list(combinations(replies, k))
        assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize(("samples", "right", "k"), [(4, 1, 5), (4, 5, 1), (4, 1, 0), (4, -1, 1)])
def test_what_cannot_be_drawn_is_refused(samples: int, right: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(samples, right, k)


def test_a_curve_has_powers_of_two_and_its_end() -> None:
    assert curve_points(1) == (1,)
    assert curve_points(8) == (1, 2, 4, 8)
    assert curve_points(12) == (1, 2, 4, 8, 12)


def test_a_curve_is_the_mean_over_the_questions() -> None:
    curve = PassAt(2, (0, 1, 2)).curve()
    assert curve[1][0] == pytest.approx((0 + 0.5 + 1) / 3)
    assert curve[2][0] == pytest.approx(2 / 3)
    assert curve[1][1] == pytest.approx(0.5 / 3**0.5)
    assert PassAt(2, ()).curve()[1] == (None, None)


def test_several_tasks_count_by_questions() -> None:
    whole = together([PassAt(4, (4,)), PassAt(4, (0, 0, 0))])
    assert whole.to_json()["questions"] == 4
    assert whole.curve()[1][0] == pytest.approx(0.25)
