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


def _integer(meaning: str) -> Field:
    return Field("integer", meaning)


def _number(meaning: str) -> Field:
    return Field("number", meaning)


def _text(meaning: str) -> Field:
    return Field("text", meaning)


def _boolean(meaning: str) -> Field:
    return Field("boolean", meaning)


def _list(meaning: str) -> Field:
    return Field("list", meaning)


def _object(meaning: str) -> Field:
    return Field("object", meaning)


_SESSION = _text("the session, or the sequence of an evaluation, that it is about")
_HISTORY = _integer("tokens of the history")

_RUN = (
    EventType(
        "run.start",
        "the launcher begins or resumes a run",
        {
            "pid": _integer("process id of the launcher"),
            "resumed": _boolean("whether the run existed before"),
            "version": _text("mccore's version"),
            "stages": _list("stages still to do"),
            "telemetry": _list("names of the telemetry providers that are on"),
        },
    ),
    EventType(
        "run.end",
        "the launcher is done",
        {
            "outcome": _text("finished, stopped, interrupted or failed"),
            "message": _text("one line of why"),
            "seconds": _number("wall time of this attempt"),
        },
    ),
    EventType(
        "stage.start",
        "a stage begins",
        {
            "world_size": _integer("ranks"),
            "resumed_step": _integer("step of the checkpoint it goes on from, or null"),
            "plan": _object("derived numbers of the stage"),
        },
    ),
    EventType(
        "stage.end",
        "a stage is over",
        {
            "outcome": _text("finished, stopped or failed"),
            "message": _text("one line of why, empty when finished"),
            "traceback": _text("of a failure"),
            "hint": _text("what to do about a failure, empty where that isn't known"),
            "seconds": _number("wall time"),
            "results": _object("what the stage found"),
        },
    ),
    EventType(
        "stage.progress",
        "a stage without training steps moved on",
        {
            "done": _integer("units done"),
            "total": _integer("units in all, or null"),
            "unit": _text("what is counted"),
        },
    ),
    EventType("step", "one optimizer step", {"steps": _integer("steps of the stage in all")}, metrics=True),
    EventType(
        "eval",
        "an evaluation",
        {
            "name": _text("which evaluation"),
            "seconds": _number("wall time"),
            "details": _object("its parts"),
        },
        metrics=True,
    ),
    EventType(
        "checkpoint",
        "a checkpoint is complete on disk",
        {
            "path": _text("directory below the run"),
            "bytes": _integer("size"),
            "seconds": _number("time to write"),
        },
    ),
    EventType(
        "notice",
        "something of a stage that a person should know and that is no failure",
        {"about": _text("what it is about"), "message": _text("what there is to say")},
    ),
    EventType(
        "resources",
        "what a rank uses of the machine; sampled every few seconds",
        {
            "pid": _integer("process id of the rank"),
            "host": _text("name of its machine"),
            "gpu": _text("name of its GPU, empty for a rank without"),
            "gpu_memory_total": _integer("bytes of memory of that GPU"),
        },
        metrics=True,
    ),
    EventType(
        "sample", "text continued by the model", {"prompt": _text("what was given"), "text": _text("what followed")}
    ),
    EventType(
        "chat.turn",
        "an answer in a chat, without what was said",
        {
            "prompt_tokens": _integer("tokens shown to the model"),
            "new_tokens": _integer("tokens it wrote"),
            "first_token_seconds": _number("wall time until the first of them"),
            "seconds": _number("wall time"),
            "finish": _text("why it ended: stop, length, context or interrupted"),
        },
    ),
    EventType(
        "request",
        "a server answered, without what was said",
        {
            "endpoint": _text("method and path, without a client's values"),
            "status": _integer("of HTTP; 0 where the client went before"),
            "seconds": _number("wall time"),
        },
    ),
    EventType(
        "telemetry",
        "the state of a telemetry provider",
        {
            "provider": _text("its name"),
            "state": _text("ready, failing or recovered"),
            "lost": _integer("events not delivered"),
            "message": _text("why; where events go"),
        },
    ),
    EventType(
        "alert",
        "a metric stayed outside its band, or a run fell silent",
        {
            "metric": _text("its name in METRICS"),
            "value": _number("what was seen"),
            "band": _list("lower and upper end of what is expected, null where open"),
            "since": _number("seconds it has been outside"),
            "began": _number("when it left its band, in seconds since 1970-01-01 00:00 UTC"),
            "advice": _text("what to look at"),
        },
    ),
)

_MEGACONTEXT = (
    EventType(
        "mc_batch_stats",
        "the Working Contexts drawn for a training step; sampled",
        {
            "rows": _integer("sequences of the step on this rank"),
            "sequence_tokens": _integer("tokens of a sequence"),
            "variants": _integer("Working Contexts drawn of each sequence"),
            "lengths": _list("entries of a variant, for each kind of variant that was drawn"),
            "entries_by_level": _list("entries at LOD0, LOD1, ... over all variants"),
            "recent_tokens": _integer("newest tokens that stayed at LOD0"),
            "expanded_blocks": _integer("far blocks that stayed at LOD0 in every second variant"),
        },
        metrics=True,
    ),
    EventType(
        "mc_timing",
        "where the time of a training step with MegaContext went, in milliseconds; sampled",
        {
            "build_ms": _number("gists built, cuts drawn and their entries gathered"),
            "positional_ms": _number("rotary angles and score biases of the entries"),
            "variant_ms": _number("passes over the variants and their next-token losses"),
            "lens_forward_ms": _number("LensNet's scores"),
            "lens_loss_ms": _number("LensNet's targets and losses"),
            "total_ms": _number("the whole forward pass, the plain one included"),
            "synchronised": _boolean("whether the device was waited for after every part; else times are of launches"),
        },
    ),
    EventType(
        "delta_nll",
        "what a Working Context costs against the full context, on the same tokens",
        {
            "condition": _text("how the Working Context was chosen"),
            "horizon": _integer("tokens behind the Working Context that were judged (H)"),
            "budget": _integer("entries of the Working Context (W)"),
            "sequences": _integer("sequences measured"),
            "stderr": _number("standard error of the mean over sequences"),
            "by_distance": _list("objects {from, to, delta, stderr, tokens}: by tokens back to what is needed"),
            "by_lod": _list("objects {lod, delta, stderr, tokens}: by the level at which what is needed stood"),
        },
        metrics=True,
    ),
    EventType(
        "focus_allocator",
        "one refocus: what was asked for, what was edited; sampled",
        {
            "session": _SESSION,
            "allocator": _text("name of the allocator"),
            "refocus": _integer("number of the refocus in its session, from 1"),
            "history": _HISTORY,
            "expand": _list("nodes [level, index] that were expanded"),
            "collapse": _list("parents [level, index] whose children were collapsed"),
            "editable": _integer("blocks that could have been edited"),
            "scores": _object("scores of the entries: min, p05, mean, p95, max"),
        },
        metrics=True,
    ),
    EventType(
        "mc_tree_snapshot",
        "the size of a tree; sampled",
        {
            "session": _SESSION,
            "backend": _text("name of the tree backend"),
            "history": _integer("tokens appended"),
            "nodes": _list("nodes at LOD0, LOD1, ..."),
            "bytes": _integer("bytes stored"),
        },
    ),
    EventType(
        "working_context_snapshot",
        "a Working Context as runs of equal level; sampled",
        {
            "session": _SESSION,
            "history": _integer("tokens covered"),
            "entries": _integer("entries in use"),
            "budget": _integer("entries allowed (W)"),
            "block_size": _integer("children of a node (K)"),
            "recent_tokens": _integer("newest tokens that stay at LOD0"),
            "runs": _list("pairs [level, entries] in order, oldest first"),
        },
    ),
    EventType(
        "inference_update",
        "a session moved on: history read in, tokens generated, or a refocus",
        {
            "session": _SESSION,
            "phase": _text("prefill, decode or refocus"),
            "history": _HISTORY,
            "entries": _integer("entries of the Working Context"),
            "generated": _integer("tokens generated so far"),
            "seconds": _number("wall time of this phase since the last update"),
        },
        metrics=True,
    ),
)

EVENT_TYPES: dict[str, EventType] = {kind.name: kind for kind in (*_RUN, *_MEGACONTEXT)}
