"""Whose turn it is: owners one after another, and of each owner's jobs the one that has waited longest."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, Protocol, TypeVar


class Owned(Protocol):
    """What has an owner."""

    owner: str


T = TypeVar("T", bound=Owned)


class FairQueue(Generic[T]):
    """Jobs that wait. An owner with a hundred of them gets no more turns than one with a single job."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def push(self, job: T) -> None:
        """Let a job wait behind its owner's others."""
        self._waiting.setdefault(job.owner, deque()).append(job)

    def pop(self) -> T:
        """The job whose turn it is. Raises IndexError where none waits."""
        if not self._waiting:
            raise IndexError("nobody waits")
        owner, jobs = self._waiting.popitem(last=False)
        job = jobs.popleft()
        if jobs:
            self._waiting[owner] = jobs  # behind all others
        return job

    def remove(self, job: T) -> None:
        """Take a job out, where it waits."""
        jobs = self._waiting.get(job.owner)
        if jobs is not None and job in jobs:
            jobs.remove(job)
            if not jobs:
                del self._waiting[job.owner]
