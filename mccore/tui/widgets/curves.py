"""The keys and the mouse of curves: what of them is shown, and how."""

from __future__ import annotations

import math
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType

from mccore.runs.rundir import RunDir
from mccore.tui.drawing.canvas import LABEL, Plot, PlotView, ends_of, window_of
from mccore.tui.drawing.glyphs import Glyphs
from mccore.tui.screens.control import ControlScreen
from mccore.tui.widgets.panel import PanelPane

AXES = ("step", "tokens", "time")


class CurveScreen(ControlScreen):
    """A screen with curves that share one view. The screen itself says which they are and draws them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "axis", "Axis", show=False, tooltip="Steps, tokens or time"),
        Binding("l", "log", "Log scale", show=False, tooltip="Logarithmic values"),
        Binding("m", "smooth", "Smooth", show=False, tooltip="Smooth the curves"),
        Binding("comma", "move(-1)", show=False, tooltip="Move the cursor that reads values to the left"),
        Binding("full_stop", "move(1)", show=False, tooltip="Move the cursor that reads values to the right"),
        Binding("plus,equals_sign", "zoom(0.5)", show=False, tooltip="Zoom in around the cursor"),
        Binding("minus", "zoom(2.0)", show=False, tooltip="Zoom out"),
        Binding("less_than_sign", "pan(-1)", show=False, tooltip="Move the window that was zoomed in to the left"),
        Binding("greater_than_sign", "pan(1)", show=False, tooltip="Move the window that was zoomed in to the right"),
    ]

    def __init__(self, run: RunDir, glyphs: Glyphs) -> None:
        super().__init__(run, glyphs)
        self._view = PlotView()

    def first_curve(self) -> Plot | None:
        """The curve whose ends bound the window."""
        raise NotImplementedError

    def show_curves(self) -> None:
        """Draw the curves."""
        raise NotImplementedError

    def action_axis(self) -> None:
        self._view = PlotView(
            AXES[(AXES.index(self._view.axis) + 1) % len(AXES)], smooth=self._view.smooth, log=self._view.log
        )
        self.show_curves()

    def action_log(self) -> None:
        self._view.log = not self._view.log
        self.show_curves()

    def action_smooth(self) -> None:
        self._view.smooth = not self._view.smooth
        self.show_curves()

    def action_move(self, columns: int) -> None:
        at = 0.5 if self._view.cursor is None else self._view.cursor + columns * 0.02
        self._view.cursor = min(1.0, max(0.0, at))
        self.show_curves()

    def action_zoom(self, factor: float) -> None:
        """Halve or double the window around the cursor; far enough out, all is shown."""
        if (plot := self.first_curve()) is None:
            return
        first, last = window_of(plot)
        middle = first + (self._view.cursor if self._view.cursor is not None else 1.0) * (last - first)
        half = (last - first) * factor / 2
        self._view.start, self._view.stop = middle - half, middle + half
        begin, end = ends_of(plot)
        if self._view.start <= begin and self._view.stop >= end:
            self._view.start, self._view.stop = -math.inf, math.inf
        self.show_curves()

    def action_pan(self, quarters: int) -> None:
        """Move the window by quarters of its width, not beyond the curve."""
        view, plot = self._view, self.first_curve()
        if plot is None or not math.isfinite(view.stop - view.start):
            return
        begin, end = ends_of(plot)
        wanted = quarters * (view.stop - view.start) / 4
        by = min(wanted, max(0.0, end - view.stop)) if quarters > 0 else max(wanted, min(0.0, begin - view.start))
        view.start, view.stop = view.start + by, view.stop + by
        self.show_curves()

    @on(PanelPane.Touched, "#plots PanelPane")
    def _touched(self, event: PanelPane.Touched) -> None:
        """A click puts the cursor there, the wheel zooms around it."""
        columns = event.pane.size.width - LABEL - 1
        self._view.cursor = min(1.0, max(0.0, (event.column - LABEL - 1) / max(1, columns - 1)))
        self.action_zoom(0.5 if event.turn > 0 else 2.0) if event.turn else self.show_curves()
