"""What an evaluation of Working Contexts measured, as rows for a report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mccore.report.shape import Record

# --- the evaluation of focus -------------------------------------------------------------------------------------------

_READ = ("table", "focus", "differences", "by_distance", "by_lod")

_ROW_NUMBERS = ("nll", "stderr", "delta", "delta_stderr", "gap_closed")

_WINDOW = " - window"  # differences to the window are in the table

_BIN_NUMBERS = ("from", "to", "lod", "delta", "stderr", "tokens")


def read_evaluation(context: Mapping[str, Any]) -> Record:
    """What an evaluation of focus found, in the one shape that the report words and draws.

    `table`: rows {condition, nll, stderr, delta, delta_stderr, gap_closed}, differences paired by sequence and to the plain
    window; `focus`: policy -> measures of its scores; `differences`: rows {pair, delta, stderr} of other pairs;
    `by_distance` and `by_lod`: rows {condition, from, to | lod, delta, stderr, tokens}; `notes`: what else is a plain value.
    What isn't there or isn't a number is None or left out.
    """
    table = context.get("table")
    rows = [row for row in table if isinstance(row, Mapping)] if isinstance(table, list | tuple) else []
    focus = context.get("focus")
    policies = focus.items() if isinstance(focus, Mapping) else ()
    return {
        "table": [
            {
                "condition": str(row.get("condition", "?")),
                **{name: finite_number(row.get(name)) for name in _ROW_NUMBERS},
            }
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


def _differences(value: Any) -> list[Record]:
    pairs = value.items() if isinstance(value, Mapping) else ()
    return [
        {"pair": str(pair), "delta": delta, "stderr": finite_number(found.get("stderr"))}
        for pair, found in pairs
        if isinstance(found, Mapping)
        and (delta := finite_number(found.get("mean"))) is not None
        and not str(pair).endswith(_WINDOW)
    ]


def _bins(value: Any) -> list[Record]:
    rows = [row for row in value if isinstance(row, Mapping)] if isinstance(value, list | tuple) else []
    return [
        {"condition": str(row.get("condition") or ""), **{name: finite_number(row.get(name)) for name in _BIN_NUMBERS}}
        for row in rows
    ]


def finite_number(value: Any) -> float | None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None
