"""Plots of training and of the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mccore.events.metrics import figures_of, panels_of
from mccore.report.plots.style import (
    BLUE,
    INK,
    MARKERS,
    MUTED,
    ORANGE,
    OTHERS,
    PALE,
    SMOOTHING,
    TITLES,
    label_of,
    plain_style,
    save,
    smooth,
    style_panel,
    thin,
)
from mccore.runs.series import Points, Series, has_other_parts


@plain_style
def draw_plots(curves: Series) -> dict[str, bytes]:
    """PNG images by file name: `loss.png`, `learning_rate.png`, `throughput.png`; none for what has no points."""
    images = {}
    for figure in figures_of("training"):
        panel = panels_of(figure)[0]
        metric = panel.families[0]
        stages = [stage for stage in TITLES if curves.get(stage, {}).get(metric)]
        if stages:
            images[f"{figure}.png"] = _figure({stage: curves[stage] for stage in stages}, metric, panel.label)
    return images


@plain_style
def draw_tokenizer(measured: Mapping[str, Any]) -> bytes:
    """A PNG of bytes per token by text, from what `evaluate_tokenizer` measured: a bar for the tokenizer, marks for others."""
    texts = measured["texts"]
    names = list(texts)[::-1]
    figure = Figure(figsize=(9.6, 1.4 + 0.3 * max(len(names), 6)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    style_panel(panel, "tokenizer: bytes per token by kind of text", "", "bytes per token (more is better)")
    panel.barh(
        range(len(names)), [texts[name]["bytes_per_token"] for name in names], color=BLUE, height=0.6, label="this run"
    )
    for i, (other, found) in enumerate(measured.get("others", {}).items()):
        values = [found["bytes_per_token"][name] for name in names]
        marker, color = MARKERS[i % len(MARKERS)], OTHERS[i % len(OTHERS)]
        panel.plot(
            values, range(len(names)), linestyle="", marker=marker, markersize=6, color=color, label=label_of(other)
        )
    panel.set_xlim(left=0)
    panel.grid(visible=False, axis="y")
    panel.set_yticks(range(len(names)), [label_of(name) for name in names])
    if measured.get("others"):
        panel.legend(frameon=False, fontsize=8, labelcolor=INK, loc="lower right")
    return save(figure)


def _figure(curves: Series, metric: str, label: str) -> bytes:
    figure = Figure(figsize=(1.2 + 4.1 * len(curves), 3.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for panel, (stage, metrics) in zip(panels, curves.items(), strict=True):
        style_panel(panel, TITLES[stage], label if panel is panels[0] else "")
        if metric == "loss":
            _draw_loss(panel, metrics)
        else:
            x, y = zip(*thin(metrics[metric]), strict=True)
            panel.plot(x, y, color=BLUE, linewidth=1.4, marker="o" if len(x) == 1 else None, markersize=4)
            panel.set_ylim(bottom=0, top=max(y) * 1.08 or 1)
    return save(figure)


def _draw_loss(panel: Axes, metrics: Mapping[str, Points]) -> None:
    raw = metrics["loss"]
    if has_other_parts(metrics):  # what compares with the validation loss is the language model's part
        x, y = zip(*thin(smooth(raw, max(5, round(len(raw) * SMOOTHING)))), strict=True)
        panel.plot(x, y, color=MUTED, linewidth=1.2, linestyle="--", label="whole objective, smoothed")
        raw = metrics["token_loss"]
    x, y = zip(*thin(raw), strict=True)
    smoothed = len(raw) >= 20
    color, width = (PALE, 0.9) if smoothed else (BLUE, 1.4)
    marker = "o" if len(x) == 1 else None
    panel.plot(x, y, color=color, linewidth=width, marker=marker, label="training, each step")
    if smoothed:
        x, y = zip(*thin(smooth(raw, max(5, round(len(raw) * SMOOTHING)))), strict=True)
        panel.plot(x, y, color=BLUE, linewidth=1.6, label="training, smoothed")
    if metrics.get("val_loss"):
        x, y = zip(*metrics["val_loss"], strict=True)
        panel.plot(x, y, color=ORANGE, linewidth=1, linestyle=":", marker="o", markersize=4, label="validation")
    if len(panel.lines) > 1:
        panel.legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper right")
