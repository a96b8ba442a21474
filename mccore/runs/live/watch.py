"""Follow a run by its directory: every rank's event file and the launcher's, as they grow.

A long history is read from its end first, so that the present is there at once. The rest is read piece by piece while the end
is followed further, and the curves are whole when it was read.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from mccore.errors import MccoreError
from mccore.events import Event
from mccore.runs.live.files import EventFiles, WholeLines
from mccore.runs.live.state import RunState
from mccore.runs.rundir import Outcome, RunDir

TAIL_BYTES = 1 << 18  # of each file, for the first picture
OUTCOME_SECONDS = 1.0  # between two looks at locks and results


class Pieces(NamedTuple):
    """What was read at once: of the end of the files, and of their history."""

    end: list[WholeLines]
    history: list[WholeLines]


class RunWatch:
    """The state of one run, kept up by `poll`. A directory that is missing, unreadable or damaged is a state as well.

    A screen calls the parts of `poll` by themselves: `fetch` and `look`, which may block, in a thread, and `digest` between them.
    """

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.state = RunState()
        self.outcome = Outcome("created")
        self.problem = ""  # why nothing can be read
        self._files = EventFiles(run.events_dir, last=TAIL_BYTES)
        self._history: tuple[EventFiles, RunState] | None = None  # from the beginning, while `state` shows the end
        self._looked = 0.0

    @property
    def catching_up(self) -> bool:
        """Whether the history is still being read: curves don't go back to their beginning yet."""
        return self._history is not None

    @property
    def skipped(self) -> int:
        """Lines that aren't events."""
        return (self._files if self._history is None else self._history[0]).skipped

    def open(self) -> None:
        """Take the first picture: all of a short history, the end of a long one."""
        events: list[Event] = []
        while pieces := self._files.fetch():
            events += self._files.digest(pieces)
        if self._files.cut:
            self._history = (EventFiles(self.run.events_dir), RunState())
            # What a run began with lies before its end.
            first = min((event.time for event in events), default=float("inf"))
            names = [path.name for path in sorted(self.run.events_dir.glob("*.jsonl"))]
            marks = [self.run.last_event("run.start", "launcher.jsonl")]
            marks += [self.run.last_event("stage.*", name) for name in names]
            events += [event for event in marks if event is not None and event.time < first]
        for event in sorted(events, key=lambda event: event.time):
            self.state.take(event)
        self.look()

    def poll(self, seconds: float = 0.02) -> bool:
        """Read on for about this long; says whether anything changed."""
        deadline = time.monotonic() + seconds
        moved = False
        while self.digest(self.fetch()):
            moved = True
            if time.monotonic() >= deadline:
                break
        return self.look() or moved

    def fetch(self) -> Pieces:
        """Read the next pieces of the files, without a look into them."""
        return Pieces(self._files.fetch(), self._history[0].fetch() if self._history is not None else [])

    def digest(self, pieces: Pieces) -> bool:
        """Take what was fetched into the state: a few milliseconds. Says whether anything changed."""
        moved = bool(pieces.end or pieces.history)
        for event in self._files.digest(pieces.end):
            self.state.take(event)
            moved = True
        if self._history is not None:
            files, state = self._history
            for event in files.digest(pieces.history):
                state.take(event)
            if files.beyond(self._files):
                self._files, self.state, self._history = files, state, None
        return moved

    def look(self) -> bool:
        """Look at the locks and results now and then: they say what became of a run that ended without a word."""
        now = time.monotonic()
        if now - self._looked < OUTCOME_SECONDS:
            return False
        self._looked = now
        before = (self.outcome, self.problem)
        self.problem = self._files.problem
        try:
            self.outcome = self.run.outcome()
            self.run.facts  # noqa: B018  # a run.json that is damaged or newer is told; without one there is none to tell of
        except (MccoreError, OSError) as error:
            self.problem = getattr(error, "message", None) or str(error)
        if not self.run.path.is_dir():
            self.problem = f"{self.run.path} is gone"
        return (self.outcome, self.problem) != before

    def to_json(self) -> dict[str, Any]:
        """The picture as plain data, for scripts."""
        return {
            "run": self.run.name,
            "path": str(self.run.path),
            "state": self.outcome.state,
            "why": self.outcome.message,
            "problem": self.problem,
            "skipped_lines": self.skipped,
            **self.state.to_json(),
        }
