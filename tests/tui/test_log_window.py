"""The part of the logs that is on the screen."""

from __future__ import annotations

import pytest

from mccore.runs.logs import LogBook, Wanted
from mccore.runs.rundir import RunDir
from mccore.tui.log_window import LogWindow


@pytest.fixture
def window(run: RunDir) -> LogWindow:
    run.log_path("base").write_text("".join(f"line {number}\n" for number in range(100)))
    window = LogWindow(LogBook(run))
    window.book.refresh()
    window.resize(5)
    return window


def shown(window: LogWindow) -> list[str]:
    for _ in range(1000):
        if not window.busy:
            return [line.text.removeprefix("line ") for line in window.lines]
        window.step()
    pytest.fail("it is busy for ever")


def append(window: LogWindow, text: str) -> None:
    with open(window.book.files[0], "a") as file:
        file.write(text)
    window.poll()


def test_the_end_is_shown_and_followed(window: LogWindow) -> None:
    assert shown(window) == ["95", "96", "97", "98", "99"]
    append(window, "line 100\nhalf")
    assert shown(window) == ["97", "98", "99", "100", "half"]
    append(window, " a line\n")
    assert shown(window) == ["97", "98", "99", "100", "half a line"]


def test_going_up_stops_following_and_going_down_to_the_end_follows_again(window: LogWindow) -> None:
    window.move(-3)
    assert shown(window) == ["92", "93", "94", "95", "96"]
    assert not window.follow
    append(window, "line 100\n")
    assert shown(window) == ["92", "93", "94", "95", "96"]
    window.move(50)
    assert shown(window) == ["96", "97", "98", "99", "100"]
    assert window.follow


def test_the_beginning(window: LogWindow) -> None:
    window.to_start()
    assert shown(window) == ["0", "1", "2", "3", "4"]
    window.move(-1)
    assert shown(window) == ["0", "1", "2", "3", "4"]
    window.move(2)
    assert shown(window) == ["2", "3", "4", "5", "6"]


def test_a_search_goes_on_from_what_it_found(window: LogWindow) -> None:
    window.find("LINE 5", forward=False)
    assert "59" in shown(window)
    window.find("line 5", forward=False)
    assert window.found is not None
    assert window.found.text == "line 58"
    window.find("line 5", forward=True)
    assert window.found.text == "line 59"
    assert window.found in window.lines
    window.find("line 5", forward=True)
    assert "no later line has 'line 5'" in window.said


def test_lines_of_a_level_only(window: LogWindow) -> None:
    append(window, "error: one\nfine\nerror: two\n")
    window.choose(Wanted("error"))
    assert shown(window) == ["error: one", "error: two"]
    append(window, "fine\nerror: three\n")
    assert shown(window) == ["error: one", "error: two", "error: three"]
    window.choose(Wanted())
    assert shown(window)[-1] == "error: three"


def test_another_height_keeps_the_place(window: LogWindow) -> None:
    window.to_start()
    window.move(10)
    first = shown(window)[0]
    window.resize(8)
    assert shown(window)[0] == first
    assert len(window.lines) == 8


def test_a_log_that_begins_anew(window: LogWindow) -> None:
    window.book.files[0].write_text("fresh\n")
    window.poll()
    assert shown(window) == ["fresh"]


def test_a_burst_is_not_read_through(window: LogWindow) -> None:
    append(window, "x\n" * 2_000_000 + "last\n")
    assert shown(window)[-1] == "last"
    assert len(window.lines) == 5
