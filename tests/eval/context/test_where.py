"""Delta NLL by distance and level: places by hand, and a model that loses exactly what stood far back."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mccore.eval.context.where import ABSENT, NOWHERE, by_distance, by_lod, distance_edges, level_at, newest_pairs


def test_places_by_hand() -> None:
    row = torch.tensor([[1, 2, 3, 1, 2, 9, 1, 2, 3]])
    # The last four: 9 after 2, 1 after 9, 2 after 1, 3 after 2.
    assert newest_pairs(row, 4).tolist() == [[NOWHERE, NOWHERE, 4, 2]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=3, max_size=24), st.data())
def test_a_place_is_the_newest_earlier_pair(row: list[int], data: st.DataObject) -> None:
    horizon = data.draw(st.integers(1, len(row) - 1))
    found = newest_pairs(torch.tensor([row]), horizon)[0].tolist()
    for at, place in zip(range(len(row) - horizon, len(row)), found, strict=True):
        earlier = [i for i in range(1, at) if row[i - 1 : i + 1] == row[at - 1 : at + 1]]
        assert place == (max(earlier) if earlier else NOWHERE)


def test_levels_of_places() -> None:
    state = torch.tensor([[2, 2, 1, 0]])
    place = torch.tensor([[0, 7, 8, 12, 15, NOWHERE]])
    assert level_at(place, state, 4).tolist() == [[2, 2, 1, 0, 0, ABSENT]]


@pytest.mark.parametrize(("longest", "nearest"), [(1, 16), (255, 16), (4096, 16), (2**20, 32), (16, 16)])
def test_edges_of_distance_are_few_and_reach_everything(longest: int, nearest: int) -> None:
    edges = distance_edges(longest, nearest)
    assert edges[:2] == [1, nearest]
    assert len(edges) <= 8
    assert edges == sorted(set(edges))
    factors = {high // low for low, high in pairwise(edges[1:])}
    assert len(factors) <= 1
    if longest > nearest:
        assert edges[-1] <= longest < edges[-1] * max(factors, default=2)


def test_means_by_distance_and_level() -> None:
    delta = {"window": np.array([[1.0, 2.0, 4.0], [3.0, 5.0, 7.0]])}
    distance = np.array([[0, 5, 40], [3, 0, 70]])
    rows = by_distance(delta, distance, 16, None)
    assert [(row["from"], row["to"], row["delta"], row["tokens"]) for row in rows] == [
        (1, 16, 2.5, 2), (32, 64, 4.0, 1), (64, None, 7.0, 1), (None, None, 3.0, 2),
    ]  # fmt: skip
    assert rows[0]["stderr"] == pytest.approx(0.5)  # of two rows: s / sqrt(2), s = 1 / sqrt(2)
    assert sum(row["tokens"] for row in rows) == delta["window"].size
    one = by_distance(delta, distance, 16, np.array([4, 4]))
    assert all(row["stderr"] is None for row in one)  # one document says nothing of others
    found = by_lod(delta, {"window": np.array([[1, 0, 0], [1, ABSENT, 2]])}, range(3), None)
    assert [(row["lod"], row["delta"], row["tokens"]) for row in found] == [(0, 3.0, 2), (1, 2.0, 2), (2, 7.0, 1)]
