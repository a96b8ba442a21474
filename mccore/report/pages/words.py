"""Numbers, texts and durations as a report words them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mccore.events.metrics import FIGURES, Group, figures_of
from mccore.report.shape import Result
from mccore.units import duration, share_interval

_CUT = 600  # characters of a question or an answer that are shown


UNREADABLE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What comes of a result that isn't of the shape that its stage writes: damaged, or of another version."""


def section(name: str, lines: Callable[[], Iterable[str]]) -> list[str]:
    """The lines of a part of a report; where results aren't as their stages write them, one that says so instead."""
    try:
        return list(lines())
    except UNREADABLE as error:
        return [f"**{name}** can't be read: {type(error).__name__} {error}"[:200]]


# --- words and numbers ------------------------------------------------------------------------------------------------


def code_text(value: object) -> str:
    return "" if value is None else f"`{value}`"


def fenced(text: str) -> str:
    """Text as it is, in a fence longer than any it holds."""
    text = "".join(char if char in "\n\t" or char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"


def shortened(text: str, limit: int = _CUT) -> str:
    """The end of a long text is what a reply answers to: the middle is left out."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 3]} […] {text[-(limit - limit // 3) :]}"


def accuracy_text(one: Result) -> str:
    """A share of right answers with its 95 % interval, which holds at none right, at all right and for one question."""
    if one["accuracy"] is None:
        return "no questions"
    low, high = share_interval(one["accuracy"], one["n"])
    return f"{100 * one['accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def mean_text(value: Result) -> str:
    """A mean score, with its standard error where the sample is large enough to have one."""
    if value["mean"] is None or value["stderr"] is None:
        return percent_text(value["mean"])
    return f"{100 * value['mean']:.1f} ± {100 * value['stderr']:.1f} %"


def percent_text(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def number_text(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def duration_text(seconds: float | None) -> str:
    return "" if seconds is None else duration(seconds)


def pictures(group: Group, plots: Sequence[str], suffix: str = "", over: str = "") -> Iterable[str]:
    """The pictures of a group of metrics, as many as were drawn."""
    for figure in figures_of(group):
        if (name := f"{figure}{suffix}.png") in plots:
            yield f"![{FIGURES[figure]}{over}]({name})"
