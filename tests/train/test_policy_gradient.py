"""Policy gradients: advantages by hand, and the objective against plain autograd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mccore.data.batches.rows import IGNORED
from mccore.model.gpt import GPT
from mccore.train.policy_gradient import PolicyObjective, Reply, RolloutBatch, advantages, rollout_batches
from mccore.train.world import World

PAD = 256


def _reply(
    tokens: list[int], advantage: float, wrote: list[bool] | None = None, prompt: tuple[int, ...] = (1, 2)
) -> Reply:
    return Reply(prompt, tokens, wrote or [True] * len(tokens), float(advantage > 0), advantage, True, True)


def _batches(replies: list[Reply], micro_rows: int = 8) -> list[RolloutBatch]:
    return rollout_batches(replies, micro_rows, sum(sum(reply.wrote) for reply in replies), PAD)


def _log_probabilities(gpt: GPT, reply: Reply) -> Tensor:
    """Of the tokens that the model wrote, by the model's own logits."""
    ids = torch.tensor([[*reply.prompt, *reply.tokens]])
    logprobs = torch.log_softmax(gpt(ids[:, :-1]), dim=-1)[0]
    chosen = logprobs.gather(1, ids[0, 1:, None])[:, 0][len(reply.prompt) - 1 :]
    return chosen[torch.tensor(reply.wrote)]


def _gradients(gpt: GPT, loss: Tensor) -> list[Tensor]:
    gpt.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in gpt.parameters() if p.grad is not None]


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    assert advantages(rewards, "mean").tolist() == [[0.5, -0.5, -0.5, 0.5], [0.0] * 4]
    deviation = (4 * 0.25 / 3) ** 0.5
    normalised = advantages(rewards, "normalised")
    assert normalised[0].tolist() == pytest.approx([0.5 / deviation * sign for sign in (1, -1, -1, 1)], rel=1e-4)
    assert normalised[1].tolist() == [0.0] * 4
    first = 1 - 1 / 3  # the others' mean is a third
    assert advantages(rewards, "leave_one_out")[0].tolist() == pytest.approx([first, -first, -first, first])


def test_the_loss_is_that_of_plain_autograd(random_gpt: Callable[..., GPT]) -> None:
    gpt = random_gpt()
    replies = [_reply([5, 6, 7], 0.75), _reply([9], -0.5), _reply([4, 4], -0.25, prompt=(3, 3, 3))]
    expected = -sum((_log_probabilities(gpt, reply) * reply.advantage).sum() for reply in replies) / 6
    wanted = _gradients(gpt, expected)
    for micro_rows in (1, 2, 8):  # the size of a forward pass changes nothing
        objective = PolicyObjective(gpt)
        loss = sum(objective(batch).loss for batch in _batches(replies, micro_rows))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        for own, other in zip(_gradients(gpt, loss), wanted, strict=True):
            torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-6)


def test_what_a_tool_wrote_is_no_target(random_gpt: Callable[..., GPT]) -> None:
    gpt = random_gpt()
    reply = _reply([5, 6, 7, 8], 1.0, [True, False, False, True])
    (batch,) = _batches([reply])
    assert batch.targets[0].tolist() == [IGNORED, 5, IGNORED, IGNORED, 8]
    assert batch.weights is not None
    assert batch.weights[0].tolist() == [0, 1, 0, 0, 1]
    expected = -_log_probabilities(gpt, reply).mean()
    assert PolicyObjective(gpt)(batch).loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_kl_is_paid_for_moving_away(random_gpt: Callable[..., GPT]) -> None:
    gpt, reference = random_gpt(0), random_gpt(1).requires_grad_(False)
    reply = _reply([5, 6, 7], 0.5)
    own, before = _log_probabilities(gpt, reply), _log_probabilities(reference, reply)
    ratio = before - own
    kl = (ratio.exp() - ratio - 1).mean()
    expected = -(own * 0.5).mean() + 0.3 * kl
    wanted = _gradients(gpt, expected)
    losses = PolicyObjective(gpt, reference=reference, kl_weight=0.3)(_batches([reply])[0])
    assert losses.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    for mine, other in zip(_gradients(gpt, losses.loss), wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)
    means, _ = losses.metrics.fetch(World(), (torch.zeros(()),))
    assert means["policy_kl"] == pytest.approx(kl.item(), rel=1e-4)
    same = PolicyObjective(gpt, reference=_copy(gpt), kl_weight=0.3)(_batches([reply])[0])
    means, _ = same.metrics.fetch(World(), (torch.zeros(()),))
    assert means["policy_kl"] == pytest.approx(0.0, abs=1e-6)


def _copy(gpt: GPT) -> GPT:
    """A copy of a model."""
    copy = GPT(gpt.config)
    copy.load_state_dict(gpt.state_dict())
    return copy


def test_metrics_count_replies_and_written_tokens(random_gpt: Callable[..., GPT]) -> None:
    gpt = random_gpt()
    replies = [_reply([5, 6, 7], 0.5), replace(_reply([9, 8], -0.5, [True, False]), ended=False)]
    losses = PolicyObjective(gpt)(_batches(replies)[0])
    means, _ = losses.metrics.fetch(World(), (torch.zeros(()),))
    assert means["reward"] == 0.5
    assert means["reply_tokens"] == 2.0
    assert means["replies_ended"] == 0.5
    assert means["questions_mixed"] == 1.0
    nll = -torch.cat([_log_probabilities(gpt, reply) for reply in replies]).mean()
    assert means["reply_nll"] == pytest.approx(nll.item(), rel=1e-5)


def test_replies_that_are_all_alike_teach_nothing(random_gpt: Callable[..., GPT]) -> None:
    gpt = random_gpt()
    losses = PolicyObjective(gpt)(_batches([_reply([5], 0.0), _reply([6, 7], 0.0)])[0])
    assert all(float(gradient.abs().max()) == 0 for gradient in _gradients(gpt, losses.loss))
