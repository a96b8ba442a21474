"""`mccore report`: write the report of a run again and show its summary."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from mccore.host.terminal import echo, echo_json, visible

if TYPE_CHECKING:
    from mccore.report.shape import Report


@click.command()
@click.argument("run", default="latest")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@click.option("--path", "path_only", is_flag=True, help="Print only where the report is.")
@click.option("--open", "open_it", is_flag=True, help="Open the report in the program the system has for it.")
def report(run: str, as_json: bool, path_only: bool, open_it: bool) -> None:
    """Write the report of RUN and show its summary: a run's name, its directory, or `latest` (the default).

    A run that failed or still goes on gets a report of what it reached. Nothing but the run's directory is needed.
    """
    from mccore.report.write import read_report, write_report
    from mccore.runs.rundir import RunDir

    chosen = RunDir.open(run)
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


def _show_summary(data: Report) -> None:
    from mccore.report.pages.summary import render_summary

    text = render_summary(data)
    if not sys.stdout.isatty():
        echo(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(visible(text)))
