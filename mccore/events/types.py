"""The schema of events: every type, what it means, and the fields of its `data` with their kinds.

One table for writers, readers and the page docs/events.md. Within a version of the format types and fields are only added; a
reader passes over what it doesn't know. Whatever changes the meaning of a field raises `EVENT_VERSION`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

EVENT_VERSION = 1

Kind = Literal["integer", "number", "text", "boolean", "list", "object"]


@dataclass(frozen=True)
class Field:
    """One field of an event's `data`. Any field may be absent, or null where its value isn't known."""

    kind: Kind
    meaning: str

    def accepts(self, value: Any) -> bool:
        """Whether a value is of this kind, as JSON will hold it."""
        match self.kind:
            case "integer":
                return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1000
            case "number":
                # NaN and infinities are numbers, which the file has as null; integers beyond a float aren't.
                return isinstance(value, float) or (type(value) is int and abs(value) < 2**1000)
            case "text":
                return isinstance(value, str)
            case "boolean":
                return isinstance(value, bool)
            case "list":
                return isinstance(value, list | tuple)
            case "object":
                return isinstance(value, Mapping)


@dataclass(frozen=True)
class EventType:
    """What an event of one type means, the fields of its `data`, and whether it carries metrics."""

    name: str
    description: str
    data: Mapping[str, Field] = field(default_factory=dict)
    metrics: bool = False


def _integer_field(meaning: str) -> Field:
    return Field("integer", meaning)


def _number_field(meaning: str) -> Field:
    return Field("number", meaning)


def _text_field(meaning: str) -> Field:
    return Field("text", meaning)


def _boolean_field(meaning: str) -> Field:
    return Field("boolean", meaning)


def _list_field(meaning: str) -> Field:
    return Field("list", meaning)


def _object_field(meaning: str) -> Field:
    return Field("object", meaning)


_SESSION = _text_field("the session, or the sequence of an evaluation, that it is about")
_HISTORY = _integer_field("tokens of the history")

_RUN = (
    EventType(
        "run.start",
        "the launcher begins or resumes a run",
        {
            "pid": _integer_field("process id of the launcher"),
            "resumed": _boolean_field("whether the run existed before"),
            "version": _text_field("mccore's version"),
            "stages": _list_field("stages still to do"),
            "flops": _object_field("of the stages to train, by name, where they are known before the data"),
            "telemetry": _list_field("names of the telemetry providers that are on"),
        },
    ),
    EventType(
        "run.end",
        "the launcher is done",
        {
            "outcome": _text_field("finished, stopped, interrupted or failed"),
            "message": _text_field("one line of why"),
            "seconds": _number_field("wall time of this attempt"),
        },
    ),
    EventType(
        "stage.start",
        "a stage begins",
        {
            "world_size": _integer_field("ranks"),
            "resumed_step": _integer_field("step of the checkpoint it goes on from, or null"),
            "plan": _object_field("derived numbers of the stage"),
        },
    ),
    EventType(
        "stage.end",
        "a stage is over",
        {
            "outcome": _text_field("finished, stopped or failed"),
            "message": _text_field("one line of why, empty when finished"),
            "traceback": _text_field("of a failure"),
            "hint": _text_field("what to do about a failure, empty where that isn't known"),
            "seconds": _number_field("wall time"),
            "results": _object_field("what the stage found"),
        },
    ),
    EventType(
        "stage.progress",
        "a stage without training steps moved on",
        {
            "done": _integer_field("units done"),
            "total": _integer_field("units in all, or null"),
            "unit": _text_field("what is counted"),
        },
    ),
    EventType("step", "one optimizer step", {"steps": _integer_field("steps of the stage in all")}, metrics=True),
    EventType(
        "eval",
        "an evaluation",
        {
            "name": _text_field("which evaluation"),
            "seconds": _number_field("wall time"),
            "details": _object_field("its parts"),
        },
        metrics=True,
    ),
    EventType(
        "checkpoint",
        "a checkpoint is complete on disk",
        {
            "path": _text_field("directory below the run"),
            "bytes": _integer_field("size"),
            "seconds": _number_field("time to write"),
        },
    ),
    EventType(
        "notice",
        "something of a stage that a person should know and that is no failure",
        {"about": _text_field("what it is about"), "message": _text_field("what there is to say")},
    ),
    EventType(
        "resources",
        "what a rank uses of the machine; sampled every few seconds",
        {
            "pid": _integer_field("process id of the rank"),
            "host": _text_field("name of its machine"),
            "gpu": _text_field("name of its GPU, empty for a rank without"),
            "gpu_memory_total": _integer_field("bytes of memory of that GPU"),
        },
        metrics=True,
    ),
    EventType(
        "sample",
        "text continued by the model",
        {"prompt": _text_field("what was given"), "text": _text_field("what followed")},
    ),
    EventType(
        "chat.turn",
        "an answer in a chat, without what was said",
        {
            "prompt_tokens": _integer_field("tokens shown to the model"),
            "new_tokens": _integer_field("tokens it wrote"),
            "first_token_seconds": _number_field("wall time until the first of them"),
            "seconds": _number_field("wall time"),
            "finish": _text_field("why it ended: stop, length, context or interrupted"),
        },
    ),
    EventType(
        "request",
        "a server answered, without what was said",
        {
            "endpoint": _text_field("method and path, without a client's values"),
            "status": _integer_field("of HTTP; 0 where the client went before"),
            "seconds": _number_field("wall time"),
        },
    ),
    EventType(
        "telemetry",
        "the state of a telemetry provider",
        {
            "provider": _text_field("its name"),
            "state": _text_field("ready, failing or recovered"),
            "lost": _integer_field("events not delivered"),
            "message": _text_field("why; where events go"),
        },
    ),
    EventType(
        "alert",
        "a metric stayed outside its band, or a run fell silent",
        {
            "metric": _text_field("its name in METRICS"),
            "value": _number_field("what was seen"),
            "band": _list_field("lower and upper end of what is expected, null where open"),
            "since": _number_field("seconds it has been outside"),
            "began": _number_field("when it left its band, in seconds since 1970-01-01 00:00 UTC"),
            "advice": _text_field("what to look at"),
        },
    ),
)

_MEGACONTEXT = (
    EventType(
        "mc_batch_stats",
        "the Working Contexts drawn for a training step; sampled",
        {
            "rows": _integer_field("sequences of the step on this rank"),
            "sequence_tokens": _integer_field("tokens of a sequence"),
            "variants": _integer_field("Working Contexts drawn of each sequence"),
            "lengths": _list_field("entries of a variant, for each kind of variant that was drawn"),
            "entries_by_level": _list_field("entries at LOD0, LOD1, ... over all variants"),
            "recent_tokens": _integer_field("newest tokens that stayed at LOD0"),
            "expanded_blocks": _integer_field("far blocks that stayed at LOD0 in every second variant"),
        },
        metrics=True,
    ),
    EventType(
        "mc_timing",
        "where the time of a training step with MegaContext went, in milliseconds; sampled",
        {
            "build_ms": _number_field("gists built, cuts drawn and their entries gathered"),
            "positional_ms": _number_field("rotary angles and score biases of the entries"),
            "variant_ms": _number_field("passes over the variants and their next-token losses"),
            "lens_forward_ms": _number_field("LensNet's scores"),
            "lens_loss_ms": _number_field("LensNet's targets and losses"),
            "total_ms": _number_field("the whole forward pass, the plain one included"),
            "synchronised": _boolean_field(
                "whether the device was waited for after every part; else times are of launches"
            ),
        },
    ),
    EventType(
        "delta_nll",
        "what a Working Context costs against the full context, on the same tokens",
        {
            "condition": _text_field("how the Working Context was chosen"),
            "horizon": _integer_field("tokens behind the Working Context that were judged (H)"),
            "budget": _integer_field("entries of the Working Context (W)"),
            "sequences": _integer_field("sequences measured"),
            "stderr": _number_field("standard error of the mean over sequences"),
            "by_distance": _list_field("objects {from, to, delta, stderr, tokens}: by tokens back to what is needed"),
            "by_lod": _list_field("objects {lod, delta, stderr, tokens}: by the level at which what is needed stood"),
        },
        metrics=True,
    ),
    EventType(
        "focus_allocator",
        "one refocus: what was asked for, what was edited; sampled",
        {
            "session": _SESSION,
            "allocator": _text_field("name of the allocator"),
            "refocus": _integer_field("number of the refocus in its session, from 1"),
            "history": _HISTORY,
            "expand": _list_field("nodes [level, index] that were expanded"),
            "collapse": _list_field("parents [level, index] whose children were collapsed"),
            "editable": _integer_field("blocks that could have been edited"),
            "scores": _object_field("scores of the entries: min, p05, mean, p95, max"),
        },
        metrics=True,
    ),
    EventType(
        "mc_tree_snapshot",
        "the size of a tree; sampled",
        {
            "session": _SESSION,
            "backend": _text_field("name of the tree backend"),
            "history": _integer_field("tokens appended"),
            "nodes": _list_field("nodes at LOD0, LOD1, ..."),
            "bytes": _integer_field("bytes stored"),
        },
    ),
    EventType(
        "working_context_snapshot",
        "a Working Context as runs of equal level; sampled",
        {
            "session": _SESSION,
            "history": _integer_field("tokens covered"),
            "entries": _integer_field("entries in use"),
            "budget": _integer_field("entries allowed (W)"),
            "block_size": _integer_field("children of a node (K)"),
            "recent_tokens": _integer_field("newest tokens that stay at LOD0"),
            "runs": _list_field("pairs [level, entries] in order, oldest first"),
        },
    ),
    EventType(
        "inference_update",
        "a session moved on: history read in, tokens generated, or a refocus",
        {
            "session": _SESSION,
            "phase": _text_field("prefill, decode or refocus"),
            "history": _HISTORY,
            "entries": _integer_field("entries of the Working Context"),
            "generated": _integer_field("tokens generated so far"),
            "seconds": _number_field("wall time of this phase since the last update"),
        },
        metrics=True,
    ),
)

EVENT_TYPES: dict[str, EventType] = {kind.name: kind for kind in (*_RUN, *_MEGACONTEXT)}
