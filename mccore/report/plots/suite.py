"""The pictures of what a suite of `mccore eval context` measured: right answers by length and by depth, and costs."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mccore.report.plots.style import BLUE, INK, MARKERS, MUTED, ORANGE, plain_style, save, short, style_panel
from mccore.report.shape import AnswerEntry, SuiteEntry

_COLUMNS = 3
_COLORS = (BLUE, ORANGE, "#2b8a3e", "#862e9c", "#b08900", "#0c8599", "#a61e4d", "#495057", "#1f2933")


@plain_style
def draw_suite(suite: SuiteEntry) -> dict[str, bytes]:
    """PNG images by file name; none for what has nothing to show."""
    images = {
        "context_recall.png": _draw_answers([*suite["answers"], *suite["names"]]),
        "context_depth.png": _draw_depths(suite["depths"]),
        "context_costs.png": _draw_costs(suite),
    }
    return {name: image for name, image in images.items() if image is not None}


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    height = -(-count // _COLUMNS)
    figure = Figure(figsize=(1.0 + 3.6 * min(count, _COLUMNS), 0.9 + 2.5 * height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(height, min(count, _COLUMNS), squeeze=False).flatten()
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, grid


def _draw_answers(rows: Sequence[AnswerEntry]) -> bytes | None:
    """A panel for every kind of question, a line for every condition, with 95 % intervals."""
    rows = [row for row in rows if row["accuracy"] is not None and row["size"]]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    if not kinds:
        return None
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    figure, grid = _panels(len(kinds))
    for axes, kind in zip(grid, kinds, strict=False):
        style_panel(axes, kind, "right answers", "tokens of history")
        for number, condition in enumerate(conditions):
            mine = [row for row in rows if row["kind"] == kind and row["condition"] == condition]
            _draw_line(axes, mine, condition, number, len(conditions))
        _by_length(axes)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        fontsize=8,
        labelcolor=INK,
        frameon=False,
        loc="outside lower center",
        ncols=min(6, len(labels)),
    )
    return save(figure)


def _draw_line(axes: Axes, rows: Sequence[AnswerEntry], label: str, number: int, lines: int) -> None:
    shift = 2 ** (0.12 * (number - (lines - 1) / 2))  # so that intervals don't hide each other
    y = [row["accuracy"] or 0.0 for row in rows]
    below = [max(0.0, each - (row["low"] or 0.0)) for each, row in zip(y, rows, strict=True)]
    above = [max(0.0, (row["high"] or 0.0) - each) for each, row in zip(y, rows, strict=True)]
    axes.errorbar(
        [(row["size"] or 1.0) * shift for row in rows], y, yerr=[below, above], color=_COLORS[number % len(_COLORS)],
        marker=MARKERS[number % len(MARKERS)], markersize=4, capsize=2, linewidth=1.2, elinewidth=0.8, label=label,
    )  # fmt: skip


def _by_length(axes: Axes) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: short(round(value / 1024) * 1000 if value >= 1024 else value))
    axes.set_ylim(-0.05, 1.05)


def _draw_depths(rows: Sequence[AnswerEntry]) -> bytes | None:
    """What the session answers right by depth, a panel for every kind, a line for every length."""
    there = {row["condition"] for row in rows}
    shown = "session" if "session" in there else "context"
    rows = [
        row for row in rows if row["condition"] == shown and row["depth"] is not None and row["accuracy"] is not None
    ]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    if not kinds:
        return None
    sizes = sorted({row["size"] or 0.0 for row in rows})
    figure, grid = _panels(len(kinds))
    for axes, kind in zip(grid, kinds, strict=False):
        style_panel(axes, kind, "right answers", "depth, 0 at the start of the history")
        for number, size in enumerate(sizes):
            mine = [row for row in rows if row["kind"] == kind and row["size"] == size]
            axes.plot(
                [row["depth"] or 0.0 for row in mine], [row["accuracy"] or 0.0 for row in mine],
                color=_COLORS[number % len(_COLORS)], marker=MARKERS[number % len(MARKERS)], markersize=4, linewidth=1.2,
                label=f"{size:,.0f} tokens",
            )  # fmt: skip
        axes.set_ylim(-0.05, 1.05)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, labelcolor=INK, frameon=False, loc="outside lower center", ncols=6)
    return save(figure)


def _draw_costs(suite: SuiteEntry) -> bytes | None:
    """Milliseconds of a token, of the first one, and bytes, by the length of the history."""
    rows = [row for row in suite["costs"] if row["tokens"]]
    if not rows:
        return None
    figure, grid = _panels(3)
    x = [row["tokens"] or 1.0 for row in rows]
    style_panel(grid[0], "A token", "milliseconds", "tokens of history")
    tokens = {"median": [row["token_ms"] for row in rows], "mean": [row["mean_ms"] for row in rows]}
    for (label, values), color in zip(tokens.items(), (BLUE, ORANGE), strict=True):
        grid[0].plot(x, [each or 0.0 for each in values], color=color, marker="o", markersize=4, label=label)
    if suite["plain_ms"] is not None:
        grid[0].axhline(suite["plain_ms"], color=MUTED, linestyle="--", linewidth=1, label="plain decoding")
    style_panel(grid[1], "First token, once all is read", "milliseconds", "tokens of history")
    grid[1].plot(x, [1e3 * (row["first_token_seconds"] or 0.0) for row in rows], color=BLUE, marker="o", markersize=4)
    style_panel(grid[2], "Memory", "bytes", "tokens of history")
    held = {
        "tree": [row["tree_bytes"] for row in rows],
        "index": [row["index_bytes"] for row in rows],
        "keys and values": [row["cache_bytes"] for row in rows],
    }
    for (label, values), color in zip(held.items(), _COLORS, strict=False):
        grid[2].plot(x, [each or 0.0 for each in values], color=color, marker="o", markersize=4, label=label)
    grid[2].set_yscale("log")
    for axes in grid:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: short(round(value / 1024) * 1000 if value >= 1024 else value))
    for axes in (grid[0], grid[1]):
        axes.set_ylim(0, None)
    for axes in (grid[0], grid[2]):
        axes.legend(fontsize=7.5, labelcolor=INK, framealpha=0.85, edgecolor="none")
    return save(figure)
