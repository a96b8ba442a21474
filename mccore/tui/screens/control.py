"""What a screen does to its run: stop, resume, a checkpoint now. Asked first where something ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.binding import Binding, BindingType

from mccore.errors import MccoreError
from mccore.host.terminal import one_line
from mccore.runs.live.watch import RunWatch
from mccore.runs.requests import request_checkpoint
from mccore.runs.rundir import RunDir
from mccore.tui import actions
from mccore.tui.drawing.glyphs import Glyphs
from mccore.tui.screens.confirm import ConfirmScreen
from mccore.tui.screens.run_screen import RunScreen


class ControlScreen(RunScreen):
    """A screen that watches a run and can stop and resume it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "stop", "Stop", tooltip="Stop after the current step, with a checkpoint"),
        Binding("S", "stop_now", "Stop now", show=False, tooltip="End the launcher now"),
        Binding("r", "resume", "Resume", tooltip="Go on with a run that has ended"),
        Binding("C", "checkpoint", "Checkpoint", show=False, tooltip="Write a checkpoint after this step"),
    ]

    def __init__(self, run: RunDir, glyphs: Glyphs) -> None:
        super().__init__(run, glyphs)
        self.watch = RunWatch(run)
        self._started: actions.Started | None = None

    def report_start(self) -> None:
        """Say once why a launcher that was started here has refused."""
        if self._started is not None and (said := self._started.failure()) is not None:
            self._started = None
            self.notify(one_line(said.splitlines()[0] if said else "it ended at once"), severity="error", timeout=15)

    def action_stop(self) -> None:
        if self.watch.outcome.state != "running":
            self.notify("it isn't running", severity="warning")
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._try(lambda: actions.stop_after_the_step(self.watch.run), "it stops after this step")

        self.app.push_screen(ConfirmScreen(f"Stop {self.watch.run.name} after this step?"), answered)

    def action_stop_now(self) -> None:
        def answered(yes: bool | None) -> None:
            if yes and not actions.stop_now(self.watch.run):
                self.notify("there is no launcher to end", severity="warning")

        self.app.push_screen(ConfirmScreen(f"End {self.watch.run.name} now? What isn't saved is lost."), answered)

    def action_resume(self) -> None:
        if self.watch.run.is_running():
            self.notify("it is running", severity="warning")
            return
        try:
            self._started = actions.resume(self.watch.run)
        except OSError as error:
            self.notify(f"can't start it: {error.strerror}", severity="error")
        else:
            self.notify("going on with the run")

    def action_checkpoint(self) -> None:
        if self.watch.outcome.state != "running":
            self.notify("it isn't running", severity="warning")
            return
        self._try(lambda: request_checkpoint(self.watch.run), "a checkpoint is written after this step")

    def _try(self, action: Callable[[], None], words: str) -> None:
        try:
            action()
        except MccoreError as error:
            self.notify(one_line(error.message), severity="error")
        else:
            self.notify(words)
