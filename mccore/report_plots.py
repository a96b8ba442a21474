"""The plots of a report as PNG files: curves, one file per quantity and one panel per training stage, against training
tokens; and the tokenizer's compression."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mccore.report_megacontext import has_other_parts

Points = Sequence[tuple[float, float]]
Curves = Mapping[str, Mapping[str, Points]]  # stage -> metric -> points

TITLES = {"base": "base: pretraining", "mid": "mid: midtraining", "sft": "sft: fine-tuning"}
INK, MUTED, GRID = "#1f2933", "#52606d", "#e4e7eb"
BLUE, PALE, ORANGE = "#1d4ed8", "#a9c1f5", "#d9480f"
_OTHERS, _MARKERS = ("#d9480f", "#1f2933", "#0b7285", "#862e9c"), ("D", "o", "s", "^")
_MOST_POINTS = 1500  # of a line: more than a panel has pixels across
_SMOOTHING = 0.02  # of the points of a curve go into one point of the smoothed one


def draw_plots(curves: Curves) -> dict[str, bytes]:
    """PNG images by file name: `loss.png`, `learning_rate.png`, `throughput.png`; none for what has no points."""
    images = {}
    for file, metric, label in (
        ("loss.png", "loss", "loss (nat per token)"),
        ("learning_rate.png", "lr_multiplier", "learning-rate multiplier"),
        ("throughput.png", "tokens_per_second", "throughput (tokens per second)"),
    ):
        stages = [stage for stage in TITLES if curves.get(stage, {}).get(metric)]
        if stages:
            images[file] = _figure({stage: curves[stage] for stage in stages}, metric, label)
    return images


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
        marker, color = _MARKERS[i % len(_MARKERS)], _OTHERS[i % len(_OTHERS)]
        panel.plot(values, range(len(names)), linestyle="", marker=marker, markersize=6, color=color, label=other)
    panel.set_xlim(left=0)
    panel.grid(visible=False, axis="y")
    panel.set_yticks(range(len(names)), names)
    if measured.get("others"):
        panel.legend(frameon=False, fontsize=8, labelcolor=INK, loc="lower right")
    return save(figure)


def _figure(curves: Curves, metric: str, label: str) -> bytes:
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


def save(figure: Figure) -> bytes:
    """A figure as PNG, the same bytes for the same content."""
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()


def _draw_loss(panel: Axes, metrics: Mapping[str, Points]) -> None:
    raw = metrics["loss"]
    if has_other_parts(metrics):  # what compares with the validation loss is the language model's part
        x, y = zip(*thin(smooth(raw, max(5, round(len(raw) * _SMOOTHING)))), strict=True)
        panel.plot(x, y, color=MUTED, linewidth=1.2, linestyle="--", label="whole objective, smoothed")
        raw = metrics["token_loss"]
    x, y = zip(*thin(raw), strict=True)
    smoothed = len(raw) >= 20
    color, width = (PALE, 0.9) if smoothed else (BLUE, 1.4)
    marker = "o" if len(x) == 1 else None
    panel.plot(x, y, color=color, linewidth=width, marker=marker, label="training, each step")
    if smoothed:
        x, y = zip(*thin(smooth(raw, max(5, round(len(raw) * _SMOOTHING)))), strict=True)
        panel.plot(x, y, color=BLUE, linewidth=1.6, label="training, smoothed")
    if metrics.get("val_loss"):
        x, y = zip(*metrics["val_loss"], strict=True)
        panel.plot(x, y, color=ORANGE, linewidth=1, linestyle=":", marker="o", markersize=4, label="validation")
    if len(panel.lines) > 1:
        panel.legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper right")


def style_panel(panel: Axes, title: str, label: str, x_label: str = "training tokens") -> None:
    """The looks that all panels share."""
    panel.set_title(title, fontsize=10, color=INK, loc="left")
    panel.set_xlabel(x_label, fontsize=9, color=MUTED)
    panel.set_ylabel(label, fontsize=9, color=MUTED)
    panel.tick_params(labelsize=8, colors=MUTED, length=3)
    panel.grid(color=GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(GRID)
    panel.xaxis.set_major_locator(MaxNLocator(5))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def short(value: float) -> str:
    """A number on an axis: 1500000 as `1.5M`."""
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:g}{letter}"
    return f"{value:g}"


def smooth(points: Points, width: int) -> list[tuple[float, float]]:
    """The mean of `width` values around every point, of fewer at the ends: centred, so that it doesn't lag behind."""
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    smoothed = []
    for i, (x, _) in enumerate(points):
        reach = min(width // 2, i, len(points) - 1 - i)  # as far to one side as to the other
        smoothed.append((x, (sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1)))
    return smoothed


def thin(points: Points) -> list[tuple[float, float]]:
    """At most _MOST_POINTS points: means over equal runs of neighbours, so that noise looks like noise."""
    step = -(-len(points) // _MOST_POINTS)
    if step <= 1:
        return list(points)
    parts = [points[i : i + step] for i in range(0, len(points), step)]
    return [(part[-1][0], sum(y for _, y in part) / len(part)) for part in parts]
