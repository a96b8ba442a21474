"""How a stage ended, by everything that may be known of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from mccore.events import Event
from mccore.launch.ending import Ending, Evidence, judge
from mccore.runs.rundir import RunDir

TORCHRUN = "Root Cause (first observed failure):\n  rank      : 1 (local_rank: 1)\n  exitcode  : -9 (pid: 7)\n"


def ended(rank: int, outcome: str, **data: Any) -> Event:
    return Event.now("stage.end", None, {"outcome": outcome, **data}, rank=rank, stage="base")


def ending(*ends: Event, completed: bool = False, **known: Any) -> Ending:
    """The judgement over a stage that ended like this; by default its process left with 0 and nothing was asked of it."""
    run = cast(RunDir, SimpleNamespace(name="mine", completed=lambda stage: completed))
    facts: dict[str, Any] = {"code": 0, "log": "", "signals": 0, "many_ranks": False, "met": True, **known}
    return judge(Evidence(run, "base", ends=list(ends), **facts))


@pytest.mark.parametrize("outcome", ["finished", "stopped"])
def test_its_own_word_counts_before_its_exit_code(outcome: str) -> None:
    found = ending(ended(0, outcome, message="so"), code=1)
    assert (found.state, found.message, found.told) == (outcome, "so", True)


@pytest.mark.parametrize(
    ("code", "completed", "state", "words"),
    [
        (0, True, "finished", ""),
        (0, False, "failed", "base ended without a result"),
        (3, False, "stopped", ""),
        (1, False, "failed", "base failed with exit code 1: the last line"),
        (-9, False, "failed", "base was killed (SIGKILL), perhaps for lack of memory"),
        (-15, False, "failed", "base was killed (SIGTERM)"),
    ],
)
def test_without_a_word_its_exit_code_decides(code: int, completed: bool, state: str, words: str) -> None:
    found = ending(code=code, completed=completed, log="first\nthe last line\n")
    assert found.state == state
    assert found.message == words
    assert not found.told


def test_what_a_person_asked_for_is_no_failure() -> None:
    assert ending(signals=1, many_ranks=True, met=False, code=1).state == "stopped"
    assert ending(signals=2, code=-15).state == "interrupted"
    assert ending(signals=1, code=1).state == "failed"  # it was asked once, and failed while it saved


def test_of_many_ranks_the_one_that_failed_first_has_the_word() -> None:
    first = ended(1, "failed", message="no room", hint="make some", traceback="trace")
    found = ending(first, ended(0, "failed", message="a peer is gone"), many_ranks=True)
    assert (found.message, found.hint, found.log, found.told) == ("rank 1: no room", "make some", "trace", False)
    assert ending(ended(0, "failed", message="no room"), many_ranks=True).told


def test_a_rank_that_was_killed_is_named_whatever_the_others_noticed() -> None:
    noticed = ended(0, "failed", message="a peer is gone")
    found = ending(noticed, log=TORCHRUN, many_ranks=True, code=1)
    assert found.message.startswith("rank 1 was killed (SIGKILL), perhaps for lack of memory")
    assert not found.told
    own = ending(ended(1, "failed", message="no room"), log=TORCHRUN, many_ranks=True, code=1)
    assert own.message == "rank 1: no room"  # it said itself why
