"""What a training step with MegaContext minimises: the plain model's loss, and the loss of Working Contexts drawn from it.

For B rows of T tokens, all rows at once:

1. Embed, and build the pyramid of gists, one GistNet call per level.
2. The plain next-token pass: what keeps the model a good plain model, and the teacher of everything below.
3. N variants: cuts of one length whose far past is gists. Even ones show the far past as gists only; in odd ones a few far
   blocks stay tokens, chosen at random, by LensNet or by a search, or tokens lie anywhere. Training on both is what makes
   gists carry something and an expansion useful.
4. Targets by position: the entry that ends at token p predicts token p + 1.
5. LensNet sees the history of a variant and is judged by the horizon behind it.

Every number that depends on chance is a hash of (seed, step, row): the same run draws the same cuts on any number of ranks.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mccore.config import MegaContextConfig
from mccore.data.batches.loader import Batch
from mccore.errors import ConfigError
from mccore.megacontext.networks.lensnet import Focus, LensNet
from mccore.megacontext.networks.networks import MegaContextNets
from mccore.megacontext.networks.nodes import AttentionMass, block_scores, by_node
from mccore.megacontext.networks.positions import Spans
from mccore.megacontext.search.batched import span_scores
from mccore.megacontext.search.bigram_index import MOST
from mccore.megacontext.training.random_cuts import CutShape, check_shape, draw_cuts, possible_ends, reachable_length
from mccore.megacontext.training.targets.attention import attention_losses
from mccore.megacontext.training.targets.preference import budget_balance, policy_divergence, preference_losses
from mccore.megacontext.working_context import WorkingContexts, assemble, context_targets, model_inputs
from mccore.model.chance import hash_uniform
from mccore.model.gpt import GPT
from mccore.train.objective import Losses, Probe
from mccore.train.step_metrics import StepMetrics
from mccore.train.timings import Timings

# What a random number is for: the third coordinate of its hash.
_END, _KIND, _BLOCKS, _EXPANDED, _COARSE, _POLICY, _SKIP, _REBUILT, _PLAIN = range(9)

PHASE = (math.sqrt(5) - 1) / 2  # of a turn, from step to step: spreads as evenly as can be

# The parts of a step that are timed, and the part that one runs within.
PARTS: dict[str, str | None] = {
    "build_ms": None,
    "positional_ms": None,
    "variant_ms": None,
    "lens_forward_ms": "lens_loss_ms",
    "lens_loss_ms": None,
    "total_ms": None,
}

Forward = Callable[..., Tensor]


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


class Plan(NamedTuple):
    """The variants of a step: shapes of even and odd ones, how many there are of each, and which are drawn."""

    coarse: CutShape
    mixed: CutShape
    coarse_variants: int
    mixed_variants: int


class _Baseline(NamedTuple):
    """What the plain pass leaves for the variants. Tokens it didn't read have zeros."""

    read: Tensor  # bool [B, T]
    nll: Tensor  # fp32 [B, T], no gradient
    hidden: Tensor | None  # [B, T, D], no gradient; for distillation
    attention: Tensor | None  # [B, Q + H, blocks], of the last history tokens and the horizon; for LensNet


class _Group(NamedTuple):
    """Variants of one length: their contexts, hidden states, and losses without gradient."""

    contexts: WorkingContexts
    hidden: Tensor  # [R, L, D]
    targets: Tensor  # [R, L]
    nll: Tensor  # fp32 [R, L]


class MegaContextObjective:
    """One callable from a batch to its losses, for `mccore.train.loop.train`.

    `nets` lie beside the GPT in the trained module; `config` may differ from theirs in how contexts are drawn. With `compiled`
    the GPT's passes go through torch.compile, which has to allow for so many `graphs`. `all_reduce` sums a tensor over the
    ranks in place, for running scales that all ranks share. Raises ConfigError when the configuration has no legal Working
    Context.
    """

    def __init__(
        self,
        gpt: GPT,
        nets: MegaContextNets,
        *,
        tokens: int,
        seed: int,
        compiled: bool = False,
        all_reduce: Callable[[Tensor], None] | None = None,
        config: MegaContextConfig | None = None,
    ) -> None:
        self.gpt = gpt
        self.nets = nets
        self.config = config or nets.config
        self.tokens = tokens
        self.seed = seed
        self.timings = Timings(PARTS)
        self.metric_names = metric_names(self.config)
        self._all_reduce = all_reduce
        self._focused_from = self.config.lens.start
        self._plain_share = self.config.baseline_share
        self._followed = -1  # the step in which the previous policy was moved last
        self._forward: Forward = torch.compile(gpt.hidden, dynamic=False) if compiled else gpt.hidden
        self._ends_by_length: dict[tuple[int, int], list[int]] = {}
        for progress in (0.0, 1.0):
            plan = self.plan(0, progress)
            for shape in (plan.coarse, plan.mixed):
                check_shape(shape)
            if self.config.num_random_variants and plan.coarse.length <= self.config.horizon:
                raise ConfigError(
                    f"a Working Context of {plan.coarse.length} entries has no history before a horizon of "
                    f"{self.config.horizon} tokens",
                    hint="lower megacontext.horizon or raise megacontext.train_wc_length",
                )

    @property
    def graphs(self) -> int:
        """Graphs that a stage needs when passes are compiled, one per length and kind of pass. Dynamo's `recompile_limit` has
        to be as high: beyond it passes run uncompiled, and nothing says so."""
        return 2 * self.config.wc_length_steps + 12

    def probes(self) -> tuple[Probe, ...]:
        """Passes without and with the plain pass, in the steps that take most memory: with LensNet, and not compiled.

        The longest variants come at the start of a stage, LensNet later: passes with both need the most.
        """
        if not self.config.auto_batch:
            return ()
        with_plain = Probe(self._eager(plain_rows=True), self.config.baseline_share)
        return (with_plain,) if with_plain.share == 1 else (Probe(self._eager(plain_rows=False), 1.0), with_plain)

    def _eager(self, *, plain_rows: bool) -> MegaContextObjective:
        """The same objective without compilation, with LensNet from the first step on, and all rows or none read plainly."""
        copied = copy.copy(self)
        copied._plain_share = 1.0 if plain_rows else 0.0
        copied._forward = self.gpt.hidden
        copied._focused_from = 0.0
        return copied

    def describe(self, step: int, progress: float, rows: int) -> dict[str, float]:
        """Entries of the step's longer variants, and variants drawn in the stage up to this step."""
        plan = self.plan(step, progress)
        length = (plan.mixed if plan.mixed_variants else plan.coarse).length
        drawn = (step + 1) * rows * (plan.coarse_variants + plan.mixed_variants)
        return {"wc_length": length, "variants_total": drawn}

    # --- what is drawn ------------------------------------------------------------------------------------------------

    def plan(self, step: int, progress: float) -> Plan:
        """The variants of a step at `progress` in [0, 1) of the stage. Lengths shrink in few steps, from the first share of
        the sequence to `train_wc_length`."""
        config, size = self.config, self.config.block_size
        steps = config.wc_length_steps
        share = min(steps - 1, math.floor(progress * steps)) / (steps - 1) if steps > 1 else 1.0
        start = config.start_wc_fraction * self.tokens
        wanted = round(start + (config.train_wc_length - start) * share)
        shape = CutShape(self.tokens, 0, size, config.max_lod, config.recent_tokens)
        mixed = shape._replace(length=reachable_length(wanted, shape))
        # What even variants save: the tokens of the expanded blocks, and the siblings of the nodes opened above them.
        levels = config.max_lod if config.lod2_probability else 1
        saved = config.expanded_blocks * levels * (size - 1)
        coarse = shape._replace(length=reachable_length(mixed.length - saved, shape))
        odd = config.num_random_variants // 2
        even = config.num_random_variants - odd
        if config.num_random_variants == 1 and step % 2:
            even, odd = 0, 1
        return Plan(coarse, mixed, even, odd)

    def _random(self, step: int, purpose: int, *coordinates: Tensor) -> Tensor:
        digest = hashlib.blake2b(f"{self.seed}/{step}/{purpose}".encode(), digest_size=8).digest()
        return hash_uniform(int.from_bytes(digest, "little", signed=True), *coordinates)

    def _ends(self, batch: Batch, rows: Tensor, plan: Plan) -> Tensor:
        """Tokens that the cuts of each row cover, int64 [B]."""
        ends = self._possible_ends(plan)
        if len(ends) == 1:
            return torch.full_like(rows, ends[0])
        drawn = (self._random(batch.step, _END, rows) * len(ends)).long()
        return ends[0] + (self.config.block_size - 1) * drawn  # they follow each other in even steps

    def _possible_ends(self, plan: Plan) -> list[int]:
        key = (plan.coarse.length, plan.mixed.length)
        if key not in self._ends_by_length:
            least = math.ceil(self.tokens * self.config.min_history)
            both = [possible_ends(shape, least) for shape in (plan.coarse, plan.mixed)]
            common = sorted(set(both[0]) & set(both[1])) or [self.tokens]
            # From the last gap on: where contexts are nearly as short as they can be, some ends have none.
            step = self.config.block_size - 1
            gap = max((at for at in range(1, len(common)) if common[at] - common[at - 1] != step), default=0)
            self._ends_by_length[key] = common[gap:]
        return self._ends_by_length[key]

    def _cuts(
        self,
        batch: Batch,
        shape: CutShape,
        rows: Tensor,
        variant: Tensor,
        ends: Tensor,
        mixed: bool,
        focus: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Cuts of `rows` (numbers within the step, int64 [R]) as level and index [R, L], and which of them show what LensNet or
        the search chose, bool [R, 1]; `focus` [R, blocks] are LensNet's scores of blocks, where its choice is wanted."""
        config, step = self.config, batch.step
        block = torch.arange(shape.blocks, device=rows.device)
        row, each = rows.unsqueeze(1), variant.unsqueeze(1)
        priority = -block.float().expand(len(rows), -1)
        protected = chosen_for = None
        if mixed:
            kind = self._random(step, _KIND, row, each)
            anywhere = kind < config.random_share
            priority = torch.where(anywhere, self._random(step, _BLOCKS, row, each, block), priority)
            wish = self._random(step, _EXPANDED, row, each, block // config.expanded_run)
            if focus is not None:
                gumbel = -torch.log(-torch.log(self._random(step, _POLICY, row, each, block).clamp(1e-6, 1 - 1e-6)))
                chosen_for = kind > 1 - config.policy_share
                wish = torch.where(chosen_for, focus + gumbel, wish)
            if config.search_share:
                by_search = ~anywhere & (kind < config.random_share + config.search_share)
                wish = torch.where(by_search, self._searched(batch, shape, rows, ends) + wish, wish)
                chosen_for = by_search if chosen_for is None else chosen_for | by_search
            far = (block + 1) * shape.block_size <= (ends - shape.recent_tokens).unsqueeze(1)
            # Blocks that a recency pyramid of this length would collapse: the newest are tokens anyway.
            far = far & (
                block < ((ends - shape.length) // (shape.block_size - 1)).unsqueeze(1) + config.expanded_blocks
            )
            chosen = wish.masked_fill(~far, -torch.inf).topk(min(config.expanded_blocks, shape.blocks), dim=1).indices
            protected = torch.zeros_like(far).scatter(1, chosen, True) & far & ~anywhere
        power = torch.arange(max(1, config.max_lod - 1), device=rows.device).view(1, -1, 1)
        uniform = self._random(step, _COARSE, rows.view(-1, 1, 1), variant.view(-1, 1, 1), power, block.view(1, 1, -1))
        return *draw_cuts(shape, ends, priority, config.lod2_probability, uniform, protected), chosen_for

    def _searched(self, batch: Batch, shape: CutShape, rows: Tensor, ends: Tensor) -> Tensor:
        """What the last tokens before the horizon ask for, fp32 [R, blocks]: 1 or more for blocks of runs that the search scores,
        0 for the others."""
        config, size = self.config, shape.block_size * self.config.expanded_run
        tokens, end = batch.inputs[rows - batch.first_row], (ends - config.horizon).unsqueeze(1)
        at = end - config.search.query_tokens + torch.arange(config.search.query_tokens, device=rows.device)
        query = tokens.gather(1, at.clamp(min=0))
        tokens = torch.where(
            torch.arange(shape.tokens, device=rows.device) < end, tokens, MOST
        )  # the future isn't searched
        found = span_scores(tokens, query, size, config.search.half_life)
        found = torch.where(found > 0, 1 + found, found).repeat_interleave(config.expanded_run, dim=1)
        return F.pad(found, (0, shape.blocks - found.size(1)))

    # --- a step -------------------------------------------------------------------------------------------------------

    def __call__(self, batch: Batch) -> Losses:
        with self.timings("total_ms"):
            return self._step(batch)

    def _step(self, batch: Batch) -> Losses:
        config = self.config
        sums = StepMetrics(self.metric_names)
        rows = batch.first_row + torch.arange(batch.inputs.size(0), device=batch.inputs.device)
        weights = (batch.targets >= 0).float()
        if batch.weights is not None:
            weights = weights * batch.weights
        with self.timings("build_ms"):
            embeddings = self.gpt.embed(batch.inputs)
            of_tokens = embeddings if config.variants_train_gpt else embeddings.detach()
            levels = self.nets.pyramid(of_tokens, config.block_size)
        plan = self.plan(batch.step, batch.progress)
        ends = self._ends(batch, rows, plan)
        focused = (
            batch.progress >= self._focused_from and config.lens.loss_weight > 0 and config.num_random_variants > 0
        )

        baseline, loss = self._baseline(batch, embeddings, weights, ends, focused, sums)
        if not focused:
            # A gradient of zeros, as the other ranks of a larger world would bring, instead of none.
            loss = loss + 0.0 * sum(parameter.flatten()[0] for parameter in self.nets.lensnet.parameters())
        with self._gpt_held():
            loss = loss + self._contexts(batch, levels, plan, rows, weights, ends, focused, baseline, sums)
        return Losses(loss, sums)

    @contextmanager
    def _gpt_held(self) -> Iterator[None]:
        """Keep the GPT's parameters out of what is recorded for the backward pass, where the plain pass alone trains them."""
        held = [] if self.config.variants_train_gpt else [p for p in self.gpt.parameters() if p.requires_grad]
        for parameter in held:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in held:
                parameter.requires_grad_(True)

    def _contexts(
        self,
        batch: Batch,
        levels: list[Tensor],
        plan: Plan,
        rows: Tensor,
        weights: Tensor,
        ends: Tensor,
        focused: bool,
        baseline: _Baseline,
        sums: StepMetrics,
    ) -> Tensor:
        """The losses of all that gists are for: rebuilding, variants, LensNet."""
        config = self.config
        loss = torch.zeros((), device=weights.device)
        if config.recon_weight and self.nets.decoder is not None:
            loss = loss + config.recon_weight * self._rebuild(batch, levels[1], rows, weights, sums)
        focus: Tensor | None = None
        groups: list[_Group] = []
        for mixed, shape, count in (
            (False, plan.coarse, plan.coarse_variants),
            (True, plan.mixed, plan.mixed_variants),
        ):
            if not count:
                continue
            group, term = self._variants(batch, levels, shape, rows, weights, ends, count, mixed, focus, baseline, sums)
            loss = loss + config.variant_weight * term
            groups.append(group)
            if focused:
                with self.timings("lens_loss_ms"):
                    term, scores = self._lens(batch, levels, group, shape, ends, weights, baseline, groups[0], sums)
                kinds = (plan.coarse_variants > 0) + (plan.mixed_variants > 0)
                loss = loss + config.lens.loss_weight * term / kinds
                focus = scores.detach() if focus is None else focus
        if focused and config.lens.target != "attention" and len(groups) == 2:
            loss = loss + config.lens.loss_weight * self._preferences(batch, groups, plan, ends, weights, sums)
        return loss

    def _baseline(
        self, batch: Batch, embeddings: Tensor, weights: Tensor, ends: Tensor, focused: bool, sums: StepMetrics
    ) -> tuple[_Baseline, Tensor]:
        """The plain pass over `baseline_share` of the rows, evenly spread over the step's, and `baseline_tokens` of each."""
        config, share, first = self.config, self._plain_share, batch.first_row
        count = batch.inputs.size(0)
        # A phase for every step: with few rows and a small share the same ones, or none, would be read in all steps.
        phase = (batch.step * PHASE) % 1.0
        marks = [math.floor((first + i) * share + phase) for i in range(count + 1)]
        chosen = [i for i in range(count) if share == 1 or marks[i + 1] > marks[i]]
        if not chosen:
            nothing = torch.zeros(weights.shape, device=weights.device)
            return _Baseline(nothing > 0, nothing, None, None), embeddings.sum() * 0.0
        every, length = len(chosen) == count, config.baseline_tokens or self.tokens
        at = torch.empty(0) if every else torch.tensor(chosen, device=weights.device)

        def of_rows(x: Tensor) -> Tensor:
            return x if every else x[at]

        def to_rows(x: Tensor) -> Tensor:
            return x if every else x.new_zeros(count, *x.shape[1:]).index_copy(0, at, x)

        place: Tensor | None = None  # [b, P], the tokens that are read, where that isn't all
        if length < self.tokens:
            place = of_rows(self._plain_places(batch, count, length))

        def some(x: Tensor) -> Tensor:  # [B, T, ...] -> [b, P, ...]
            x = of_rows(x)
            return x if place is None else x.gather(1, _over(place, x))

        def spread(x: Tensor) -> Tensor:  # [b, P, ...] -> [B, T, ...]
            if place is not None:
                x = x.new_zeros(len(x), self.tokens, *x.shape[2:]).scatter(1, _over(place, x), x)
            return to_rows(x)

        recorder: AttentionMass | None = None
        if focused and config.lens.target != "preference":
            blocks = -(-self.tokens // config.block_size)
            asking = config.lens.queries + config.horizon
            recorder = AttentionMass(
                of_rows(ends) - asking, asking, config.block_size, blocks, of_rows(self._limit(ends)), self.gpt.attend
            )
        inputs, targets = some(batch.inputs), some(batch.targets)
        positions: Tensor | None = None
        if config.position_skip:
            position = torch.arange(self.tokens, device=weights.device).expand(count, -1)
            behind = position >= (ends - config.recent_tokens).unsqueeze(1)
            positions = some(position + behind * self._skip(batch, count).unsqueeze(1))
        hidden = self._forward(
            embeddings=some(embeddings),
            value_embeddings=self.gpt.embed_values(inputs),
            positions=positions,
            attend=recorder,
        )
        portion = share * length / self.tokens
        loss, nll = self.gpt.hidden_losses(hidden, targets, some(weights) / (portion * batch.step_targets))
        there = some(weights) > 0
        sums.add("token_loss", (nll * there).sum(), there.sum())
        return (
            _Baseline(
                spread(torch.ones_like(nll)) > 0,
                spread(nll),
                spread(hidden.detach()) if config.distill_weight else None,
                to_rows(recorder.excess()) if recorder else None,
            ),
            loss,
        )

    def _plain_places(self, batch: Batch, count: int, length: int) -> Tensor:
        """`length` tokens of each row that lie together, for the plain pass: int64 [B, P]."""
        device = batch.inputs.device
        rows = batch.first_row + torch.arange(count, device=device)
        first = (self._random(batch.step, _PLAIN, rows) * (self.tokens - length + 1)).long()
        return first.unsqueeze(1) + torch.arange(length, device=device)

    def _variants(
        self,
        batch: Batch,
        levels: list[Tensor],
        shape: CutShape,
        rows: Tensor,
        weights: Tensor,
        ends: Tensor,
        count: int,
        mixed: bool,
        focus: Tensor | None,
        baseline: _Baseline,
        sums: StepMetrics,
    ) -> tuple[_Group, Tensor]:
        """`count` variants of every row, and the mean of their losses."""
        config = self.config
        own = torch.arange(len(rows), device=rows.device).repeat(count)
        variant = torch.arange(count, device=rows.device).repeat_interleave(len(rows)) * 2 + mixed
        spread = None if focus is None else focus.repeat(count, 1)
        with self.timings("build_ms"):
            level, index, chosen_for = self._cuts(batch, shape, rows[own], variant, ends[own], mixed, spread)
            offset: Tensor | None = None
            if config.position_skip:
                recent = torch.arange(shape.length, device=rows.device) >= shape.length - shape.recent_tokens
                offset = self._skip(batch, len(rows))[own].unsqueeze(1) * recent
            contexts = assemble(levels, own, level, index, config.block_size, offset)
        with self.timings("positional_ms"):
            inputs = model_inputs(
                self.gpt, contexts, batch.inputs, self.nets.bias, config.positional, config.token_positions
            )
        with self.timings("variant_ms"):
            hidden = self._forward(**inputs)
        targets = context_targets(contexts, batch.targets)
        raw = level == 0
        scored = weights[own].gather(1, contexts.last) * torch.where(raw, 1.0, config.gist_target_weight)
        if chosen_for is not None:
            # Who chose had seen all of the history: only what comes behind it may be predicted from that.
            behind = torch.arange(shape.length, device=rows.device) >= shape.length - config.horizon
            scored = scored * (behind | ~chosen_for)
        # Each row counts as much as its tokens do in the plain loss, whatever the cut shows of it; but where it shows next to
        # none of the trained ones, those few don't stand for all.
        missing = weights.sum(dim=1)[own] / scored.sum(dim=1).clamp(min=1e-9)
        share = scored * missing.clamp(max=self.tokens / shape.length).unsqueeze(1)
        share = share / (batch.step_targets * config.num_random_variants)
        teachers = baseline.read[own].gather(1, contexts.last)
        known = baseline.nll[own].gather(1, contexts.last)
        if config.key_token_weight:
            with torch.no_grad():
                nll = self.gpt.hidden_losses(hidden, targets, torch.zeros_like(share))[1]
            extra = torch.expm1(nll - known).clamp(0, config.key_token_weight) * (raw & teachers)
            share = share * (1 + extra)
        with self.timings("variant_ms"):
            loss, nll = self.gpt.hidden_losses(hidden, targets, share)

        there = weights[own].gather(1, contexts.last) > 0
        for lod in range(config.max_lod + 1):
            at = there & (level == lod)
            sums.add(f"lod_loss/{lod}", (nll * at).sum(), at.sum())
        sums.add("gist_loss", (nll * (there & ~raw)).sum(), (there & ~raw).sum())
        paired = there & raw & teachers
        gap = torch.where(paired, nll - known, torch.zeros_like(nll))
        sums.add("adv_delta", gap.sum(), paired.sum())
        each, known_rows = gap.sum(dim=1) / paired.sum(dim=1).clamp(min=1), paired.any(dim=1)
        sums.add("adv_delta/p95", *_percentile_95(each, known_rows))
        horizon = slice(-config.horizon, None)
        sums.add("delta_nll", gap[:, horizon].sum(), paired[:, horizon].sum())
        if config.distill_weight and baseline.hidden is not None:
            at = contexts.last[:, horizon].unsqueeze(-1).expand(-1, -1, hidden.size(-1))
            weight = share[:, horizon] * teachers[:, horizon]
            term, each = self.gpt.distillation(hidden[:, horizon], baseline.hidden[own].gather(1, at), weight)
            sums.add("distill_loss", (each * paired[:, horizon]).sum(), paired[:, horizon].sum())
            loss = loss + config.distill_weight * term
        return _Group(contexts, hidden, targets, nll), loss

    def _skip(self, batch: Batch, count: int) -> Tensor:
        """Positions by which the recent tokens of each row move away from the far past, int64 [B]; in every pass alike."""
        rows = batch.first_row + torch.arange(count, device=batch.inputs.device)
        return (self._random(batch.step, _SKIP, rows) * (self.config.position_skip + 1)).long()

    def _rebuild(self, batch: Batch, gists: Tensor, rows: Tensor, weights: Tensor, sums: StepMetrics) -> Tensor:
        """The loss of rebuilding some blocks of every row from their gists [B, n, D]."""
        decoder, count = self.nets.decoder, min(self.config.recon_blocks, gists.size(1))
        assert decoder is not None
        block = torch.arange(gists.size(1), device=rows.device)
        chosen = self._random(batch.step, _REBUILT, rows.unsqueeze(1), block).topk(count, dim=1).indices  # [B, count]
        picked = gists.gather(1, chosen.unsqueeze(-1).expand(-1, -1, gists.size(-1)))
        size = self.config.block_size
        at = (chosen.unsqueeze(-1) * size + torch.arange(size, device=rows.device)).flatten(1)
        wanted = batch.inputs.gather(1, at)  # [B, count * K]
        hidden = decoder(picked.flatten(0, 1)).view(len(rows), -1, gists.size(-1)).to(self.gpt.compute_dtype)
        share = weights.sum(dim=1, keepdim=True) / (batch.step_targets * wanted.size(1))
        loss, nll = self.gpt.hidden_losses(hidden, wanted, share.expand_as(wanted))
        sums.add("recon_loss", nll.sum(), torch.full((), float(nll.numel()), device=nll.device))
        return loss

    # --- focus --------------------------------------------------------------------------------------------------------

    def _limit(self, ends: Tensor) -> Tensor:
        """Blocks before the recent tokens of each row: those that may be gists."""
        return (ends - self.config.recent_tokens) // self.config.block_size

    def _lens(
        self,
        batch: Batch,
        levels: list[Tensor],
        group: _Group,
        shape: CutShape,
        ends: Tensor,
        weights: Tensor,
        baseline: _Baseline,
        coarse: _Group,
        sums: StepMetrics,
    ) -> tuple[Tensor, Tensor]:
        """LensNet's loss on the histories of one variant per row, and its scores of blocks, fp32 [B, blocks]."""
        config, horizon = self.config, self.config.horizon
        at = (ends - horizon).unsqueeze(1) + torch.arange(horizon, device=ends.device)
        later = levels[0].gather(1, at.unsqueeze(-1).expand(-1, -1, levels[0].size(-1)))
        level, index, focus = self._focus(group, shape, ends, later)
        portion = weights.sum(dim=1) / batch.step_targets
        loss = focus.scores.sum() * 0.0
        if baseline.attention is not None:
            suffered = coarse.nll[: len(ends), -horizon:] - baseline.nll.gather(1, at)
            suffered = (suffered.clamp(min=0) + config.lens.key_floor) * weights.gather(1, at)
            # A history shorter than the number of queries has fewer of them.
            queries = focus.questions.size(1)
            wanted = by_node(baseline.attention[:, -queries:], focus, level, index, config.block_size)
            # A token whose prediction isn't trained has learned no question.
            position = ends.unsqueeze(1) - queries + torch.arange(queries, device=ends.device)
            asking = weights.gather(1, position)
            # More queries than recent tokens: what stands there is no token, or another one.
            last = group.contexts.last[: len(ends), : shape.length - horizon][:, -(queries - horizon) :]
            own = (level[:, -(queries - horizon) :] == 0) & (last == position[:, : queries - horizon])
            asking = asking * F.pad(own, (0, horizon), value=True)
            found = attention_losses(focus, wanted, suffered, asking)
            counted = (baseline.read.all(dim=1) & (suffered.sum(dim=1) > 0)).float() * portion / self._plain_share
            loss = loss + ((found.focus + config.lens.question_weight * found.questions) * counted).sum()
            there = (counted > 0).float()
            sums.add("lens_loss", (found.focus * there).sum(), there.sum())
            sums.add("question_loss", (found.questions * there).sum(), there.sum())
            sums.add("lens_gain", ((found.uninformed - found.focus) * there).sum(), (found.uninformed * there).sum())
        loss = loss + self._regularise(batch, group, shape, ends, focus, portion)
        return loss, block_scores(focus, level, index, config.block_size, shape.blocks)

    def _focus(
        self, group: _Group, shape: CutShape, ends: Tensor, later: Tensor | None = None, lens: LensNet | None = None
    ) -> tuple[Tensor, Tensor, Focus]:
        """Levels and indices [B, L - H] of the histories of the first variant of each row, and what LensNet thinks of them."""
        contexts, history = group.contexts, slice(0, shape.length - self.config.horizon)
        level, index = (part[: len(ends), history] for part in (contexts.level, contexts.index))
        editable = contexts.last[: len(ends), history] < (self._limit(ends) * shape.block_size).unsqueeze(1)
        spans = Spans(*(part[: len(ends), history] for part in contexts.spans))
        entries = self._through(contexts.embeddings[: len(ends), history])
        if later is not None:
            later = later.detach().to(self.nets.dtype)
        with self.timings("lens_forward_ms"):
            focus = (lens or self.nets.lensnet)(entries, spans, editable, later, shape.block_size)
        return level, index, focus

    def _through(self, entries: Tensor) -> Tensor:
        """Entries as LensNet reads them: with the share of their gradient that is let through."""
        share = self.config.lens.gist_gradient
        held = entries.detach()
        return (held if not share else held + share * (entries - held)).to(self.nets.dtype)

    def _regularise(
        self, batch: Batch, group: _Group, shape: CutShape, ends: Tensor, focus: Focus, portion: Tensor
    ) -> Tensor:
        """Balance of the budget and nearness to the previous policy, where they have a weight."""
        lens, nets = self.config.lens, self.nets
        loss = torch.zeros((), device=portion.device)
        if lens.budget_weight or lens.budget_smooth_weight:
            balance = budget_balance(focus)
            loss = loss + lens.budget_weight * (portion * balance.square()).sum()
            if lens.budget_smooth_weight and nets.balance is not None:
                count = torch.full_like(balance[0], len(ends))
                smooth = nets.balance(balance.sum(), count, lens.budget_smooth_beta, batch.step, self._all_reduce)
                loss = loss + lens.budget_smooth_weight * (portion * (balance - smooth).square()).sum()
        if lens.kl_weight and nets.former is not None:
            if self._followed != batch.step:
                nets.follow_lens()
                self._followed = batch.step
            with torch.no_grad():
                former = self._focus(group, shape, ends, lens=nets.former)[2]
            loss = loss + lens.kl_weight * (portion * policy_divergence(focus, former)).sum()
        return loss

    def _preferences(
        self, batch: Batch, groups: list[_Group], plan: Plan, ends: Tensor, weights: Tensor, sums: StepMetrics
    ) -> Tensor:
        """Bradley-Terry between the odd variants of each row, by LensNet's scores on the even one."""
        config, rows = self.config, len(ends)
        coarse, mixed = groups
        level, index, focus = self._focus(coarse, plan.coarse, ends)
        blocks, count = plan.coarse.blocks, plan.mixed_variants
        values = block_scores(focus, level, index, config.block_size, blocks)  # [B, blocks]
        raw = mixed.contexts.level == 0
        at = torch.where(raw, mixed.contexts.index // config.block_size, blocks)
        shown = torch.zeros(rows * count, blocks + 1, device=values.device).scatter(1, at, 1.0)[:, :blocks]
        shown = shown * (torch.arange(blocks, device=values.device) < self._limit(ends).repeat(count).unsqueeze(1))
        # As logarithms of shares in units of the mean share: a block more isn't worse by itself. Blocks that don't take part
        # are shown by none of the contexts.
        values = (values + torch.log(focus.there.sum(dim=1, keepdim=True).float())).clamp(min=-50.0)
        utilities = (shown.view(count, rows, blocks) * values).sum(dim=2).t()  # [B, count]
        targets = mixed.targets[:, -config.horizon :] >= 0
        nll = (mixed.nll[:, -config.horizon :] * targets).sum(dim=1) / targets.sum(dim=1).clamp(min=1)
        nll = nll.view(count, rows).t()
        found = preference_losses(utilities, nll, config.lens, self.nets.advantage, batch.step, self._all_reduce)
        one = torch.ones((), device=values.device)
        sums.add("preference_agreement", found.right, found.pairs)
        sums.add("preference_loss", found.loss.sum(), rows * one)
        sums.add("preference_corr", _correlation(utilities, nll), one)
        portion = weights.sum(dim=1) / batch.step_targets
        return (portion * (found.loss + config.lens.rank_weight * found.rank)).sum()


def _over(place: Tensor, x: Tensor) -> Tensor:
    """Places [b, P] as an index of the second dimension of x [b, n, ...]."""
    return place.view(*place.shape, *[1] * (x.dim() - 2)).expand(*place.shape, *x.shape[2:])


def _percentile_95(values: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """The least of the values [R] that 95 % of those in `there` don't exceed, and 1; 0 and 0 where there are none."""
    count = there.sum()
    ordered = values.masked_fill(~there, torch.inf).sort().values
    at = (torch.ceil(0.95 * count).long() - 1).clamp(min=0)
    found = ordered.gather(0, at.unsqueeze(0)).squeeze(0)
    one = (count > 0).to(found.dtype)
    return torch.where(count > 0, found, torch.zeros_like(found)), one


def _correlation(utilities: Tensor, nll: Tensor) -> Tensor:
    """Pearson correlation over all contexts, both centred by row: -1 where higher utility always means lower loss."""
    x = (utilities - utilities.mean(dim=1, keepdim=True)).detach().flatten().double()
    y = (nll - nll.mean(dim=1, keepdim=True)).detach().flatten().double()
    return (x * y).sum() / (x.square().sum() * y.square().sum()).sqrt().clamp(min=1e-12)
