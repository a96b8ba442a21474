"""The page docs/events.md, written from the tables of the code: `python -m mccore.events.page > docs/events.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from mccore.events.alerts import VALUES_IN_A_ROW, band_words
from mccore.events.metrics import METRICS, Metric
from mccore.events.types import EVENT_TYPES, EVENT_VERSION

_INTRODUCTION = f"""# Events and metrics

Written by `python -m mccore.events.page`; a test compares it with the code.

A run writes what happens to `events/rank<N>.jsonl` in its directory, one JSON object a line, from the first second.
Everything that looks at a run reads these files: the console, the report, `runs compare`, telemetry providers. This is
format version {EVENT_VERSION}. Within a version types and fields are only added; a reader passes over what it doesn't know.

| field | kind | meaning |
| --- | --- | --- |
| `v` | integer | version of the format |
| `type` | text | one of the types below |
| `time` | number | seconds since 1970-01-01 00:00 UTC |
| `rank` | integer | the process that wrote it |
| `stage` | text | stage of the run, null outside of one |
| `step` | integer | optimizer step of the stage, where there is one |
| `tokens` | integer | training tokens of the stage so far, over all ranks |
| `metrics` | object | values by their names below; null where a value isn't finite |
| `data` | object | the fields of the type |

Any field of `data` may be absent, or null where its value isn't known. Types marked *sampled* are written now and then,
not each time."""


def render_page() -> str:
    """The whole page."""
    parts = [_INTRODUCTION, "## Types", *_types(), "## Metrics", *_metrics()]
    return "\n\n".join(parts) + "\n"


def _types() -> Iterable[str]:
    for kind in EVENT_TYPES.values():
        yield f"### `{kind.name}`"
        yield f"{kind.description[:1].upper()}{kind.description[1:]}." + (" Carries metrics." if kind.metrics else "")
        if kind.data:
            rows = [f"| `{name}` | {field.kind} | {field.meaning} |" for name, field in kind.data.items()]
            yield "\n".join(["| data | kind | meaning |", "| --- | --- | --- |", *rows])


def _metrics() -> Iterable[str]:
    yield (
        "One table for every sink. Units are UCUM, `1` is a share or a count without a unit. `family/label` is a value of the "
        "same kind: `lod_loss/2`, `dwell/p95`. Outside its band a value deserves a look: the plots mark it."
    )
    yield (
        "With MegaContext `loss` is the whole objective and `token_loss` the language model's part of it, which compares with "
        "other runs. The console, the log and `runs list` print that part, and call it loss. So do the results of a stage, where "
        "the objective is `objective_loss`; `runs show` prints both by the names here."
    )
    rows = [
        f"| `{row.name}` | `{row.unit}` | {row.kind} | {row.scope} | {row.definition} | {band_words(row.band)} |"
        for row in METRICS.values()
    ]
    yield "\n".join(
        ["| metric | unit | kind | scope | definition | band |", "| --- | --- | --- | --- | --- | --- |", *rows]
    )
    yield "## Alerts"
    yield (
        f"A metric that stays outside its band, for so long and for {VALUES_IN_A_ROW} values in a row, is an alert: a line of "
        "the log, an `alert` event for every telemetry provider, a row of the report. One evaluator finds them for all of these. "
        "`docs/operations/prometheus/rules.yaml` has the same bands and times for Prometheus, which sees a value only when it "
        "asks and can't count three in a row."
    )
    yield "\n".join(
        ["| metric | expected | alert after | what to look at next |", "| --- | --- | --- | --- |", *_alerts()]
    )


def _alerts() -> Iterable[str]:
    for row in METRICS.values():
        if expected := band_words(row.band):
            yield f"| `{row.name}` | {expected} | {_hold(row)} | {row.advice} |"


def _hold(row: Metric) -> str:
    return f"{row.hold:g} s" if row.hold else "at once"


if __name__ == "__main__":
    sys.stdout.write(render_page())
