"""What `mccore events export` and `mccore doctor telemetry` share: providers by name, sending, and how it went in words."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from mccore.config import Choice, RunConfig
from mccore.errors import UsageError
from mccore.events import Event, read_events
from mccore.host.terminal import echo
from mccore.resolve.resolve import with_provider_options
from mccore.runs.rundir import RunDir
from mccore.telemetry.activation import NOBODY, from_environment
from mccore.telemetry.replay import Sent, note_sent, read_unsent, replay, sent_before


def chosen_providers(config: RunConfig, names: Sequence[str], sets: Sequence[str] = ()) -> list[Choice]:
    """Providers by name with the options of the run, else of the environment, and these over them. Raises ConfigError."""
    if NOBODY in names:
        raise UsageError(f"{NOBODY} sends nothing", hint="choose another provider")
    there = {choice.name: choice for choice in config.telemetry}
    choices = [there.get(name) or from_environment(name) for name in dict.fromkeys(names)]
    return list(with_provider_options(choices, sets))


def send(
    run: RunDir,
    choices: Sequence[Choice],
    wanted: Callable[[Event], bool],
    *,
    unsent: bool,
    again: bool,
    seconds: float,
) -> int:
    """Send a run's events to each provider and say how it went; the exit code."""
    _refuse_repeats(run, choices, unsent=unsent, again=again)
    results: list[Sent] = []
    for choice in choices:
        found, files = _events_to_send(run, choice.name, unsent=unsent)
        picked = [event for event in found if wanted(event)]
        if not picked:
            echo(f"{choice.name}: nothing to send")
            continue
        sizes = {path: path.stat().st_size for path in files}
        (result,) = replay(run, [choice], picked, seconds)
        for path, size in sizes.items():
            os.truncate(path, size)  # the provider has kept what it couldn't send, and the file has that already
        results.append(result)
        echo(_words_of(result))
        if result.lost == 0:
            note_sent(run, [choice.name])
            if len(picked) == len(found):
                for path in files:
                    path.unlink()
    return 1 if any(result.lost for result in results) else 0


def _refuse_repeats(run: RunDir, choices: Sequence[Choice], *, unsent: bool, again: bool) -> None:
    """Refuse what would be stored twice or nowhere."""
    had = set() if again or unsent else sent_before(run)
    for choice in choices:
        if choice.options.get("mode") == "serve":
            raise UsageError(
                f"{choice.name} serves what is now, and there would be nobody to ask",
                hint=f"--set {choice.name}.mode=push sends to a gateway",
            )
        if choice.name in had:
            raise UsageError(
                f"{choice.name} has had events of the run {run.name!r} before",
                hint="--again sends them all again: opensearch and wandb keep each once, others may count twice"
                + ("; --unsent sends what is missing" if read_unsent(run, choice.name)[0] else ""),
            )


def _events_to_send(run: RunDir, provider: str, *, unsent: bool) -> tuple[list[Event], list[Path]]:
    """What there is to send, and the files that it is kept in for this provider alone."""
    return read_unsent(run, provider) if unsent else (read_events(run.events_dir), [])


def _words_of(result: Sent) -> str:
    if result.lost:
        return f"{result.provider}: {result.lost:,} events lost: {result.message}"
    return f"{result.provider}: {result.events:,} events sent"
