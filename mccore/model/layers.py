"""The layers of the GPT: matrices, attention, MLP, and the block of both.

Shapes: B rows, T entries, D = n_embd, L layers, H query heads, G key/value heads, C channels of a head, R biases of a key.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mccore.config import ModelConfig
from mccore.model.attention import Attend, with_key_bias
from mccore.model.kv_cache import KVCache
from mccore.model.ops.elementwise import relu_squared, rms_norm
from mccore.model.rotary import Rotary, rotate
from mccore.scaling.model import has_value_embedding, layer_windows


class LayerInputs(NamedTuple):
    """What the attention of every layer gets in one pass, beside the entries and their value embeddings."""

    rotary: Rotary
    attend: Attend
    bias: Tensor | None = None  # broadcastable to [B, H, T, cached + T], added to the scores of every layer
    key_bias: Tensor | None = None  # [B, cached + T, R]
    key_bias_weights: Tensor | None = None  # [L, H, R]; with `key_bias`
    layer_bias: Tensor | None = None  # [L, B, H, 1 or T, cached + T]: in place of `bias` and `key_bias`
    cache: KVCache | None = None

    def with_layer_bias(self, dtype: torch.dtype) -> LayerInputs:
        """The same with the biases of keys as scores: for few queries before many keys.

        There a bias costs less than extra channels of all keys. One product serves all layers.
        """
        if self.key_bias is None or self.key_bias_weights is None:
            return self
        scores = torch.einsum("lhr,bkr->lbhk", self.key_bias_weights.float(), self.key_bias.float()).unsqueeze(3)
        scores = (scores if self.bias is None else self.bias + scores).to(dtype)
        return self._replace(layer_bias=scores, bias=None, key_bias=None, key_bias_weights=None)


class Linear(nn.Linear):
    """A matrix without bias, stored in fp32 and applied in the dtype of its input."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Nothing: `GPT.init_weights` sets every weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class Attention(nn.Module):
    """Causal self-attention with rotary positions, QK-norm, grouped keys and values, and gated value embeddings."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.layer = layer
        self.window = layer_windows(config)[layer]
        # The factor on q and on k after their norm goes into the softmax scale: the same scores, one pass less.
        self.scale = config.qk_scale**2 / config.head_dim**0.5
        width, kv_width = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
        self.q = Linear(config.n_embd, width)
        self.k = Linear(config.n_embd, kv_width)
        self.v = Linear(config.n_embd, kv_width)
        self.proj = Linear(width, config.n_embd)
        self.value_gate: Linear | None = None
        if has_value_embedding(config, layer):
            self.value_gate = Linear(config.value_gate_channels, config.n_kv_head)

    def forward(self, x: Tensor, value_embedding: Tensor | None, inputs: LayerInputs) -> Tensor:
        config = self.config
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, config.n_head, config.head_dim)
        k = self.k(x).view(batch, length, config.n_kv_head, config.head_dim)
        v = self.v(x).view(batch, length, config.n_kv_head, config.head_dim)
        if self.value_gate is not None and value_embedding is not None:
            gate = config.value_gate_scale * torch.sigmoid(self.value_gate(x[..., : config.value_gate_channels]))
            v = v + gate.unsqueeze(-1) * value_embedding.view_as(v)
        q = self._placed(q, inputs.rotary).transpose(1, 2)  # [B, H, T, C]
        k = self._placed(k, inputs.rotary).transpose(1, 2)  # [B, G, T, C]
        v = v.transpose(1, 2)
        if inputs.cache is not None:
            k, v = inputs.cache.append(self.layer, k, v)
        bias = inputs.bias if inputs.layer_bias is None else inputs.layer_bias[self.layer]
        if inputs.key_bias is not None and inputs.key_bias_weights is not None:
            q, k, v = with_key_bias(q, k, v, inputs.key_bias, inputs.key_bias_weights[self.layer], self.scale)
        y = inputs.attend(q, k, v, scale=self.scale, window=self.window, bias=bias)[..., : config.head_dim]
        return self.proj(y.transpose(1, 2).reshape(batch, length, -1))

    def _placed(self, x: Tensor, rotary: Rotary) -> Tensor:
        """Queries or keys [B, T, heads, C], normed and turned to their positions.

        The norm comes first: behind the rotation it would undo a damping that comes with the angles. Rounded tables change
        lengths, and models that were trained with them have the norm behind.
        """
        if self.config.rope_dtype == "bfloat16":
            return rms_norm(rotate(x, rotary), self.config.norm_eps)
        return rotate(rms_norm(x, self.config.norm_eps), rotary)


class MLP(nn.Module):
    """Two matrices around a squared ReLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fc = Linear(config.n_embd, config.mlp_ratio * config.n_embd)
        self.proj = Linear(config.mlp_ratio * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(relu_squared(self.fc(x)))


class Block(nn.Module):
    """One layer: attention and MLP, each on the normed residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.eps = config.norm_eps
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, value_embedding: Tensor | None, inputs: LayerInputs) -> Tensor:
        x = x + self.attn(rms_norm(x, self.eps), value_embedding, inputs)
        return x + self.mlp(rms_norm(x, self.eps))
