"""`mccore runs`: what runs there are, how each is doing, how two differ, which checkpoints one has; stop and delete them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import click

from mccore.config.diff import differences
from mccore.errors import ConfigError, RunError, UsageError
from mccore.events import finite, metric
from mccore.events.metrics import language_loss
from mccore.host.terminal import echo, echo_json, one_line
from mccore.runs.detail import run_detail
from mccore.runs.removal import checkpoint_rows, delete_checkpoint, delete_run, find_row
from mccore.runs.rundir import RunDir, list_runs
from mccore.runs.series import name_losses, side_by_side
from mccore.units import count, duration, number, size

_JSON = click.option("--json", "as_json", is_flag=True, help="Machine-readable.")


@click.group(invoke_without_command=True)
@_JSON
@click.pass_context
def runs(ctx: click.Context, as_json: bool) -> None:
    """List, show, stop, compare and delete runs. Without a subcommand: list them."""
    if ctx.invoked_subcommand is None:
        _list(as_json)
    elif as_json:
        raise click.UsageError(f"write --json after {ctx.invoked_subcommand}", ctx)


# --- list ---------------------------------------------------------------------------------------------------------------


@runs.command("list")
@_JSON
def list_command(as_json: bool) -> None:
    """All runs, the one started last at the end."""
    _list(as_json)


def _list(as_json: bool) -> None:
    rows = sorted((_overview(run) for run in list_runs()), key=lambda row: row["started"])
    if as_json:
        echo_json(finite(rows))
        return
    if not rows:
        echo("no runs yet; start one with `mccore run tiny`")
        return
    table = [
        [
            row["name"],
            row["recipe"],
            row["state"],
            row["stage"] or "",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(row["started"])),
            count(row["tokens"]) if row["tokens"] is not None else "",
            number(row["loss"]) if row["loss"] is not None else "",
            row["loss_stage"] or "",
        ]
        for row in rows
    ]
    _print_table(["name", "recipe", "state", "stage", "started", "tokens", "loss", "in"], table)


def _overview(run: RunDir) -> dict[str, Any]:
    row: dict[str, Any] = {"name": run.name, "path": str(run.path), "recipe": "", "started": run.started}
    try:
        outcome = run.outcome()
        row |= {"recipe": run.config.recipe, "state": outcome.state, "stage": outcome.stage, "message": outcome.message}
    except ConfigError as error:  # one damaged run doesn't hide the others
        row |= {"state": "unreadable", "stage": None, "message": error.message}
    step = run.last_event("step")
    row["tokens"] = step.tokens if step else None
    row["loss"] = language_loss(step.metrics) if step else None
    row["loss_stage"] = step.stage if step else None
    return row


# --- show ---------------------------------------------------------------------------------------------------------------


@runs.command()
@click.argument("run", default="latest")
@_JSON
def show(run: str, as_json: bool) -> None:
    """Outcome, stages and last metrics of RUN: a name, a directory, or `latest`."""
    found = RunDir.open(run)
    detail = run_detail(found)
    if as_json:
        echo_json(finite(detail))
        return
    outcome = detail["outcome"]
    message = f": {outcome['message']}" if outcome["message"] else ""
    echo(f"{found.name}: {outcome['state']}{message}\nrecipe {detail['recipe']}, in {found.path}")
    for address in detail["metrics_at"]:
        echo(f"metrics for Prometheus at {address}")
    for provider in detail["telemetry"]:
        echo(f"telemetry  {_telemetry_words(provider)}")
    echo()
    table = [
        [
            stage["stage"],
            stage["state"],
            duration(stage["seconds"]) if stage["seconds"] is not None else "",
            _numbers(stage["results"]),
        ]
        for stage in detail["stages"]
    ]
    _print_table(["stage", "state", "took", "results"], table)
    if detail["metrics"]:
        echo()
        values = [[name, number(value), _unit(name)] for name, value in detail["metrics"].items()]
        _print_table(["metric", "last value", "unit"], values)


def _telemetry_words(row: dict[str, Any]) -> str:
    reason = f" ({row['message']})" if row["message"] else ""
    lost = f"{row['lost']:,} event{'' if row['lost'] == 1 else 's'} lost"
    return f"{row['provider']}: {lost if row['lost'] else row['state']}{reason}"


def _numbers(results: dict[str, Any] | None) -> str:
    found = [
        f"{name} {number(value)}"
        for name, value in name_losses(results or {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return ", ".join(found[:4])


# --- stop ---------------------------------------------------------------------------------------------------------------


@runs.command()
@click.argument("run")
@click.option("--wait", is_flag=True, help="Return when the run has ended.")
@click.option("--timeout", type=float, default=600.0, show_default=True, help="Seconds that --wait waits at most.")
@_JSON
def stop(run: str, wait: bool, timeout: float, as_json: bool) -> None:
    """Ask RUN to save a checkpoint and end."""
    found = RunDir.open(run)
    if not found.is_running():
        raise RunError(f"the run {found.name!r} isn't running: it is {found.outcome().state}")
    found.request_stop()
    if wait:
        deadline = time.monotonic() + timeout
        while found.is_running():
            if time.monotonic() >= deadline:
                raise RunError(
                    f"the run {found.name!r} hasn't ended within {timeout:.0f} s",
                    hint=f"it is asked to stop; the launcher's process id is {found.holder()}",
                )
            time.sleep(0.1)
    outcome = found.outcome()
    if as_json:
        echo_json({"name": found.name, "state": outcome.state, "stage": outcome.stage}, indent=None)
    elif wait:
        echo(f"{found.name}: {outcome.state}")
    else:
        echo(f"{found.name}: asked to stop; it saves first")


# --- compare ------------------------------------------------------------------------------------------------------------


@runs.command()
@click.argument("a")
@click.argument("b")
@_JSON
def compare(a: str, b: str, as_json: bool) -> None:
    """Settings in which runs A and B differ, and their last metrics side by side."""
    left, right = RunDir.open(a), RunDir.open(b)
    changed = differences(left.config, right.config)
    details = [run_detail(left), run_detail(right)]
    rows = side_by_side([detail["by_stage"] for detail in details])
    if as_json:
        content = {
            "runs": [left.name, right.name],
            "states": [detail["outcome"]["state"] for detail in details],
            "config": {path: list(values) for path, values in changed.items()},
            "metrics": {name: values for name, _, values in rows},
            "metrics_by_stage": [{"metric": name, "stage": stage, "values": values} for name, stage, values in rows],
        }
        echo_json(finite(content))
        return
    if changed:
        table = [[path, _value(before), _value(after)] for path, (before, after) in changed.items()]
        _print_table(["setting", left.name, right.name], table)
    else:
        echo("the configurations are the same")
    echo()
    table = [["(state)", "", *(detail["outcome"]["state"] for detail in details), "", ""]]
    for name, stage, (before, after) in rows:
        difference = number(after - before) if before is not None and after is not None else ""
        values = [number(value) if value is not None else "" for value in (before, after)]
        table.append([name, stage, *values, difference, _unit(name)])
    _print_table(["last metric", "in", left.name, right.name, "difference", "unit"], table)


# --- checkpoints, and what can be deleted -------------------------------------------------------------------------------


@runs.command()
@click.argument("run", default="latest")
@_JSON
def checkpoints(run: str, as_json: bool) -> None:
    """The checkpoints of RUN, what is wrong with them, and what needs them."""
    rows = checkpoint_rows(RunDir.open(run))
    if as_json:
        echo_json([{**asdict(row), "path": str(row.path)} for row in rows])
        return
    if not rows:
        echo("no checkpoint yet")
        return
    table = [
        [
            row.name,
            count(row.tokens) if row.tokens is not None else "",
            size(row.bytes),
            "damaged" if row.problem else "latest" if row.latest else "complete",
            row.problem or row.needed,
        ]
        for row in rows
    ]
    _print_table(["checkpoint", "tokens", "size", "is", "note"], table)


@runs.command()
@click.argument("run")
@click.option("--checkpoint", metavar="STAGE/STEP", help="This checkpoint alone; STAGE means its newest.")
@click.option("--yes", is_flag=True, help="Delete it although it is needed; for a whole run always asked for.")
def delete(run: str, checkpoint: str | None, yes: bool) -> None:
    """Delete RUN with everything in it, or one of its checkpoints. Nothing that is in use is deleted."""
    found = RunDir.open(run)
    if checkpoint is not None:
        row = find_row(found, checkpoint)
        delete_checkpoint(found, row, sure=yes)
        echo(f"{found.name}: {row.name} is deleted")
        return
    if not yes:
        raise UsageError(
            f"{found.path} would be deleted with its {len(checkpoint_rows(found))} checkpoints", hint="say so: --yes"
        )
    delete_run(found)
    echo(f"{found.name} is deleted")


# --- words --------------------------------------------------------------------------------------------------------------


def _unit(name: str) -> str:
    try:
        return metric(name).unit
    except KeyError:  # written by another version
        return ""


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _print_table(header: list[str], rows: Iterable[list[str]]) -> None:
    lines = [[one_line(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
