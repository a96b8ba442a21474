"""The Working Context over its history: detail by shade, what the last refocus changed highlighted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

from mccore.api import Extension, Options, Panel, PanelSpec, Role, RunView, Span
from mccore.events import Event
from mccore.hookspecs import hookimpl

ROLES: tuple[Role, ...] = ("level0", "level1", "level2", "level3")
NAMES = ("tokens", "LOD1", "LOD2", "coarser")
NARROW = 72  # columns below which only the figures and the shades are told
LABEL = 8  # columns of the token that a line begins with


class LodMap:
    """Lines of cells, oldest first, each with the finest level of its part of the history."""

    title = "Working Context"
    place: Literal["plot", "wide", "screen"] = "wide"
    reads: tuple[str, ...] = ("working_context_snapshot",)

    def __init__(self, options: Options, spec: PanelSpec) -> None:
        """It has no options."""

    def draw(self, view: RunView, width: int, height: int) -> Sequence[Sequence[Span]]:
        """See `mccore.api.Panel.draw`."""
        now, before = view.contexts()
        if now is None or width < LABEL + 1 or height < 3:
            return [[Span("Working Context: no snapshot yet", "dim")]]
        lines = height - 2
        cells = (width - LABEL) * lines
        try:
            levels = view.levels(now, cells)
            edited = view.changed(before, now, cells) if before is not None else [False] * cells
            head = _head(now, width)
        except (ValueError, TypeError, KeyError):
            return [[Span("Working Context: the snapshot is damaged", "bad")]]
        if not levels:
            return [[Span("Working Context: the history is empty", "dim")]]
        total, row = int(now.data["history"]), width - LABEL
        drawn: list[Sequence[Span]] = [[Span(head, "strong")]]
        for line in range(lines):
            part = slice(line * row, (line + 1) * row)
            label = f"{total * line // lines:>{LABEL - 1},} "[:LABEL]
            drawn.append([Span(label, "dim"), *_spans(view, levels[part], edited[part])])
        return [*drawn, _key(view, width)]


def _key(view: RunView, width: int) -> list[Span]:
    """What each shade stands for."""
    key = []
    for shade, name, role in zip(view.shades, NAMES, ROLES, strict=True):
        key += [Span(shade, role), Span(f" {name}  ", "dim")]
    if width < NARROW:
        return key
    return [*key, Span("highlighted", "edited"), Span(" changed by the last refocus", "dim")]


def _head(now: Event, width: int) -> str:
    data = now.data
    counts: dict[int, int] = {}
    for level, entries in data["runs"]:
        counts[level] = counts.get(level, 0) + entries
    kinds = "  ".join(f"LOD{level} {entries:,}" for level, entries in sorted(counts.items()))
    step = f"  step {now.step:,}" if now.step is not None else ""
    used = f"{data.get('entries')}/{data.get('budget')} entries over {int(data['history']):,} tokens"
    return f"Working Context {used}  {kinds}{step}" if width >= NARROW else used


def _spans(view: RunView, levels: Sequence[int], edited: Sequence[bool]) -> list[Span]:
    places = [(min(level, len(ROLES) - 1), edit) for level, edit in zip(levels, edited, strict=True)]
    return [
        Span(view.shades[place] * len(list(group)), "edited" if edit else ROLES[place])
        for (place, edit), group in groupby(places)
    ]


@hookimpl
def mccore_panel() -> Extension[Panel]:
    return Extension(build=LodMap, summary="the Working Context over its history, by level of detail")
