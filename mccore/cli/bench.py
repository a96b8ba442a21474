"""`mccore bench`: what things cost on this machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mccore.cli.named_path import NamedPath
from mccore.config.stages import TRAINING_STAGES
from mccore.host.terminal import StatusLine, echo, echo_json
from mccore.units import count, size

if TYPE_CHECKING:
    from mccore.contexts.cost import ContextCosts, Ratio, Spread

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


class Sizes(click.ParamType):
    """Numbers of tokens, as in `8k,64k,1M`."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        found = []
        for part in value.split(","):
            match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgG]?)\s*", part)
            unit = match[2] if match else ""
            tokens = float(match[1]) * _UNITS[unit.lower() if unit in "kK" else unit.upper()] if match else 0.0
            if not 1 <= tokens <= 10**12 or tokens != int(tokens):
                self.fail(f"{part.strip()!r} is no number of tokens: write 8k, 64k or 1M", param, ctx)
            found.append(int(tokens))
        return tuple(found)


@click.group()
def bench() -> None:
    """Measure what sessions cost on this machine."""


@bench.command()
@click.argument("run")
@click.option(
    "--history",
    type=Sizes(),
    default="8k,64k,1M",
    show_default=True,
    help="Tokens of history; k is 1,000, M a million.",
)
@click.option("--stage", type=click.Choice(TRAINING_STAGES[::-1]), help="Of which stage; default: the last there is.")
@click.option(
    "--tokens",
    type=click.IntRange(1, 10**6),
    default=512,
    show_default=True,
    help="To generate behind each history.",
)
@click.option("--allocator", help="Focus allocator; default: the run's.")
@click.option(
    "--search",
    type=click.Choice(["none", "ngram"]),
    help="Search of the history, for --allocator spans; default: the run's.",
)
@click.option("--tree", help="Tree backend; default: the run's.")
@click.option("--wc-length", type=click.IntRange(1), help="Entries of the Working Context; default: the run's.")
@click.option("--refocus-interval", type=click.IntRange(1), help="Tokens between two refocuses; default: the run's.")
@click.option("--kv-policy", type=click.Choice(["exact", "reuse"]), help="Default: the run's.")
@click.option(
    "--text",
    "texts",
    multiple=True,
    type=NamedPath(path_type=Path),
    metavar="PATH",
    help="Make histories of these files and folders; default: the run's corpus. Repeatable.",
)
@click.option(
    "--scratch",
    type=NamedPath(path_type=Path, file_okay=False, exists=True),
    help="Where trees with files live meanwhile; default: the system's place for such.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def context(
    run: str,
    history: tuple[int, ...],
    stage: str | None,
    tokens: int,
    texts: tuple[Path, ...],
    scratch: Path | None,
    device: str,
    as_json: bool,
    **flags: Any,
) -> None:
    """Measure what the sessions of RUN's model cost by the length of their history, beside plain decoding at as many entries.

    RUN is a run's name, its directory, or `latest`. All histories and the plain model generate by turns, so that the ratios are
    fair on a busy machine.
    """
    from mccore.cli.setting_flags import open_sessions
    from mccore.runtime.open import find_checkpoint, find_run, open_on

    chosen = find_run(run)
    _, checkpoint = find_checkpoint(chosen, stage)

    import torch

    from mccore.contexts.cost import measure_context, read_text
    from mccore.host import paths

    opened = open_on(checkpoint, device)
    sessions = open_sessions(opened, **flags)
    line = StatusLine()
    try:
        line.show("reading text")
        corpus = chosen.config.data.corpus
        text = read_text(opened.tokenizer, corpus, texts, max(history), paths.cache_dir())
        costs = measure_context(sessions, text, history, tokens=tokens, scratch=scratch, on_progress=line.show)
    finally:
        line.clear()
    about = {
        **opened.source,
        "allocator": sessions.model.options.allocator.name,
        "search": sessions.model.options.search.kind,
        "tree": sessions.model.options.tree.name,
        "text": ", ".join(map(str, texts)) or corpus,
        "device": opened.gpt.device.type,
        "threads": torch.get_num_threads(),
    }
    if as_json:
        echo_json({**about, **costs.to_json()})
    else:
        _show(about, costs)


@bench.command("serve")
@click.argument("run")
@click.option(
    "--side-by-side", type=click.IntRange(2, 256), default=32, show_default=True, help="Conversations at once."
)
@click.option("--tokens", type=click.IntRange(2, 10**5), default=128, show_default=True, help="Of an answer.")
@click.option(
    "--history", type=click.IntRange(1, 10**7), default=100_000, show_default=True, help="Of the long conversation."
)
@click.option("--idle", type=click.IntRange(1, 10**5), default=1000, show_default=True, help="Idle conversations.")
@click.option("--idle-tokens", type=click.IntRange(1, 10**7), default=10_000, show_default=True, help="Tokens of each.")
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="Of what is timed.")
@click.option(
    "--stage", type=click.Choice(TRAINING_STAGES), help="Of which stage; default: the first, whose text goes on."
)
@click.option("--text", type=NamedPath(path_type=Path), help="Text of the histories; default: mccore's own sources.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def serving(run: str, text: Path | None, as_json: bool, **load: Any) -> None:
    """Start a server of RUN and measure it as its clients see it: many at once, a newcomer, a long history, idle ones."""
    import tempfile
    from importlib import resources

    from mccore.host.text import read_text
    from mccore.serve.cost import Load, measure_serving

    content = read_text(text) if text else resources.files("mccore").joinpath("api.py").read_text(encoding="utf-8")
    line = StatusLine()
    with tempfile.TemporaryDirectory() as sessions:
        found = measure_serving(run, Load(**load), Path(sessions), content, line.show).as_dict()
    line.clear()
    if as_json:
        echo_json(found)
        return
    for name, value in found.items():
        shown = size(value) if name.endswith("_bytes") else f"{value:.4g}"
        echo(f"{name.replace('_', ' '):28}{shown:>12}")


def _show(about: dict[str, Any], costs: ContextCosts) -> None:
    echo(
        f"{about['run']}, {about['stage']} step {about['step']:,}, on {about['device']} with {about['threads']} threads; "
        f"allocator {about['allocator']}, search {about['search']}, tree {about['tree']}"
    )
    echo(
        f"Working Context of {costs.wc_length:,} entries, {costs.recent_tokens:,} of them recent tokens, refocused every "
        f"{costs.refocus_interval:,} tokens, keys {costs.kv_policy}"
    )
    echo(
        f"text: {about['text']}, {count(costs.distinct_tokens)} distinct tokens; {costs.rounds} rounds of "
        f"{costs.round_tokens} generated tokens each\n"
    )
    head = ["history", *(f"{cost.tokens:,}" for cost in costs.histories), "plain"]
    rows = [
        ["ingest, s", *(f"{cost.ingest_seconds:.2f}" for cost in costs.histories), ""],
        ["ingest, tokens/s", *(f"{cost.ingest_tokens_per_second:,.0f}" for cost in costs.histories), ""],
        ["first token, ms", *(f"{1e3 * cost.first_token_seconds:.1f}" for cost in costs.histories), ""],
        [
            "token, ms: mean",
            *(_figure(cost.token_ms, "mean") for cost in costs.histories),
            _figure(costs.plain_ms, "mean"),
        ],
        [
            "  median",
            *(_figure(cost.token_ms, "median") for cost in costs.histories),
            _figure(costs.plain_ms, "median"),
        ],
        ["  95 %", *(_figure(cost.token_ms, "p95") for cost in costs.histories), _figure(costs.plain_ms, "p95")],
        ["refocus, ms: median", *(_figure(cost.controller_ms, "median") for cost in costs.histories), ""],
        ["  95 %", *(_figure(cost.controller_ms, "p95") for cost in costs.histories), ""],
        ["token with one, ms: median", *(_figure(cost.refocus_token_ms, "median") for cost in costs.histories), ""],
        ["  95 %", *(_figure(cost.refocus_token_ms, "p95") for cost in costs.histories), ""],
        ["refocuses", *(f"{cost.refocuses:,}" for cost in costs.histories), ""],
        ["entries read per token", *(f"{cost.entries_per_token:.1f}" for cost in costs.histories), "1.0"],
        ["coarsest level", *(f"LOD{cost.max_lod}" for cost in costs.histories), ""],
        ["tree, bytes per token", *(f"{cost.tree_bytes_per_token:.1f}" for cost in costs.histories), ""],
        ["index, bytes per token", *(f"{cost.index_bytes / cost.tokens:.1f}" for cost in costs.histories), ""],
        ["keys and values", *(size(cost.cache_bytes) for cost in costs.histories), ""],
        ["memory before", *(_memory(cost.before_rss) for cost in costs.histories), ""],
        ["  highest until first token", *(_memory(cost.longest_rss) for cost in costs.histories), ""],
        ["to plain", *(_ratio(cost.to_plain) for cost in costs.histories), ""],
        ["  in processor time", *(_ratio(cost.to_plain_cpu) for cost in costs.histories), ""],
    ]
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    for row in [head, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        echo("  ".join(cells).rstrip())
    if costs.longest_to_shortest is not None:
        shortest, longest = costs.histories[0].tokens, costs.histories[-1].tokens
        echo(
            f"\ntime per token, {longest:,} to {shortest:,} tokens of history: {_ratio(costs.longest_to_shortest)}, "
            f"in processor time {_ratio(costs.longest_to_shortest_cpu)}"
        )
    echo("ratios: median over rounds (and their middle half)")
    if costs.peak_rss is not None:
        echo(f"highest resident memory of the process: {size(costs.peak_rss)}")


def _figure(spread: Spread | None, name: str) -> str:
    return "-" if spread is None else f"{getattr(spread, name):.2f}"


def _ratio(ratio: Ratio | None) -> str:
    return "-" if ratio is None else f"{ratio.median:.3f} ({ratio.low:.2f}-{ratio.high:.2f})"


def _memory(value: int | None) -> str:
    return "-" if value is None else size(value)
