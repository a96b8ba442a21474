"""`mccore eval tasks`: published benchmarks of a trained model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from mccore.cli.named_path import NamedPath
from mccore.host.terminal import StatusLine, echo, echo_json

if TYPE_CHECKING:
    from mccore.eval.chatcore import BenchmarkResult
    from mccore.eval.core import CoreResult

ResultT = TypeVar("ResultT")


@click.command("tasks")
@click.argument("name", metavar="RUN")
@click.option(
    "--tasks", "names", multiple=True, metavar="NAME[,NAME]", help="Default: the six of ChatCORE, or CORE alone."
)
@click.option(
    "--core",
    type=NamedPath(path_type=Path, file_okay=False),
    help="Folder of CORE's bundle: it holds core.yaml, eval_meta_data.csv and eval_data.",
)
@click.option("--stage", help="Stage whose newest checkpoint is meant; default: the last one that trained.")
@click.option("--limit", type=click.IntRange(1), help="At most so many questions a task.")
@click.option("--batch-rows", type=click.IntRange(1), default=32, show_default=True, help="Questions at a time.")
@click.option("--max-new-tokens", type=click.IntRange(1), default=512, show_default=True, help="Longest free answer.")
@click.option("--sessions", is_flag=True, help="Ask in MegaContext sessions, which have no longest question.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def tasks(
    name: str,
    names: tuple[str, ...],
    core: Path | None,
    stage: str | None,
    limit: int | None,
    batch_rows: int,
    max_new_tokens: int,
    sessions: bool,
    device: str,
    as_json: bool,
) -> None:
    """Ask RUN's model the test questions of benchmarks, and compute ChatCORE and CORE from them.

    Questions are fetched from the hub where they aren't here. Each result is kept in the run as it is done, so that the same
    command goes on where it was cut short.
    """
    from mccore.eval.core import read_bundle
    from mccore.runtime.benchmarks import Benchmarks, summarise
    from mccore.runtime.open import find_checkpoint, find_run, open_on
    from mccore.tasks.catalogue import benchmark_names, check_source

    named = [part for text in names for part in text.split(",") if part]
    wanted = list(benchmark_names(named or ([] if core else ["chatcore"])))
    bundle = read_bundle(core) if core is not None else []
    opened = open_on(find_checkpoint(find_run(name), stage)[1], device)
    for each in wanted:
        check_source(each)
    benchmarks = Benchmarks(opened, limit, batch_rows, max_new_tokens, sessions)
    chat = list(_with_status(benchmarks.chat(wanted), wanted))
    found = list(_with_status(benchmarks.core(bundle), [task.label for task in bundle]))
    summary = summarise(chat, found)
    if as_json:
        echo_json({"model": opened.source, **summary})
        return
    _print_results(chat, found)
    for metric, label in (("chatcore", "ChatCORE"), ("core", f"CORE of {len(found)} tasks")):
        if summary[metric] is not None:
            echo(f"{label:28} {_share(summary[metric]['value'], summary[metric]['stderr'])}")


def _print_results(chat: list[BenchmarkResult], core: list[CoreResult]) -> None:
    for result in chat:
        skipped = f", {result.skipped} too long for the model" if result.skipped else ""
        echo(
            f"{result.name:28} {_share(result.accuracy.accuracy, result.accuracy.stderr)}  n {result.accuracy.n}{skipped}"
        )
    for each in core:
        accuracy = _share(each.accuracy.accuracy, each.accuracy.stderr)
        echo(f"{each.label:28} {accuracy}  n {each.accuracy.n}  centred {each.centred:.4f}")


def _with_status(results: Iterable[ResultT], names: list[str]) -> Iterator[ResultT]:
    """The results, with a line on the terminal that tells which one is being made."""
    status = StatusLine()
    iterator = iter(results)
    for number, name in enumerate(names, 1):
        status.show(f"{name} ({number} of {len(names)})")
        try:
            result = next(iterator)
        finally:
            status.clear()
        yield result


def _share(value: float | None, stderr: float | None) -> str:
    if value is None:
        return "no question"
    return f"{value:.4f}" + (f" ± {stderr:.4f}" if stderr is not None else "")
