"""Policy gradients: replies and what they were worth become batches, and the objective that makes good ones more likely.

Every reply is trained on once, by the model that drew it: REINFORCE with the rewards of a question's other replies as its
baseline (GRPO without its clipping, which does nothing for replies that are trained on once). The loss of a step is
`sum(advantage * nll) / tokens` over all tokens that the model wrote in the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from mccore.data.batches.loader import Batch
from mccore.data.batches.rows import IGNORED
from mccore.model.gpt import GPT
from mccore.train.objective import Losses, Probe
from mccore.train.step_metrics import StepMetrics
from mccore.train.timings import Timings

Advantage = Literal["mean", "normalised", "leave_one_out"]

_LEAST_DEVIATION = 1e-6  # rewards that are all alike have advantages of 0, not of 0 / 0


def advantages(rewards: Tensor, kind: Advantage) -> Tensor:
    """How much better each reply was than those to the same question. rewards: fp32 [questions, samples]; returns the same.

    "mean": reward minus the question's mean (Dr. GRPO, nanochat). "normalised": that divided by the question's standard
    deviation (GRPO, arXiv 2402.03300). "leave_one_out": reward minus the mean of the others (RLOO, arXiv 2402.14740).
    """
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if kind == "normalised":
        return centred / (rewards.std(dim=1, keepdim=True) + _LEAST_DEVIATION)
    if kind == "leave_one_out":
        samples = rewards.size(1)
        return centred * samples / (samples - 1)
    return centred


@dataclass(frozen=True)
class Reply:
    """One reply to be trained on. `wrote[i]` is whether the model drew token i; `ended` whether it came to an end; `mixed`
    whether the replies to its question differ in reward, so that there is something to learn from them."""

    prompt: Sequence[int]
    tokens: Sequence[int]
    wrote: Sequence[bool]
    reward: float
    advantage: float
    ended: bool
    mixed: bool


_NOTHING = torch.zeros(0)


@dataclass
class RolloutBatch(Batch):
    """Replies side by side: inputs and targets [B, T], IGNORED where the model didn't write; `weights` [B, T] are advantages,
    `step_targets` the tokens written in the whole step. Facts of each reply, for metrics, fp32 [B]."""

    rewards: Tensor = field(default=_NOTHING)
    ended: Tensor = field(default=_NOTHING)
    mixed: Tensor = field(default=_NOTHING)

    def to(self, device: torch.device) -> RolloutBatch:
        moved = super().to(device)
        assert isinstance(moved, RolloutBatch)
        facts = {name: getattr(moved, name).to(device) for name in ("rewards", "ended", "mixed")}
        return replace(moved, **facts)


def rollout_batches(replies: Sequence[Reply], micro_rows: int, step_targets: float, pad: int) -> list[RolloutBatch]:
    """Replies as batches of up to `micro_rows`, similar lengths together; `pad` is an id that nothing is learned from."""
    ordered = sorted(replies, key=lambda reply: len(reply.prompt) + len(reply.tokens), reverse=True)
    return [
        _stack(ordered[first : first + micro_rows], step_targets, pad) for first in range(0, len(ordered), micro_rows)
    ]


def _stack(replies: Sequence[Reply], step_targets: float, pad: int) -> RolloutBatch:
    length = max(len(reply.prompt) + len(reply.tokens) for reply in replies) - 1
    inputs = torch.full((len(replies), length), pad)
    targets = torch.full((len(replies), length), IGNORED)
    weights = torch.zeros(len(replies), length)
    for row, reply in enumerate(replies):
        ids = torch.tensor([*reply.prompt, *reply.tokens])
        start, end = len(reply.prompt) - 1, len(ids) - 1
        inputs[row, :end] = ids[:-1]
        wrote = torch.tensor(reply.wrote)
        targets[row, start:end] = torch.where(wrote, ids[len(reply.prompt) :], IGNORED)
        weights[row, start:end] = reply.advantage * wrote
    return RolloutBatch(
        inputs,
        targets,
        step_targets,
        weights=weights,
        rewards=torch.tensor([reply.reward for reply in replies]),
        ended=torch.tensor([float(reply.ended) for reply in replies]),
        mixed=torch.tensor([float(reply.mixed) for reply in replies]),
    )


class PolicyObjective:
    """Makes replies more likely by their advantage. With a `reference` it also pays `kl_weight` for every nat that the model
    moves away from it, by an estimate that is never negative: r - log r - 1 with r = reference / own probability of each
    token (k3; GRPO)."""

    def __init__(
        self, gpt: GPT, *, reference: GPT | None = None, kl_weight: float = 0.0, compiled: bool = False
    ) -> None:
        self.gpt, self.reference, self.kl_weight = gpt, reference, kl_weight
        self.timings = Timings()
        names = ("reward", "reply_tokens", "replies_ended", "questions_mixed", "reply_nll")
        self.metric_names = (*names, "policy_kl") if reference is not None else names
        # Lengths differ from batch to batch: one graph for all.
        self._hidden: Callable[[Tensor], Tensor] = torch.compile(gpt.hidden, dynamic=True) if compiled else gpt.hidden

    def __call__(self, batch: Batch) -> Losses:
        assert isinstance(batch, RolloutBatch)
        assert batch.weights is not None
        metrics = StepMetrics(self.metric_names)
        hidden = self._hidden(batch.inputs)
        written = batch.targets >= 0
        if self.reference is None:
            total, nll = self.gpt.hidden_losses(hidden, batch.targets, batch.weights)
        else:
            nll = self.gpt.hidden_loss(hidden, batch.targets, reduction="none")
            with torch.no_grad():
                before = self.reference.loss(batch.inputs, batch.targets, reduction="none")
            gap = nll - before  # log(reference / own), 0 where nothing was written
            kl = gap.exp() - gap - 1
            total = (nll * batch.weights).sum() + self.kl_weight * kl.sum()
            metrics.add("policy_kl", kl.sum(), written.sum())
        replies = torch.tensor(float(len(batch.rewards)), device=batch.rewards.device)
        metrics.add("reward", batch.rewards.sum(), replies)
        metrics.add("reply_tokens", written.sum(), replies)
        metrics.add("replies_ended", batch.ended.sum(), replies)
        metrics.add("questions_mixed", batch.mixed.sum(), replies)
        metrics.add("reply_nll", nll.sum(), written.sum())
        return Losses(total / batch.step_targets, metrics)

    def describe(self, step: int, progress: float, rows: int) -> dict[str, float]:
        """Nothing beside what the passes count."""
        return {}

    def probes(self) -> tuple[Probe, ...]:
        """None: a plain pass takes the memory that the configuration was chosen for."""
        return ()
