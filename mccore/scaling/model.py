"""Shapes, parameters and cost of the GPT that a configuration describes. Pure arithmetic, no tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mccore.config import ModelConfig
from mccore.config.section import MAX_WIDTH
from mccore.errors import ConfigError

VOCAB_MULTIPLE = 64  # embedding rows per tile of the matrix units
WINDOW_MULTIPLE = 128  # entries per tile of the attention kernels


def derive_model(model: ModelConfig, tokenizer_ids: int = 0) -> ModelConfig:
    """`model` with every None filled; `tokenizer_ids` is the tokenizer's size, for a vocabulary that isn't set.

    Raises ConfigError for shapes that can't be built.
    """
    if model.depth < 1:
        raise ConfigError(f"model.depth must be at least 1, not {model.depth}", hint="set model.depth=4 or more")
    width = model.n_embd or round_up(model.depth * model.aspect_ratio, model.head_dim)
    if width > MAX_WIDTH:
        raise ConfigError(
            f"model.depth={model.depth} x model.aspect_ratio={model.aspect_ratio} is a width of {width:,}",
            hint=f"set model.n_embd; {MAX_WIDTH:,} is the most",
        )
    if not model.n_head and width % model.head_dim:
        raise ConfigError(
            f"model.n_embd={width} is no multiple of model.head_dim={model.head_dim}",
            hint=f"set model.n_embd={round_up(width, model.head_dim)}, or choose a head_dim that divides it",
        )
    n_head = model.n_head or width // model.head_dim
    if n_head * model.head_dim != width:
        raise ConfigError(
            f"model.n_head={n_head} heads of model.head_dim={model.head_dim} are not model.n_embd={width} wide",
            hint="leave model.n_head out to derive it",
        )
    n_kv_head = model.n_kv_head or n_head
    if n_head % n_kv_head:
        raise ConfigError(
            f"model.n_head={n_head} is no multiple of model.n_kv_head={n_kv_head}",
            hint="choose a divisor of the heads, or leave model.n_kv_head out",
        )
    vocab_ids = model.vocab_ids or tokenizer_ids or model.vocab_size or 0
    vocab_size = model.vocab_size or round_up(vocab_ids, VOCAB_MULTIPLE)
    if vocab_size < 1 or vocab_size < max(vocab_ids, tokenizer_ids):
        raise ConfigError(
            f"model.vocab_size={vocab_size} has no room for {max(vocab_ids, tokenizer_ids)} ids",
            hint="leave model.vocab_size out to derive it from the tokenizer",
        )
    window = model.window_short or min(model.max_seq_len, round_up(math.ceil(model.max_seq_len / 4), WINDOW_MULTIPLE))
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


def round_up(value: int, multiple: int) -> int:
    """The next multiple that isn't below `value`."""
    return -(-value // multiple) * multiple
