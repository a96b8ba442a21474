"""What evaluations of Working Contexts measured, and what models said meanwhile, as rows for a report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from mccore.events import Event
from mccore.report.shape import BinEntry, ConditionEntry, EvaluationEntry, PairEntry, SampleEntry
from mccore.runs.series import last_samples

# --- the evaluation of focus -------------------------------------------------------------------------------------------

_READ = ("table", "focus", "differences", "by_distance", "by_lod")

_WINDOW = " - window"  # differences to the window are in the table


def read_evaluation(context: Mapping[str, Any]) -> EvaluationEntry:
    """What an evaluation of focus found, in the one shape that the report words and draws: differences paired by sequence.

    What isn't there or isn't a number is None or left out.
    """
    table = context.get("table")
    rows = [row for row in table if isinstance(row, Mapping)] if isinstance(table, list | tuple) else []
    focus = context.get("focus")
    policies = focus.items() if isinstance(focus, Mapping) else ()
    return {
        "table": [
            ConditionEntry(
                condition=str(row.get("condition", "?")),
                nll=finite_number(row.get("nll")),
                stderr=finite_number(row.get("stderr")),
                delta=finite_number(row.get("delta")),
                delta_stderr=finite_number(row.get("delta_stderr")),
                gap_closed=finite_number(row.get("gap_closed")),
            )
            for row in rows
        ],
        "focus": {
            str(policy): {
                str(name): value for name, each in found.items() if (value := finite_number(each)) is not None
            }
            for policy, found in policies
            if isinstance(found, Mapping)
        },
        "differences": _differences(context.get("differences")),
        "by_distance": _bins(context.get("by_distance")),
        "by_lod": _bins(context.get("by_lod")),
        "notes": {
            str(name): value
            for name, value in context.items()
            if name not in _READ and (isinstance(value, str) or finite_number(value) is not None)
        },
    }


def _differences(value: Any) -> list[PairEntry]:
    pairs = value.items() if isinstance(value, Mapping) else ()
    return [
        {"pair": str(pair), "delta": delta, "stderr": finite_number(found.get("stderr"))}
        for pair, found in pairs
        if isinstance(found, Mapping)
        and (delta := finite_number(found.get("mean"))) is not None
        and not str(pair).endswith(_WINDOW)
    ]


def _bins(value: Any) -> list[BinEntry]:
    rows = [row for row in value if isinstance(row, Mapping)] if isinstance(value, list | tuple) else []
    return [
        {
            "condition": str(row.get("condition") or ""),
            "from": finite_number(row.get("from")),
            "to": finite_number(row.get("to")),
            "lod": finite_number(row.get("lod")),
            "delta": finite_number(row.get("delta")),
            "stderr": finite_number(row.get("stderr")),
            "tokens": finite_number(row.get("tokens")),
        }
        for row in rows
    ]


def finite_number(value: Any) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def describe_samples(events: Iterable[Event]) -> dict[str, list[SampleEntry]]:
    """The last samples of every stage."""
    return {
        stage: [
            SampleEntry(
                step=event.step, prompt=str(event.data.get("prompt") or ""), text=str(event.data.get("text") or "")
            )
            for event in samples
        ]
        for stage, samples in last_samples(events).items()
    }
