"""One more entry of every row behind a cache, on a CPU: what `GPT.hidden` computes, in as few operations as it takes.

A small model spends the time of such a pass on calling operations, not on their arithmetic. So rows are vectors [B, D], not
sequences of length one; q and k go through norm and rotation together; learned numbers are factors, not tensors; a residual is
added by the product that comes before it. Without gradients, in fp32. The same sums in another order: equal to `GPT.hidden`
up to the last digits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mccore.config import ModelConfig
from mccore.model.layers import Block, LayerInputs


class LayerWeights(NamedTuple):
    """The weights of one layer, and what its attention goes by."""

    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor | None
    known: Tensor | None  # value embeddings
    attention: Tensor
    inner: Tensor
    outer: Tensor
    scale: float
    window: int


class StepWeights(NamedTuple):
    """The weights of a model, each None where it has none. They are the model's own, not copies: training changes them."""

    config: ModelConfig
    embedding: Tensor
    layers: list[LayerWeights]
    residual_scale: Tensor | None
    x0_scale: Tensor | None
    smear_gate: Tensor | None
    smear_scale: Tensor | None
    backout_scale: Tensor | None


def layer_weights(block: Block, known: Tensor | None) -> LayerWeights:
    """The weights of a layer; known: its value embeddings."""
    attention, mlp = block.attn, block.mlp
    gate = None if attention.value_gate is None else attention.value_gate.weight
    read = (attention.q.weight, attention.k.weight, attention.v.weight, gate, known, attention.proj.weight)
    return LayerWeights(*read, mlp.fc.weight, mlp.proj.weight, attention.scale, attention.window)


class OneStep:
    """A pass of one token for every row of a cache that holds something.

    inputs: as the layers take them; biases of keys are in `layer_bias`.
    """

    def __init__(self, weights: StepWeights, inputs: LayerInputs) -> None:
        assert inputs.cache is not None
        self.weights, config = weights, weights.config
        cache = self.cache = inputs.cache
        self.config = config
        self.bias = inputs.bias if inputs.layer_bias is None else inputs.layer_bias.unbind(0)
        self.start, self.end = cache.length, cache.length + 1
        self.keys = cache.keys[:, :, :, : self.end].unbind(0)  # of each layer, [B, G, K, C]
        self.values = cache.values[:, :, :, : self.end].unbind(0)
        self.new_keys = cache.keys[:, :, :, self.start].unbind(0)  # [B, G, C]
        self.new_values = cache.values[:, :, :, self.start].unbind(0)
        cos, sin = inputs.rotary
        self.cos = torch.cat((cos, cos), dim=-1)  # [B or 1, 1, C]
        self.sin = torch.cat((-sin, sin), dim=-1)
        self.heads, self.groups, self.channels = config.n_head, config.n_kv_head, config.head_dim

    def run(self, tokens: Tensor, smear_mask: Tensor | None) -> Tensor:
        """Hidden states [B, 1, D] of tokens [B, 1]; smear_mask as `GPT.hidden` takes it. The cache holds one entry more."""
        weights, config, eps = self.weights, self.config, self.config.norm_eps
        ids = tokens[:, 0]
        x = _norm(torch.embedding(weights.embedding, ids), eps)
        if weights.smear_gate is not None and weights.smear_scale is not None:
            x = self._smear(x, smear_mask, weights.smear_gate, weights.smear_scale.item())
        x0, middle = x, None
        if weights.residual_scale is not None and weights.x0_scale is not None:
            residual, first = weights.residual_scale.tolist(), weights.x0_scale.tolist()
        for number, layer in enumerate(weights.layers):
            if weights.residual_scale is not None:
                x = torch.add(x * residual[number], x0, alpha=first[number])
            x = torch.addmm(x, self._attend(number, layer, _norm(x, eps), ids), layer.attention.t())
            inner = F.linear(_norm(x, eps), layer.inner).clamp_(min=0)
            x = torch.addmm(x, inner.mul_(inner), layer.outer.t())
            if number == config.depth // 2:
                middle = x
        if middle is not None and weights.backout_scale is not None:
            x = torch.sub(x, middle, alpha=weights.backout_scale.item())
        self.cache.advance(1)
        return _norm(x, eps).unsqueeze(1)

    def _smear(self, x: Tensor, mask: Tensor | None, gate_weight: Tensor, scale: float) -> Tensor:
        embeddings = self.cache.embeddings
        embeddings[:, self.start].copy_(x)
        gate = torch.sigmoid(F.linear(x[:, : gate_weight.size(1)], gate_weight))  # [B, 1]
        if mask is not None:
            gate = gate * mask
        return torch.addcmul(x, gate, embeddings[:, self.start - 1], value=scale)

    def _attend(self, number: int, layer: LayerWeights, x: Tensor, ids: Tensor) -> Tensor:
        """What a layer reads of its entries, [B, H C], by normed states [B, D]."""
        config, heads, groups, channels = self.config, self.heads, self.groups, self.channels
        both = torch.cat((F.linear(x, layer.q), F.linear(x, layer.k)), dim=1).view(-1, heads + groups, channels)
        rounded = config.rope_dtype == "bfloat16"  # the norm comes behind, see `Attention`
        both = both if rounded else _norm(both, config.norm_eps)
        both = torch.addcmul(both * self.cos, both.roll(channels // 2, -1), self.sin)  # the halves change places
        both = _norm(both, config.norm_eps) if rounded else both
        v = F.linear(x, layer.v).view(-1, groups, channels)
        if layer.gate is not None and layer.known is not None:
            gate = torch.sigmoid(F.linear(x[:, : config.value_gate_channels], layer.gate)).unsqueeze(-1)  # [B, G, 1]
            known = torch.embedding(layer.known, ids).view(-1, groups, channels)
            v = torch.addcmul(v, gate, known, value=config.value_gate_scale)
        self.new_keys[number].copy_(both[:, heads:])
        self.new_values[number].copy_(v)
        keys, values, bias = self.keys[number], self.values[number], self.bias
        if isinstance(bias, tuple):
            bias = bias[number]
        if 0 < layer.window < self.end:
            seen = self.end - layer.window
            keys, values = keys[:, :, seen:], values[:, :, seen:]
            bias = bias[..., seen:] if bias is not None and bias.size(-1) > 1 else bias
        q = both[:, :heads].unsqueeze(2)
        y = F.scaled_dot_product_attention(
            q, keys, values, attn_mask=bias, scale=layer.scale, enable_gqa=heads != groups
        )
        return y.reshape(-1, heads * channels)


def _norm(x: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x^2) + eps)`: the layer norm of (x, -x), whose mean is 0. One fused operation instead of six."""
    size = x.size(-1)
    return F.layer_norm(torch.cat((x, -x), dim=-1), (2 * size,), None, None, eps)[..., :size]
