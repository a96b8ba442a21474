"""What a node's answers say, taken apart here and nowhere else.

A server that isn't OpenSearch may answer with 200, too. Whatever its answers lack is a `ForeignAnswer`, so that a fault of
the code around is never told as a fault of the server.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_THERE = (200, 201, 409)  # 409: it is there already


class ForeignAnswer(Exception):
    """An answer that isn't OpenSearch's: something else listens there."""


def of_an_answer(read: Callable[P, T]) -> Callable[P, T]:
    """A function that takes an answer apart, raising ForeignAnswer for one of another shape."""

    @functools.wraps(read)
    def reading(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            said = f"an answer that isn't OpenSearch's ({type(error).__name__}: {error})"
            raise ForeignAnswer(said) from error

    return reading


@of_an_answer
def refusals(answer: Any, documents: int) -> dict[int, tuple[int, str]]:
    """Of a bulk request with so many documents those that weren't stored: place -> status and reason."""
    if answer["errors"] is False:
        return {}
    items = [item["create"] for item in answer["items"]]
    if len(items) != documents:
        raise ValueError(f"{len(items)} answers to {documents} documents")
    found = {}
    for place, item in enumerate(items):
        status, error = int(item["status"]), item.get("error") or {}
        if status not in _THERE:
            found[place] = status, str(error.get("reason") or error.get("type") or "no reason given")
    return found


@of_an_answer
def index_template(answer: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The index template that was asked for, and the mappings in it."""
    template = answer["index_templates"][0]["index_template"]
    return template, template.setdefault("template", {}).setdefault("mappings", {})


@of_an_answer
def newest_mappings(answer: Any) -> dict[str, Any]:
    """The mappings of the newest index of a stream."""
    mappings: dict[str, Any] = answer[max(answer)]["mappings"]
    return mappings


@of_an_answer
def add_missing(present: dict[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Add to the mappings of an answer the properties they lack, at any depth; whether there were any."""
    added = False
    properties = present.setdefault("properties", {})
    for name, field_mapping in wanted.get("properties", {}).items():
        if name not in properties:
            properties[name] = field_mapping
            added = True
        elif "properties" in field_mapping:
            added |= add_missing(properties[name], field_mapping)
    return added


@of_an_answer
def indices(answer: Any) -> list[str]:
    """The indices of the stream that was asked for, the one that is written to last."""
    return [str(index["index_name"]) for index in answer["data_streams"][0]["indices"]]


@of_an_answer
def creation_time(answer: Any, index: str) -> float:
    """When an index was made, in seconds since 1970, from its settings."""
    return int(answer[index]["settings"]["index"]["creation_date"]) / 1000


@of_an_answer
def found_ids(answer: Any) -> set[str]:
    """The ids of the documents that a search found."""
    return {str(hit["_id"]) for hit in answer["hits"]["hits"]}
