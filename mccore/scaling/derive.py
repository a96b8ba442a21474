"""The depth dial: from a configuration with holes to one where width, heads, horizon, batch and rates are all numbers.

Pure arithmetic, no tensors. The rules are those of nanochat (state of July 2026):
horizon D = ratio * (block matrices + head); batch = 2^round(log2(B0 * (D / D12)^0.383)) (arXiv 2505.13738); all rates by
sqrt(batch / B0), AdamW rates also by sqrt(768 / width); decay by sqrt(batch / B0) * D12 / D, which keeps the time scale
batch / (rate * decay * D) constant (arXiv 2405.13698). D12 is the horizon of the same configuration at depth 12.
"""

from __future__ import annotations

import math
from typing import TypeVar

from mccore.config import ModelConfig, RLConfig, RunConfig, TrainConfig
from mccore.config.stages import ENCODED_STAGES, TEXT_STAGE, TRAINING_STAGES
from mccore.config.training import EncodedTrainConfig
from mccore.errors import ConfigError
from mccore.scaling.megacontext import (
    expanded_context,
    variant_lengths,
)
from mccore.scaling.model import (
    count_parameters,
    derive_model,
)

REFERENCE_DEPTH = 12  # the depth at which batch and decay were tuned

BATCH_EXPONENT = 0.383  # growth of the best batch with the horizon

TRAIN_WC_SHARE = 0.2  # entries of a training Working Context at the end / tokens of the sequence

TrainT = TypeVar("TrainT", bound=EncodedTrainConfig)


def derive(config: RunConfig) -> RunConfig:
    """`config` with every None filled; explicit values stay.

    `derive(derive(c)) == derive(c)`. Tokens of mid and sft stay None: one epoch of their data. Raises ConfigError, naming
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
            TEXT_STAGE: _derive_rows(base, TEXT_STAGE, derived),
            **{
                stage: _derive_rows(getattr(config, stage), stage, derived, batch)
                for stage in ENCODED_STAGES
                if stage != TEXT_STAGE
            },
            **{
                stage: _derive_replies(getattr(config, stage), stage, derived)
                for stage in TRAINING_STAGES
                if stage not in ENCODED_STAGES
            },
        }
    )


def with_rows_at_most(config: RunConfig, rows: int) -> RunConfig:
    """A derived configuration with up to `rows` sequences per forward pass and rank in every stage it trains: the most that
    divide the batch of the stage, which stays what it is."""
    changed: dict[str, TrainConfig] = {}
    ranks = config.hardware.nproc * config.hardware.nnodes
    for stage in TRAINING_STAGES:
        section: TrainConfig = getattr(config, stage)
        if stage not in config.stages:
            continue
        if isinstance(section, EncodedTrainConfig):
            fitting = _largest_divisor(section.batch_tokens // config.model.max_seq_len // ranks, rows)
        else:
            fitting = min(rows, section.micro_batch_rows)
        changed[stage] = section.model_copy(update={"micro_batch_rows": fitting})
    return config.model_copy(update=changed)


def _check_contexts(config: RunConfig) -> None:
    """Raise ConfigError for sizes of which no training context can be made."""
    mc, tokens = config.megacontext, config.model.max_seq_len
    if config.model.rope_dtype != "float32":
        raise ConfigError(
            f"model.rope_dtype={config.model.rope_dtype} has no place for gists: its norm comes behind the rotation",
            hint="set model.rope_dtype=float32, or train without --mc",
        )
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
    if mc.num_random_variants and last.expanded - last.gist_only < mc.expanded_blocks * (mc.block_size - 1):
        raise ConfigError(
            f"megacontext.expanded_blocks={mc.expanded_blocks} blocks of {mc.block_size} tokens don't fit the {last.expanded} "
            f"entries that training contexts of {tokens} tokens end with: without them they have {last.gist_only}",
            hint=f"set megacontext.train_wc_length={expanded_context(config)} or more, or expand fewer blocks",
        )


def _at_reference_depth(model: ModelConfig) -> ModelConfig:
    """The same configuration at the depth where batch and decay were tuned, its width derived."""
    return model.model_copy(update={"depth": REFERENCE_DEPTH, "n_embd": None, "n_head": None, "n_kv_head": None})


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
        stage = stage.model_copy(update={"micro_batch_rows": None})
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


def _derive_replies(stage: RLConfig, name: str, config: RunConfig) -> RLConfig:
    """`stage` with the replies of a forward pass filled, checked where the stage is run."""
    world = config.hardware.nproc * config.hardware.nnodes
    if name in config.stages:
        if not any(each in config.stages for each in ENCODED_STAGES):
            raise ConfigError(
                f"{name} needs a model that answers, and this run trains none before it",
                hint=f"add one of {', '.join(ENCODED_STAGES)} to its stages",
            )
        if stage.questions % world:
            raise ConfigError(
                f"{name}.questions={stage.questions} don't divide among {world} ranks",
                hint=f"set {name}.questions={max(1, round(stage.questions / world)) * world}",
            )
        if stage.top_k == 1:
            raise ConfigError(
                f"{name}.top_k=1 draws the same reply every time, and there is nothing to learn from equal replies",
                hint=f"set {name}.top_k=50, or 0 for all tokens",
            )
        if stage.max_new_tokens >= config.model.max_seq_len:
            raise ConfigError(
                f"{name}.max_new_tokens={stage.max_new_tokens} leave no room for a question in model.max_seq_len="
                f"{config.model.max_seq_len}",
                hint=f"set {name}.max_new_tokens={config.model.max_seq_len // 2}",
            )
    replies = max(1, stage.questions // world) * stage.samples
    micro = stage.micro_batch_rows or min(replies, _max_micro_rows(config.model))
    return stage.model_copy(update={"micro_batch_rows": micro})


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
