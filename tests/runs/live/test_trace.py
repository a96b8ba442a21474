"""A trace is small, keeps extremes and the exact last value, and forgets what a resumed run does again."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mccore.runs.live.trace import CAPACITY, Trace, smoothed


def trace_of(values: list[float]) -> Trace:
    trace = Trace()
    for step, value in enumerate(values, start=1):
        trace.add(value, step=step, tokens=step * 10, time=step / 2)
    return trace


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4 * CAPACITY))
def test_extremes_count_mean_and_last_are_kept(values: list[float]) -> None:
    trace = trace_of(values)
    assert len(trace.buckets) <= CAPACITY
    assert min(bucket.low for bucket in trace.buckets) == min(values)
    assert max(bucket.high for bucket in trace.buckets) == max(values)
    assert trace.last == trace.buckets[-1].last == values[-1]
    assert sum(bucket.count for bucket in trace.buckets) == trace.points == len(values)
    assert math.isclose(sum(bucket.total for bucket in trace.buckets), math.fsum(values), rel_tol=1e-9, abs_tol=1e-3)


def test_a_spike_among_a_million_points_stays() -> None:
    trace = Trace()
    for step in range(1_000_000):
        trace.add(99.0 if step == 654_321 else 1.0, step=step, tokens=step, time=step)
    assert len(trace.buckets) <= CAPACITY
    [spike] = [bucket for bucket in trace.buckets if bucket.high == 99.0]
    assert spike.first_step <= 654_321 <= spike.step
    assert spike.low == 1.0


@pytest.mark.parametrize("length", [10, 3 * CAPACITY])
def test_a_resumed_run_replaces_what_it_does_again(length: int) -> None:
    trace = trace_of([1.0] * length)
    back = length // 2
    for step in range(back, length + 1):
        trace.add(2.0, step=step, tokens=step * 10, time=step)
    steps = [bucket.step for bucket in trace.buckets]
    assert steps == sorted(set(steps))
    assert all(bucket.high == 1.0 for bucket in trace.buckets if bucket.step < back)
    assert all(bucket.low == 2.0 for bucket in trace.buckets if bucket.step >= back)


def test_what_is_not_finite_is_counted_and_has_no_place() -> None:
    trace = trace_of([1.0, math.nan, math.inf, 2.0, math.nan])
    assert [bucket.last for bucket in trace.buckets] == [1.0, 2.0]
    assert math.isnan(trace.last)
    assert trace.not_finite == 3


def test_positions_on_each_axis() -> None:
    trace = trace_of([5.0, 6.0, 7.0])
    assert [bucket.at("step") for bucket in trace.buckets] == [1, 2, 3]
    assert [bucket.at("tokens") for bucket in trace.extremes("tokens", 15, 25)] == [20]
    assert [bucket.at("time") for bucket in trace.extremes("time", stop=1.0)] == [0.5, 1.0]


def test_smoothing_starts_at_the_first_value_and_follows() -> None:
    values = smoothed([4.0] * 3 + [8.0] * 60)
    assert values[0] == pytest.approx(4.0)
    assert values[2] == pytest.approx(4.0)
    assert 4.0 < values[3] < 5.5
    assert values[-1] == pytest.approx(8.0, abs=0.02)
