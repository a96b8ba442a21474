"""The file of events that weren't sent: bounded, whole lines, and no reason to fail."""

from __future__ import annotations

from pathlib import Path

from mccore_telemetry.opensearch.dead_letters import DeadLetters, read_dead_letters

from mccore.events import Event
from mccore.testing.telemetry import example_events


def test_events_come_back_with_their_reasons(tmp_path: Path) -> None:
    path = tmp_path / "telemetry/unsent.jsonl"
    letters = DeadLetters(path, 1 << 20)
    events = example_events()
    letters.add(events[:3], 'it said "no"\n')
    letters.add(events[3:], "größer")
    read = list(read_dead_letters(path))
    assert [event.to_json() for event, _ in read] == [event.to_json() for event in events]
    assert [why for _, why in read] == ['it said "no"\n'] * 3 + ["größer"] * (len(events) - 3)
    assert (letters.kept, letters.missing) == (len(events), 0)


def test_the_file_never_grows_beyond_its_limit(tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path / "unsent.jsonl", 1000)
    for number in range(100):
        letters.add([Event("step", float(number), step=number)], "refused")
    assert (tmp_path / "unsent.jsonl").stat().st_size <= 1000
    assert letters.kept == len(list(read_dead_letters(letters.path)))
    assert letters.kept + letters.missing == 100
    assert "the file is full at 1,000 bytes" in letters.describe()


def test_a_line_torn_by_a_crash_is_ended_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "unsent.jsonl"
    DeadLetters(path, 1 << 20).add([Event("step", 1.0, step=1)], "refused")
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    DeadLetters(path, 1 << 20).add([Event("step", 2.0, step=2)], "refused")
    assert [event.step for event, _ in read_dead_letters(path)] == [1, 2]


def test_a_directory_that_cant_be_written_is_counted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    letters = DeadLetters(tmp_path / "file/unsent.jsonl", 1 << 20)
    letters.add([Event("step", 1.0)], "refused")
    assert (letters.kept, letters.missing) == (0, 1)
    assert "1 are in the run's event file only" in letters.describe()


def test_no_file_is_no_events(tmp_path: Path) -> None:
    assert list(read_dead_letters(tmp_path / "none.jsonl")) == []
