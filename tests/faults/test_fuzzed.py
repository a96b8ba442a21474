"""Seeds of the fuzzer that found something, and a few of every reader: `tests/support/fuzz_readers.py` has the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from mccore.errors import MOST_LETTERS, MccoreError
from tests.support.fuzz_readers import read_one
from tests.support.fuzz_targets import TARGETS

FOUND = [
    pytest.param("tokenizers", 254, id="a message of 10,102 letters"),
    pytest.param("conversations", 460, id="a message of 5,098 letters"),
    pytest.param("tokenizers", 657, id="an id that is infinite"),
    pytest.param("tokenizers", 1000779, id="a pattern with half a surrogate pair"),
    pytest.param("runs", 5000242, id="a width that is null"),
    pytest.param("runs", 5000297, id="a stage whose name no file can have"),
    pytest.param("runs", 2000329, id="a report of a width that is null"),
    pytest.param("runs", 2003501, id="a report of a configuration that wasn't derived"),
    pytest.param("contexts", 2002758, id="rows of terabytes in a header: a fault for each block of them"),
]


@pytest.mark.parametrize(("reader", "seed"), FOUND)
def test_what_was_found_stays_found(tmp_path: Path, reader: str, seed: int) -> None:
    read_one(seed, tmp_path, reader)


@pytest.mark.parametrize("reader", TARGETS)
def test_every_reader_takes_anything(tmp_path: Path, reader: str) -> None:
    for seed in range(3):
        read_one(seed, tmp_path, reader)


def test_no_file_can_bury_what_an_error_says() -> None:
    error = MccoreError("what it is: " + "x" * 100_000 + " and where", hint="what to do")
    assert len(error.message) < MOST_LETTERS + 50
    assert error.message.startswith("what it is: xxx")
    assert "letters] xxx" in error.message
    assert error.message.endswith(" and where")
