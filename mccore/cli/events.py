"""`mccore events`: read what a run has recorded, follow it, hand it to programs or to telemetry providers."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mccore.cli.named_path import NamedPath
from mccore.errors import RunError, UsageError
from mccore.events import Event, EventTail, metric, read_events
from mccore.events.types import EVENT_TYPES
from mccore.host.terminal import echo, echo_json_text
from mccore.runs.rundir import RunDir
from mccore.units import number

_POLL_SECONDS = 0.2
_TEXT_CHARACTERS = 160  # of one value on a line; most reasons fit


@dataclass(frozen=True)
class Filter:
    """Which events are wanted; what is empty lets all pass."""

    types: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    metrics: tuple[str, ...] = ()

    def __call__(self, event: Event) -> bool:
        """Whether an event is wanted: one that has any of the metrics, or a part of one."""
        return (
            (not self.types or any(event.type == kind or event.type.startswith(f"{kind}.") for kind in self.types))
            and (not self.stages or event.stage in self.stages)
            and (not self.ranks or event.rank in self.ranks)
            and (not self.metrics or any(self.has(name) for name in event.metrics))
        )

    def has(self, name: str) -> bool:
        """Whether a metric is among those asked for."""
        return any(name == wanted or name.startswith(f"{wanted}/") for wanted in self.metrics)


def _filtered(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the filters to a command."""
    for option in (
        click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Only events with this metric."),
        click.option("--rank", "ranks", multiple=True, type=click.IntRange(0), help="Only events of this rank."),
        click.option("--stage", "stages", multiple=True, metavar="NAME", help="Only events of this stage."),
        click.option("--type", "types", multiple=True, metavar="TYPE", help="Only this type; `run` is run.start too."),
    ):
        command = option(command)
    return command


_JSON = click.option("--json", "as_json", is_flag=True, help="A line of JSON for each event.")


@click.group()
def events() -> None:
    """Read, follow and export the events of a run. Filters can be repeated; docs/events.md lists types and metrics."""


@events.command()
@click.argument("run", default="latest")
@_filtered
@click.option(
    "-n", "--lines", type=click.IntRange(0), default=20, show_default=True, help="Events of the past to show."
)
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@_JSON
def tail(run: str, lines: int, follow: bool, as_json: bool, **filters: tuple[Any, ...]) -> None:
    """The newest events of RUN: a name, a directory, or `latest`."""
    found = RunDir.open(run)
    wanted = _make_filter(filters, found)
    following = EventTail(found.events_dir)
    newest = deque((event for event in following.drain() if wanted(event)), maxlen=lines)
    for event in newest:
        _print_event(event, wanted, as_json)
    if lines and not follow:
        _tell_if_none(bool(newest), wanted, found)
    with contextlib.suppress(KeyboardInterrupt):
        while follow:
            running = found.is_running()  # asked before the last look, so that nothing at the end is missed
            for event in following.drain():
                if wanted(event):
                    _print_event(event, wanted, as_json)
            if not running:
                return
            time.sleep(_POLL_SECONDS)


@events.command()
@click.argument("run", default="latest")
@_filtered
@_JSON
def show(run: str, as_json: bool, **filters: tuple[Any, ...]) -> None:
    """All events of RUN, oldest first."""
    found = RunDir.open(run)
    wanted = _make_filter(filters, found)
    passed = [event for event in read_events(found.events_dir) if wanted(event)]
    for event in passed:
        _print_event(event, wanted, as_json)
    _tell_if_none(bool(passed), wanted, found)


@events.command()
@click.argument("run")
@_filtered
@click.option("--output", type=NamedPath(path_type=Path, dir_okay=False), help="Write the lines of JSON to this file.")
@click.option("--force", is_flag=True, help="Let --output replace a file that is there.")
@click.option("--to", "providers", multiple=True, metavar="PROVIDER", help="Send them to this telemetry provider.")
@click.option(
    "--set", "sets", multiple=True, metavar="PROVIDER.OPTION=VALUE", help="An option of a provider, over those it has."
)
@click.option("--unsent", is_flag=True, help="Only what the provider couldn't send while the run went on.")
@click.option("--again", is_flag=True, help="Also where the provider has had events of this run before.")
@click.option(
    "--timeout", type=click.FloatRange(1, 86_400), default=600.0, show_default=True, help="Seconds to send at most."
)
def export(
    run: str,
    output: Path | None,
    force: bool,
    providers: tuple[str, ...],
    sets: tuple[str, ...],
    unsent: bool,
    again: bool,
    timeout: float,
    **filters: tuple[Any, ...],
) -> int:
    """The events of RUN as lines of JSON, or sent to providers.

    A provider has the options it had in the run, else those that the environment gives.
    """
    found = RunDir.open(run)
    wanted = _make_filter(filters, found)
    if not providers:
        if unsent or sets or again:
            raise UsageError("--unsent, --set and --again are for --to PROVIDER", hint="add --to PROVIDER")
        passed = [event for event in read_events(found.events_dir) if wanted(event)]
        _export_lines(output, passed, force=force)
        _tell_if_none(bool(passed), wanted, found)
        return 0
    if output is not None:
        raise UsageError("--output is for lines of JSON, --to for providers", hint="leave one of them out")
    from mccore.cli.telemetry import chosen_providers, send

    choices = chosen_providers(found.config, providers, sets)  # before all else: a wrong name is wrong of any run
    if found.is_running():
        raise RunError(
            f"the run {found.name!r} still goes on",
            hint="its own telemetry sends what comes; export it when it has ended",
        )
    return send(found, choices, wanted, unsent=unsent, again=again, seconds=timeout)


# --- words ----------------------------------------------------------------------------------------------------------------


def _make_filter(given: dict[str, tuple[Any, ...]], run: RunDir) -> Filter:
    """The filter of a command. Raises UsageError for a value that no event of the run can have."""
    for name in given["metrics"]:
        try:
            metric(name)
        except KeyError:
            raise UsageError(f"there is no metric {name!r}", hint="docs/events.md lists them") from None
    for kind in given["types"]:
        if not any(name == kind or name.startswith(f"{kind}.") for name in EVENT_TYPES):
            raise UsageError(f"there is no type of event {kind!r}", hint="docs/events.md lists them")
    if given["stages"]:
        from mccore.config.stages import STAGES  # with all of the configuration, which takes longer than most readings

        for stage in given["stages"]:
            if stage not in STAGES:
                raise UsageError(f"there is no stage {stage!r}", hint=f"there are {', '.join(STAGES)}")
    names = (path.stem.removeprefix("rank") for path in run.events_dir.glob("rank*.jsonl"))
    there = {0, *(int(name) for name in names if name.isdecimal())}
    for rank in given["ranks"]:
        if rank not in there and not run.is_running():  # those of a run that goes on may be still to come
            raise UsageError(
                f"the run {run.name!r} has no rank {rank}", hint=f"there are {', '.join(map(str, sorted(there)))}"
            )
    return Filter(**given)


def _tell_if_none(passed: bool, wanted: Filter, run: RunDir) -> None:
    """Filters that let nothing pass may be meant otherwise, so that isn't left to silence."""
    if not passed and wanted != Filter():
        echo(f"no event of the run {run.name!r} passes these filters", err=True)


def _print_event(event: Event, wanted: Filter, as_json: bool) -> None:
    if as_json:
        echo_json_text(event.to_json())
        return
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
    where = f"{event.stage or '-'}/{event.rank}"
    step = f" step {event.step}" if event.step is not None else ""
    echo(f"{at}  {event.type:<24} {where:<18}{step}  {'  '.join(_event_values(event, wanted))}".rstrip())


def _event_values(event: Event, wanted: Filter) -> Iterator[str]:
    """The metrics that were asked for, or all; then what the data says in words and numbers, long texts cut."""
    for name, value in event.metrics.items():
        if not wanted.metrics or wanted.has(name):
            yield f"{name}={number(value)}"
    for name, value in event.data.items():
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            text = " ".join(str(value).split())
            if len(text) > _TEXT_CHARACTERS:
                text = f"{text[: _TEXT_CHARACTERS - 1]}…"
            if text:
                yield f"{name}={text}"


def _export_lines(output: Path | None, found: Sequence[Event], *, force: bool) -> None:
    if output is None:
        for event in found:
            echo_json_text(event.to_json())
        return
    from mccore.host.files import write_theirs

    lines = [f"{event.to_json()}\n" for event in found]
    write_theirs(output, "".join(lines), overwrite=force)
    echo(f"{len(lines):,} events written to {output}", err=True)
