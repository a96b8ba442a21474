"""`mccore report`: write the report of a run again and show its summary."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from mccore.errors import UsageError
from mccore.host.terminal import echo, echo_json, one_line, visible

if TYPE_CHECKING:
    from mccore.report.shape import Report
    from mccore.runs.rundir import RunDir


@click.command()
@click.argument("run", default="latest")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@click.option("--path", "path_only", is_flag=True, help="Print only where the report is.")
@click.option("--open", "open_it", is_flag=True, help="Open the report in the program the system has for it.")
@click.option(
    "--check", is_flag=True, help="Go through the list for a run that is over; ends with 1 where an item fails."
)
@click.option("--against", metavar="RUN", help="With --check: the run whose validation losses this one should reach.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="With --check: where its model is asked.")
def report(
    run: str,
    as_json: bool,
    path_only: bool,
    open_it: bool,
    check: bool,
    against: str | None,
    device: str | None,
) -> int:
    """Write the report of RUN and show its summary: a run's name, its directory, or `latest` (the default).

    A run that failed or still goes on gets a report of what it reached. Nothing but the run's directory is needed.
    --check writes nothing: are stages and report complete, do losses hold, are checkpoints sound, does the model answer?
    """
    from mccore.report.write import read_report, write_report
    from mccore.runs.rundir import RunDir

    chosen = RunDir.open(run)
    if check:
        return _check(chosen, None if against is None else RunDir.open(against), device or "auto", as_json)
    if against is not None or device is not None:
        option = "--against" if against is not None else "--device"
        raise UsageError(f"`{option}` has no effect without --check", hint=f"add --check, or leave {option} out")
    paths = write_report(chosen)
    if as_json:
        echo_json(read_report(chosen))
    elif path_only:
        echo(str(paths.markdown))
    else:
        _show_summary(read_report(chosen))
        echo(f"{paths.markdown}")
        for plot in paths.plots:
            echo(f"{plot}")
    if open_it:
        click.launch(str(paths.markdown))
    return 0


def _check(run: RunDir, against: RunDir | None, device: str, as_json: bool) -> int:
    """Print the list. Returns the exit code."""
    from mccore.stages.checklist import check_run

    checks = check_run(run, against=against, device=device)
    failed = [check for check in checks if check.status == "fail"]
    if as_json:
        echo_json({"run": run.name, "passed": not failed, "checks": [asdict(check) for check in checks]})
        return int(bool(failed))
    for check in checks:
        echo(one_line(f"{check.status:8} {check.name}: {check.detail}"))
    verdict = f"{len(failed)} of {len(checks)} fail" if failed else "nothing fails"
    echo(f"{run.name}: {verdict}")
    return int(bool(failed))


def _show_summary(data: Report) -> None:
    from mccore.report.pages.summary import render_summary

    text = render_summary(data)
    if not sys.stdout.isatty():
        echo(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(visible(text)))
