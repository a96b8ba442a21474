"""Logs as one text, read by piece."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from mccore.config import RunConfig
from mccore.runs import logs
from mccore.runs.logs import LogBook, LogLine, LogPlace, Wanted
from mccore.runs.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir.create(tmp_path, "one", RunConfig(recipe="tiny"))
    run.log_path("x").parent.mkdir()
    return run


def write(run: RunDir, stage: str, data: bytes, when: float) -> None:
    run.log_path(stage).write_bytes(data)
    os.utime(run.log_path(stage), (when, when))


def opened(run: RunDir) -> LogBook:
    book = LogBook(run)
    book.refresh()
    return book


def texts(lines: list[LogLine]) -> list[str]:
    return [line.text for line in lines]


def everything(book: LogBook, wanted: Wanted = logs.ALL, count: int = 7, scan: int = 100) -> tuple[list[LogLine], int]:
    """All lines by many small calls forward; the same backward has to agree."""
    there: list[LogLine] = []
    place, calls = book.start, 0
    while True:
        piece = book.after(place, count, wanted, scan)
        there, place, calls = there + piece.lines, piece.reached, calls + 1
        if piece.done:
            break
    back: list[LogLine] = []
    place = book.end
    while True:
        piece = book.before(place, count, wanted, scan)
        back, place = piece.lines + back, piece.reached
        if piece.done:
            break
    assert texts(back) == texts(there)
    return there, calls


def test_stages_follow_each_other_in_the_order_they_were_written(run: RunDir) -> None:
    write(run, "zebra", b"z1\nz2\n", 10)
    write(run, "apple", b"a1\nhalf a line", 20)
    book = opened(run)
    lines, _ = everything(book)
    assert [(line.stage, line.text) for line in lines] == [
        ("zebra", "z1"), ("zebra", "z2"), ("apple", "a1"), ("apple", "half a line"),
    ]  # fmt: skip
    assert texts(everything(book, Wanted(stage="zebra"))[0]) == ["z1", "z2"]


@pytest.mark.parametrize("seed", range(5))
def test_both_directions_give_every_line_once(run: RunDir, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "FEW_BYTES", 64)
    rng = random.Random(seed)
    wanted = ["x" * rng.choice((0, 1, 3, 20, 60)) + f"{number}" for number in range(200)]
    write(run, "base", "".join(f"{line}\n" for line in wanted).encode(), 10)
    assert texts(everything(opened(run))[0]) == wanted


def test_an_endless_line_comes_in_parts_and_costs_no_memory(run: RunDir) -> None:
    write(run, "base", b"first\n" + b"x" * (3 * logs.PIECE_BYTES) + b"\nlast\n", 10)
    book = opened(run)
    piece = book.after(book.start, 1000)
    assert max(len(line.data) for line in piece.lines) <= logs.LINE_BYTES
    assert sum(len(line.data) for line in piece.lines) == 3 * logs.PIECE_BYTES + 9
    assert book.before(book.end, 1).lines[0].text == "last"


def test_levels_by_the_words_that_programs_use(run: RunDir) -> None:
    told = {
        "step 3/40  loss 2.5": "",
        "no error here at all, loss_error 3": "",
        "/x.py:3: UserWarning: a tensor": "warning",
        "[rank1]:[W1130 12:00:00.1 ProcessGroup.cpp:1] x": "warning",
        "W1130 12:00:00.1 123 torch/distributed/run.py:1] x": "warning",
        "warning: the disk is slow": "warning",
        "error: base ran out of memory": "error",
        "Traceback (most recent call last):": "error",
        '  File "/a/b.py", line 3, in f': "error",
        "ValueError: no": "error",
        "torch.distributed.DistBackendError: NCCL": "error",
        "[rank0]:[E1130 12:00:00.1 x] y": "error",
    }
    write(run, "base", "".join(f"{line}\n" for line in told).encode(), 10)
    book = opened(run)
    lines, _ = everything(book)
    assert {line.text: line.level for line in lines} == told
    assert texts(everything(book, Wanted("error"))[0]) == [text for text, level in told.items() if level == "error"]
    assert texts(everything(book, Wanted("warning"))[0]) == [text for text, level in told.items() if level]
    assert book.ranks() == [0, 1]
    assert len(everything(book, Wanted(rank=1))[0]) == 1
    assert len(everything(book, Wanted("error", rank=1))[0]) == 0
    assert texts(everything(book, Wanted(text="LOSS"))[0]) == [text for text in told if "loss" in text]


def test_a_search_stops_after_a_bounded_piece_and_can_go_on(run: RunDir) -> None:
    write(run, "base", b"hay\n" * 300_000 + b"needle\n", 10)
    book = opened(run)
    piece = book.after(book.start, 1, Wanted(text="needle"), scan=1 << 18)
    assert not piece.lines
    assert not piece.done
    assert book.position(piece.reached) < 1 << 20
    lines, calls = everything(book, Wanted(text="needle"), scan=1 << 18)
    assert texts(lines) == ["needle"]
    assert calls > 2


def test_places_stay_true_while_the_end_grows_and_a_new_stage_begins(run: RunDir) -> None:
    write(run, "base", b"one\ntwo\n", 10)
    book = opened(run)
    place = book.after(book.start, 1).reached
    with open(run.log_path("base"), "ab") as file:
        file.write(b"three\n")
    write(run, "aaa", b"four\n", 5)  # older than what is known: known files keep their place
    assert book.refresh()
    assert not book.refresh()
    assert texts(book.after(place, 10).lines) == ["two", "three", "four"]


def test_a_file_that_shrinks_vanishes_or_is_none_of_ours_is_no_error(run: RunDir, tmp_path: Path) -> None:
    write(run, "base", b"one\ntwo\nthree\n", 10)
    book = opened(run)
    end = book.end
    run.log_path("base").write_bytes(b"a\n")
    book.before(end, 5)
    book.refresh()
    assert texts(book.before(end, 5).lines) == ["a"]
    run.log_path("base").unlink()
    assert book.after(book.start, 5).lines == []
    book.refresh()
    assert book.total == 0
    (run.path / "logs" / "pipe.log").mkdir()
    os.mkfifo(run.path / "logs" / "fifo.log")
    book.refresh()
    assert book.after(book.start, 5).lines == []


def test_no_logs_at_all_are_told(tmp_path: Path) -> None:
    book = opened(RunDir.create(tmp_path, "none", RunConfig(recipe="tiny")))
    assert "no logs" in book.problem
    assert book.after(book.start, 5) == logs.LogPart([], LogPlace(0, 0), True)
    assert book.before(book.end, 5).done


def test_a_bar_that_writes_over_itself_counts_for_what_it_ended_with(run: RunDir) -> None:
    write(run, "base", b"10%\r20%\r100%\r\n", 10)
    assert texts(opened(run).after(LogPlace(0, 0), 1).lines) == ["100%"]
