"""`mccore context`: turn files into a saved context, look at one, check one."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mccore.cli.named_path import NamedPath
from mccore.config.stages import TRAINING_STAGES
from mccore.errors import UsageError
from mccore.host.terminal import StatusLine, echo, echo_json, one_line
from mccore.units import count, duration, size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mccore.contexts.build import Built
    from mccore.contexts.check import Check
    from mccore.contexts.manifest import Description, Origin
    from mccore.megacontext.sessions.model import SessionModel
    from mccore.megacontext.sessions.mounts import Trees
    from mccore.megacontext.tree.repair import Nodes, Repair

_JSON = click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
_DEVICE = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
_SHOWN = 20  # files, and names of what was left out


@click.group()
def context() -> None:
    """Make contexts of files for sessions to start from, look at them, check them."""


@context.command()
@click.argument("sources", nargs=-1, required=True, type=NamedPath(path_type=Path), metavar="PATH...")
@click.option("--out", type=NamedPath(path_type=Path, file_okay=False), required=True, help="Directory to write to.")
@click.option("--run", "run", help="Whose model makes the gists; default: the newest run that has one.")
@click.option("--stage", type=click.Choice(TRAINING_STAGES[::-1]), help="Of which stage; default: the last there is.")
@click.option("--include", multiple=True, metavar="GLOB", help="Of folders take these files only. Repeatable.")
@click.option("--exclude", multiple=True, metavar="GLOB", help="Of folders leave these out. Repeatable.")
@click.option(
    "--max-file-size",
    type=click.FloatRange(min=0, min_open=True),
    default=8.0,
    show_default=True,
    metavar="MB",
    help="Of folders leave larger files out.",
)
@click.option(
    "--field", default="text", show_default=True, help="Column or key of the text in parquet and JSON Lines files."
)
@_DEVICE
@_JSON
def build(
    sources: tuple[Path, ...],
    out: Path,
    run: str | None,
    stage: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    max_file_size: float,
    field: str,
    device: str,
    as_json: bool,
) -> None:
    """Turn PATH..., files and folders, into a context that sessions can start from: `mccore chat --context DIR`.

    A folder stands for all text below it; hidden files, caches, virtual environments, node_modules and what isn't UTF-8 text
    are left out. Rows of parquet files and lines of JSON Lines files are a document each. A build that was interrupted is gone
    on with by the same command.
    """
    from mccore.data.corpora.text_files import Choose, find_text_files
    from mccore.runtime.open import find_checkpoint, find_run

    chosen = find_run(run)
    _, checkpoint = find_checkpoint(chosen, stage)
    files, skipped = find_text_files(sources, Choose(include, exclude, round(max_file_size * 1e6)))

    from mccore.contexts.build import ContextSource, build_context
    from mccore.contexts.manifest import Origin
    from mccore.runtime.open import open_on

    opened = open_on(checkpoint, device)
    progress = BuildLine(sum(file.size for file in files))
    try:
        built = build_context(
            opened.sessions(),
            opened.tokenizer,
            ContextSource(files, skipped, field),
            out.expanduser(),
            Origin(**opened.source),
            on_progress=progress,
        )
    finally:
        progress.clear()
    if as_json:
        echo_json(_summary(built))
    else:
        _show_built(built)


def _summary(built: Built) -> dict[str, Any]:
    made = built.tokens - built.kept
    return {
        "path": str(built.directory),
        "files": built.files,
        "documents": built.documents,
        "text_bytes": built.text_bytes,
        "tokens": built.tokens,
        "tokens_kept": built.kept,
        "rows": built.rows,
        "bytes": built.bytes,
        "bytes_per_token": built.bytes / built.tokens,
        "seconds": built.seconds,
        "tokens_per_second": made / built.seconds,
        "skipped": [{"name": each.name, "why": each.why} for each in built.skipped],
    }


def _show_built(built: Built) -> None:
    from mccore.data.corpora.walk import describe_skipped

    for line in describe_skipped(built.skipped):
        echo(one_line(line), err=True)
    documents = "" if built.documents == built.files else f" ({built.documents:,} documents)"
    kept = f", {built.kept:,} of them already there" if built.kept else ""
    echo(f"{built.files:,} files{documents}, {count(built.text_bytes)}B of text: {built.tokens:,} tokens{kept}")
    echo(f"gists: {_levels(built.rows)}")
    echo(f"{size(built.bytes)} on disk, {built.bytes / built.tokens:.1f} bytes per token")
    made = (built.tokens - built.kept) / built.seconds
    echo(f"{duration(built.seconds)}, {count(made)} tokens/s")
    echo(str(built.directory))


def _levels(rows: Sequence[int]) -> str:
    return ", ".join(f"{number:,} at LOD{level}" for level, number in enumerate(rows) if level and number) or "none yet"


@context.command()
@click.argument("path", type=NamedPath())
@_JSON
def info(path: str, as_json: bool) -> None:
    """Say what is in a context, or in a saved session: PATH is its directory, or a session's name."""
    from mccore.contexts.manifest import describe_context, find_context

    found = describe_context(find_context(path))
    if as_json:
        echo_json(found.to_json())
    else:
        _show_info(found)


def _show_info(found: Description) -> None:
    state, manifest, here = found.state, found.manifest, found.here
    echo(f"{'context' if manifest else 'session'} in {found.directory}")
    where = f"{here.run}, {here.stage} step {here.step:,}" if here else ""
    if manifest:
        made = manifest.origin
        named = f"{made.run}, {made.stage} step {made.step:,}"
        where = f"{named} (here{'' if where == named else f' as {where}'})" if here else f"{named} (not here)"
    echo(f"  model       {where or 'not here'}")
    unread = state.tokens - state.covered
    echo(f"  tokens      {state.tokens:,}{f', {unread:,} of them unread' if unread else ''}")
    echo(f"  gists       {_levels(found.rows)}, of {state.block_size} each, {state.stored.removeprefix('torch.')}")
    each = f", {found.bytes / state.tokens:.1f} bytes per token" if state.tokens else ""
    echo(f"  on disk     {size(found.bytes)}{each}")
    entries = sum(number for _, number in state.cut)
    echo(f"  focus       {entries:,} entries of {state.budget:,}, keys {state.kv_policy if state.keys else 'not kept'}")
    if state.base:
        echo(f"  mounted on  {state.base.path}, its first {state.base.tokens:,} tokens")
    if found.mounted_by:
        echo(f"  mounted by  {', '.join(found.mounted_by)}")
    if manifest is None:
        return
    echo(f"  made        {manifest.created}")
    if manifest.skipped:
        echo(f"  left out    {', '.join(f'{number:,} {why}' for why, number in manifest.skipped.items())}")
    echo(f"  files       {len(manifest.files):,}")
    for file in manifest.files[:_SHOWN]:
        documents = f"  {file.documents:,} documents" if file.documents > 1 else ""
        echo(f"    {file.start:>12,} .. {file.stop:<12,} {file.name}{documents}")
    if len(manifest.files) > _SHOWN:
        echo(f"    and {len(manifest.files) - _SHOWN:,} more; --json lists all")


@context.command()
@click.argument("path", type=NamedPath())
@click.option("--deep", is_flag=True, help="Make every gist again, not a sample of each level.")
@click.option("--repair", is_flag=True, help="Make damaged gists again.")
@click.option(
    "--truncate",
    is_flag=True,
    help="With --repair: cut the history before the first token that can't be saved; a copy is kept.",
)
@_DEVICE
@_JSON
@click.pass_context
def verify(ctx: click.Context, path: str, deep: bool, repair: bool, truncate: bool, device: str, as_json: bool) -> None:
    """Check everything that is stored in a context or saved session: PATH is its directory, or a session's name.

    Leaves with 0 when all is sound, with 1 when something is damaged. Gists are made again where the model that made them is
    among the runs.
    """
    from mccore.contexts.check import check_context, repair_context
    from mccore.contexts.manifest import find_context, find_model
    from mccore.megacontext.sessions.state import SessionError, read_state

    if truncate and not repair:
        raise UsageError("--truncate without --repair would have no effect", hint="give both")
    directory = find_context(path)
    try:
        origin = find_model(read_state(directory).model)
    except SessionError:
        origin = None  # the check tells what is wrong with it
    model, trees = _load_model(origin, device) if origin else (None, _default_trees())
    check = check_context(directory, trees, model, every_gist=deep)
    done = None
    if repair and not check.sound:
        if model is None:
            raise UsageError(
                f"{directory} can't be repaired without the model that made its gists, which isn't among the runs",
                hint="copy that run here, then repair",
            )
        if not as_json:
            _show_check(check)
        done = repair_context(directory, trees, model, truncate=truncate)
        check = check_context(directory, trees, model, every_gist=deep)
    if as_json:
        found = {**check.to_json(), "repair": None if done is None else asdict(done)}
        echo_json(found)
    else:
        if done is not None:
            _show_repair(done)
        _show_check(check)
    ctx.exit(0 if check.sound else 1)


def _load_model(origin: Origin, device: str) -> tuple[SessionModel, Trees]:
    from mccore.contexts.manifest import checkpoint_of
    from mccore.runtime.open import open_on

    sessions = open_on(checkpoint_of(origin), device).sessions()
    return sessions.model, sessions.trees


def _default_trees() -> Trees:
    from mccore.config import Choice
    from mccore.runtime.sessions import FILES, TreeBuilder

    return TreeBuilder(Choice(name=FILES))


def _show_check(check: Check) -> None:
    for problem in check.problems[:_SHOWN]:
        where = [] if problem.level is None else [f"LOD{problem.level}"]
        if problem.rows is not None:
            where.append(f"rows {problem.rows[0]:,} to {problem.rows[1]:,}")
        if problem.tokens is not None:
            where.append(f"tokens {problem.tokens[0]:,} to {problem.tokens[1]:,}")
        if problem.names:
            more = f" and {len(problem.names) - 3:,} more" if len(problem.names) > 3 else ""
            where.append(", ".join(problem.names[:3]) + more)
        at = "" if problem.bytes is None else f", bytes {problem.bytes[0]:,} to {problem.bytes[1]:,}"
        place = f" ({'; '.join(where)})" if where else ""
        what = problem.what if problem.path in problem.what else f"{problem.path}{at}: {problem.what}"
        echo(f"damaged: {what}{place}")
    if len(check.problems) > _SHOWN:
        echo(f"and {len(check.problems) - _SHOWN:,} more; --json lists all")
    for remark in check.remarks:
        echo(f"note: {remark}")
    rounded = f", {check.rounded:,} of them differ by rounding" if check.rounded else ""
    verdict = "sound" if check.sound else f"{len(check.problems):,} problems"
    echo(f"{check.directory}: {verdict}; {check.tokens:,} tokens, {check.gists:,} gists made again{rounded}")


def _show_repair(done: Repair) -> None:
    def total(nodes: Sequence[Nodes]) -> str:
        return f"{sum(each.stop - each.start for each in nodes):,}"

    echo(
        f"repaired: {total(done.restored)} gists made again, {total(done.inexact)} of them not bit for bit; "
        f"{total(done.vouched)} tokens shown to be right by their gists"
    )
    for each in done.lost:
        echo(
            f"lost: LOD{each.level} rows {each.start:,} to {each.stop:,}, tokens {each.first_token:,} to {each.stop_token:,}"
        )
    if done.kept is not None:
        echo(f"cut to {done.tokens:,} tokens; the tree as it was: {done.kept}")
    elif done.lost:
        echo("hint: --truncate cuts the history before what is lost, and keeps a copy of the tree as it was")


class BuildLine:
    """How far a build is, on one line of the terminal."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._line = StatusLine()
        self._began = time.perf_counter()
        self._last = 0.0

    def __call__(self, tokens: int, read: int) -> None:
        now = time.perf_counter()
        if not self._line.shown or now - self._last < 0.1:
            return
        self._last = now
        seconds = now - self._began
        left = duration(seconds * (self._total - read) / read) if read else "?"
        self._line.show(
            f"{count(tokens)} tokens, {read / 1e6:.1f} of {self._total / 1e6:.1f} MB, "
            f"{count(tokens / seconds)} tokens/s, {left} to go"
        )

    def clear(self) -> None:
        """Take the line away."""
        self._line.clear()
