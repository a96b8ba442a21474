"""The look that all plots of a report share: colors, panels, smoothing, the PNG."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.style import context
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mccore.config.stages import STAGE_TABLE
from mccore.host.terminal import one_line
from mccore.runs.series import Points

TITLES = {spec.name: spec.title for spec in STAGE_TABLE if spec.title}

INK, MUTED, GRID = "#1f2933", "#52606d", "#e4e7eb"

BLUE, PALE, ORANGE = "#1d4ed8", "#a9c1f5", "#d9480f"

OTHERS, MARKERS = ("#d9480f", "#1f2933", "#0b7285", "#862e9c"), ("D", "o", "s", "^")

Given = ParamSpec("Given")
Drawn = TypeVar("Drawn")

_MOST_POINTS = 1500  # of a line: more than a panel has pixels across

SMOOTHING = 0.02  # of the points of a curve go into one point of the smoothed one


def plain_style(draw: Callable[Given, Drawn]) -> Callable[Given, Drawn]:
    """Draw by matplotlib's own defaults, whatever a matplotlibrc in the working directory or at home says.

    Names of files and stages are text: a dollar in them begins no formula, and a letter that the font lacks is a box, untold.
    """

    @functools.wraps(draw)
    def drawn(*args: Given.args, **kwargs: Given.kwargs) -> Drawn:
        with context(["default", {"text.parse_math": False}]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            return draw(*args, **kwargs)

    return drawn


def save(figure: Figure) -> bytes:
    """A figure as PNG, the same bytes for the same content."""
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()


def label_of(name: str, most: int = 40) -> str:
    """A name as a label of an axis: its end, where it is a long path, so that the plot keeps its room."""
    name = one_line(name)
    return name if len(name) <= most else f"…{name[1 - most :]}"


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
