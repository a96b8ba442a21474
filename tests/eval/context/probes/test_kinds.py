"""Questions that are made up: what is told, where, and that nothing but the history can answer them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from mccore.errors import DataError
from mccore.eval.context.probes.kinds import KINDS, VALUES, VOTES, depths, draw_probes
from mccore.eval.context.probes.probe import HistoryProbe

SIZE = 2400
FILLER = np.frombuffer(b"<>#@!" * 200, dtype=np.uint8).astype(np.int64)


def encode(text: str) -> list[int]:
    return list(text.encode())


def decode(ids: np.ndarray) -> str:
    return bytes(ids.tolist()).decode()


@pytest.fixture(scope="module")
def probes() -> list[HistoryProbe]:
    return list(draw_probes(encode, FILLER, [SIZE], depths(10)))


def of(probes: list[HistoryProbe], kind: str, variant: str = "") -> list[HistoryProbe]:
    found = [probe for probe in probes if (probe.kind, probe.variant) == (kind, variant)]
    assert len(found) == 10
    return found


def text_of(probe: HistoryProbe) -> str:
    return decode(probe.ids[: probe.history])


def answer_of(probe: HistoryProbe) -> str:
    return decode(probe.ids[probe.history :])


def told_in(probe: HistoryProbe) -> list[str]:
    return [decode(probe.ids[start:stop]) for start, stop in probe.told]


def test_every_history_is_as_long_as_it_was_asked_to_be(probes: list[HistoryProbe]) -> None:
    assert len(probes) == 10 * len(KINDS)
    assert {probe.history for probe in probes} == {SIZE}


def test_what_is_told_stands_where_it_is_said_to(probes: list[HistoryProbe]) -> None:
    for probe in probes:
        assert probe.told
        if probe.depth is not None:
            # Other statements before it push it on by less than they are long.
            assert probe.told[0][0] / SIZE == pytest.approx(probe.depth, abs=0.45)
    single = of(probes, "needle", "single")
    assert [round(probe.told[0][0] / SIZE, 1) for probe in single] == sorted(
        round(probe.told[0][0] / SIZE, 1) for probe in single
    )
    assert single[0].told[0][0] < 0.06 * SIZE
    assert single[-1].told[0][0] > 0.85 * SIZE


def test_what_is_told_holds_the_answer_and_the_filler_does_not(probes: list[HistoryProbe]) -> None:
    for probe in probes:
        told, answer = " ".join(told_in(probe)), answer_of(probe)
        for start, stop in probe.counted:
            assert answer[start:stop] in told


def test_fresh_names_and_numbers_in_every_history(probes: list[HistoryProbe]) -> None:
    answers = [answer_of(probe) for probe in of(probes, "needle", "single")]
    assert len(set(answers)) == 10


def test_the_same_seed_asks_the_same(probes: list[HistoryProbe]) -> None:
    again = list(draw_probes(encode, FILLER, [SIZE], depths(10)))
    assert all(np.array_equal(one.ids, other.ids) for one, other in zip(probes, again, strict=True))
    other = next(draw_probes(encode, FILLER, [SIZE], depths(10), seed=1))
    assert not np.array_equal(probes[0].ids, other.ids)


def test_other_keys_of_the_same_form_stand_beside_the_asked_one(probes: list[HistoryProbe]) -> None:
    for probe in of(probes, "needle", "multi-key"):
        assert text_of(probe).count(".\n") == 8
        assert len(probe.told) == 1


def test_several_values_are_asked_in_their_order(probes: list[HistoryProbe]) -> None:
    for probe in of(probes, "needle", "multi-value"):
        assert len(probe.counted) == len(probe.told) == VALUES
        parts = [answer_of(probe)[start:stop] for start, stop in probe.counted]
        assert [told.split(" is")[1].removesuffix(".\n") for told in told_in(probe)] == parts


def test_the_newest_of_two_values_is_right(probes: list[HistoryProbe]) -> None:
    for probe in of(probes, "needle", "updated"):
        (start, _), text = probe.told[0], text_of(probe)
        sentence = told_in(probe)[0].rpartition(" ")[0]
        first = text.find(sentence)
        assert 0 <= first < start
        assert answer_of(probe) not in text[first : first + len(told_in(probe)[0])]


@pytest.mark.parametrize("pairs", [4, 16, 64])
def test_so_many_pairs_stand_in_one_place(probes: list[HistoryProbe], pairs: int) -> None:
    for probe in of(probes, "associative", f"{pairs} pairs"):
        assert text_of(probe).count(": ") == pairs
        assert told_in(probe)[0].endswith(answer_of(probe))


def test_a_variable_is_followed_through_its_chain(probes: list[HistoryProbe]) -> None:
    for probe in of(probes, "variables"):
        asked = text_of(probe).split("The number that ")[1].split()[0]
        given = dict(told.strip().split(" = ") for told in told_in(probe))
        while asked in given:
            asked = given[asked]
        assert f" {asked}" == answer_of(probe)


def test_the_most_frequent_word_is_the_answer(probes: list[HistoryProbe]) -> None:
    for probe in of(probes, "aggregation"):
        votes = Counter(
            line.split()[3].rstrip(".") for line in text_of(probe).split("\n") if line.startswith("One vote for ")
        )
        ((word, most),) = votes.most_common(1)
        assert (f" {word}", most) == (answer_of(probe), VOTES[0])
        assert sorted(votes.values(), reverse=True) == list(VOTES)


def test_a_history_without_room_is_refused() -> None:
    with pytest.raises(DataError, match="needs a history of"):
        list(draw_probes(encode, FILLER, [100], depths(1)))
