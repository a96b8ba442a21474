"""Lines of a stage's log."""

from __future__ import annotations

import pytest

from mccore.events import Event
from mccore.launch.log_lines import LogLines

PLAN = {
    "parameters": 1_234_567, "scaling_parameters": 1_000_000, "dtype": "bfloat16", "device": "1 x CPU", "steps": 3,
    "batch_tokens": 2048, "rows": 8, "tokens": 6144, "flops": 1e12,
}  # fmt: skip


def lines(capsys: pytest.CaptureFixture[str], *events: Event) -> list[str]:
    log = LogLines()
    for event in events:
        log(event)
    return capsys.readouterr().out.splitlines()


def test_a_start_says_what_is_trained_and_where_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    told = lines(capsys, Event.now("stage.start", None, {"plan": PLAN, "resumed_step": 2}, stage="base"))
    assert told == [
        "base: 1,234,567 parameters (1,000,000 in matrices and head), bfloat16 on 1 x CPU",
        "3 steps of 2,048 tokens = 8 rows, 6,144 tokens, 1e+12 FLOPs",
        "goes on from step 2",
    ]


def test_of_steps_close_together_the_first_and_the_last_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    steps = [Event.now("step", {"loss": 2.5, "tokens_per_second": 12345.6}, {"steps": 3}, step=n) for n in (1, 2, 3)]
    assert lines(capsys, *steps) == [f"step {n}/3  loss 2.5000  tokens_per_second 12,346" for n in (1, 3)]


def test_notices_and_evaluations_are_told_and_the_rest_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    told = lines(
        capsys,
        Event.now("notice", None, {"about": "focus", "message": "it isn't checked"}),
        Event.now("eval", {"val_loss": 2.0}, {"name": "bits_per_byte"}),
        Event.now("sample", None, {"prompt": "a", "text": "b"}),
        Event.now("stage.start", None, {"plan": {}}),
    )
    assert told == ["focus: it isn't checked", "bits_per_byte: val_loss 2.0000"]
