"""`mccore monitor`: a screen over runs, or one picture of a run for scripts."""

from __future__ import annotations

import gc
import json
import shutil
import time
from typing import TYPE_CHECKING

import click

from mccore.errors import PluginError, UsageError
from mccore.events import finite
from mccore.host import paths
from mccore.runs.rundir import RunDir
from mccore.units import duration, number

if TYPE_CHECKING:
    from mccore.runs.live.watch import RunWatch

PANEL_LINES = 14  # of a panel that is printed


@click.command()
@click.argument("run", required=False)
@click.option("--once", is_flag=True, help="Print how RUN is doing and leave.")
@click.option("--json", "as_json", is_flag=True, help="With --once: everything, as one JSON object.")
@click.option("--panel", help="With --once: what this panel draws, as text.")
@click.option("--ascii", "ascii_only", is_flag=True, default=None, help="Draw with ASCII characters only.")
@click.option("--serve", "served", is_flag=True, help="Show it in a browser of this machine instead.")
@click.option("--port", type=click.IntRange(1, 65535), default=8787, show_default=True, help="With --serve: where.")
def monitor(
    run: str | None, once: bool, as_json: bool, panel: str | None, ascii_only: bool | None, served: bool, port: int
) -> None:
    """Watch runs on a screen; with RUN (a name, a directory or `latest`) that one.

    The monitor reads run directories. Leaving it leaves every run alive.
    """
    if as_json and not once:
        raise UsageError("--json prints one picture", hint="add --once")
    if panel is not None:
        if not once:
            raise UsageError("--panel prints one picture", hint="add --once")
        _print_panel(RunDir.open(run or "latest"), panel, ascii_only)
        return
    if once:
        _print_once(RunDir.open(run or "latest"), as_json)
        return
    chosen = RunDir.open(run) if run is not None else None
    if served:
        from mccore.tui.serve import serve

        serve([str(chosen.path)] if chosen is not None else [], port)
        return
    gc.disable()  # until the first picture, see `keep_what_is_there`: what is imported and built isn't garbage
    from mccore.tui.app import make_monitor

    make_monitor(paths.runs_dir(), chosen, ascii_only=ascii_only).run()


def _print_panel(run: RunDir, name: str, ascii_only: bool | None) -> None:
    """What a panel draws, as text. Raises PluginError for one that isn't there or can't be used."""
    from mccore.host.terminal import echo, one_line
    from mccore.plugins import find
    from mccore.tui.drawing.glyphs import choose_glyphs
    from mccore.tui.panels import StateView, load_panel

    find("panel", name)
    watch = _watch_to_the_end(run)
    view = StateView(run.name, watch.state.stage, watch.state, choose_glyphs(ascii_only))
    width = shutil.get_terminal_size().columns
    loaded = load_panel(name, run.path)
    lines = loaded.draw(view, width, PANEL_LINES)
    if loaded.problem:
        raise PluginError(f"panel {name!r} can't be shown: {loaded.problem}", hint="report it to its authors")
    for line in lines:
        echo(one_line("".join(span.text for span in line))[:width])


def _watch_to_the_end(run: RunDir) -> RunWatch:
    from mccore.runs.live.watch import RunWatch

    watch = RunWatch(run)
    watch.open()
    while watch.poll(1.0) or watch.catching_up:
        pass
    return watch


def _print_once(run: RunDir, as_json: bool) -> None:
    from mccore.host.terminal import echo

    watch = _watch_to_the_end(run)
    if as_json:
        echo(json.dumps(finite(watch.to_json()), indent=2, ensure_ascii=True))
        return
    state = watch.state
    why = f": {watch.outcome.message}" if watch.outcome.message else ""
    echo(f"{run.name}: {watch.outcome.state}{why}")
    for stage in state.stages.values():
        share = f" {stage.progress:.0%}" if stage.progress is not None else ""
        left = f", {duration(stage.seconds_left)} left" if stage.seconds_left is not None else ""
        echo(f"  {stage.name}: {stage.state}{share}{left}")
    for name, last in state.metrics.items():
        outside = "  outside its band" if last.in_band(name) is False else ""
        echo(f"  {name} {number(last.value)}{outside}")
    for event in state.alerts:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
        echo(f"  alert {when}: {event.data.get('metric')} {event.data.get('value')}: {event.data.get('advice')}")
    if watch.problem or watch.skipped:
        echo(f"  {watch.problem or 'read'}, {watch.skipped} damaged lines")
