"""The wording of what a suite of `mccore eval context` measured: on a terminal and in a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mccore.report.pages.markdown import table
from mccore.report.shape import AnswerEntry, PlaceEntry, SuiteEntry
from mccore.report.suite import read_suite
from mccore.units import duration, size

SHOWN = ("context", "lookup", "window_lookup", "twin", "twin_lookup")  # by place: the others are in the JSON
PICTURES = (
    ("context_recall.png", "Right answers by the length of the history"),
    ("context_depth.png", "Right answers of the session by depth"),
    ("context_costs.png", "What a token costs by the length of the history"),
)


def suite_lines(found: Mapping[str, Any], plots: Sequence[str] = ()) -> Iterable[str]:
    """The section of a suite; `found` as `mccore eval context --suite` keeps it."""
    yield from section_lines(read_suite(found), plots)


def section_lines(suite: SuiteEntry, plots: Sequence[str] = ()) -> Iterable[str]:
    """The section of a suite: held-out text, questions about histories, names of other files, costs."""
    lookup = "with" if suite["lookup"] else "without"
    yield f"## What a memory is worth, suite {suite['suite']}"
    yield (
        f"Measured on the {suite['stage']} model, with Working Contexts of {_grouped(suite['entries'])} entries, {lookup} a "
        f"lookup, in {duration(sum(suite['seconds'].values()))}."
    )
    yield from _text(suite)
    yield from _answers(suite)
    yield from _costs(suite)
    for name, alt in PICTURES:
        if name in plots:
            yield f"![{alt}]({name})"
    if suite["missing"]:
        yield "### Not measured"
        yield table(("what", "why"), [(entry["what"], entry["why"]) for entry in suite["missing"]])


def _text(suite: SuiteEntry) -> Iterable[str]:
    if not suite["conditions"]:
        return
    yield "### Held-out text"
    yield (
        f"{_grouped(suite['rows'])} ends of histories of {_grouped(suite['history'])} tokens, in {_grouped(suite['documents'])} "
        "documents. NLL in nats per token; differences are to the raw window of as many entries, with standard errors by "
        "document."
    )
    rows = sorted(suite["conditions"], key=lambda row: row["nll"] or 0.0)
    yield table(
        ("condition", "NLL", "minus the window"),
        [(row["condition"], _formatted(row["nll"], ".4f"), _with_error(row["delta"], row["stderr"])) for row in rows],
    )
    for said, head, parts in (
        ("where the wanted word stands", "the wanted word", suite["places"]),
        ("kind of row: of text, and how many of its pairs stood before", "row", suite["kinds"]),
    ):
        if shown := [row for row in parts if row["condition"] in SHOWN]:
            yield f"Minus the window, by {said}:"
            yield _by_place(head, shown)


def _by_place(head: str, rows: Sequence[PlaceEntry]) -> str:
    conditions = [name for name in SHOWN if any(row["condition"] == name for row in rows)]
    by = {(row["place"], row["condition"]): row for row in rows}
    lines = []
    for place in dict.fromkeys(row["place"] for row in rows):
        mine = [by.get((place, name)) for name in conditions]
        share = next((row["share"] for row in mine if row is not None), None)
        cells = ("" if row is None else _with_error(row["delta"], row["stderr"]) for row in mine)
        lines.append((place, _formatted(share, ".3f"), *cells))
    return table((head, "share", *conditions), lines)


def _answers(suite: SuiteEntry) -> Iterable[str]:
    for title, said, rows in (
        (
            "Questions about histories",
            "The share of answers that are right as a whole, with its 95 % interval (Wilson). Names and numbers are made up, "
            "so none can be known without the history.",
            suite["answers"],
        ),
        (
            "Names of other files",
            "The next name in a file of code, which another file far behind has and the window hasn't.",
            suite["names"],
        ),
    ):
        if rows:
            yield f"### {title}"
            yield said
            yield _by_condition(rows)


def _by_condition(rows: Sequence[AnswerEntry]) -> str:
    conditions = list(dict.fromkeys(row["condition"] for row in rows))
    cells = {(row["kind"], row["size"], row["condition"]): row for row in rows}
    lines = []
    for kind, tokens in dict.fromkeys((row["kind"], row["size"]) for row in rows):
        mine = [cells.get((kind, tokens, condition)) for condition in conditions]
        n = next((row["n"] for row in mine if row is not None), None)
        lines.append((kind, _grouped(tokens), _grouped(n), *map(_accuracy, mine)))
    return table(("question", "tokens", "n", *conditions), lines)


def _accuracy(row: AnswerEntry | None) -> str:
    if row is None or row["accuracy"] is None:
        return ""
    return f"{row['accuracy']:.2f} ({_formatted(row['low'], '.2f')}-{_formatted(row['high'], '.2f')})"


def _costs(suite: SuiteEntry) -> Iterable[str]:
    rows = suite["costs"]
    if not rows:
        return
    yield "### Cost"
    yield (
        "A token is generated with all that a session does, refocuses included. Plain decoding at as many entries takes "
        f"{_formatted(suite['plain_ms'], '.2f')} ms a token. Ratios are medians over rounds."
    )
    shown: tuple[tuple[str, Callable[[Any], str]], ...] = (
        ("tokens of history", lambda row: _grouped(row["tokens"])),
        ("ms per token, median", lambda row: _formatted(row["token_ms"], ".2f")),
        ("mean", lambda row: _formatted(row["mean_ms"], ".2f")),
        ("to plain", lambda row: _formatted(row["to_plain"], ".2f")),
        ("reading all of it, s", lambda row: _formatted(row["ingest_seconds"], ".2f")),
        ("first token then, ms", lambda row: _formatted(1e3 * (row["first_token_seconds"] or 0.0), ".0f")),
        ("tree", lambda row: _size(row["tree_bytes"])),
        ("index", lambda row: _size(row["index_bytes"])),
        ("keys and values", lambda row: _size(row["cache_bytes"])),
    )
    yield table([name for name, _ in shown], [[cell(row) for _, cell in shown] for row in rows])


def _grouped(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f}"


def _size(value: float | None) -> str:
    return "" if value is None else size(value)


def _formatted(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _with_error(value: float | None, error: float | None) -> str:
    return _formatted(value, "+.4f") + ("" if value is None or error is None else f" ± {error:.4f}")
