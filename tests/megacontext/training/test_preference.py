"""Preferences by hand and in their limits, and that they teach a scorer the true order."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mccore.config import LensConfig
from mccore.megacontext.networks.lensnet import LensOutput
from mccore.megacontext.networks.running_mean import RunningMean
from mccore.megacontext.training.targets.preference import budget_balance, policy_divergence, preference_losses

UTILITIES = torch.tensor([[1.0, 0.2, -0.5]])
NLL = torch.tensor([[2.0, 1.5, 3.0]])  # the second context is best, then the first
# Pairs (0, 1), (0, 2), (1, 2): gaps of nll by which the left one leads, and leads of its utility.
GAPS, LEADS = (-0.5, 1.0, 1.5), (0.8, 1.5, 0.7)


def config(**changes: object) -> LensConfig:
    return LensConfig.model_validate({"max_pairs": 100, **changes})


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_losses_by_hand() -> None:
    for temperature, margin in ((1.0, 0.5), (0.3, 1.2)):
        found = preference_losses(UTILITIES, NLL, config(temperature=temperature, rank_margin=margin))
        signed = [math.copysign(1, gap) * lead for gap, lead in zip(GAPS, LEADS, strict=True)]
        loss = sum(abs(g) * softplus(-s / temperature) for g, s in zip(GAPS, signed, strict=True)) / 3
        rank = sum(abs(g) * max(0, margin - s) for g, s in zip(GAPS, signed, strict=True)) / 3
        assert found.loss.item() == pytest.approx(loss, rel=1e-5)
        assert found.rank.item() == pytest.approx(rank, rel=1e-5)
        assert (found.right.item(), found.pairs.item()) == (2, 3)


def test_only_the_largest_gaps_are_kept() -> None:
    whole = [preference_losses(UTILITIES[:, pair], NLL[:, pair], config()) for pair in ([0, 1], [0, 2], [1, 2])]
    two = preference_losses(UTILITIES, NLL, config(hard_negative_ratio=2 / 3))
    assert two.loss.item() == pytest.approx((whole[1].loss + whole[2].loss).item() / 2, rel=1e-5)
    assert two.pairs.item() == 2
    for one in (config(hard_negative_ratio=0.01), config(max_pairs=1)):
        assert preference_losses(UTILITIES, NLL, one).loss.item() == pytest.approx(whole[2].loss.item(), rel=1e-5)


def test_contexts_alike_teach_nothing() -> None:
    utilities = torch.randn(2, 4, requires_grad=True)
    found = preference_losses(utilities, torch.ones(2, 4), config(), RunningMean())
    (gradient,) = torch.autograd.grad((found.loss + found.rank).sum(), utilities)
    assert not gradient.any()
    assert found.pairs.item() == found.right.item() == 0


def test_the_sign_of_the_gradient() -> None:
    utilities = UTILITIES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(preference_losses(utilities, NLL, config()).loss.sum(), utilities)
    assert gradient[0, 1] < 0  # descending raises the best one
    assert gradient[0, 2] > 0
    assert gradient.sum().abs() < 1e-6


def test_limits_of_the_temperature() -> None:
    right, wrong = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    nll = torch.tensor([[2.0, 1.0]])
    cold = config(temperature=1e-3)
    assert preference_losses(right, nll, cold).loss.item() == pytest.approx(0, abs=1e-6)
    assert preference_losses(wrong, nll, cold).loss.item() == pytest.approx(1000, rel=1e-3)
    hot = config(temperature=1e3)
    for utilities in (right, wrong):
        assert preference_losses(utilities, nll, hot).loss.item() == pytest.approx(math.log(2), abs=1e-3)


def test_rows_count_by_their_own_gaps() -> None:
    both = preference_losses(UTILITIES.repeat(2, 1), torch.cat((NLL, 2 * NLL)), config())
    assert both.loss[1].item() == pytest.approx(2 * both.loss[0].item(), rel=1e-5)
    assert both.loss[0].item() == pytest.approx(preference_losses(UTILITIES, NLL, config()).loss.item(), rel=1e-5)


def mean_of(mean: RunningMean, value: float, step: int, beta: float = 0.9) -> float:
    return mean(torch.tensor(2 * value), torch.tensor(2), beta, step).item()


def test_a_running_mean_takes_a_step_in_when_the_next_begins() -> None:
    mean = RunningMean()
    assert [mean_of(mean, 3.0, 0), mean_of(mean, 5.0, 0)] == [0, 0]  # two passes of one step read the same
    assert mean_of(mean, 9.0, 1) == pytest.approx(4.0)  # no bias of its start
    assert mean_of(mean, 1.0, 2) == pytest.approx((0.9 * 4 + 9) / 1.9)
    copy = RunningMean()
    copy.load_state_dict(mean.state_dict())
    assert mean_of(copy, 0.0, 3) == mean_of(mean, 0.0, 3) > 0
    with pytest.raises(ValueError, match="less than 1"):  # it would never take anything in
        config(adv_norm_beta=1.0)


def test_a_running_mean_is_that_of_all_ranks() -> None:
    def all_reduce(x: Tensor) -> None:
        x.add_(torch.tensor([10.0, 3.0]))  # what the other rank brings

    mean = RunningMean()
    mean(torch.tensor(2.0), torch.tensor(1), 0.5, 0, all_reduce)
    assert mean(torch.tensor(0.0), torch.tensor(0), 0.5, 1).item() == pytest.approx(12 / 4)


def test_gaps_are_weighed_in_their_running_scale_from_the_second_step_on() -> None:
    scale = RunningMean()
    first = preference_losses(UTILITIES, NLL, config(), scale, 0)
    assert torch.equal(first.loss, preference_losses(UTILITIES, NLL, config()).loss)
    for factor in (1.0, 10.0):  # the loss doesn't depend on the unit of the gaps before
        scale = RunningMean()
        preference_losses(UTILITIES, factor * NLL, config(), scale, 0)
        later = preference_losses(UTILITIES, factor * NLL, config(), scale, 1).loss.item()
        assert later == pytest.approx(first.loss.item() / gap_scale(), rel=1e-4)


def gap_scale() -> float:
    """The root mean square of the gaps of NLL."""
    left, right = torch.triu_indices(3, 3, offset=1)
    return (NLL[:, right] - NLL[:, left]).square().mean().sqrt().item()


def test_preferences_teach_a_scorer_the_true_order() -> None:
    """Utilities of blocks, linear in features, found from nothing but which of two contexts was better."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(6, generator=generator)
    weights = torch.zeros(6, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.05)
    scale = RunningMean()
    for number in range(300):
        features = torch.randn(8, 12, 6, generator=generator)  # rows, blocks
        shown = (torch.rand(8, 4, 12, generator=generator) < 0.3).float()  # contexts
        gain = torch.einsum("rvb,rb->rv", shown, features @ truth)
        nll = -gain + 0.5 * torch.randn(8, 4, generator=generator)
        utilities = torch.einsum("rvb,rb->rv", shown, features @ weights)
        loss = preference_losses(utilities, nll, config(), scale, number).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    blocks = torch.randn(500, 6, generator=generator)
    correlation = torch.corrcoef(torch.stack((blocks @ truth, blocks @ weights.detach())))[0, 1]
    assert correlation > 0.98


# --- budget and policy -------------------------------------------------------------------------------------------------


def focus(shares: list[float], *, outside: int = 1) -> LensOutput:
    """A focus of nodes with these shares, each of two entries, and entries outside behind them."""
    nodes = len(shares)
    node = torch.tensor([*[number for number in range(nodes) for _ in range(2)], *range(nodes, nodes + outside)])
    score = torch.tensor(shares).log().repeat_interleave(2)
    score = torch.cat((score, torch.full((outside,), -math.log(nodes))))
    mask = torch.arange(len(node)) < nodes
    by_node = torch.cat((torch.tensor(shares).log(), torch.full((nodes + outside,), -1e9)))
    return LensOutput(score[None], by_node[None].requires_grad_(), torch.zeros(1, 1, len(node)), node[None], mask[None])


def test_budget_balance_by_hand() -> None:
    assert budget_balance(focus([0.25] * 4)).item() == pytest.approx(0, abs=1e-6)
    for shares in ([0.7, 0.1, 0.1, 0.1], [0.3, 0.3, 0.3, 0.1], [0.5, 0.3, 0.1, 0.1]):
        values = [(4 * share - 1) / (4 * share + 1) for share in shares]
        up, down = sum(v for v in values if v > 0), -sum(v for v in values if v < 0)
        assert budget_balance(focus(shares)).item() == pytest.approx((up - down) / (up + down), abs=1e-5)


def test_budget_balance_has_a_gradient_and_ignores_what_is_outside() -> None:
    given = focus([0.7, 0.1, 0.1, 0.1], outside=2)
    (gradient,) = torch.autograd.grad(budget_balance(given).sum(), given.shares)
    assert torch.isfinite(gradient).all()
    assert not gradient[0, 4:].any()
    assert gradient[0, :4].all()
    other = given._replace(scores=given.scores + torch.tensor([0.0] * 8 + [5.0, 9.0]))
    assert torch.equal(budget_balance(other), budget_balance(given))


def test_policy_divergence_by_hand() -> None:
    p, q = [0.7, 0.2, 0.1], [0.3, 0.3, 0.4]
    want = sum((a - b) * math.log(a / b) for a, b in zip(p, q, strict=True))
    own, former = focus(p), focus(q)
    found = policy_divergence(own, former)
    assert found.item() == pytest.approx(want, rel=1e-5)
    assert policy_divergence(former, own).item() == pytest.approx(want, rel=1e-5)
    assert policy_divergence(own, own).item() == pytest.approx(0, abs=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), own.shares)
    assert not gradient[0, 3:].any()
    for node in range(3):
        step = torch.zeros(1, 7)
        step[0, node] = 1e-2
        ahead, behind = (policy_divergence(own._replace(shares=own.shares + s * step), former) for s in (1, -1))
        assert gradient[0, node].item() == pytest.approx((ahead - behind).item() / 2e-2, rel=0.02, abs=1e-4)
