"""Telemetry providers, built for one process, and who speaks there."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable

from mccore import plugins
from mccore.api import Service, TelemetryProvider, TelemetrySpec
from mccore.config import Choice
from mccore.host.files import write_atomic
from mccore.host.json_file import read_object
from mccore.host.machine import source_commit
from mccore.runs.rundir import RunDir
from mccore.telemetry.delivery import PATIENCE_SECONDS, State

Build = Callable[[Choice, TelemetrySpec], TelemetryProvider]


def describe_process(run: RunDir, *, rank: int = 0, ranks: int = 1, service: Service = "train") -> TelemetrySpec:
    """Who is speaking, with the run's identity; the first to ask makes one. Every call is another attempt."""
    path = run.path / "telemetry" / "identity.json"
    try:
        before = read_object(path)
        run_id, attempt = str(before["run_id"]), int(before["attempt"]) + 1
    except (OSError, ValueError, KeyError, TypeError):
        run_id, attempt = uuid.uuid4().hex, 1
    write_atomic(path, json.dumps({"run_id": run_id, "attempt": attempt}) + "\n")
    return TelemetrySpec(
        run=run.name,
        directory=run.path,
        rank=rank,
        config=run.config,
        ranks=ranks,
        service=service,
        run_id=run_id,
        attempt=attempt,
        commit=source_commit() or "",
        patience_seconds=PATIENCE_SECONDS,
    )


def build_providers(
    choices: Iterable[Choice], spec: TelemetrySpec, report: Callable[[State], None], build: Build | None = None
) -> list[tuple[str, TelemetryProvider]]:
    """The providers of a process. One that can't be built (its port is taken, a password is missing) is reported and left
    out: telemetry doesn't stop a run."""
    build = build or (lambda choice, context: plugins.build("telemetry", choice, context))
    providers = []
    for choice in choices:
        try:
            providers.append((choice.name, build(choice, spec)))
        except Exception as error:
            message = str(getattr(error, "message", "")) or f"{type(error).__name__}: {error}"
            report(State(choice.name, "failing", 0, f"it can't be started: {message}"[:500]))
    return providers
