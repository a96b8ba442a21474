"""The pictures of a report's MegaContext section: curves with their bands, the evaluation of focus, the map of a context."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mccore.events import METRICS, Event
from mccore.events.metrics import EVALUATED, PlotPanel, curve_label, family, figures_of, panels_of
from mccore.report.megacontext import read_runs
from mccore.report.plots.style import (
    BLUE,
    GRID,
    INK,
    MUTED,
    ORANGE,
    PALE,
    TITLES,
    plain_style,
    save,
    smooth,
    style_panel,
    thin,
)
from mccore.report.shape import BinEntry, EvaluationEntry
from mccore.runs.lod_map import Stretch, stretches
from mccore.runs.series import Series

Metrics = Mapping[str, Sequence[tuple[float, float]]]

_COLORS = (BLUE, ORANGE, "#2b8a3e", "#862e9c", "#b08900", "#0c8599", "#a61e4d")
_LOD_COLORS = ("#1d4ed8", "#f59f00", "#c92a2a", "#5f3dc4", "#343a40")  # a token is blue, a gist the redder the coarser
_BAND, _BAND_EDGE = "#d3f0dc", "#8fcaa4"
_SMOOTH_FROM = 20  # points; fewer are drawn as they are
_SNAPSHOTS = 16  # contexts of a map


@plain_style
def draw_megacontext(
    steps: Series,
    refocuses: Series,
    evaluations: Mapping[str, EvaluationEntry],
    contexts: Mapping[str, Sequence[Event]],
) -> dict[str, bytes]:
    """PNG images by file name; none for what has nothing to show."""
    images = {}
    for figure in figures_of("objective"):
        if image := _draw_steps(steps, panels_of(figure)):
            images[f"{figure}.png"] = image
    for figure in figures_of("refocus"):
        for suffix, label, training in (("_training", "training tokens of the stage", True), ("", "refocus", False)):
            mine = {stage: metrics for stage, metrics in refocuses.items() if (stage in TITLES) == training}
            if image := _draw_refocuses(mine, panels_of(figure), label):
                images[f"{figure}{suffix}.png"] = image
    for stage, found in evaluations.items():
        if image := _draw_conditions(found):
            images[f"mc_focus_{stage}.png"] = image
        if image := _draw_bins(found):
            images[f"mc_where_{stage}.png"] = image
    for stage, events in contexts.items():
        if image := _draw_map(events):
            images[f"mc_map_{stage}.png" if stage else "mc_map.png"] = image
    return images


# --- curves ------------------------------------------------------------------------------------------------------------


def _members(metrics: Metrics, panel: PlotPanel) -> list[str]:
    """The metrics of a stage that belong in a panel, in the panel's order."""
    found = [name for name in metrics if family(name) in panel.families and metrics[name]]
    return sorted(found, key=lambda name: (panel.families.index(family(name)), name))


def _draw_steps(steps: Series, panels: Sequence[PlotPanel]) -> bytes | None:
    """A column for every stage, a row for every panel that has something."""
    rows = [panel for panel in panels if any(_members(metrics, panel) for metrics in steps.values())]
    stages = [stage for stage in TITLES if stage in steps and any(_members(steps[stage], row) for row in rows)]
    # What only the plain pass has is no news of MegaContext.
    if not stages or all(
        name == "token_loss" for stage in stages for row in rows for name in _members(steps[stage], row)
    ):
        return None
    figure = Figure(figsize=(1.6 + 4.3 * len(stages), 0.6 + 3.0 * len(rows)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), len(stages), squeeze=False)
    for row, panel in enumerate(rows):
        names = list(dict.fromkeys(name for stage in stages for name in _members(steps[stage], panel)))
        for column, stage in enumerate(stages):
            axes = grid[row][column]
            style_panel(axes, TITLES[stage] if row == 0 else "", panel.label if column == 0 else "")
            curves = {name: steps[stage][name] for name in _members(steps[stage], panel)}
            draw_curves(axes, curves, {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(names)}, panel.band)
    return save(figure)


def _draw_refocuses(refocuses: Series, drawn: Sequence[PlotPanel], x_label: str) -> bytes | None:
    """Two columns of panels, a line for every stage."""
    panels = [panel for panel in drawn if any(_members(metrics, panel) for metrics in refocuses.values())]
    if not panels:
        return None
    height = -(-len(panels) // 2)
    figure = Figure(figsize=(10.2, 0.4 + 2.6 * height), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(height, 2, squeeze=False).flatten()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    several = len(refocuses) > 1
    for axes, panel in zip(grid, panels, strict=False):
        style_panel(axes, "", panel.label, x_label)
        curves = {
            _of_stage(stage, name) if several else name: metrics[name]
            for stage, metrics in refocuses.items()
            for name in _members(metrics, panel)
        }
        draw_curves(axes, curves, {name: _COLORS[i % len(_COLORS)] for i, name in enumerate(curves)}, panel.band)
    return save(figure)


def _label_of(name: str) -> str:
    """What a curve is called: a metric by its label, and by its name where it has none; others as they are."""
    return (curve_label(name) or name) if family(name) in METRICS else name


def _of_stage(stage: str, name: str) -> str:
    return f"{stage}, {label}" if (label := curve_label(name)) else stage


def draw_curves(axes: Axes, curves: Metrics, colors: Mapping[str, str], band: str) -> None:
    """Curves, smoothed where they have many points, over the band of a metric."""
    if not curves:
        axes.text(0.5, 0.5, "not measured here", transform=axes.transAxes, ha="center", color=MUTED, fontsize=9)
        return
    for name, points in curves.items():
        x, y = zip(*thin(points), strict=True)
        label = _label_of(name) if len(curves) > 1 else "measured"
        if name == EVALUATED:
            axes.plot(x, y, color=colors[name], linewidth=1, linestyle=":", marker="o", markersize=4, label=label)
            continue
        smoothed = len(points) >= _SMOOTH_FROM and len(set(y)) > len(y) // 10  # steps of a schedule stay steps
        if smoothed and len(curves) == 1:
            axes.plot(x, y, color=PALE, linewidth=0.8)
        if smoothed:
            width = max(5, len(points) // 40)
            # Near the ends there is nothing to smooth over: what would be drawn there is noise.
            x, y = zip(*thin(smooth(points, width)[width // 4 : -(width // 4)]), strict=True)
        style = "--" if name == "gist_loss" else "-"  # it lies on LOD1's where there is no other level
        marker = "o" if len(x) < _SMOOTH_FROM else None
        axes.plot(x, y, color=colors[name], linewidth=1.5, linestyle=style, marker=marker, markersize=3.5, label=label)
    if band:
        whose = curve_label(band) if len(curves) > 1 else None
        _draw_band(axes, METRICS[band].band, f"{whose}, expected" if whose else "expected")
    # Counts and the like have no business below 0, and what hardly moves is to look like it.
    low, high = axes.get_ylim()
    values = [y for points in curves.values() for _, y in points]
    if min(values) >= 0 and (low < 0 or max(values) - min(values) < 0.1 * max(values)):
        axes.set_ylim(0, high)
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1 or (band and labels):
        axes.legend(handles, labels, fontsize=7.5, labelcolor=INK, loc="best", framealpha=0.85, edgecolor="none")


def _draw_band(axes: Axes, band: tuple[float, float] | None, label: str) -> None:
    """Shade a band; where its edges are far off the curves, only say which way they lie."""
    if band is None:
        return
    low, high = axes.get_ylim()
    reach = max(high - low, abs(high), 1e-9)
    edges = [edge for edge in band if math.isfinite(edge) and low - reach <= edge <= high + reach]
    if edges:
        low, high = (
            min(low, *(edge - 0.05 * reach for edge in edges)),
            max(high, *(edge + 0.05 * reach for edge in edges)),
        )
    axes.set_ylim(low, high)
    bottom, top = max(band[0], low), min(band[1], high)
    words = describe_band(band)
    if bottom < top:
        axes.axhspan(bottom, top, color=_BAND, linewidth=0, zorder=0, label=f"{label}: {words}")
        for edge in edges:
            axes.axhline(edge, color=_BAND_EDGE, linewidth=1, linestyle="--", zorder=1)
    else:
        axes.plot([], [], color=_BAND_EDGE, linewidth=5, label=f"{label}: {words} (off the scale)")


def describe_band(band: tuple[float, float]) -> str:
    """A band in words: `at most 0.1`, `0.9 to 1`."""
    low, high = band
    if math.isinf(low):
        return f"at most {high:g}"
    return f"at least {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"


# --- the evaluation of focus -------------------------------------------------------------------------------------------


def _draw_conditions(found: EvaluationEntry) -> bytes | None:
    """Every condition's NLL against the plain window, with 95 % intervals of the paired differences."""
    rows = [row for row in found["table"] if row["delta"] is not None]
    if not rows:
        return None
    rows.sort(key=lambda row: -row["delta"])
    figure = Figure(figsize=(8.2, 1.3 + 0.34 * len(rows)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    style_panel(
        axes, "Focus: NLL against the plain window, with 95 % intervals", "", "difference of NLL (nat per token)"
    )
    for place, row in enumerate(rows):
        reach = 1.96 * (row["delta_stderr"] or 0.0)
        better = row["delta"] + reach < 0
        color = _COLORS[2] if better else (ORANGE if row["delta"] - reach > 0 else MUTED)
        axes.errorbar(row["delta"], place, xerr=reach, color=color, marker="o", markersize=5, capsize=3, linewidth=1.5)
    axes.axvline(0, color=MUTED, linewidth=1, linestyle="--", zorder=1)
    axes.set_yticks(range(len(rows)), [row["condition"] for row in rows], fontsize=9, color=INK)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(axis="y", visible=False)
    return save(figure)


def _draw_bins(found: EvaluationEntry) -> bytes | None:
    """Delta NLL by distance and by the level at which what is needed stood, a line for every condition."""
    kinds = [(name, found[name]) for name in ("by_distance", "by_lod") if any(_drawable(row) for row in found[name])]
    if not kinds:
        return None
    figure = Figure(figsize=(1.0 + 4.6 * len(kinds), 3.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (kind, rows) in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        rows = [row for row in rows if _drawable(row)]
        far = kind == "by_distance"
        title, label = (
            ("By distance", "tokens back to where the prediction could be copied from")
            if far
            else ("By level", "level at which that place was shown")
        )
        style_panel(axes, title, "delta NLL (nat per token)", label)
        places = list(
            dict.fromkeys(_place(row, far) for row in sorted(rows, key=lambda row: row["from" if far else "lod"] or 0))
        )
        conditions = list(dict.fromkeys(row["condition"] for row in rows))
        for number, condition in enumerate(conditions):
            mine = [row for row in rows if row["condition"] == condition]
            shift = 0.12 * (number - (len(conditions) - 1) / 2)  # so that intervals don't hide each other
            axes.errorbar(
                [places.index(_place(row, far)) + shift for row in mine],
                [row["delta"] for row in mine],
                yerr=[1.96 * (row["stderr"] or 0.0) for row in mine],
                color=_COLORS[number % len(_COLORS)], marker="o", markersize=4, capsize=3,
                linewidth=1.2 if far else 0, elinewidth=1.2, label=condition or "delta NLL",
            )  # fmt: skip
        axes.axhline(0, color=GRID, linewidth=1.2, zorder=1)
        axes.set_xticks(range(len(places)), places, fontsize=8)
        axes.set_xlim(-0.5, len(places) - 0.5)
        if len(conditions) > 1:
            axes.legend(frameon=False, fontsize=7.5, labelcolor=INK, loc="best")
    return save(figure)


def _drawable(row: BinEntry) -> bool:
    return row["delta"] is not None and (row["from"] is not None or row["lod"] is not None)


def _place(row: BinEntry, far: bool) -> str:
    if not far:
        return f"LOD{row['lod']:g}"
    if row["to"] is None:
        return f"from {_tokens(row['from'])}"
    return f"{_tokens(row['from'])}–{_tokens(row['to'])}"


def _tokens(value: float) -> str:
    for limit, letter in ((1 << 20, "M"), (1 << 10, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:g}"


# --- the map of a context ----------------------------------------------------------------------------------------------


def _draw_map(events: Sequence[Event]) -> bytes | None:
    """Working Contexts over their history, oldest on top: which level stands for which tokens."""
    shown = [event for event in events if read_runs(event.data) and event.data.get("block_size")]
    if not shown:
        return None
    step = max(1, -(-len(shown) // _SNAPSHOTS))
    shown = shown[::-1][::step][::-1]  # the last one is always there
    figure = Figure(figsize=(8.6, 1.2 + 0.3 * len(shown)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    style_panel(axes, "Working Contexts over their history", "", "token of the history")
    levels: set[int] = set()
    for place, event in enumerate(shown):
        for each in _stretches(event):
            color = _LOD_COLORS[min(each.level, len(_LOD_COLORS) - 1)]
            axes.broken_barh([(each.start, each.stop - each.start)], (place - 0.4, 0.8), facecolor=color, linewidth=0)
            levels.add(each.level)
    labels = [f"{_entries(event)} entries" for event in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=8)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.grid(visible=False)
    handles = [
        Patch(color=_LOD_COLORS[min(level, len(_LOD_COLORS) - 1)], label=f"LOD{level}") for level in sorted(levels)
    ]
    figure.legend(handles=handles, frameon=False, fontsize=8, labelcolor=INK, loc="outside right upper")
    return save(figure)


def _stretches(event: Event) -> list[Stretch]:
    runs, size = read_runs(event.data), int(event.data["block_size"])
    covered = sum(entries * size**level for level, entries in runs)
    history = event.data.get("history")
    return stretches(runs, size, min(covered, history) if isinstance(history, int) else covered)


def _entries(event: Event) -> int:
    return sum(count for _, count in read_runs(event.data))
