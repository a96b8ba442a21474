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

REFERENCE_DEPTH = 12  # the depth at which batch and decay were tuned
BATCH_EXPONENT = 0.383  # growth of the best batch with the horizon
VOCAB_MULTIPLE = 64  # embedding rows per tile of the matrix units
TRAIN_WC_SHARE = 0.2  # entries of a training Working Context at the end / tokens of the sequence
WINDOW_MULTIPLE = 128  # entries per tile of the attention kernels

TrainT = TypeVar("TrainT", bound=TrainConfig)


# --- the model ---------------------------------------------------------------------------------------------------------


def derive_model(model: ModelConfig, tokenizer_ids: int = 0) -> ModelConfig:
    """`model` with every 0 filled; `tokenizer_ids` is the tokenizer's size, for a vocabulary left at 0.

    Raises ConfigError for shapes that can't be built.
    """
    if model.depth < 1:
        raise ConfigError(f"model.depth must be at least 1, not {model.depth}", hint="set model.depth=4 or more")
    width = model.n_embd or _round_up(model.depth * model.aspect_ratio, model.head_dim)
    if not model.n_head and width % model.head_dim:
        raise ConfigError(
            f"model.n_embd={width} is no multiple of model.head_dim={model.head_dim}",
            hint=f"set model.n_embd={_round_up(width, model.head_dim)}, or choose a head_dim that divides it",
        )
    n_head = model.n_head or width // model.head_dim
    if n_head * model.head_dim != width:
        raise ConfigError(
            f"model.n_head={n_head} heads of model.head_dim={model.head_dim} are not model.n_embd={width} wide",
            hint="leave model.n_head at 0 to derive it",
        )
    n_kv_head = model.n_kv_head or n_head
    if n_head % n_kv_head:
        raise ConfigError(
            f"model.n_head={n_head} is no multiple of model.n_kv_head={n_kv_head}",
            hint="choose a divisor of the heads, or leave model.n_kv_head at 0",
        )
    vocab_ids = model.vocab_ids or tokenizer_ids or model.vocab_size
    vocab_size = model.vocab_size or _round_up(vocab_ids, VOCAB_MULTIPLE)
    if vocab_size < 1 or vocab_size < max(vocab_ids, tokenizer_ids):
        raise ConfigError(
            f"model.vocab_size={vocab_size} has no room for {max(vocab_ids, tokenizer_ids)} ids",
            hint="leave model.vocab_size at 0 to derive it from the tokenizer",
        )
    window = model.window_short or min(model.max_seq_len, _round_up(math.ceil(model.max_seq_len / 4), WINDOW_MULTIPLE))
    for name, gate in (("value_gate_channels", model.value_embeddings), ("smear_gate_channels", model.smear)):
        if gate and getattr(model, name) > width:
            raise ConfigError(
                f"model.{name}={getattr(model, name)} exceeds the width {width}",
                hint=f"set model.{name} to {width} or less",
            )
    return model.model_copy(
        update={
            "n_embd": width,
            "n_head": n_head,
            "n_kv_head": n_kv_head,
            "vocab_size": vocab_size,
            "vocab_ids": vocab_ids,
            "window_short": window,
        }
    )


def has_value_embedding(model: ModelConfig, layer: int) -> bool:
    """Whether `layer` adds a value embedding: every second one, counted from the last."""
    return model.value_embeddings and (model.depth - 1 - layer) % 2 == 0


def layer_windows(model: ModelConfig) -> tuple[int, ...]:
    """The attention span of each layer in entries, 0 for full. The last layer is always full."""
    pattern = [model.window_pattern[layer % len(model.window_pattern)] for layer in range(model.depth)]
    pattern[-1] = "L"
    return tuple(model.window_short if kind == "S" else 0 for kind in pattern)


@dataclass(frozen=True)
class ParameterCount:
    """Parameters by part."""

    embedding: int
    value_embeddings: int
    matrices: int  # of the blocks, gates of value embeddings included
    head: int
    scalars: int  # residual, x0, smear and backout

    @property
    def total(self) -> int:
        return self.embedding + self.value_embeddings + self.matrices + self.head + self.scalars

    @property
    def scaling(self) -> int:
        """The count that horizons are measured in."""
        return self.matrices + self.head


def count_parameters(model: ModelConfig) -> ParameterCount:
    """Parameters of the GPT that `model` describes (derived or not, vocab_size given)."""
    model = derive_model(model)
    width, kv_width = model.n_embd, model.n_kv_head * model.head_dim
    gated = sum(has_value_embedding(model, layer) for layer in range(model.depth))
    block = 2 * width * width + 2 * width * kv_width + 2 * model.mlp_ratio * width * width
    return ParameterCount(
        embedding=model.vocab_size * width,
        value_embeddings=gated * model.vocab_size * kv_width,
        matrices=model.depth * block + gated * model.value_gate_channels * model.n_kv_head,
        head=model.vocab_size * width,
        scalars=2 * model.depth * model.residual_scalars
        + (model.smear_gate_channels + 1) * model.smear
        + int(model.backout),
    )


def flops_per_token(model: ModelConfig) -> int:
    """Floating-point operations of training on one token, forward and backward.

    6 per parameter of a matrix product plus 12 * width * span per layer of attention; the causal half isn't discounted.
    """
    model = derive_model(model)
    count = count_parameters(model)
    products = count.scaling + (model.smear_gate_channels if model.smear else 0)
    spans = sum(min(window or model.max_seq_len, model.max_seq_len) for window in layer_windows(model))
    return 6 * products + 12 * model.n_head * model.head_dim * spans


def kv_bytes_per_token(model: ModelConfig, bytes_per_number: int = 2) -> int:
    """Memory that one cached token costs over all layers."""
    model = derive_model(model)
    return 2 * model.depth * model.n_kv_head * model.head_dim * bytes_per_number


# --- the run -----------------------------------------------------------------------------------------------------------


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
    megacontext = config.megacontext.model_copy(
        update={
            "train_wc_length": config.megacontext.train_wc_length or math.ceil(TRAIN_WC_SHARE * model.max_seq_len),
            "wc_length": config.megacontext.wc_length or model.max_seq_len,
            "recent_tokens": config.megacontext.recent_tokens
            or config.megacontext.horizon + config.megacontext.block_size,
        }
    )
    derived = config.model_copy(update={"model": model, "optim": optim, "megacontext": megacontext})
    base = config.base.model_copy(update={"tokens": tokens, "batch_tokens": batch})
    return derived.model_copy(
        update={
            "base": _derive_rows(base, "base", derived),
            "mid": _derive_rows(config.mid, "mid", derived, batch),
            "sft": _derive_rows(config.sft, "sft", derived, batch),
        }
    )


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


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
    """`stage` with its batch (the base stage's) and rows per forward pass filled, both checked."""
    row = _row_tokens(config, config.model)
    batch = stage.batch_tokens or base_batch
    world = config.hardware.nproc * config.hardware.nnodes
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
        flops=steps * section.batch_tokens * flops_per_token(config.model),
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
    activations = int(tokens * model.n_embd * (model.depth * widths + beside) * activation_bytes)
    return MemoryEstimate(
        weights=4 * count.total,
        gradients=4 * count.total,
        optimizer=4 * (2 * adam + count.matrices),
        activations=activations,
    )
