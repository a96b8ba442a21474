"""What a suite of `mccore eval context` measured, in the shape that a report words and draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mccore.report.evaluation import finite_number
from mccore.report.shape import AnswerEntry, CostEntry, PlaceEntry, SuiteEntry

NAME = "context_suite"  # of the result that a run keeps


def read_suite(found: Mapping[str, Any]) -> SuiteEntry:
    """What a suite found. What isn't there or isn't a number is None or left out."""
    recall, costs = _mapping(found.get("recall")), _mapping(found.get("costs"))
    histories = _mapping(found.get("histories"))
    return {
        "suite": str(found.get("suite") or "?"),
        "stage": str(found.get("stage") or "?"),
        "entries": finite_number(found.get("entries")),
        "lookup": bool(found.get("lookup")),
        "history": finite_number(histories.get("history")),
        "rows": finite_number(histories.get("rows")),
        "documents": finite_number(histories.get("documents")),
        "conditions": _conditions(histories),
        "places": [_on_text(row) for row in _mappings(histories.get("by_place"))],
        "kinds": [_on_text({**row, "place": row.get("kind")}) for row in _mappings(histories.get("by_kind"))],
        "answers": [_answer(row) for row in _mappings(recall.get("by_size"))],
        "depths": [_answer(row) for row in _mappings(recall.get("by_depth"))],
        "names": [_answer(row) for row in _mappings(found.get("identifiers"))],
        "costs": [_cost(row) for row in _mappings(costs.get("histories"))],
        "plain_ms": finite_number(_mapping(costs.get("plain_ms")).get("median")),
        "seconds": {str(name): value for name, each in _mapping(found.get("seconds")).items()
                    if (value := finite_number(each)) is not None},
        "missing": [{"what": str(row.get("what")), "why": str(row.get("why"))} for row in _mappings(found.get("missing"))],
    }  # fmt: skip


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> Iterable[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list | tuple) else []


def _conditions(histories: Mapping[str, Any]) -> list[PlaceEntry]:
    """The conditions of held-out text, each with what it is more than the window."""
    differences = _mapping(histories.get("differences"))
    rows = []
    for condition, nll in _mapping(histories.get("nll")).items():
        minus = _mapping(differences.get(f"{condition} - window"))
        rows.append(_on_text({"condition": condition, "place": "", "nll": _mapping(nll).get("mean"), "share": 1.0,
                            "delta": minus.get("mean"), "stderr": minus.get("stderr")}))  # fmt: skip
    return rows


def _on_text(row: Mapping[str, Any]) -> PlaceEntry:
    return {
        "condition": str(row.get("condition") or "?"),
        "place": str(row.get("place") or ""),
        "share": finite_number(row.get("share")),
        "nll": finite_number(row.get("nll")),
        "delta": finite_number(row.get("delta")),
        "stderr": finite_number(row.get("stderr")),
    }


def _answer(row: Mapping[str, Any]) -> AnswerEntry:
    return {
        "condition": str(row.get("condition") or "?"),
        "kind": " ".join(str(row[name]) for name in ("kind", "variant") if row.get(name)),
        "size": finite_number(row.get("size")),
        "depth": finite_number(row.get("depth")),
        "n": finite_number(row.get("n")),
        "accuracy": finite_number(row.get("accuracy")),
        "low": finite_number(row.get("low")),
        "high": finite_number(row.get("high")),
        "right": finite_number(row.get("right")),
        "nll": finite_number(row.get("nll")),
    }


def _cost(row: Mapping[str, Any]) -> CostEntry:
    token, ratio = _mapping(row.get("token_ms")), _mapping(row.get("to_plain"))
    return {
        "tokens": finite_number(row.get("tokens")),
        "token_ms": finite_number(token.get("median")),
        "mean_ms": finite_number(token.get("mean")),
        "to_plain": finite_number(ratio.get("median")),
        "first_token_seconds": finite_number(row.get("first_token_seconds")),
        "ingest_seconds": finite_number(row.get("ingest_seconds")),
        "tree_bytes": finite_number(row.get("tree_bytes")),
        "index_bytes": finite_number(row.get("index_bytes")),
        "cache_bytes": finite_number(row.get("cache_bytes")),
    }
