"""What a run shows while it goes."""

from __future__ import annotations

import io
import json

import pytest

from mccore.cli.progress import Bars, JsonLines, Lines, Pace, describe_event
from mccore.events import Event


def step(number, moment, total=100, **metrics):
    return Event("step", moment, 0, "base", number, number * 64, metrics or {"loss": 2.5}, {"steps": total})


STORY = [
    Event("run.start", 0.0, data={"resumed": False, "stages": ["tokenizer", "base"]}),
    Event("stage.start", 0.0, stage="tokenizer", data={"plan": {}}),
    Event("stage.progress", 0.5, stage="tokenizer", data={"done": 5, "total": None, "unit": "documents"}),
    Event("stage.end", 1.0, stage="tokenizer", data={"outcome": "finished", "seconds": 1.0, "results": {"vocab_size": 2048}}),
    Event("stage.start", 1.0, stage="base", data={"plan": {"steps": 3}, "resumed_step": 1}),
    Event("stage.start", 1.0, 1, "base", data={"plan": {"steps": 3}}),
    step(2, 2.0, 3, loss=2.25, tokens_per_second=12345.0),
    Event("step", 2.0, 1, "base", 2, metrics={"loss": 99.0}, data={"steps": 3}),
    step(3, 3.0, 3, loss=2.0),
    Event("eval", 3.0, stage="base", step=3, metrics={"val_bpb": 1.25}, data={"name": "bits_per_byte"}),
    Event("telemetry", 3.0, 1, data={"provider": "otel", "state": "failing", "lost": 3, "message": "no answer"}),
    Event("stage.end", 4.0, stage="base", data={"outcome": "stopped", "seconds": 3.0, "message": "asked to"}),
    Event("run.end", 4.0, data={"outcome": "stopped"}),
]  # fmt: skip


def test_lines_tell_the_story():
    stream = io.StringIO()
    lines = Lines(stream)
    for event in STORY:
        lines.event(event)
    lines.notice("a notice")
    text = stream.getvalue()
    for expected in (
        "started: tokenizer, base",
        "tokenizer: finished after 1.0s  vocab_size 2,048",
        "base: from step 1",
        "base: step 2/3  loss 2.25  12.3k tok/s",
        "base: step 3/3  loss 2",
        "base: bits_per_byte at step 3  val_bpb 1.25",
        "telemetry: otel is failing, 3 events lost (no answer)",
        "base: stopped after 3.0s: asked to",
        "a notice",
    ):
        assert expected in text
    assert "99" not in text  # one rank speaks for all


def test_how_long_a_stage_took_is_told_where_it_is_known(capsys):
    told = {"outcome": "failed", "message": "it was killed"}
    assert describe_event(Event("stage.end", 9.0, stage="base", data=told)) == "base: failed: it was killed"
    bars = Bars()
    bars.event(Event("stage.start", 1.0, stage="base", data={"plan": {}}))
    bars.event(Event("stage.end", 9.0, stage="base", data=told))
    bars.event(Event("run.end", 9.0))
    shown = capsys.readouterr().err
    assert "failed" in shown
    assert "after" not in shown


def test_lines_are_few():
    stream = io.StringIO()
    lines = Lines(stream)
    for number in range(1, 1001):
        lines.event(step(number, 1000.0 + number / 10, 1000))
    shown = stream.getvalue().splitlines()
    assert 9 <= len(shown) <= 12  # 100 s of steps, one line in 10 s
    assert "step 1000/1000" in shown[-1]


def test_bars_tell_it_too(capsys):
    bars = Bars()
    for event in STORY:
        bars.event(event)
        bars.tick()
    bars.notice("a notice [not markup]")
    text = capsys.readouterr().err
    assert "tokenizer" in text
    assert "stopped after 3.0s" in text
    assert "a notice [not markup]" in text


def test_json_lines_are_the_events(capsys):
    listener = JsonLines()
    for event in STORY:
        listener.event(event)
    listener.notice("for a human")
    captured = capsys.readouterr()
    assert [json.loads(line)["type"] for line in captured.out.splitlines()] == [event.type for event in STORY]
    assert captured.err == "for a human\n"


def test_the_time_left_follows_the_pace():
    pace = Pace()
    assert pace.seconds_left() is None
    pace.step(step(1, 10.0))
    assert pace.seconds_left() is None
    pace.step(step(3, 14.0))
    assert pace.seconds_left() == pytest.approx(2.0 * 97)
    for number in range(4, 101):
        pace.step(step(number, 14.0 + (number - 3) * 1.0))
    assert pace.seconds_left() == 0.0


def test_an_event_of_another_version_without_its_data():
    for kind in ("run.start", "stage.start", "stage.end", "eval", "alert", "telemetry", "checkpoint", "sample"):
        assert isinstance(describe_event(Event(kind, 0.0)), str)
