"""The depth dial: from a configuration with holes to one where width, heads, horizon, batch and rates are all numbers.

Pure arithmetic, no tensors. The rules are those of nanochat (state of July 2026):
horizon D = ratio * (block matrices + head); batch = 2^round(log2(B0 * (D / D12)^0.383)) (arXiv 2505.13738); all rates by
sqrt(batch / B0), AdamW rates also by sqrt(768 / width); decay by sqrt(batch / B0) * D12 / D, which keeps the time scale
batch / (rate * decay * D) constant (arXiv 2405.13698). D12 is the horizon of the same configuration at depth 12.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

from mccore.config import TRAINING_STAGES, ModelConfig, RunConfig, StageName, TrainConfig
from mccore.errors import ConfigError
from mccore.scaling_megacontext import (
    MegaContextFlops,
    MegaContextParameters,
    VariantLengths,
    context_activations,
    expanded_context,
    megacontext_flops,
    megacontext_flops_per_token,
    megacontext_parameters,
    megacontext_step_flops,
    shortest_context,
    variant_lengths,
)
from mccore.scaling_model import (
    ParameterCount,
    count_parameters,
    derive_model,
    flops_per_token,
    has_value_embedding,
    kv_bytes_per_token,
    layer_windows,
)

__all__ = [
    "MegaContextFlops", "MegaContextParameters", "MemoryEstimate", "ParameterCount", "TrainPlan", "VariantLengths",
    "count_parameters", "derive", "derive_model", "flops_per_token", "has_value_embedding", "kv_bytes_per_token",
    "layer_windows", "megacontext_flops", "megacontext_flops_per_token", "megacontext_parameters",
    "megacontext_step_flops", "memory_estimate", "shortest_context", "stage_config", "train_plan", "training_flops",
    "training_flops_per_token", "variant_lengths",
]  # fmt: skip

REFERENCE_DEPTH = 12  # the depth at which batch and decay were tuned
BATCH_EXPONENT = 0.383  # growth of the best batch with the horizon
TRAIN_WC_SHARE = 0.2  # entries of a training Working Context at the end / tokens of the sequence

TrainT = TypeVar("TrainT", bound=TrainConfig)


def derive(config: RunConfig) -> RunConfig:
    """`config` with every number at 0 whose description says "0 derives it" filled; explicit values stay.

    `derive(derive(c)) == derive(c)`. Tokens of mid and sft stay 0: one epoch of their data. Raises ConfigError, naming
    the value to change, for shapes and batches that don't fit each other.
    """
    model = derive_model(config.model, config.tokenizer.vocab_size)
    reference_horizon = config.base.token_ratio * count_parameters(_at_reference_depth(model)).scaling
    tokens = config.base.tokens or int(config.base.token_ratio * count_parameters(model).scaling)
    batch = config.base.batch_tokens or _derive_batch(config, model, tokens / reference_horizon)
    optim = config.optim
    batch_scale = math.sqrt(batch / optim.reference_batch)
    optim = optim.model_copy(
        update={
            "lr_batch_scale": optim.lr_batch_scale or batch_scale,
            "lr_width_scale": optim.lr_width_scale or math.sqrt(optim.reference_width / model.n_embd),
            "weight_decay_scale": optim.weight_decay_scale or batch_scale * reference_horizon / tokens,
        }
    )
    wc_length = config.megacontext.wc_length or model.max_seq_len
    megacontext = config.megacontext.model_copy(
        update={
            "wc_length": wc_length,
            "gist_mass": config.megacontext.gist_mass or wc_length,
            "recent_tokens": config.megacontext.recent_tokens
            or config.megacontext.horizon + config.megacontext.block_size,
        }
    )
    derived = config.model_copy(update={"model": model, "optim": optim, "megacontext": megacontext})
    if not megacontext.train_wc_length:
        start = math.ceil(megacontext.start_wc_fraction * model.max_seq_len)
        length = max(math.ceil(TRAIN_WC_SHARE * model.max_seq_len), min(expanded_context(derived), start))
        megacontext = megacontext.model_copy(update={"train_wc_length": length})
        derived = derived.model_copy(update={"megacontext": megacontext})
    if megacontext.enabled:
        _check_contexts(derived)
    base = config.base.model_copy(update={"tokens": tokens, "batch_tokens": batch})
    return derived.model_copy(
        update={
            "base": _derive_rows(base, "base", derived),
            "mid": _derive_rows(config.mid, "mid", derived, batch),
            "sft": _derive_rows(config.sft, "sft", derived, batch),
        }
    )


def _check_contexts(config: RunConfig) -> None:
    """Raise ConfigError for sizes of which no training context can be made."""
    mc, tokens = config.megacontext, config.model.max_seq_len
    if mc.block_size > tokens:
        raise ConfigError(
            f"megacontext.block_size={mc.block_size} exceeds model.max_seq_len={tokens}: no gist would ever be made",
            hint=f"set megacontext.block_size to {tokens // 8} or less, or train on longer sequences",
        )
    if tokens - mc.recent_tokens < mc.block_size:
        raise ConfigError(
            f"megacontext.recent_tokens={mc.recent_tokens} of model.max_seq_len={tokens} leave no block of "
            f"megacontext.block_size={mc.block_size} for a gist to stand for",
            hint="lower megacontext.horizon (recent_tokens is horizon + block_size where it isn't set) or "
            "megacontext.block_size, or raise model.max_seq_len",
        )
    if mc.baseline_tokens > tokens:
        raise ConfigError(
            f"megacontext.baseline_tokens={mc.baseline_tokens} exceeds model.max_seq_len={tokens}",
            hint="lower it, or set 0 to read all of a sequence",
        )
    start = math.ceil(mc.start_wc_fraction * tokens)
    if mc.train_wc_length > start:
        raise ConfigError(
            f"megacontext.train_wc_length={mc.train_wc_length} exceeds the {start} entries that training contexts start "
            f"with: megacontext.start_wc_fraction={mc.start_wc_fraction:g} of {tokens} tokens",
            hint="lengths shrink from the first to the second: raise start_wc_fraction, or lower train_wc_length",
        )
    last = variant_lengths(config)[-1]
    if mc.num_random_variants and last.mixed - last.coarse < mc.expanded_blocks * (mc.block_size - 1):
        raise ConfigError(
            f"megacontext.expanded_blocks={mc.expanded_blocks} blocks of {mc.block_size} tokens don't fit the {last.mixed} "
            f"entries that training contexts of {tokens} tokens end with: without them they have {last.coarse}",
            hint=f"set megacontext.train_wc_length={expanded_context(config)} or more, or expand fewer blocks",
        )


def _at_reference_depth(model: ModelConfig) -> ModelConfig:
    """The same configuration at the depth where batch and decay were tuned, its width derived."""
    return model.model_copy(update={"depth": REFERENCE_DEPTH, "n_embd": 0, "n_head": 0, "n_kv_head": 0})


def _row_tokens(config: RunConfig, model: ModelConfig) -> int:
    """Tokens that all ranks read together when each reads one sequence."""
    return model.max_seq_len * config.hardware.nproc * config.hardware.nnodes


def _derive_batch(config: RunConfig, model: ModelConfig, horizon: float) -> int:
    """Tokens per step for a horizon in units of the reference horizon: a power of 2, made whole rows on all ranks."""
    ideal = config.optim.reference_batch * horizon**BATCH_EXPONENT
    power = 1 << max(0, round(math.log2(ideal)))
    row = _row_tokens(config, model)
    return max(1, round(power / row)) * row


def _derive_rows(stage: TrainT, name: str, config: RunConfig, base_batch: int = 0) -> TrainT:
    """`stage` with its batch (the base stage's) and rows per forward pass filled, both checked where the stage is run: what a
    recipe says of another one can't contradict anything."""
    row = _row_tokens(config, config.model)
    batch = stage.batch_tokens or base_batch
    world = config.hardware.nproc * config.hardware.nnodes
    if name not in config.stages:
        batch = max(1, round(batch / row)) * row
        stage = stage.model_copy(update={"micro_batch_rows": 0})
    if batch % row:
        nearest = max(1, round(batch / row)) * row
        raise ConfigError(
            f"{name}.batch_tokens={batch} is no multiple of model.max_seq_len={config.model.max_seq_len} x {world} ranks",
            hint=f"set {name}.batch_tokens={nearest}, or another multiple of {row}",
        )
    rows = batch // row  # sequences per rank and step
    micro = stage.micro_batch_rows or _largest_divisor(rows, _max_micro_rows(config.model))
    if rows % micro:
        raise ConfigError(
            f"{name}.micro_batch_rows={micro} doesn't divide the {rows} sequences that {name}.batch_tokens={batch} gives "
            f"each of {world} ranks",
            hint=f"set {name}.micro_batch_rows={_largest_divisor(rows, micro)}, or a {name}.batch_tokens that is a "
            f"multiple of {micro * row}",
        )
    return stage.model_copy(update={"batch_tokens": batch, "micro_batch_rows": micro})


def _max_micro_rows(model: ModelConfig) -> int:
    """Sequences of one forward pass that fit: 65,536 tokens up to width 1,280 in 80 GB, fewer for wider models.

    Below width 512, where runs are often on a CPU or a small GPU, 16,384 tokens already fill the machine.
    """
    if model.n_embd < 512:
        tokens = 16_384
    elif model.n_embd <= 1280:
        tokens = 65_536
    else:
        tokens = 32_768 if model.n_embd <= 1664 else 16_384
    return max(1, tokens // model.max_seq_len)


def _largest_divisor(value: int, limit: int) -> int:
    """The largest divisor of `value` that is at most `limit`."""
    return next(divisor for divisor in range(min(value, limit), 0, -1) if value % divisor == 0)


def training_flops(config: RunConfig, steps: int, step_tokens: int) -> list[float]:
    """FLOPs of a derived configuration's training before each of `steps` steps of so many tokens, and after the last: steps
    with MegaContext differ in what they cost."""
    if not config.megacontext.enabled:
        return [step * step_tokens * float(flops_per_token(config.model)) for step in range(steps + 1)]
    mc, kinds = config.megacontext, dict[tuple[int, bool, bool], int]()
    found, total = [0.0], 0.0
    for step in range(steps):
        # What the cost of a step depends on.
        kind = (math.floor(step / steps * mc.wc_length_steps), step / steps >= mc.lens.start, bool(step % 2))
        if kind not in kinds:
            kinds[kind] = megacontext_step_flops(config, step, step / steps).total
        total += kinds[kind] * step_tokens
        found.append(total)
    return found


def training_flops_per_token(config: RunConfig) -> int:
    """Floating-point operations of training on one token, with MegaContext where a derived configuration enables it."""
    return megacontext_flops_per_token(config) if config.megacontext.enabled else flops_per_token(config.model)


@dataclass(frozen=True)
class TrainPlan:
    """What one training stage will do. `tokens` and `steps` are 0 while the size of the data isn't known."""

    stage: StageName
    tokens: int  # steps * batch_tokens
    steps: int
    batch_tokens: int  # per optimizer step, over all ranks
    rows: int  # sequences per optimizer step, over all ranks
    micro_batch_rows: int  # sequences of one forward pass per rank
    accumulation: int  # forward passes per rank and optimizer step
    flops: int  # of the whole stage, over all ranks


def train_plan(config: RunConfig, stage: StageName, tokens: int = 0) -> TrainPlan:
    """The plan of a training stage of a derived configuration; `tokens` is the horizon where the data decides it.

    Steps are whole batches within the horizon, at least one. Raises ConfigError for a configuration that isn't derived.
    """
    section = stage_config(config, stage)
    if not section.batch_tokens or not section.micro_batch_rows:
        raise ConfigError(f"{stage}.batch_tokens is still 0", hint="derive the configuration first")
    horizon = section.tokens or tokens
    steps = max(1, horizon // section.batch_tokens) if horizon else 0
    rows = section.batch_tokens // config.model.max_seq_len
    ranks = config.hardware.nproc * config.hardware.nnodes
    return TrainPlan(
        stage=stage,
        tokens=steps * section.batch_tokens,
        steps=steps,
        batch_tokens=section.batch_tokens,
        rows=rows,
        micro_batch_rows=section.micro_batch_rows,
        accumulation=rows // (ranks * section.micro_batch_rows),
        flops=steps * section.batch_tokens * training_flops_per_token(config),
    )


def stage_config(config: RunConfig, stage: StageName) -> TrainConfig:
    """The section of a training stage. Raises ConfigError for another stage."""
    if stage not in TRAINING_STAGES:
        raise ConfigError(f"{stage} is not a training stage", hint=f"training stages are {', '.join(TRAINING_STAGES)}")
    section: TrainConfig = getattr(config, stage)
    return section


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that training takes per rank, without what the framework itself holds."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def memory_estimate(config: RunConfig, stage: StageName = "base", *, activation_bytes: int = 4) -> MemoryEstimate:
    """A rough estimate for a derived configuration; `activation_bytes` is 4 for fp32, 2 for bf16.

    Weights and gradients are fp32. AdamW keeps two numbers per parameter, Muon one and a variance per row. Activations
    are what backward needs of one forward pass, counted in widths per token and layer.
    """
    model = derive_model(config.model)
    count = count_parameters(model)
    adam = count.total - count.matrices
    tokens = stage_config(config, stage).micro_batch_rows * model.max_seq_len
    kv_share = model.n_kv_head / model.n_head
    gated = sum(has_value_embedding(model, layer) for layer in range(model.depth)) / model.depth
    # Per layer: the residual, two norms, attention's output and its copy; q and k after norm and after rotation; v, twice
    # where a value embedding is added; the MLP's ReLU and its square. Beside the layers: embeddings, middle and final
    # states, and the gradients of one MLP in flight.
    widths = 5 + 2 * (1 + kv_share) + (1 + gated) * kv_share + 2 * model.mlp_ratio
    beside = 6 + 2 * model.mlp_ratio
    entries, rest = 1.0, 0.0
    extra = adam_extra = 0
    if config.megacontext.enabled:
        entries, rest = context_activations(config)
        parameters = megacontext_parameters(config)
        extra, adam_extra = parameters.total, parameters.lensnet + parameters.bias
    activations = tokens * model.n_embd * (entries * (model.depth * widths + beside) + rest) * activation_bytes
    return MemoryEstimate(
        weights=4 * (count.total + extra),
        gradients=4 * (count.total + extra),
        optimizer=4 * (2 * adam + count.matrices + adam_extra + extra),
        activations=int(activations),
    )
