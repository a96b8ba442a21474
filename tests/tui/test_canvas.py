"""Plots as characters: where a curve, its range, its band and its alerts are drawn."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mccore.runs.live.trace import Trace
from mccore.tui.drawing.canvas import (
    Cell,
    Plot,
    PlotView,
    Scale,
    cursor_value,
    draw,
    format_position,
    format_value,
    row_of,
    rows_of,
    scale_of,
)
from mccore.tui.drawing.glyphs import ASCII, UNICODE, Glyphs


def trace_of(values: list[float]) -> Trace:
    trace = Trace()
    for step, value in enumerate(values, start=1):
        trace.add(value, step=step, tokens=step * 100, time=step)
    return trace


def text(rows: list[list[Cell]]) -> list[str]:
    return ["".join(cell.char for cell in row) for row in rows]


@given(
    st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=600),
    st.integers(1, 200),
    st.integers(1, 60),
    st.sampled_from([ASCII, UNICODE]),
    st.booleans(),
    st.booleans(),
)
def test_a_plot_fits_its_room(
    values: list[float], width: int, height: int, glyphs: Glyphs, smooth: bool, log: bool
) -> None:
    plot = Plot(trace_of(values), (0.0, 1.0), [1.0], PlotView(smooth=smooth, log=log, cursor=0.5))
    rows = draw(plot, width, height, glyphs)
    assert len(rows) <= height
    assert all(len(row) <= width for row in rows)
    if glyphs is ASCII:
        assert "".join(text(rows)).isascii()


def test_a_rising_line_rises_from_the_left_to_the_right() -> None:
    rows = text(draw(Plot(trace_of([0.0, 1.0, 2.0, 3.0])), 14, 6, ASCII))
    curve = [row[10:] for row in rows[:4]]
    assert [row.find("*") for row in curve] == [3, 2, 1, 0]


def test_a_spike_is_seen_however_narrow_the_plot() -> None:
    values = [1.0] * 5000
    values[3210] = 9.0
    rows = draw(Plot(trace_of(values)), 40, 12, ASCII)
    assert any(cell.role == "range" for cell in rows[0])


def test_the_band_is_shaded_and_near_ends_are_in_sight() -> None:
    plot = Plot(trace_of([0.10, 0.18]), (0.05, 0.20))
    scale = scale_of(plot)
    assert scale.low == 0.05
    assert scale.high == 0.20
    rows = draw(plot, 30, 12, ASCII)
    assert all(cell.band for row in rows[1:9] for cell in row[10:])
    far = scale_of(Plot(trace_of([0.1, 0.2]), (0.0, 1000.0)))
    assert far.high == 0.2


def test_alerts_stand_on_the_time_axis() -> None:
    rows = text(draw(Plot(trace_of([1.0] * 100), alerts=[1.0, 100.0, 500.0]), 60, 8, ASCII))
    axis = rows[-2]
    assert axis[10] == "^"
    assert axis[-1] == "^"
    assert axis.count("^") == 2


@pytest.mark.parametrize(("axis", "last"), [("step", "4"), ("tokens", "400")])
def test_the_axis_says_where_it_ends(axis: str, last: str) -> None:
    rows = text(draw(Plot(trace_of([1.0, 2.0, 3.0, 4.0]), view=PlotView(axis=axis)), 50, 8, ASCII))  # type: ignore[arg-type]
    assert rows[-1].rstrip().endswith(last)


def test_a_logarithmic_scale_puts_the_geometric_mean_in_the_middle() -> None:
    plot = Plot(trace_of([1.0, 100.0]), view=PlotView(log=True))
    assert scale_of(plot).share(10.0) == pytest.approx(0.5)
    assert not scale_of(Plot(trace_of([0.0, 100.0]), view=PlotView(log=True))).log


def test_the_cursor_reads_the_value_below_it() -> None:
    plot = Plot(trace_of([5.0, 6.0, 7.0]), view=PlotView(cursor=1.0))
    assert cursor_value(plot) == (3.0, 7.0)
    plot.view.cursor = 0.0
    assert cursor_value(plot) == (1.0, 5.0)
    assert cursor_value(Plot(Trace(), view=PlotView(cursor=0.5))) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, "0"), (0.12345, "0.1235"), (12345.6, "12,346"), (1e9, "1.00e+09"), (-2e-7, "-2.00e-07"), (math.inf, "inf")],
)
def test_numbers_are_short(value: float, expected: str) -> None:
    assert format_value(value) == expected
    assert len(expected) <= 9


def test_positions() -> None:
    assert format_position(512_000, "tokens") == "512k"
    assert format_position(2.5e9, "tokens") == "2.5G"
    assert format_position(17, "step") == "17"
    assert len(format_position(1_700_000_000, "time")) == 8


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.lists(st.floats(-2e9, 2e9), max_size=20), st.integers(1, 200))
def test_many_values_are_placed_as_one_is(low: float, high: float, values: list[float], rows: int) -> None:
    scale = Scale(low, high, False)
    assert [rows_of(scale, rows)(value) for value in values] == [row_of(scale, value, rows) for value in values]
