"""Runs side by side on what they had spent."""

from __future__ import annotations

import pytest

from mccore.events import Event
from mccore.runs.live.comparison import common_value, curve, reached, stages_with
from mccore.runs.live.state import RunState

ROWS, VARIANTS, TOKENS, FLOPS, SECONDS = 4, 8, 512, 1000.0, 0.5


def state(steps: int = 100, *, megacontext: bool = False, pause: float = 0.0, seconds: float = SECONDS) -> RunState:
    """A run whose loss is 10 / step; one with MegaContext draws two variants of each of four sequences."""
    found = RunState()
    found.take(Event("stage.start", 1.0, 0, "base", data={"world_size": 1, "plan": {"rows": ROWS}}))
    for step in range(1, steps + 1):
        metrics = {"loss": 10 / step, "flops_total": step * FLOPS, "step_duration": seconds}
        if megacontext:
            metrics |= {"loss": 99.0, "token_loss": 10 / step, "variants_total": float(step * VARIANTS)}
        at = 1.0 + step + (pause if step > steps // 2 else 0.0)
        found.take(Event("step", at, 0, "base", step, step * TOKENS, metrics))
    return found


@pytest.mark.parametrize(
    ("budget", "per_step"),
    [("step", 1), ("tokens", TOKENS), ("flops", FLOPS), ("seconds", SECONDS), ("mc_effective_step", 3)],
)
def test_what_was_spent_after_each_step(budget: str, per_step: float) -> None:
    found = curve(state(megacontext=True), "base", "loss", budget)  # type: ignore[arg-type]
    assert found is not None
    assert found.spent == pytest.approx([step * per_step for step in range(1, 101)])
    assert found.mean[0] == 10.0
    assert found.mean[-1] == pytest.approx(0.1)


def test_a_plain_run_reads_its_sequences_once_a_step() -> None:
    found = curve(state(), "base", "loss", "mc_effective_step")
    assert found is not None
    assert found.spent[-1] == 100


def test_a_pause_is_no_training() -> None:
    found = curve(state(pause=1e6), "base", "loss", "seconds")
    assert found is not None
    assert found.spent[-1] == pytest.approx(50.0)


def test_a_long_run_is_counted_to_its_end() -> None:
    """Its curves are joined points, and other curves may be joined elsewhere."""
    long = state(10_000)
    long.take(Event("eval", 20_000.0, 0, "base", 9_999, 9_999 * TOKENS, {"val_loss": 1.0}))
    losses, evaluated = (curve(long, "base", name, "flops") for name in ("loss", "val_loss"))
    assert losses is not None
    assert evaluated is not None
    assert losses.spent[-1] == pytest.approx(10_000 * FLOPS)
    assert evaluated.spent == pytest.approx([9_999 * FLOPS], rel=1e-3)
    seconds = curve(long, "base", "loss", "seconds")
    assert seconds is not None
    assert seconds.spent[-1] == pytest.approx(10_000 * SECONDS)


def test_what_a_run_does_not_tell_has_no_curve() -> None:
    bare = RunState()
    bare.take(Event("step", 1.0, 0, "base", 1, 512, {"loss": 1.0, "variants_total": 8.0}))
    assert curve(bare, "base", "loss", "flops") is None
    assert curve(bare, "base", "loss", "seconds") is None
    assert curve(bare, "base", "loss", "mc_effective_step") is None  # of how many rows isn't known
    assert curve(bare, "base", "loss", "tokens") is not None
    assert curve(bare, "mid", "loss", "tokens") is None
    assert curve(RunState(), "base", "loss", "step") is None


def test_runs_are_compared_where_all_have_been() -> None:
    far, near = state(100), state(20, megacontext=True)
    curves = [curve(each, "base", "loss", "mc_effective_step") for each in (far, near)]
    goal = common_value([each for each in curves if each is not None])
    assert goal == pytest.approx(0.5)
    assert [reached(each, goal) for each in curves if each is not None] == [20, 60]
    assert common_value([]) is None
    assert curves[1] is not None
    assert reached(curves[1], 0.4) is None


def test_stages_that_most_runs_have_come_first() -> None:
    one, two = state(3), state(3)
    two.take(Event("step", 9.0, 0, "mid", 1, 512, {"loss": 1.0}))
    assert stages_with([two, one], "loss") == ["base", "mid"]
    assert stages_with([two, one], "swap_rate") == []
