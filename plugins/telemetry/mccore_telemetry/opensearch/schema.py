"""What OpenSearch is told of events: one strict mapping from METRICS and EVENT_TYPES, and the documents that fit it.

A document is one event. Its mapping is fixed, so no event can add a field: nothing explodes, and a number that is whole at
first doesn't become an integer field. Lists and objects of `data` are stored and not searched. What a field can't hold is
kept beside: numbers that aren't finite are null and named in `nonfinite`, anything else is in `unmapped`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mccore.events import EVENT_TYPES, METRICS, Event, finite
from mccore_telemetry.shared.identity import event_id
from mccore_telemetry.shared.names import split

_STORED = {"type": "object", "enabled": False}  # in the document, but neither searched nor mapped further
_KEYWORD = {"type": "keyword", "ignore_above": 1024}
_KINDS: Mapping[str, Mapping[str, Any]] = {
    "integer": {"type": "long"},
    "number": {"type": "double"},
    "text": {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 256}}},
    "boolean": {"type": "boolean"},
    "list": _STORED,
    "object": _STORED,
}
_LONG = 2**63
# `json.dumps` with arguments makes an encoder every time.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def data_kinds() -> dict[str, str]:
    """The kind of every field of `data`. Raises ValueError where two types of events disagree about a name."""
    kinds: dict[str, str] = {}
    for kind in EVENT_TYPES.values():
        for name, field in kind.data.items():
            if kinds.setdefault(name, field.kind) != field.kind:
                raise ValueError(f"{kind.name}: {name} is {field.kind}, in another type of event {kinds[name]}")
    return kinds


def mapping() -> dict[str, Any]:
    """The mapping of the data stream's documents."""
    parts = {"name": _KEYWORD, "metric": _KEYWORD, "part": _KEYWORD, "value": {"type": "double"}}
    return {
        "dynamic": "strict",
        "date_detection": False,
        "properties": {
            "@timestamp": {"type": "date"},
            "time": {"type": "double"},
            "v": {"type": "integer"},
            "type": _KEYWORD,
            "run": _KEYWORD,
            "run_id": _KEYWORD,
            "service": _KEYWORD,
            "rank": {"type": "integer"},
            "stage": _KEYWORD,
            "step": {"type": "long"},
            "tokens": {"type": "long"},
            "metrics": {"dynamic": "strict", "properties": {name: {"type": "double"} for name in METRICS}},
            "parts": {"type": "nested", "dynamic": "strict", "properties": parts},
            "data": {
                "dynamic": "strict",
                "properties": {name: dict(_KINDS[kind]) for name, kind in sorted(data_kinds().items())},
            },
            "nonfinite": _KEYWORD,
            "unmapped": _STORED,
        },
    }


def index_template(stream: str) -> dict[str, Any]:
    """The index template of the data stream `stream`. `_meta.schema` changes when the mapping does."""
    mappings = mapping()
    mappings["_meta"] = {"schema": fingerprint(mappings), "by": "mccore"}
    return {
        "index_patterns": [stream],
        "data_stream": {},
        "priority": 200,
        "template": {
            "settings": {
                "index": {
                    "number_of_shards": 1,
                    "auto_expand_replicas": "0-1",
                    "codec": "best_compression",
                    "refresh_interval": "5s",
                }
            },
            "mappings": mappings,
        },
        "_meta": {"description": "events and metrics of mccore runs, one document an event"},
    }


def fingerprint(mappings: Mapping[str, Any]) -> str:
    """Sixteen digits that tell one mapping from another."""
    return hashlib.sha256(json.dumps(mappings, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Source:
    """Whose events they are: what every document of a provider has in common."""

    run: str
    run_id: str
    service: str

    @property
    def key(self) -> str:
        """What makes the ids of one run's events differ from those of any other's."""
        return self.run_id or self.run


@dataclass(frozen=True)
class Document:
    """An event as it is sent: its id, the two lines of a bulk request, and the event for a file of what was refused."""

    id: str
    lines: bytes
    event: Event


def document(event: Event, source: Source) -> Document:
    """The document of an event. The same event gives the same id, also when it is read back from the run's own file."""
    identity = event_id(event, source.key)
    lines = f'{{"create":{{"_id":"{identity}"}}}}\n{_encode(fields(event, source))}\n'
    # Lone surrogates (a file name that isn't UTF-8) become JSON escapes, as in the event files.
    return Document(identity, lines.encode("utf-8", "backslashreplace"), event)


def fields(event: Event, source: Source) -> dict[str, Any]:
    """The fields of an event's document, all within `mapping`."""
    made = _Fields()
    record: dict[str, Any] = {
        "@timestamp": datetime.fromtimestamp(event.time, UTC).isoformat(timespec="milliseconds"),
        "time": round(event.time, 6),
        "v": event.v,
        "type": event.type,
        "run": source.run,
        "run_id": source.run_id or None,
        "service": source.service,
        "rank": event.rank,
        "stage": event.stage,
        "step": event.step,
        "tokens": event.tokens,
    }
    if event.metrics:
        made.add_metrics(event.metrics)
    for name, value in event.data.items():
        made.add_data(name, value)
    return {name: value for name, value in (record | made.as_fields()).items() if value is not None}


class _Fields:
    """The parts of one document that need a look at every value."""

    def __init__(self) -> None:
        self.metrics: dict[str, float | None] = {}
        self.parts: list[dict[str, Any]] = []
        self.data: dict[str, Any] = {}
        self.nonfinite: list[str] = []
        self.unmapped: dict[str, Any] = {}

    def add_metrics(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            number = self._number(f"metrics.{name}", value)
            if name in METRICS:
                self.metrics[name] = number
            else:
                row, part = split(name)
                self.parts.append({"name": name, "metric": row.name, "part": part, "value": number})

    def add_data(self, name: str, value: Any) -> None:
        kind = _data_kind(name)
        if value is None:
            self.data[name] = None
        elif kind == "number" and isinstance(value, float):
            self.data[name] = self._number(f"data.{name}", value)
        elif kind in ("list", "object"):
            self.data[name] = finite(value)
        elif kind is None or (isinstance(value, int) and not -_LONG <= value < _LONG):
            self.unmapped[name] = finite(value)
        else:
            self.data[name] = value

    def as_fields(self) -> dict[str, Any]:
        """Only what there is."""
        names = ("metrics", "parts", "data", "nonfinite", "unmapped")
        return {name: getattr(self, name) for name in names if getattr(self, name)}

    def _number(self, name: str, value: float) -> float | None:
        if math.isfinite(value):
            return value
        self.nonfinite.append(f"{name}={value}")  # nan, inf, -inf
        return None


_data_kinds: dict[str, str] = {}


def _data_kind(name: str) -> str | None:
    if not _data_kinds:
        _data_kinds.update(data_kinds())
    return _data_kinds.get(name)
