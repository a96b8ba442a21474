"""Every setting of the MegaContext section changes something that can be measured, or it shouldn't exist."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import mccore
from mccore.config import MegaContextConfig, RunConfig, walk_fields
from mccore.megacontext.networks.networks import megacontext_groups
from mccore.model import Schedule
from tests.megacontext.training.test_objective import Scored, gradients
from tests.support.networks import T, batch_of, networks, objective_of, optimizer_of, random_tokens, run_config

Measure = Callable[[RunConfig], Any]


class Step(NamedTuple):
    """What a training step comes to."""

    loss: float
    metrics: dict[str, tuple[float, float]]
    gradients: dict[str, Tensor]


def step(config: RunConfig, *, progress: float = 0.5, number: int = 1) -> Step:
    """One forward and backward pass over 4 rows, with networks in the middle of training."""
    gpt, nets = networks(config)
    losses = objective_of(config, gpt, nets)(batch_of(random_tokens(4, T + 1), progress=progress, step=number))
    losses.loss.backward()
    metrics = {name: (a.item(), b.item()) for name, (a, b) in losses.metrics.sums.items()}
    return Step(losses.loss.item(), metrics, gradients(gpt, nets))


def loss(config: RunConfig) -> float:
    return round(step(config).loss, 4)


def third_loss(config: RunConfig) -> float:
    """The loss of a third step, after running scales took in two."""
    gpt, nets = networks(config)
    objective = objective_of(config, gpt, nets)
    for number in range(2):
        objective(batch_of(random_tokens(4, T + 1, number), step=number))
    return round(objective(batch_of(random_tokens(4, T + 1, 2), step=2)).loss.item(), 5)


def count(name: str) -> Measure:
    """How many numbers a metric of the step is the mean of."""
    return lambda config: step(config).metrics.get(name, (0.0, 0.0))[1]


def gist_gradient(config: RunConfig) -> float:
    return round(sum(g.norm().item() for name, g in step(config).gradients.items() if name.startswith("gistnet")), 4)


def gpt_gradient(config: RunConfig) -> float:
    return round(sum(g.norm().item() for name, g in step(config).gradients.items() if name.startswith("blocks")), 4)


def parameters(part: str) -> Measure:
    """Names and shapes of the parameters of one network."""

    def measure(config: RunConfig) -> list[tuple[str, torch.Size]]:
        _, nets = networks(config)
        return [(name, p.shape) for name, p in nets.named_parameters() if name.startswith(part)]

    return measure


def gists(config: RunConfig) -> float:
    """A number that any change of what gists hold changes; the networks are as trained from the start of a run."""
    gpt, nets = networks(config)
    with torch.no_grad():
        return round(nets.pyramid(gpt.embed(random_tokens(2, T)))[1].abs().mean().item(), 5)


def lengths(config: RunConfig) -> list[tuple[int, int]]:
    """Entries of expanded and gist-only variants along a stage."""
    objective = objective_of(config, *networks(config))
    plans = [objective.draw.plan(0, part / 24) for part in range(24)]
    return [(plan.expanded.shape.length, plan.gist_only.shape.length) for plan in plans]


def cuts(config: RunConfig) -> list[Any]:
    """Levels and indices of everything drawn in a step."""
    objective = objective_of(config, *networks(config))
    drawn = Scored.of(objective, batch_of(random_tokens(4, T + 1))).cuts
    return [(contexts.level.tolist(), contexts.index.tolist()) for contexts in drawn]


def positions(config: RunConfig) -> list[Any]:
    objective = objective_of(config, *networks(config))
    drawn = Scored.of(objective, batch_of(random_tokens(4, T + 1))).cuts
    return [contexts.spans.centre.tolist() for contexts in drawn]


def rates(config: RunConfig) -> dict[str, float]:
    return {group.name: group.lr for group in megacontext_groups(config.megacontext, "mc.", 1.0)}


def movement(part: str) -> Measure:
    """How far the parameters that a pattern names move in one optimizer step."""

    def measure(config: RunConfig) -> float:
        gpt, nets = networks(config)
        optimizer = optimizer_of(gpt, nets, config)
        before = {name: p.detach().clone() for name, p in nets.named_parameters()}
        objective_of(config, gpt, nets)(batch_of(random_tokens(4, T + 1))).loss.backward()
        optimizer.step(Schedule())
        moved = [(p - before[name]).norm().item() for name, p in nets.named_parameters() if re.search(part, name)]
        return round(sum(moved), 6)

    return measure


def focused(config: RunConfig) -> bool:
    return "lens_loss" in step(config, progress=0.3).metrics


class Knob(NamedTuple):
    """Two values of a setting, what tells them apart, and what else must be set for it to matter."""

    one: Any
    other: Any
    measure: Measure = loss
    given: Mapping[str, Any] = MappingProxyType({})


PAIRS: dict[str, Any] = {"num_random_variants": 8, "lens": {"target": "preference"}}


def pairs(**lens: Any) -> dict[str, Any]:
    return {**PAIRS, "lens": {**PAIRS["lens"], **lens}}


SEARCHED: dict[str, Any] = {"random_share": 0.0, "policy_share": 0.0, "search_share": 1.0}

KNOBS: dict[str, Knob] = {
    "auto_batch": Knob(True, False, lambda config: len(objective_of(config, *networks(config)).probes())),
    "block_size": Knob(2, 4, cuts),
    "max_lod": Knob(2, 3, cuts, {"block_size": 2, "lod2_probability": 1.0}),
    "gistnet.kind": Knob("transformer", "mean", gists),
    "gistnet.layers": Knob(1, 2, parameters("gistnet")),
    "gistnet.pooling": Knob("mean", "query", gists),
    "gistnet.head": Knob("linear", "mlp", parameters("gistnet")),
    "gistnet.skip": Knob(True, False, gists),
    "gistnet.matrix_lr": Knob(0.02, 0.04, movement(r"gistnet\..*weight")),
    "gistnet.lr": Knob(0.003, 0.006, movement(r"gistnet\.place|bias\.weights")),
    "lens.layers": Knob(1, 2, parameters("lensnet")),
    "lens.head": Knob("linear", "mlp", parameters("lensnet")),
    "lens.lr": Knob(0.002, 0.004, movement("lensnet")),
    "lens.start": Knob(0.2, 0.4, focused),
    "lens.target": Knob("attention", "both", count("preference_loss"), {"num_random_variants": 4}),
    "lens.queries": Knob(2, 6),
    "lens.loss_weight": Knob(1.0, 2.0),
    "lens.question_weight": Knob(0.0, 1.0),
    "lens.gist_gradient": Knob(0.0, 1.0, gist_gradient),
    "lens.key_floor": Knob(0.0, 1.0),
    "lens.temperature": Knob(1.0, 3.0, given=PAIRS),
    "lens.adv_norm_beta": Knob(0.1, 0.9, third_loss, PAIRS),
    "lens.rank_weight": Knob(0.0, 1.0, given=PAIRS),
    "lens.rank_margin": Knob(0.5, 1.5, given=pairs(rank_weight=1.0)),
    "lens.hard_negative_ratio": Knob(1.0, 0.5, count("preference_agreement"), PAIRS),
    "lens.max_pairs": Knob(8, 3, count("preference_agreement"), PAIRS),
    "lens.kl_weight": Knob(0.5, 1.0),
    "lens.budget_weight": Knob(0.0, 1.0),
    "lens.budget_smooth_weight": Knob(0.0, 1.0),
    "lens.budget_smooth_beta": Knob(0.1, 0.9, third_loss, {"lens": {"budget_smooth_weight": 1000.0}}),
    "positional": Knob("simple", "gaussian"),
    "span_bias": Knob(True, False),
    "gist_mass": Knob(None, 8),
    "position_skip": Knob(0, 50, positions),
    "token_positions": Knob("absolute", "contiguous"),
    "num_random_variants": Knob(2, 4, count("adv_delta")),
    "start_wc_fraction": Knob(0.8, 0.6, lengths),
    "train_wc_length": Knob(28, 22, lengths),
    "wc_length_steps": Knob(2, 4, lambda config: len(set(lengths(config)))),
    "min_history": Knob(1.0, 0.5, cuts),
    "recent_tokens": Knob(12, 16, cuts),
    "expanded_blocks": Knob(1, 3, lengths),
    "expanded_run": Knob(1, 2, cuts, {"expanded_blocks": 2}),
    "random_share": Knob(0.0, 1.0, cuts, {"policy_share": 0.0}),
    "policy_share": Knob(0.0, 1.0, cuts, {"random_share": 0.0, "expanded_blocks": 3}),
    "search_share": Knob(0.0, 1.0, cuts, {"random_share": 0.0, "policy_share": 0.0}),
    "search.query_tokens": Knob(2, 40, cuts, SEARCHED),
    "search.half_life": Knob(1.0, 1000.0, cuts, SEARCHED),
    "lod2_probability": Knob(0.0, 1.0, cuts),
    "baseline_share": Knob(1.0, 0.5, count("token_loss")),
    "baseline_tokens": Knob(0, 24, count("token_loss"), {"lens": {"loss_weight": 0.0}}),
    "variant_weight": Knob(1.0, 2.0),
    "variants_train_gpt": Knob(True, False, gpt_gradient),
    "gist_target_weight": Knob(0.1, 1.0),
    "key_token_weight": Knob(0.0, 2.0),
    "distill_weight": Knob(0.0, 1.0),
    "recon_weight": Knob(0.0, 1.0),
    "recon_blocks": Knob(1, 4, count("recon_loss"), {"recon_weight": 1.0}),
    "horizon": Knob(8, 4, count("delta_nll")),
}

# What the stages of a run read, and the module that does.
ASSEMBLED = {"enabled": "runtime/runtime.py", "aux_dtype": "runtime/runtime.py"}

# What a session reads while it generates (tests/cli/chat/test_sessions.py has their effects).
SESSION = {
    "tree",
    "allocator",
    "refocus_interval",
    "wc_length",
    "gist_dtype",
    "kv_policy",
    "surprise",
    "search.kind",
    "search.lookup",
    "search.span_tokens",
}


def changed(path: str, value: Any, given: Mapping[str, Any]) -> RunConfig:
    """The small configuration with what else is given and one setting."""
    changes: dict[str, Any] = {name: dict(part) if isinstance(part, dict) else part for name, part in given.items()}
    *section, name = path.split(".")
    (changes.setdefault(section[0], {}) if section else changes)[name] = value
    return run_config(**changes)


def test_every_setting_is_accounted_for() -> None:
    paths = [path for path, _ in walk_fields(MegaContextConfig)]
    assert sorted(paths) == sorted([*KNOBS, *ASSEMBLED, *SESSION])


@pytest.mark.parametrize("path", KNOBS)
def test_every_setting_changes_something(path: str) -> None:
    knob = KNOBS[path]
    one, other = (changed(path, value, knob.given) for value in (knob.one, knob.other))
    first, second = knob.measure(one), knob.measure(other)
    assert first != second
    assert knob.measure(one) == first  # chance isn't what tells them apart


@pytest.mark.parametrize("path", ASSEMBLED)
def test_settings_of_the_run_are_read(path: str) -> None:
    source = (Path(mccore.__file__).parent / ASSEMBLED[path]).read_text()
    assert f"megacontext.{path}" in source


# --- directions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "metric", "given"),
    [
        ("recon_weight", "recon_loss", {}),
        ("lens.loss_weight", None, {}),
        ("variant_weight", None, {}),
        ("lens.rank_weight", None, PAIRS),
    ],
)
def test_weights_are_linear(path: str, metric: str | None, given: dict[str, Any]) -> None:
    low, middle, high = (step(changed(path, value, given)) for value in (0.5, 1.0, 2.0))
    assert (high.loss - low.loss) == pytest.approx(3 * (middle.loss - low.loss), rel=1e-3)
    assert high.loss > low.loss
    if metric:
        total, number = low.metrics[metric]
        assert middle.loss - low.loss == pytest.approx(0.5 * total / number, rel=1e-3)


def test_the_focus_loss_reaches_gists_only_by_its_share() -> None:
    """With nothing else to train, GistNet's gradient is the share of what it is with all of it."""
    given = {"variant_weight": 0.0}
    found = [step(changed("lens.gist_gradient", share, given)) for share in (0.0, 0.25, 1.0)]
    assert found[0].loss == found[1].loss == found[2].loss
    none, quarter, whole = ({n: g for n, g in s.gradients.items() if n.startswith("gistnet")} for s in found)
    assert not any(gradient.any() for gradient in none.values())
    assert whole["gistnet.place"].any()
    for name in whole:
        torch.testing.assert_close(quarter[name], 0.25 * whole[name], atol=1e-6, rtol=1e-3)


def test_a_weight_of_zero_switches_off() -> None:
    plain = step(changed("variant_weight", 0.0, {"lens": {"loss_weight": 0.0}}))
    total, number = plain.metrics["token_loss"]
    assert plain.loss == pytest.approx(total / number, rel=1e-5)
    none = step(changed("num_random_variants", 0, {}))
    assert none.loss == pytest.approx(plain.loss, rel=1e-5)
    assert not any(g.any() for name, g in none.gradients.items() if name.startswith(("gistnet", "lensnet", "bias")))
