"""The lines of a run's logs that fit a screen: moved, filtered, searched, following the end. No screen in here.

What takes long, a search through a gigabyte, is done in pieces: `step` does the next one while `busy`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mccore.runs.logs import ALL, LogBook, LogLine, LogPlace, Wanted

START = LogPlace(0, 0)
JUMP_BYTES = 1 << 20  # more news than this isn't read through: the end is shown


@dataclass
class LogWindow:
    """At most `height` lines, and how many more are wanted above and below them."""

    book: LogBook
    height: int = 1
    wanted: Wanted = ALL
    lines: list[LogLine] = field(default_factory=list)
    follow: bool = True
    found: LogLine | None = None  # what the last search found
    said: str = ""  # what became of the last search
    _above: LogPlace = START  # up to here everything before the lines was looked at
    _below: LogPlace = START
    _want_above: int = 0
    _want_below: int = 0
    _search: tuple[Wanted, bool, LogPlace] | None = None

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do."""
        return self._search is not None or self._want_above > 0 or self._want_below > 0

    @property
    def share(self) -> float:
        """How far through the logs the window is, or the search."""
        place = self._search[2] if self._search else self._below
        return self.book.position(place) / self.book.total if self.book.total else 1.0

    # --- where it stands ----------------------------------------------------------------------------------------------

    def to_end(self) -> None:
        """Show the last lines and follow them."""
        self.follow = True
        self._show_before(self.book.end)

    def to_start(self) -> None:
        """Show the first lines."""
        self.follow, self._search = False, None
        self.lines, self._above, self._below = [], self.book.start, self.book.start
        self._want_above, self._want_below = 0, self.height
        self.step()

    def move(self, lines: int) -> None:
        """Go down by so many lines, up by so many where negative."""
        if lines < 0:
            self.follow = False
            self._want_above, self._want_below = -lines, 0
        else:
            self._want_above, self._want_below = 0, lines
        self.step()

    def resize(self, height: int) -> None:
        """Another number of lines."""
        self.height = max(1, height)
        if self.follow or not self.lines:
            self._show_before(self.book.end)
        else:
            self._show_from(self.lines[0].start)

    def choose(self, wanted: Wanted) -> None:
        """Show other lines, around the place where it stands."""
        at = self.lines[0].start if self.lines else self.book.start
        self.wanted = wanted
        if self.follow:
            self._show_before(self.book.end)
        else:
            self._show_from(at)

    def find(self, text: str, *, forward: bool) -> None:
        """Look for the next line with a text, among those that are wanted, from the one found last or from the window on."""
        if not text:
            return
        inside = (
            self.found is not None and self.lines and self.lines[0].start <= self.found.start <= self.lines[-1].start
        )
        if self.found is not None and inside:
            at = self.found.stop if forward else self.found.start
        elif forward:
            at = self.lines[0].start if self.lines else self.book.start
        else:
            at = self.lines[-1].stop if self.lines else self.book.end
        self.said = ""
        self._search = (replace(self.wanted, text=text), forward, at)
        self.step()

    def cancel(self) -> None:
        """Give up a search."""
        self._search, self._want_above, self._want_below = None, 0, 0

    # --- work ---------------------------------------------------------------------------------------------------------

    def poll(self) -> bool:
        """Look whether the logs have grown; whether there is anything new to draw."""
        before = self.book.end
        if not self.book.refresh():
            return False
        if not self.follow:
            return True
        end = self.book.end
        news = self.book.position(end) - self.book.position(before)
        if not self.lines or end < self._below or news > JUMP_BYTES:
            self._show_before(end)
            return True
        last = self.lines.pop()  # it may have been half a line
        self._below = last.start
        self._want_below = self.height
        self.step()
        return True

    def step(self) -> None:
        """Do one piece of what is wanted."""
        if self._search is not None:
            self._step_search()
        elif self._want_below > 0:
            piece = self.book.after(self._below, self._want_below, self.wanted)
            self.lines += piece.lines
            self._below = piece.reached
            self._want_below = 0 if piece.done else self._want_below - len(piece.lines)
            if piece.done and not self._want_above:
                self.follow = True
                if len(self.lines) < self.height:  # the end came first: fill up from above
                    self._want_above = self.height - len(self.lines)
            self._trim(self.lines[-self.height :])
        elif self._want_above > 0:
            piece = self.book.before(self._above, self._want_above, self.wanted)
            self.lines = piece.lines + self.lines
            self._above = piece.reached
            self._want_above = 0 if piece.done else self._want_above - len(piece.lines)
            if piece.done and len(self.lines) < self.height and not self.follow:
                self._want_below = self.height - len(self.lines)
            self._trim(self.lines[-self.height :] if self.follow else self.lines[: self.height])

    def _trim(self, kept: list[LogLine]) -> None:
        if kept and kept[0] is not self.lines[0]:
            self._above = kept[0].start
        if kept and kept[-1] is not self.lines[-1]:
            self._below = kept[-1].stop
        self.lines = kept

    def _step_search(self) -> None:
        assert self._search is not None
        wanted, forward, at = self._search
        piece = (self.book.after if forward else self.book.before)(at, 1, wanted)
        if piece.lines:
            self._search, self.found = None, piece.lines[0]
            self.follow = False
            self._show_from(self._lines_above(self.found))
        elif piece.done:
            self._search = None
            self.said = f"no {'later' if forward else 'earlier'} line has {wanted.text!r}"
        else:
            self._search = (wanted, forward, piece.reached)

    def _lines_above(self, line: LogLine) -> LogPlace:
        """The beginning of a window that has this line at its third."""
        above = self.book.before(line.start, self.height // 3, self.wanted).lines
        return above[0].start if above else line.start

    def _show_before(self, place: LogPlace) -> None:
        self._search = None
        self.lines, self._above, self._below = [], place, place
        self._want_above, self._want_below = self.height, 0
        self.step()

    def _show_from(self, place: LogPlace) -> None:
        self.lines, self._above, self._below = [], place, place
        self._want_above, self._want_below = 0, self.height
        follow = self.follow
        self.step()
        self.follow = follow
