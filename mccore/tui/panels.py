"""Panels of plugins: loaded when a run is watched, drawn with what the monitor knows, their faults a line in their place."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from types import FrameType

from mccore import plugins
from mccore.api import Panel, PanelSpec, Role, Span
from mccore.config import Choice
from mccore.errors import PluginError
from mccore.events import METRICS, Event
from mccore.plugins.containment import Escaped, guarded
from mccore.runs import lod_map
from mccore.runs.live.state import RunState
from mccore.tui.drawing.canvas import Cell, Plot, PlotView, cursor_value, draw, format_position, format_value
from mccore.tui.drawing.glyphs import Glyphs

DRAW_SECONDS = 1.0  # a panel that takes longer is given up

Lines = Sequence[Sequence[Span]]


@dataclass
class StateView:
    """The state of a run as a panel sees it (`mccore.api.RunView`)."""

    run: str
    stage: str
    state: RunState
    glyphs: Glyphs
    plot_view: PlotView = field(default_factory=PlotView)
    back: int = 0  # snapshots back from the newest

    def __post_init__(self) -> None:
        self.ascii_only = not self.glyphs.braille
        self.shades = self.glyphs.levels

    def value(self, metric: str) -> float | None:
        last = self.state.metrics.get(metric)
        return None if last is None else last.value

    def events(self, kind: str) -> Sequence[Event]:
        kept = {"alert": self.state.alerts, "sample": self.state.samples, "checkpoint": self.state.checkpoints}
        return tuple(self._snapshots() if kind == "working_context_snapshot" else kept.get(kind, ()))

    def plot(self, metric: str, width: int, height: int) -> Lines:
        known, trace = METRICS.get(metric), self.state.traces.get((self.stage, metric))
        unit = f" [{known.unit}]" if known and known.unit != "1" else ""
        name = f"{self.stage}/{metric}{unit}"
        if trace is None or not trace.buckets:
            return [[Span(f"{name}: no values yet"[:width], "axis")]]
        begun = [
            position_of(event, self.plot_view)
            for event in self.state.alerts
            if event.stage == self.stage and event.data.get("metric") == metric
        ]
        return plot_lines(
            name, Plot(trace, known.band if known else None, begun, self.plot_view), width, height, self.glyphs
        )

    def contexts(self) -> tuple[Event | None, Event | None]:
        kept = self._snapshots()
        place = max(0, len(kept) - 1 - self.back)
        return (kept[place] if kept else None), (kept[place - 1] if place > 0 else None)

    def levels(self, snapshot: Event, cells: int) -> Sequence[int]:
        return lod_map.cells(stretches_of(snapshot), cells)

    def changed(self, before: Event, snapshot: Event, cells: int) -> Sequence[bool]:
        return lod_map.changed(stretches_of(before), stretches_of(snapshot), cells)

    def _snapshots(self) -> Sequence[Event]:
        """Of the stage that is shown, else of the first that has some: an evaluation's beside no curve of its own."""
        return self.state.snapshots.get(self.stage) or next(iter(self.state.snapshots.values()), [])

    def has(self, panel: Panel) -> bool:
        """Whether a panel has anything to show."""
        reads = panel.reads
        return not reads or any((self.stage, each) in self.state.traces or self.events(each) for each in reads)


def stretches_of(snapshot: Event) -> list[lod_map.Stretch]:
    """Where each run of a snapshot lies. Raises ValueError for a damaged one."""
    data = snapshot.data
    try:
        return lod_map.stretches(data["runs"], int(data["block_size"]), int(data["history"]))
    except (TypeError, KeyError) as error:
        raise ValueError("the snapshot is damaged") from error


def position_of(event: Event, view: PlotView) -> float:
    """Where an event lies on the axis that is shown."""
    if view.axis == "time":
        return event.time
    return float((event.step if view.axis == "step" else event.tokens) or 0)


def plot_lines(name: str, plot: Plot, width: int, height: int, glyphs: Glyphs) -> Lines:
    """A curve below its title and its last value."""
    title = f"{name} {format_value(plot.trace.last)}"
    if (under := cursor_value(plot)) is not None:
        title += f"  at {format_position(under[0], plot.view.axis)}: {format_value(under[1])}"
    out = plot.band is not None and not plot.band[0] <= plot.trace.last <= plot.band[1]
    lines: list[Sequence[Span]] = [[Span(title[:width], "alert" if out else "line")]]
    return lines + [spans_of(row) for row in draw(plot, width, height - 1, glyphs)]


def spans_of(cells: Sequence[Cell]) -> list[Span]:
    """Cells of a plot as spans."""
    grouped = groupby(cells, key=lambda cell: (cell.role, cell.band))
    return [Span("".join(cell.char for cell in group), role, band) for (role, band), group in grouped]


# --- panels of plugins ------------------------------------------------------------------------------------------------


@dataclass
class LoadedPanel:
    """A panel of a plugin. Its name is always there; where it can't be loaded or has failed, `problem` says why."""

    name: str
    panel: Panel | None
    problem: str = ""
    given_up: bool = False

    def draw(self, view: StateView, width: int, height: int) -> Lines:
        """What the panel draws, or one line on why it doesn't. Never raises."""
        if self.panel is None or self.given_up:
            return self._sorry()
        try:
            with _alarm(DRAW_SECONDS), guarded():
                lines = [
                    [Span(str(text), role, bool(band)) for text, role, band in map(_as_span, line)]
                    for line in list(self.panel.draw(view, width, height))[:height]
                ]
        except Escaped as escaped:
            cause = escaped.__cause__
            self.given_up = isinstance(cause, _TooSlow)
            self.problem = (
                "it took longer than a second" if self.given_up else plugins.registry.one_line(cause or escaped)
            )
            return self._sorry()
        self.problem = ""
        return lines

    def _sorry(self) -> Lines:
        return [[Span(f"panel {self.name!r} can't be shown: {self.problem}", "bad")]]


def load_panels(run: Path) -> list[LoadedPanel]:
    """Every panel that is installed and not disabled, built for a run. One that can't be is there with its problem."""
    return [load_panel(name, run) for name in plugins.names("panel")]


def load_panel(name: str, run: Path) -> LoadedPanel:
    """One panel, built for a run. Never raises: what is wrong is its `problem`."""
    try:
        panel = plugins.build("panel", Choice(name=name), PanelSpec(run))
    except PluginError as error:
        return LoadedPanel(name, None, error.message)
    problem = _misfit(panel)
    return LoadedPanel(name, None if problem else panel, problem)


def _misfit(panel: Panel) -> str:
    """What of a panel's attributes isn't what `mccore.api.Panel` asks for."""
    try:
        with guarded():
            title, place, reads = panel.title, panel.place, panel.reads
    except Escaped as escaped:
        return plugins.registry.one_line(escaped.__cause__ or escaped)
    if not isinstance(title, str) or place not in ("plot", "wide", "screen"):
        return f"its title is {title!r} and its place {place!r}"
    if not isinstance(reads, tuple) or not all(isinstance(each, str) for each in reads):
        return f"it reads {reads!r}, which is no tuple of names"
    return ""


ROLES = frozenset(Role.__args__)  # type: ignore[attr-defined]


def _as_span(value: object) -> Span:
    """A span, from one or from a plain tuple. Raises TypeError for anything else."""
    if not isinstance(value, tuple) or not 1 <= len(value) <= 3 or not isinstance(value[0], str):
        raise TypeError(f"a line has {type(value).__name__} where a Span is expected")
    span = Span(*value)
    if span.role not in ROLES:
        raise ValueError(f"there is no role {span.role!r}")
    return span


class _TooSlow(BaseException):
    """Raised inside a panel that takes too long. No Exception, so that a panel doesn't catch it by mistake."""


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer, where this thread gets to see signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _TooSlow

    before: Callable[[int, FrameType | None], object] | int | None = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
