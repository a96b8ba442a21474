"""What a run's stages have found so far, worded as its report words it: for a screen, without a report being written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mccore.config.stages import STAGES, TRAINING_STAGES
from mccore.errors import RunError
from mccore.events import Event
from mccore.report.evaluation import describe_samples, finite_number, read_evaluation
from mccore.report.pages.evaluation import chat_lines, sample_lines, text_lines
from mccore.report.pages.markdown import table
from mccore.report.pages.megacontext import evaluation_lines
from mccore.report.pages.words import section
from mccore.report.shape import Result, Results
from mccore.runs.rundir import RunDir
from mccore.units import count, number

NOTHING = "Nothing has been measured yet."


def render_results(run: RunDir, events: Sequence[Event] = ()) -> str:
    """Results of all stages as Markdown: training, texts, chats, Working Contexts, samples. `events`: the newest `eval` and
    `sample` events. A result that is damaged, or that another version wrote, is a line that says so."""
    results: dict[str, Result] = {}
    parts: list[str] = []
    for stage in STAGES:
        try:
            if (found := run.read_result(stage)) is not None:
                results[stage] = found
        except RunError as error:
            parts.append(f"**{stage}**: {error.message}")
    samples = describe_samples(events)
    sections: list[tuple[str, Callable[[], Iterable[str]]]] = [
        ("the training stages", lambda: _training(results, events)),
        ("the evaluation of texts", lambda: text_lines(results)),
        ("the evaluation of chats", lambda: chat_lines(results)),
        ("the evaluation of Working Contexts", lambda: _contexts(results)),
        ("the samples", lambda: sample_lines(results, samples)),
    ]
    for name, lines in sections:
        parts += section(name, lines)
    return "\n\n".join(parts) or NOTHING


def _training(results: Results, events: Sequence[Event]) -> Iterable[str]:
    rows = []
    for stage in TRAINING_STAGES:
        found: Mapping[str, Any] = results.get(stage) or {}
        measured = [event for event in events if event.type == "eval" and event.stage == stage]
        newest = measured[-1].metrics if measured else {}
        values = {name: found.get(name, newest.get(name)) for name in ("loss", "val_loss", "val_bpb")}
        if found or measured:
            step = found.get("step", measured[-1].step if measured else None)
            state = "done" if found else "running"
            rows.append(
                (
                    stage,
                    state,
                    _shown(step, number),
                    _shown(found.get("tokens"), count),
                    *map(_four_digits, values.values()),
                )
            )
    if rows:
        yield "## Training"
        yield table(("stage", "state", "step", "tokens", "loss", "held-out loss", "bits per byte"), rows)


def _contexts(results: Results) -> Iterable[str]:
    found = {stage: result.get("context") for stage, result in results.items()}
    read = {
        stage: read_evaluation(context) for stage, context in found.items() if isinstance(context, Mapping) and context
    }
    if read:
        yield "## Working Contexts"
    for stage, evaluation in read.items():
        yield from evaluation_lines(stage, evaluation)


def _four_digits(value: Any) -> str:
    return _shown(value, lambda number_: f"{number_:.4f}")


def _shown(value: Any, words: Callable[[float], str]) -> str:
    known = finite_number(value)
    return "" if known is None else words(known)
