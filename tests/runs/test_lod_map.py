"""The map of a Working Context over its history."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mccore.runs.lod_map import cells, changed, histogram, stretches, text_map

RUNS = [[2, 1], [1, 2], [0, 4]]  # K = 4: 16 + 8 + 4 tokens


def test_stretches_lie_end_to_end() -> None:
    assert [(each.start, each.stop, each.level) for each in stretches(RUNS, 4, 28)] == [
        (0, 16, 2),
        (16, 24, 1),
        (24, 28, 0),
    ]
    assert stretches([], 4, 0) == []


@pytest.mark.parametrize(
    ("runs", "history", "why"),
    [([[0, 0]], 1, "entries"), ([[-1, 2]], 1, "level"), ([[0, 3]], 4, "cover 3 of 4")],
)
def test_what_is_no_working_context_is_refused(runs: list[list[int]], history: int, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        stretches(runs, 4, history)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 20)), min_size=1, max_size=30), st.integers(1, 200))
def test_cells_are_the_finest_level_of_their_part(runs: list[tuple[int, int]], count: int) -> None:
    history = sum(entries * 3**level for level, entries in runs)
    level_of = [level for level, entries in runs for _ in range(entries * 3**level)]
    expected = []
    for cell in range(count):
        start, stop = cell * history / count, max((cell + 1) * history / count, cell * history / count + 1)
        expected.append(min(level_of[token] for token in range(history) if token < stop and token + 1 > start))
    assert cells(stretches(runs, 3, history), count) == expected


def test_changes_are_marked_where_both_know_the_tokens() -> None:
    before = stretches([[1, 4], [0, 4]], 4, 20)
    after = stretches([[1, 1], [0, 4], [1, 2], [0, 8]], 4, 24)
    marks = changed(before, after, 6)  # one cell per block
    assert marks == [False, True, False, False, False, False]
    assert changed([], after, 6) == [False] * 6


def test_histogram_adds_up() -> None:
    assert histogram([[1, 2], [0, 5], [1, 3]]) == {0: 5, 1: 5}


def test_a_map_in_text_says_where_each_line_begins() -> None:
    shown = stretches([[2, 4], [1, 8], [0, 1024]], 16, 4 * 256 + 8 * 16 + 1024)
    lines = text_map(shown, width=32)
    assert [line.partition("|")[0].strip() for line in lines] == ["0", "544", "1,088", "1,632"]
    assert {len(line) for line in lines} == {len(lines[0])}
    assert lines[0].count("▒") == 32
    assert lines[3].count("█") == 32
    assert "▓" in lines[1] + lines[2]
    assert text_map([]) == []
    assert text_map(stretches([[0, 3]], 16, 3), width=8) == ["0 |████████|"]
