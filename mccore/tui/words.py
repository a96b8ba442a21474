"""How a run is doing, in a few lines for the top of a screen."""

from __future__ import annotations

import time

from rich.text import Text

from mccore.events import METRICS
from mccore.events.metrics import language_loss
from mccore.host.terminal import one_line
from mccore.runs.live.state import RunState
from mccore.runs.live.watch import RunWatch
from mccore.tui.drawing.colours import STATES
from mccore.tui.drawing.glyphs import Glyphs
from mccore.units import count, duration, number

QUIET_SECONDS = 60.0  # without an event before it is said
BAR_WIDTH = 24


def headline(watch: RunWatch, glyphs: Glyphs) -> Text:
    """The run, what became of it, and the stages that come."""
    outcome = watch.outcome
    running = outcome.state == "running"
    waiting = [stage.name for stage in watch.state.stages.values() if running and stage.state == "waiting"]
    return Text.assemble(
        (f"{one_line(watch.run.name)} ", "bold"),
        (f"{glyphs.states.get(outcome.state, '')} {outcome.state}", STATES.get(outcome.state, "bold")),
        f"  {one_line(outcome.message)}" if outcome.message else "",
        f"  then {', '.join(map(one_line, waiting))}" if waiting else "",
    )


def notes(watch: RunWatch) -> list[str]:
    """What a person should know of: silence, damage, alerts, failures."""
    state, found = watch.state, []
    age = time.time() - state.newest if state.newest else 0.0
    if watch.outcome.state == "running" and age > QUIET_SECONDS:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state.newest))
        found.append(f"nothing new for {duration(age)}, since {since}")
    if watch.problem:
        found.append(one_line(watch.problem))
    if watch.skipped:
        found.append(f"damaged lines: {watch.skipped}")
    if state.newer:
        found.append(f"events of a newer mccore: {state.newer}")
    if watch.catching_up:
        found.append("reading the history")
    failed = state.failure()
    if failed is not None:
        found.append(
            f"{failed.name} failed: {one_line(failed.message)} (tab Failure has its traceback, r goes on with the run)"
        )
    if state.alerts:
        metric = one_line(str(state.alerts[-1].data.get("metric")))
        found.append(f"alerts: {len(state.alerts)}, the last on {metric}")
    return found


def progress_line(state: RunState, glyphs: Glyphs) -> Text:
    """How far the present stage is, the time that is left, and how fast. A narrow screen shows the beginning."""
    stage = state.stages.get(state.stage)
    if stage is None:
        return Text("no stage has begun")
    share = stage.progress
    filled = round((share or 0.0) * BAR_WIDTH)
    parts = [f" {share:.0%}" if share is not None else ""]
    if stage.step is not None:
        parts.append(f"step {stage.step:,}/{stage.steps or '?'}")
    elif stage.done is not None:
        parts.append(f"{count(stage.done)} {one_line(stage.unit)}")
    if left := stage.seconds_left:
        whole, complete = state.run_seconds_left() or (left, True)
        ahead = f" (the run {'' if complete else 'over '}{duration(whole)})" if whole > left else ""
        parts.append(f"{duration(left)} left{ahead}")
    parts += _newest_values(state, stage.name)
    return Text.assemble(
        f"{one_line(stage.name)} ",
        (glyphs.bar * filled, "green"),
        ("." * (BAR_WIDTH - filled), "bright_black"),
        "  ".join(parts),
    )


def _newest_values(state: RunState, stage: str) -> list[str]:
    """The newest values of a stage that a person watches."""
    own = {name: last.value for name, last in state.metrics.items() if last.stage == stage}
    loss = language_loss(own)  # what the command line tells, too
    found = [f"loss {number(loss)}"] if loss is not None else []
    for name, value in own.items():
        row = METRICS.get(name)
        if name == "tokens_per_second":
            found.append(f"{count(value)} tok/s")
        elif row is not None and row.watched and name != "loss":
            found.append(f"{row.label or name} {number(value)}")
    return found
