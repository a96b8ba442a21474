"""One event: its fields, its line of JSON, and the check against the tables of types and metrics."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import Annotated, Any, TypedDict, Unpack

import msgspec
from msgspec import Meta, Struct

from mccore.events.metrics import METRICS
from mccore.events.types import EVENT_TYPES, EVENT_VERSION
from mccore.host.json_file import MAX_DEPTH, parse_json


class Where(TypedDict, total=False):
    """Where in a run an event happens."""

    rank: int
    stage: str | None
    step: int | None
    tokens: int | None


_LATEST = 2.0**36  # seconds since the epoch that a calendar still takes
_Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Event(Struct, frozen=True):
    """One thing that happened. `time` is seconds since the epoch; `tokens` counts the stage's training tokens."""

    type: str
    time: Annotated[float, Meta(ge=0.0, lt=_LATEST)]
    rank: _Count = 0
    stage: str | None = None
    step: _Count | None = None
    tokens: _Count | None = None
    metrics: Mapping[str, float] = {}  # each event gets one of its own
    data: Mapping[str, Any] = {}
    v: _Count = EVENT_VERSION

    @classmethod
    def now(
        cls,
        type: str,
        metrics: Mapping[str, float] | None = None,
        data: Mapping[str, Any] | None = None,
        **where: Unpack[Where],
    ) -> Event:
        """An event that happens now; `where` are rank, stage, step and tokens."""
        return cls(type, time.time(), metrics=metrics or {}, data=data or {}, **where)

    def to_json(self) -> str:
        """One line of JSON without a newline. Values that aren't finite become null: JSON has no NaN."""
        return self.to_bytes().decode("utf-8")

    def to_bytes(self) -> bytes:
        """`to_json` in UTF-8. Lone surrogates (a file name that isn't UTF-8) become JSON escapes."""
        record = {
            "v": self.v,
            "type": self.type,
            "time": round(self.time, 6),
            "rank": self.rank,
            "stage": self.stage,
            "step": self.step,
            "tokens": self.tokens,
            "metrics": self.metrics,
            "data": self.data,
        }
        try:
            return _fast_encode(record)
        except (TypeError, ValueError, OverflowError, RecursionError):  # kinds and texts that msgspec leaves to us
            record |= {"metrics": dict(self.metrics), "data": dict(self.data)}
        try:
            text = _encode(record)
        except ValueError:
            text = _encode(finite(record))
        return text.encode("utf-8", "backslashreplace")

    @classmethod
    def from_json(cls, line: str | bytes) -> Event:
        """Read one line. Raises ValueError when it isn't an event; unknown fields of a newer version are left out.

        Every field is what its type says afterwards, so that readers need no checks of their own: a count is a whole number
        of 64 bits, a metric that isn't finite is NaN, and data of a known event type is of the kind in its table.
        """
        try:
            if (line.count(b"[") + line.count(b"{") if isinstance(line, bytes) else MAX_DEPTH + 1) > MAX_DEPTH:
                return _read_slowly(line)
            event = _fast_decode(line)
        except ValueError:  # it has null, NaN or huge numbers, lone surrogates, or isn't an event
            return _read_slowly(line)
        _check_kinds(event.type, event.data)
        return event


def _read_slowly(line: str | bytes) -> Event:
    """`from_json` field by field: the one judge of what an event is. `_fast_decode` gives the same or raises."""
    record = parse_json(line)
    if not isinstance(record, dict) or not isinstance(record.get("type"), str):
        raise ValueError("not an event: no type")
    known = {name: record[name] for name in Event.__struct_fields__ if name in record}
    for name in ("v", "rank", "step", "tokens"):
        value = known.get(name, 0)
        if not (value is None and name in ("step", "tokens")) and not _is_count(value):
            raise ValueError(f"not an event: {name} isn't a count")
    if not isinstance(record.get("stage"), str | None):
        raise ValueError("not an event: stage isn't a name")
    known["time"] = _number(record.get("time") or 0.0)
    if not 0.0 <= known["time"] < _LATEST:
        raise ValueError("not an event: time isn't seconds since the epoch")
    metrics, data = record.get("metrics") or {}, record.get("data") or {}
    if not isinstance(metrics, dict) or not isinstance(data, dict):
        raise ValueError("not an event: metrics and data are objects")
    known["metrics"] = {name: _number(value) for name, value in metrics.items()}
    _check_kinds(record["type"], data)
    known["data"] = data
    return Event(**known)


def _check_kinds(type: str, data: Mapping[str, Any]) -> None:
    kind = EVENT_TYPES.get(type)
    if kind is None:
        return
    for name, value in data.items():
        if value is not None and name in kind.data and not kind.data[name].accepts(value):
            raise ValueError(f"not an event: {name} isn't of kind {kind.data[name].kind}")


# The common case, in a tenth of the time: what these refuse, the functions of `json` decide.
_fast_decode = msgspec.json.Decoder(Event).decode
_fast_encode = msgspec.json.Encoder().encode
# Made once: `json.dumps` makes another encoder with every call that asks for anything special.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _number(value: Any) -> float:
    """A number of JSON as a float, NaN for null and for what is too large. Raises ValueError for anything else."""
    if value is None:
        return math.nan
    if type(value) not in (int, float):
        raise ValueError("not an event: a number is missing")
    try:
        number = float(value)
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def finite(value: Any) -> Any:
    """`value` with null for every number that JSON hasn't, in dicts and lists at any depth."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_event(event: Event) -> None:
    """Raise ValueError unless the event's type, metrics and data fields are those of the tables above."""
    kind = EVENT_TYPES.get(event.type)
    if kind is None:
        raise ValueError(f"unknown event type {event.type!r}")
    for name in event.metrics:
        if name not in METRICS and name.partition("/")[0] not in METRICS:
            raise ValueError(f"{event.type}: {name!r} is not in METRICS")
    if event.metrics and not kind.metrics:
        raise ValueError(f"{event.type}: this type carries no metrics")
    if unknown := event.data.keys() - kind.data.keys():
        raise ValueError(f"{event.type}: unknown data {sorted(unknown)}")
    for name, value in event.data.items():
        if value is not None and not kind.data[name].accepts(value):
            raise ValueError(f"{event.type}: {name} is {type(value).__name__}, not of kind {kind.data[name].kind}")
