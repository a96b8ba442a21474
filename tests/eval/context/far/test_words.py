"""Where a wanted word stands, on rows made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mccore.eval.context.far.words import PLACES, REPETITION, by_kind, by_place, places, repetition, text_kind


@pytest.mark.parametrize(
    ("history", "token", "where"),
    [
        ([1, 2, 3, 4, 5, 6], 9, "nowhere before"),
        ([9, 6, 9, 4, 5, 6], 9, "far only, its pair far too"),
        ([9, 1, 2, 4, 5, 6], 9, "far only, its pair nowhere"),
        ([6, 9, 1, 9, 5, 6], 9, "in the window, its pair far only"),
        ([1, 2, 3, 9, 5, 6], 9, "in the window, its pair nowhere"),
        ([1, 2, 3, 6, 9, 6], 9, "its pair in the window, its triple not"),
        ([5, 6, 9, 6, 9, 4, 6], 9, "its pair in the window, its triple not"),
        ([1, 2, 5, 6, 9, 5, 6], 9, "its triple in the window"),
    ],
)
def test_each_place(history: list[int], token: int, where: str) -> None:
    window = 4 if where.endswith("triple not") else 3
    window = 5 if where == "its triple in the window" else window
    assert PLACES[places(np.array([[*history, token]]), 1, window)[0, 0]] == where


def test_the_window_grows_with_the_tokens_that_were_predicted() -> None:
    row = np.array([[1, 2, 3, 4, 7, 7]])
    assert [PLACES[each] for each in places(row, 2, 1)[0]] == ["nowhere before", "in the window, its pair nowhere"]


def test_rows_by_how_much_of_them_was_there_before() -> None:
    rows = np.array([[1, 2, 3, 1, 2, 3], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 1, 2]])
    assert [REPETITION[each] for each in repetition(rows, 2)] == ["mostly", "hardly", "half"]


def test_means_by_place_and_kind_are_those_of_their_tokens() -> None:
    losses = {"one": np.array([[1.0, 2.0], [3.0, 4.0]]), "window": np.zeros((2, 2))}
    place = np.array([[0, 1], [2, 0]])
    found = {(each["condition"], each["place"]): each for each in by_place(losses, place, np.array([4, 5]), "window")}
    assert found["one", "nowhere before"]["delta"] == 2.5
    assert found["one", "far only"]["delta"] == 2.5
    assert found["one", "far only"]["tokens"] == 2
    assert found["one", "nowhere before"]["share"] == 0.5
    assert found["window", "far only"]["delta"] == 0
    kinds = by_kind(losses, {"text": np.array(["code", "prose"])}, None, "window")
    assert [(each["kind"], each["delta"]) for each in kinds if each["condition"] == "one"] == [
        ("code", 1.5),
        ("prose", 3.5),
    ]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("def first(values, default):\n    return (values[0], 1) if values else self.default()", "code"),
        ("It was a bright cold day in April, and the clocks were striking.", "prose"),
        ("1, 2, 3, 0x4f, 5\n6, 7, 8", "data"),
        (" \n", "data"),
    ],
)
def test_kinds_of_text(text: str, kind: str) -> None:
    assert text_kind(text) == kind
