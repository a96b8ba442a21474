"""How many rows fit: measured passes, each kind for its share of the rows, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mccore.train.probe import Footprint, choose_rows, measure_probes
from tests.support.networks import T, batch_of, networks, objective_of, random_tokens, run_config


def test_rows_of_a_footprint() -> None:
    footprint = Footprint(100.0, 50.0)
    assert [footprint.rows(limit) for limit in (0, 149, 200, 400)] == [1, 1, 2, 6]
    # Half of the rows take 30 more each, and at most one beyond that half.
    assert footprint.with_share(Footprint(120.0, 80.0), 0.5) == Footprint(120.0 + 30.0, 50.0 + 15.0)
    assert footprint.with_share(Footprint(90.0, 40.0), 0.5) == footprint


@pytest.mark.parametrize(("free", "most", "chosen"), [(1e9, 12, 12), (1e9, 5, 4), (750.0, 12, 6), (0.0, 12, 1)])
def test_rows_divide_the_step(free: float, most: int, chosen: int) -> None:
    """Of 12 rows; a fifth of what is free stays free."""
    assert choose_rows(Footprint(0.0, 100.0), free, 12, most) == chosen


@pytest.mark.parametrize("changes", [{}, {"baseline_share": 0.25}])
def test_probes_of_megacontext(changes: dict[str, Any]) -> None:
    config = run_config(lens={"start": 1.0, "kl_weight": 0.1, "budget_smooth_weight": 0.1}, **changes)
    gpt, nets = networks(config)
    objective, model = objective_of(config, gpt, nets), nn.ModuleDict({"gpt": gpt, "mc": nets})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch = batch_of(random_tokens(2, T + 1), progress=0.0)
    probes = objective.probes()
    assert [probe.share for probe in probes] == [1.0, *changes.values()]
    losses = [probe.run(batch).metrics.sums for probe in probes]
    assert ["token_loss" in sums for sums in losses] == ([False, True] if changes else [True])
    assert all("delta_nll" in sums for sums in losses)
    # LensNet takes part, though it starts at the end of the stage; and running scales have moved.
    assert "lens_loss" in losses[-1]
    assert not all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.load_state_dict(before)

    footprint = measure_probes(probes, batch, model)
    assert footprint.per_row > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    if changes:
        none, every = (measure_probes([probe], batch, model) for probe in probes)
        assert none.per_row < footprint.per_row < every.per_row
