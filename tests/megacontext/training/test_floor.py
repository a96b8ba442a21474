"""Trained on random tokens nothing can be learned: a loss below ln V would be a leak. And all of it compiled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch.nn import functional as F

from mccore.megacontext.training.objective import MegaContextObjective
from mccore.model import Schedule, gpt, layers, rotary
from tests.megacontext.training.test_objective import assert_no_prediction_sees_ahead
from tests.support.networks import batch_of, networks, objective_of, optimizer_of, random_tokens, run_config

V, LENGTH = 48, 64
FLOOR = math.log(V) - 0.02
MODEL: dict[str, object] = {"depth": 1, "smear": True, "smear_init": 0.3}
SETTINGS: dict[str, Any] = {
    "num_random_variants": 4,
    "distill_weight": 0.5,
    "recon_weight": 0.5,
    "gist_target_weight": 1.0,
    "lens": {"target": "both", "start": 0.3},
}


@pytest.fixture(autouse=True)
def _forget_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def _gpu_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain compositions that GPUs use: what is written by hand for CPUs breaks graphs, and nobody compiles there."""

    def rms_norm(x: Tensor, eps: float) -> Tensor:
        return F.rms_norm(x, (x.size(-1),), eps=eps)

    def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    for module in (gpt, layers):
        monkeypatch.setattr(module, "rms_norm", rms_norm)
    monkeypatch.setattr(layers, "relu_squared", lambda x: F.relu(x).square())
    monkeypatch.setattr(gpt, "mix", lambda x, y, a, b: a.to(x.dtype) * x + b.to(x.dtype) * y)
    monkeypatch.setattr(rotary, "rotate_pairs", rotate_pairs)


def train(
    steps: int, rows: int, *, compiled: bool, **changes: Any
) -> tuple[MegaContextObjective, list[dict[str, float]], list[int]]:
    """Train on fresh random tokens; returns the objective, each step's metrics, and how many graphs there were by then."""
    config = run_config(MODEL, rows=rows, **{**SETTINGS, **changes})
    model, nets = networks(config, stirred=False)
    optimizer, objective = optimizer_of(model, nets, config), objective_of(config, model, nets, compiled=compiled)
    history, graphs = [], []
    for step in range(steps):
        losses = objective(batch_of(random_tokens(rows, LENGTH + 1, 100 + step), step=step, progress=step / steps))
        losses.loss.backward()
        optimizer.step(Schedule(lr=0.5 * (1 - step / steps)))
        optimizer.zero_grad()
        history.append({name: (a / b).item() for name, (a, b) in losses.metrics.sums.items() if b})
        graphs.append(counters["stats"]["unique_graphs"])
    return objective, history, graphs


def assert_at_the_floor(history: list[dict[str, float]], last: int) -> None:
    for name in ("token_loss", "lod_loss/0", "lod_loss/1", "lod_loss/2", "gist_loss"):
        found = [metrics[name] for metrics in history[-last:] if name in metrics]
        mean = sum(found) / len(found)
        # From below: no leak. From above: it was trained well enough to have found one.
        assert FLOOR < mean < math.log(V) + 0.12, name


def test_random_tokens_stay_at_the_floor() -> None:
    _, history, _ = train(120, 6, compiled=False)
    assert_at_the_floor(history, 40)
    assert history[-1]["recon_loss"] < math.log(V) - 0.2  # what can be learned is


@pytest.mark.usefixtures("_gpu_kernels")
@pytest.mark.timeout(900)
def test_compiled_training_sees_nothing_ahead_either() -> None:
    changes = {"wc_length_steps": 1, "policy_share": 0.0, "lens": {**SETTINGS["lens"], "start": 0.0}}
    objective, history, graphs = train(60, 2, compiled=True, **changes)
    for name in ("token_loss", "lod_loss/0", "gist_loss"):
        assert FLOOR < sum(metrics[name] for metrics in history[-20:]) / 20 < math.log(V) + 0.5, name
    assert graphs[1] == graphs[-1] == 3  # the plain pass and two lengths of variants: nothing is compiled again
    _, eager, _ = train(1, 2, compiled=False, **changes)
    assert history[0] == pytest.approx(eager[0], rel=1e-3, abs=1e-3)
    assert_no_prediction_sees_ahead(objective, progress=0.1)
    assert counters["stats"]["unique_graphs"] == 3


@pytest.mark.usefixtures("_gpu_kernels")
def test_every_length_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """More lengths than dynamo keeps by default must not fall back to slow passes."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # graphs are what counts here
    changes = {"wc_length_steps": 5, "start_wc_fraction": 1.0, "train_wc_length": 24, "lens": {"start": 0.5}}
    config = run_config(MODEL, **changes)
    objective = objective_of(config, *networks(config), compiled=True)
    shapes = set()
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", objective.graphs)
    for number in range(10):
        shapes |= {kind.shape.length for kind in objective.draw.plan(number, number / 10)}
        batch = batch_of(random_tokens(2, LENGTH + 1), step=number, progress=number / 10)
        objective(batch).loss.backward()
    assert len(shapes) > 8
    assert counters["stats"]["unique_graphs"] == len(shapes) + 2  # the plain pass with and without a recorder
