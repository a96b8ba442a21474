"""What a training step with MegaContext minimises: the plain model's loss, and the loss of Working Contexts drawn from it.

For B rows of T tokens, all rows at once:

1. Embed, build the pyramid of gists (one GistNet call per level), and draw the step: `draw`.
2. The plain next-token pass: what keeps the model a good plain model, and the teacher of everything below: `plain_pass`.
3. N variants: cuts of one length whose far past is gists, `variant_cuts`, each read once, `variants`. In gist-only ones the far
   past is gists alone; in expanded ones a few far blocks stay tokens. Training on both is what makes gists carry something and
   an expansion useful.
4. LensNet sees the history of a variant and is judged by the horizon behind it: `lens_loss`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from mccore.config import MegaContextConfig
from mccore.data.batches.loader import Batch
from mccore.megacontext.networks.networks import MegaContextNets
from mccore.megacontext.training.draw import DrawnStep, StepDraw
from mccore.megacontext.training.lens_loss import Demand, LensLoss, horizon_demand
from mccore.megacontext.training.models import models_of
from mccore.megacontext.training.plain_pass import PlainRead, plain_pass
from mccore.megacontext.training.rebuild import rebuild_loss
from mccore.megacontext.training.variant_cuts import draw_variants
from mccore.megacontext.training.variants import VariantPass, read_variants
from mccore.model.gpt import GPT
from mccore.train.objective import Losses, Probe
from mccore.train.step_metrics import StepMetrics
from mccore.train.timings import Timings


def metric_names(config: MegaContextConfig) -> tuple[str, ...]:
    """Every metric that a step of this configuration may report, whatever rows a rank has."""
    names = ["token_loss"]
    lens, variants = config.lens, config.num_random_variants
    names += ["recon_loss"] if config.recon_weight else []
    if variants:
        names += [f"lod_loss/{lod}" for lod in range(config.max_lod + 1)]
        names += ["gist_loss", "adv_delta", "adv_delta/p95", "delta_nll"]
        names += ["distill_loss"] if config.distill_weight else []
    if variants and lens.loss_weight:
        names += ["lens_loss", "question_loss", "lens_gain"] if lens.target != "preference" else []
        names += ["preference_agreement", "preference_loss", "preference_corr"] if lens.target != "attention" else []
    return tuple(names)


class StepPasses(NamedTuple):
    """All that a step came to."""

    step: DrawnStep
    plain: PlainRead
    variants: list[VariantPass]  # one for each kind that was drawn, gist-only ones first
    loss: Tensor


class MegaContextObjective:
    """One callable from a batch to its losses, for `mccore.train.loop.train`.

    `nets` lie beside the GPT in the trained module. `draw` says how contexts are drawn; its configuration may differ from that
    of `nets` there. `compiled` passes go through torch.compile, which has to allow for so many `graphs`. `all_reduce` sums a
    tensor over the ranks in place, for running scales that all ranks share.
    """

    def __init__(
        self,
        gpt: GPT,
        nets: MegaContextNets,
        draw: StepDraw,
        *,
        compiled: bool = False,
        all_reduce: Callable[[Tensor], None] | None = None,
    ) -> None:
        models = models_of(gpt, nets, train_gpt=draw.config.variants_train_gpt, all_reduce=all_reduce)
        self.models = models.compiled() if compiled else models
        self.draw = draw
        self.metric_names = metric_names(draw.config)
        self._lens_loss = LensLoss(self.models)

    @property
    def timings(self) -> Timings:
        """Where the time of a step goes."""
        return self.models.timings

    @property
    def graphs(self) -> int:
        """Graphs that a stage needs when passes are compiled, one per length and kind of pass. Dynamo's `recompile_limit` has
        to be as high: beyond it passes run uncompiled, and nothing says so."""
        return 2 * self.draw.config.wc_length_steps + 12

    def describe(self, step: int, progress: float, rows: int) -> dict[str, float]:
        """Entries of the step's longest variants, and variants drawn in the stage up to this step."""
        plan = self.draw.plan(step, progress)
        return {
            "wc_length": plan.longest,
            "variants_total": (step + 1) * rows * sum(kind.count for kind in plan),
        }

    def probes(self) -> tuple[Probe, ...]:
        """Passes without and with the plain pass, in the steps that take most memory: with LensNet, and not compiled.

        The longest variants come at the start of a stage, LensNet later: passes with both need the most.
        """
        if not self.draw.config.auto_batch:
            return ()
        read_plainly = Probe(self._eager(plain_share=1.0), self.draw.config.baseline_share)
        return (read_plainly,) if read_plainly.share == 1 else (Probe(self._eager(plain_share=0.0), 1.0), read_plainly)

    def _eager(self, *, plain_share: float) -> MegaContextObjective:
        """The same objective, not compiled, with LensNet from the first step on and so many rows read plainly."""
        models, draw = self.models, replace(self.draw, focused_from=0.0, plain_share=plain_share)
        return MegaContextObjective(models.gpt, models.nets, draw, all_reduce=models.all_reduce)

    def __call__(self, batch: Batch) -> Losses:
        with self.timings("total_ms"):
            passes = self.run(batch)
        return Losses(passes.loss, passes.step.metrics)

    def run(self, batch: Batch) -> StepPasses:
        """All passes of a step, and what each came to."""
        step = self._begin(batch)
        plain, loss = plain_pass(self.models, step)
        if not step.focused:
            # A gradient of zeros, as the other ranks of a larger world would bring, instead of none.
            loss = loss + 0.0 * sum(parameter.flatten()[0] for parameter in self.models.nets.lensnet.parameters())
        variants, term = self._read_contexts(step, plain)
        return StepPasses(step, plain, variants, loss + term)

    def _begin(self, batch: Batch) -> DrawnStep:
        config, models = self.draw.config, self.models
        with self.timings("build_ms"):
            embeddings = models.gpt.embed(batch.inputs)
            of_tokens = embeddings if config.variants_train_gpt else embeddings.detach()
            levels = models.nets.pyramid(of_tokens, config.block_size)
        return self.draw.draw(batch, embeddings, levels, StepMetrics(self.metric_names))

    def _read_contexts(self, step: DrawnStep, plain: PlainRead) -> tuple[list[VariantPass], Tensor]:
        """All that gists are for: rebuilding, variants, LensNet. Returns the variants and the sum of the losses."""
        config, kinds = step.config, step.plan.drawn
        loss = torch.zeros((), device=step.weights.device)
        if config.recon_weight:
            loss = loss + config.recon_weight * rebuild_loss(self.models, step)
        variants: list[VariantPass] = []
        demand: Demand | None = None
        scores: Tensor | None = None  # LensNet's, of blocks, by the first kind
        for kind in kinds:
            with self.timings("build_ms"):
                drawn = draw_variants(step, kind, scores)
            variants.append(read_variants(self.models, step, drawn, plain))
            loss = loss + config.variant_weight * variants[-1].loss
            if not step.focused:
                continue
            with self.timings("lens_loss_ms"):
                demand = demand or horizon_demand(step, plain, variants[0])
                term, of_blocks = self._lens_loss(step, variants[-1], demand)
            loss = loss + config.lens.loss_weight * term / len(kinds)
            scores = of_blocks.detach() if scores is None else scores
        if step.focused and config.lens.target != "attention" and len(variants) == 2:
            loss = loss + config.lens.loss_weight * self._lens_loss.preferences(step, *variants)
        return variants, loss
