from __future__ import annotations

from typing import NamedTuple

import pytest

from mccore.serve.worker.queue import FairQueue


class Job(NamedTuple):
    owner: str
    number: int


def test_an_owner_with_many_jobs_gets_no_more_turns_than_one_with_few() -> None:
    queue: FairQueue[Job] = FairQueue()
    for number in range(50):
        queue.push(Job("greedy", number))
    queue.push(Job("modest", 0))
    assert [queue.pop().owner for _ in range(3)] == ["greedy", "modest", "greedy"]
    queue.push(Job("late", 0))
    assert "late" in [queue.pop().owner for _ in range(2)]
    queue.remove(Job("greedy", 7))
    assert [queue.pop().number for _ in range(3)][:1] != [7]
    assert len(queue) == 50 + 2 - 3 - 2 - 1 - 3
    queue.remove(Job("nobody", 1))
    while len(queue):
        queue.pop()
    with pytest.raises(IndexError):
        queue.pop()
