"""What LensNet learns: where the plain pass attended, and which variants turned out better.

LensNet sees the history of a variant and is judged by the horizon behind it.

Shapes: B rows, L - H entries of a history, H tokens of the horizon, Q of LensNet's queries.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mccore.megacontext.networks.lensnet import LensNet, LensOutput
from mccore.megacontext.networks.nodes import block_scores, by_node
from mccore.megacontext.networks.positions import Spans
from mccore.megacontext.training.draw import DrawnStep
from mccore.megacontext.training.models import Models
from mccore.megacontext.training.plain_pass import PlainRead
from mccore.megacontext.training.targets.attention import attention_losses
from mccore.megacontext.training.targets.preference import budget_balance, policy_divergence, preference_losses
from mccore.megacontext.training.variants import VariantPass
from mccore.megacontext.working_context import WorkingContexts


class Demand(NamedTuple):
    """What the horizon of each row would have needed of its history."""

    attention: Tensor  # fp32 [B, Q + H, blocks], of the last history tokens and the horizon in the plain pass
    weights: Tensor  # fp32 [B, H], how much each horizon token lost without the plain history
    mask: Tensor  # bool [B], rows that were read plainly and whose horizon is trained


class VariantHistory(NamedTuple):
    """The histories of the first variant of each row, the horizon left out, as LensNet reads them."""

    entries: Tensor  # [B, L - H, D]
    spans: Spans
    level: Tensor  # int64 [B, L - H]
    index: Tensor  # int64 [B, L - H]
    last: Tensor  # int64 [B, L - H], the last token under each entry
    editable: Tensor  # bool [B, L - H]


def horizon_demand(step: DrawnStep, plain: PlainRead, first: VariantPass) -> Demand | None:
    """What the horizon needed, by the losses of the first variant of each row; None where no attention was recorded."""
    if plain.attention is None:
        return None
    place, horizon = step.horizon_places, step.config.horizon
    gap = first.nll[: len(step.rows), -horizon:] - plain.nll.gather(1, place)
    weights = (gap.clamp(min=0) + step.config.lens.key_floor) * step.weights.gather(1, place)
    return Demand(plain.attention, weights, plain.read.all(dim=1) & (weights.sum(dim=1) > 0))


def history_of(models: Models, step: DrawnStep, contexts: WorkingContexts) -> VariantHistory:
    """The histories of the first variants, with the share of their gradient that is let through to gists."""
    rows, history = slice(0, len(step.rows)), slice(0, contexts.level.size(1) - step.config.horizon)
    entries = contexts.embeddings[rows, history]
    share = step.config.lens.gist_gradient
    held = entries.detach()
    last = contexts.last[rows, history]
    return VariantHistory(
        (held if not share else held + share * (entries - held)).to(models.nets.dtype),
        Spans(*(part[rows, history] for part in contexts.spans)),
        contexts.level[rows, history],
        contexts.index[rows, history],
        last,
        last < (step.editable_blocks * step.config.block_size).unsqueeze(1),
    )


class LensLoss:
    """The losses of LensNet in a step, and the running scales and the previous policy that they refer to."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._followed = -1  # the step in which the previous policy was moved last

    def __call__(self, step: DrawnStep, variants: VariantPass, demand: Demand | None) -> tuple[Tensor, Tensor]:
        """The loss on the histories of one kind of variant, and LensNet's scores of their blocks, fp32 [B, blocks]."""
        history = history_of(self._models, step, variants.contexts)
        place = step.horizon_places.unsqueeze(-1).expand(-1, -1, step.levels[0].size(-1))
        later = step.levels[0].gather(1, place).detach().to(self._models.nets.dtype)
        output = self._look(self._models.nets.lensnet, step, history, later)
        loss = output.scores.sum() * 0.0
        if demand is not None:
            loss = loss + self._attention(step, history, output, demand)
        loss = loss + self._regularise(step, history, output)
        blocks = step.plan.gist_only.shape.blocks
        return loss, block_scores(output, history.level, history.index, step.config.block_size, blocks)

    def _look(self, lens: LensNet, step: DrawnStep, history: VariantHistory, later: Tensor | None = None) -> LensOutput:
        """What a LensNet makes of the histories; `later` [B, H, D] are tokens whose questions are wanted too."""
        size = step.config.block_size
        with self._models.timings("lens_forward_ms"):
            output: LensOutput = lens(history.entries, history.spans, history.editable, later, size)
        return output

    def _attention(self, step: DrawnStep, history: VariantHistory, output: LensOutput, demand: Demand) -> Tensor:
        """How far LensNet's shares are from the attention that the plain pass paid."""
        lens = step.config.lens
        # A history shorter than the number of queries has fewer of them.
        queries = output.questions.size(1)
        attention = by_node(
            demand.attention[:, -queries:], output, history.level, history.index, step.config.block_size
        )
        losses = attention_losses(output, attention, demand.weights, _query_weights(step, history, queries))
        assert step.plain is not None  # there was attention to record
        portion = demand.mask.float() * step.row_share / step.plain.row_share
        mask = (portion > 0).float()
        gain, uninformed = losses.uninformed - losses.focus, losses.uninformed
        step.metrics.add("lens_loss", (losses.focus * mask).sum(), mask.sum())
        step.metrics.add("question_loss", (losses.questions * mask).sum(), mask.sum())
        step.metrics.add("lens_gain", (gain * mask).sum(), (uninformed * mask).sum())
        return ((losses.focus + lens.question_weight * losses.questions) * portion).sum()

    def _regularise(self, step: DrawnStep, history: VariantHistory, output: LensOutput) -> Tensor:
        """Balance of the budget and nearness to the previous policy, where they have a weight."""
        lens, nets, portion = step.config.lens, self._models.nets, step.row_share
        loss = torch.zeros((), device=portion.device)
        if lens.budget_weight or lens.budget_smooth_weight:
            balance = budget_balance(output)
            loss = loss + lens.budget_weight * (portion * balance.square()).sum()
            if lens.budget_smooth_weight and nets.balance is not None:
                count = torch.full_like(balance[0], len(step.rows))
                beta, reduce = lens.budget_smooth_beta, self._models.all_reduce
                smooth = nets.balance(balance.sum(), count, beta, step.batch.step, reduce)
                loss = loss + lens.budget_smooth_weight * (portion * (balance - smooth).square()).sum()
        if lens.kl_weight and nets.former is not None:
            if self._followed != step.batch.step:
                nets.follow_lens()
                self._followed = step.batch.step
            with torch.no_grad():
                former = self._look(nets.former, step, history)
            loss = loss + lens.kl_weight * (portion * policy_divergence(output, former)).sum()
        return loss

    def preferences(self, step: DrawnStep, gist_only: VariantPass, expanded: VariantPass) -> Tensor:
        """Bradley-Terry between the expanded variants of each row, by LensNet's scores on the gist-only one."""
        config, rows, count = step.config, len(step.rows), step.plan.expanded.count
        history = history_of(self._models, step, gist_only.contexts)
        output = self._look(self._models.nets.lensnet, step, history)
        blocks = step.plan.expanded.shape.blocks
        values = block_scores(output, history.level, history.index, config.block_size, blocks)  # [B, blocks]
        # As logarithms of shares in units of the mean share: a block more isn't worse by itself. Blocks that don't take part
        # are shown by none of the contexts.
        values = (values + torch.log(output.mask.sum(dim=1, keepdim=True).float())).clamp(min=-50.0)
        shown = _shown_blocks(step, expanded.contexts).view(count, rows, blocks)
        utilities = (shown * values).sum(dim=2).t()  # [B, count]
        targets = expanded.targets[:, -config.horizon :] >= 0
        nll = (expanded.nll[:, -config.horizon :] * targets).sum(dim=1) / targets.sum(dim=1).clamp(min=1)
        nll = nll.view(count, rows).t()
        nets, reduce = self._models.nets, self._models.all_reduce
        losses = preference_losses(utilities, nll, config.lens, nets.advantage, step.batch.step, reduce)
        one = torch.ones((), device=values.device)
        step.metrics.add("preference_agreement", losses.right, losses.pairs)
        step.metrics.add("preference_loss", losses.loss.sum(), rows * one)
        step.metrics.add("preference_corr", _correlation(utilities, nll), one)
        return (step.row_share * (losses.loss + config.lens.rank_weight * losses.rank)).sum()


def _query_weights(step: DrawnStep, history: VariantHistory, queries: int) -> Tensor:
    """How much each of LensNet's queries has to ask itself, fp32 [B, Q + H]."""
    horizon = step.config.horizon
    # A token whose prediction isn't trained has learned no question.
    position = step.ends.unsqueeze(1) - queries + torch.arange(queries, device=step.ends.device)
    weights = step.weights.gather(1, position)
    # More queries than recent tokens: what stands there is no token, or another one.
    asking = slice(-(queries - horizon), None)
    same = (history.level[:, asking] == 0) & (history.last[:, asking] == position[:, : queries - horizon])
    return weights * F.pad(same, (0, horizon), value=True)


def _shown_blocks(step: DrawnStep, contexts: WorkingContexts) -> Tensor:
    """Whether each context shows each block before the recent tokens as tokens: 0 or 1, fp32 [R, blocks]."""
    blocks, size = step.plan.expanded.shape.blocks, step.config.block_size
    block = torch.where(contexts.level == 0, contexts.index // size, blocks)
    shown = torch.zeros(len(block), blocks + 1, device=block.device).scatter(1, block, 1.0)[:, :blocks]
    limit = step.editable_blocks[contexts.row].unsqueeze(1)
    return shown * (torch.arange(blocks, device=block.device) < limit)


def _correlation(utilities: Tensor, nll: Tensor) -> Tensor:
    """Pearson correlation over all contexts, both centred by row: -1 where higher utility always means lower loss."""
    x = (utilities - utilities.mean(dim=1, keepdim=True)).detach().flatten().double()
    y = (nll - nll.mean(dim=1, keepdim=True)).detach().flatten().double()
    return (x * y).sum() / (x.square().sum() * y.square().sum()).sqrt().clamp(min=1e-12)
