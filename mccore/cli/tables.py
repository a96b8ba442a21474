"""What a run will cost, before it starts: parameters, tokens, FLOPs, steps, time and memory on this machine."""

from __future__ import annotations

from mccore.config import RunConfig, stage_spec
from mccore.scaling.estimate import Estimate, MegaContextCost
from mccore.units import count, duration, size


def describe(config: RunConfig, cost: Estimate) -> list[str]:
    """The plan of a run in lines: what it will do, what it costs, what was derived."""
    model, optim = config.model, config.optim
    lines = [
        f"recipe      {config.recipe or '-'}: {' > '.join(config.stages)}",
        f"model       depth {model.depth}, width {model.n_embd}, {model.n_head} heads ({model.n_kv_head} kv), "
        f"sequence {model.max_seq_len:,}, vocabulary {model.vocab_size:,}",
        f"parameters  {count(cost.parameters.total)} ({count(cost.parameters.matrices)} in matrices, "
        f"{count(cost.parameters.embedding + cost.parameters.value_embeddings)} in embeddings, "
        f"{count(cost.parameters.head)} in the head)",
        f"rates       x{optim.lr_batch_scale:.3g} for the batch, x{optim.lr_width_scale:.3g} for the width, "
        f"decay x{optim.weight_decay_scale:.3g}",
    ]
    if cost.megacontext is not None:
        lines += _describe_megacontext(config, cost.megacontext, cost.flops_per_token)
    for plan in cost.plans:
        replies = stage_spec(plan.stage).rollouts
        rows, most = ("replies", "up to ") if replies else ("rows", "")
        shape = f"batch {most}{count(plan.batch_tokens)} tokens = {plan.rows} {rows} in {plan.accumulation} passes"
        seconds = cost.seconds[plan.stage]
        if plan.steps and seconds is not None:
            lines.append(
                f"{plan.stage:<12}{plan.steps:,} steps, {most}{count(plan.tokens)} tokens, {plan.flops:.2e} FLOPs, "
                f"{shape}, {'at most' if replies else 'about'} {duration(seconds)}"
            )
        else:
            lines.append(f"{plan.stage:<12}one epoch of its conversations, {shape}")
    lines.append(f"device      {cost.devices} x {cost.device}, {cost.dtype}; {cost.speed.source}")
    lines.append(
        f"memory      about {size(cost.memory_bytes)} per rank; the device has {size(cost.device_memory_bytes)}"
    )
    if cost.plans:
        lines.append(f"time        about {duration(cost.total_seconds)} of training, evaluation and data not counted")
    if cost.memory_bytes > cost.device_memory_bytes > 0:
        lines.append(
            "warning     that is more memory than the device has: lower the micro_batch_rows, or use another --gpu"
        )
    return lines


def _describe_megacontext(config: RunConfig, cost: MegaContextCost, plain: int) -> list[str]:
    """What was derived for MegaContext, and what it costs beside the plain model."""
    mc, tokens = config.megacontext, config.model.max_seq_len
    flops, added = cost.flops, cost.parameters
    expanded, gist_only = mc.num_random_variants // 2, mc.num_random_variants - mc.num_random_variants // 2
    parts = [
        f"{name} {count(value)}"
        for name, value in (("GistNet", added.gistnet), ("LensNet", added.lensnet), ("bias", added.bias),
                            ("decoder", added.decoder))
        if value
    ]  # fmt: skip
    if mc.num_random_variants == 1:
        kinds = "1, in turns with and without expanded blocks"
    else:
        kinds = f"{gist_only} gist-only, {expanded} with {mc.expanded_blocks} blocks expanded"
    lines = [
        f"megacontext blocks of {mc.block_size}, up to LOD{mc.max_lod}; {count(added.total)} parameters more: "
        f"{', '.join(parts)}",
        f"variants    per sequence of {tokens:,} tokens: {kinds}",
    ]
    if mc.num_random_variants:
        lengths = list(dict.fromkeys(cost.lengths))
        lines.append(
            f"            entries {' > '.join(f'{part.gist_only}/{part.expanded}' for part in lengths)} through a stage; the "
            f"last {mc.recent_tokens} tokens stay tokens, {mc.horizon} of them judge"
        )
        last, wanted = cost.lengths[-1], mc.train_wc_length
        if last.expanded - wanted >= mc.block_size:
            lines.append(
                f"            no context of {wanted} entries exists: blocks of {mc.block_size} before {mc.recent_tokens} recent "
                f"tokens leave {last.expanded} at least"
            )
    shares = [
        f"{name} {part / flops.total:.0%}"
        for name, part in (("plain", flops.plain), ("variants", flops.variants), ("GistNet", flops.gistnet),
                           ("LensNet", flops.lensnet), ("rebuilding", flops.reconstruction))
        if part
    ]  # fmt: skip
    lines.append(
        f"operations  {count(flops.total)} FLOPs per token, {flops.total / plain:.2f} times the plain model's {count(plain)}: "
        f"{', '.join(shares)}"
    )
    return lines
