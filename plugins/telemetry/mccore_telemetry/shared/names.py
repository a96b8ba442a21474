"""Names of metrics in other systems, translated from METRICS by rule, so that a new row needs no second table.

| METRICS | OpenTelemetry | Prometheus | W&B |
| --- | --- | --- | --- |
| `loss` (train, nat) | `mccore.train.loss` | `mccore_train_loss_nats` | `train/loss` |
| `tokens_total` (train) | `mccore.train.tokens` | `mccore_train_tokens_total` | `train/tokens_total` |
| `val_bpb` (val, bit/By) | `mccore.val.bpb` | `mccore_val_bpb` | `val/bpb` |
| `dwell/p95` (mc) | `mccore.mc.dwell`, part p95 | `mccore_mc_dwell_refocuses{part="p95"}` | `mc/dwell/p95` |

A part is an attribute or label, never part of a name. What else tells series apart is in `labels`.
"""

from __future__ import annotations

import functools

from mccore.events import Event, Metric, metric

PREFIX = "mccore"

# Base units as Prometheus names end with them. A count whose name says what is counted needs no ending.
_ENDINGS = {
    "": "",  # on or off, or counted by its own name
    "1": "ratio",
    "s": "seconds",
    "By": "bytes",
    "nat": "nats",
    "nat/{token}": "nats_per_token",
    "bit/By": "",  # the name says it, and promtool takes `bits` for a unit that should be bytes
    "By/{token}": "bytes_per_token",
    "{token}/s": "tokens_per_second",
    "{entry}": "entries",
    "{event}": "events",
    "{flop}": "flops",
    "{refocus}": "refocuses",
    "{sync}": "syncs",
    "{token}": "tokens",
    "{variant}": "variants",
    "{core}": "cores",
    "Cel": "celsius",
    "W": "watts",
}
_TOTAL = "_total"


@functools.lru_cache(4096)
def split(name: str) -> tuple[Metric, str]:
    """The row of a metric and the part of its family: `lod_loss/2` is `lod_loss` and `2`. Raises KeyError."""
    row = metric(name)
    return row, name.removeprefix(row.name).removeprefix("/")


def stem(row: Metric) -> str:
    """The name without what its scope says already: `bpb` of `val_bpb`."""
    return row.name.removeprefix(f"{row.scope}_")


def otel_name(row: Metric) -> str:
    """The dotted name of an instrument: the unit is a field of its own there, and so is what makes it a counter."""
    return f"{PREFIX}.{row.scope}.{stem(row).removesuffix(_TOTAL)}"


def prometheus_name(row: Metric) -> str:
    """The name of a metric family, with its base unit, counters with `_total`. Raises KeyError for a unit without an ending."""
    name, ending = stem(row).removesuffix(_TOTAL), _ENDINGS[row.unit]
    if ending and name != ending and not name.endswith(f"_{ending}"):
        name = f"{name}_{ending}"
    return f"{PREFIX}_{row.scope}_{name}{_TOTAL if row.kind == 'counter' else ''}"


def wandb_name(name: str) -> str:
    """The key of a chart, grouped by its scope: `mc/lod_loss/2`."""
    row, part = split(name)
    return "/".join(filter(None, (row.scope, stem(row), part)))


def labels(event: Event, part: str = "") -> dict[str, str]:
    """What tells apart values of one name: few values each, so that no store drowns. Absent ones are left out."""
    condition = event.data.get("condition")
    found = {
        "rank": str(event.rank),
        "stage": event.stage or "",
        "part": part,
        "condition": condition if isinstance(condition, str) else "",
    }
    return {name: value for name, value in found.items() if value}
