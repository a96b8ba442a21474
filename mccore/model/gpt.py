"""The GPT: everything it computes is decided by a ModelConfig, every input other than tokens by its caller.

Signatures, with B rows, T entries, D = n_embd, L = depth, H = n_head:

    GPT(config, *, seed=0, compute_dtype=torch.float32)
    model(tokens, **inputs) -> logits          fp32 [B, T, vocab_ids]
    model.hidden(tokens, **inputs) -> hidden   [B, T, D], final norm applied
    model.logits(hidden) -> logits             fp32 [..., vocab_ids]
    model.loss(tokens, targets, ignore_index=-1, reduction="mean", weights=None, **inputs)
    model.hidden_loss(hidden, targets, ...)    the same from hidden states
    model.hidden_losses(hidden, targets, weights)      the weighted sum and each token's loss
    model.distillation(hidden, teacher, weights)       KL to another pass's distributions
    model.embed(tokens), model.embed_values(tokens), model.rotary(positions)
    model.new_cache(rows, capacity, grow=False) -> KVCache

`inputs` are keyword arguments of `hidden`: embeddings, value_embeddings, positions, rotary, key_bias, key_bias_weights,
attn_bias, smear_mask, cache, attend.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from mccore.config import ModelConfig
from mccore.model.attention import Attend
from mccore.model.attention import attend as fast_attend
from mccore.model.initialization import init_weights
from mccore.model.kv_cache import KVCache
from mccore.model.layers import Block, LayerInputs, Linear
from mccore.model.ops.cross_entropy import (
    Head,
    capped_logits,
    chunk_rows,
    cross_entropy_and_tokens,
    distillation,
    token_cross_entropy,
    weighted_cross_entropy,
)
from mccore.model.ops.elementwise import mix, rms_norm
from mccore.model.rotary import Rotary, rotary, rounded_rotary
from mccore.model.step import OneStep, StepWeights, layer_weights
from mccore.scaling.model import derive_model, has_value_embedding


class GPT(nn.Module):
    """A decoder-only transformer. Fields of `config` that are None are derived; `vocab_size` must be given.

    Parameters are fp32 and initialised from `seed` alone, the same on every rank; under `torch.device("meta")` call
    `to_empty(device=...)` and `init_weights(seed)` afterwards. Activations are in `compute_dtype`. `attend` is the
    attention function; tests put `attend_reference` there.
    """

    def __init__(self, config: ModelConfig, *, seed: int = 0, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        config = derive_model(config)
        self.config = config
        self.compute_dtype = compute_dtype
        self.attend: Attend = fast_attend
        self.value_layers = [layer for layer in range(config.depth) if has_value_embedding(config, layer)]
        kv_width = config.n_kv_head * config.head_dim
        # `_weight` keeps nn.Embedding from initialising: init_weights does, from its own generators.
        self.embedding = nn.Embedding(
            config.vocab_size, config.n_embd, _weight=torch.empty(config.vocab_size, config.n_embd)
        )
        self.value_embeddings = nn.ModuleDict(
            {
                str(layer): nn.Embedding(config.vocab_size, kv_width, _weight=torch.empty(config.vocab_size, kv_width))
                for layer in self.value_layers
            }
        )
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.depth))
        self.head = Linear(config.n_embd, config.vocab_size)
        if config.residual_scalars:
            self.residual_scale = nn.Parameter(torch.empty(config.depth))
            self.x0_scale = nn.Parameter(torch.empty(config.depth))
        if config.smear:
            self.smear_gate = Linear(config.smear_gate_channels, 1)
            self.smear_scale = nn.Parameter(torch.empty(1))
        if config.backout:
            self.backout_scale = nn.Parameter(torch.empty(1))
        self._weights: StepWeights | None = None
        self.init_weights(seed)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    def init_weights(self, seed: int) -> None:
        """Set every parameter that has memory, from `seed` alone: see `model.initialization`."""
        init_weights(self, self.config, seed)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token embeddings [B, T, D] in the compute dtype, as `hidden(embeddings=...)` takes them."""
        return self.embedding(tokens).to(self.compute_dtype)

    def embed_values(self, tokens: Tensor) -> Tensor | None:
        """Value embeddings [layers that have them, B, T, kv_width] of `tokens`, 0 where a token is negative; or None."""
        if not self.value_embeddings:
            return None
        known = (tokens >= 0).unsqueeze(-1)
        ids = tokens.clamp(min=0)
        tables = [table(ids).to(self.compute_dtype) * known for table in self.value_embeddings.values()]
        return torch.stack(tables)

    def rotary(self, positions: Tensor) -> Rotary:
        """Cosines and sines for positions [T] or [B, T], integer or float."""
        config = self.config
        tables = rounded_rotary if config.rope_dtype == "bfloat16" else rotary
        return tables(positions, config.head_dim, config.rope_base)

    def hidden(
        self,
        tokens: Tensor | None = None,
        *,
        embeddings: Tensor | None = None,
        value_embeddings: Tensor | None = None,
        positions: Tensor | None = None,
        rotary: Rotary | None = None,
        key_bias: Tensor | None = None,
        key_bias_weights: Tensor | None = None,
        attn_bias: Tensor | None = None,
        smear_mask: Tensor | None = None,
        cache: KVCache | None = None,
        attend: Attend | None = None,
    ) -> Tensor:
        """Final hidden states [B, T, D], normed, in the compute dtype.

        tokens: int [B, T]; or embeddings: [B, T, D], of which token embeddings (`embed`) are the special case, with
            value_embeddings: [layers that have them, B, T, kv_width], None for zeros (`embed_values` gives them).
        positions: [T] or [B, T], integer or float; default: the entry's index, behind the cached ones. Or, instead,
            rotary: cosines and sines as `model.rotary` returns them, damped or shifted at will.
        key_bias: [B, T, R] per entry and key_bias_weights: [L, H, R]: every score of that entry as a key gets
            `weights . bias` added, at no cost in memory. The cache keeps key_bias; pass the weights in every call.
        attn_bias: added to the scores, broadcastable to [B, H, T, cached + T]; -inf hides. It costs a mask.
        smear_mask: [B, T], factor on the share an entry takes of the one before it (configs with `smear`).
        cache: read before, extended by this call's entries; only without gradients. CacheFull when it has no room.
        attend: the attention function of this call; default: the model's own.
        Causality and windows always apply, by entry index.
        """
        if (tokens is None) == (embeddings is None):
            raise ValueError("give either tokens or embeddings")
        if rotary is not None and positions is not None:
            raise ValueError("give either positions or rotary")
        if cache is not None and torch.is_grad_enabled():
            raise ValueError("a cache works without gradients only: call under torch.inference_mode or no_grad")
        batch, length = (tokens if embeddings is None else embeddings).shape[:2]  # type: ignore[union-attr]
        start = 0
        if cache is not None:
            cache.reserve(batch, length)
            start = cache.length
            key_bias = cache.append_key_bias(key_bias, length)
        if (key_bias is None) != (key_bias_weights is None):
            raise ValueError("key_bias and key_bias_weights go together")
        if rotary is None:
            index = torch.arange(start, start + length, device=self.device) if positions is None else positions
            rotary = self.rotary(index)
        attend = self.attend if attend is None else attend
        inputs = LayerInputs(rotary, attend, attn_bias, key_bias, key_bias_weights, cache=cache)
        inputs = inputs.with_layer_bias(self.compute_dtype) if start else inputs
        if tokens is not None and length == 1 and start and attend is fast_attend and (weights := self._step_weights):
            return OneStep(weights, inputs).run(tokens, smear_mask)
        x = self.embed(tokens) if embeddings is None else embeddings.to(self.compute_dtype)  # type: ignore[arg-type]
        x = rms_norm(x, self.config.norm_eps)
        if self.config.smear:
            x = self._smear(x, smear_mask, cache)
        x = self._layers(x, tokens, value_embeddings, inputs)
        if cache is not None:
            cache.advance(length)
        return rms_norm(x, self.config.norm_eps)

    def _layers(self, x: Tensor, tokens: Tensor | None, value_embeddings: Tensor | None, inputs: LayerInputs) -> Tensor:
        """Entries [B, T, D] through all blocks."""
        config, x0 = self.config, x
        middle: Tensor | None = None
        for layer, block in enumerate(self.blocks):
            value: Tensor | None = None
            if layer in self.value_layers:
                if tokens is not None:
                    value = self.value_embeddings[str(layer)](tokens).to(x.dtype)
                elif value_embeddings is not None:
                    value = value_embeddings[self.value_layers.index(layer)]
            if config.residual_scalars:
                x = mix(x, x0, self.residual_scale[layer], self.x0_scale[layer])
            x = block(x, value, inputs)
            if config.backout and layer == config.depth // 2:
                middle = x
        return x if middle is None else x - self.backout_scale.to(x.dtype) * middle

    @property
    def _step_weights(self) -> StepWeights | None:
        """The weights as `OneStep` takes them; None where a token alone is read like any other entries."""
        if self.compute_dtype is not torch.float32 or self.device.type != "cpu":
            return None
        if self._weights is None or self._weights.embedding is not self.embedding.weight:
            known = dict(self.value_embeddings.named_parameters())
            layers = [
                layer_weights(block, known.get(f"{number}.weight"))  # type: ignore[arg-type]
                for number, block in enumerate(self.blocks)
            ]
            others = dict(self.named_parameters(recurse=False))
            others["smear_gate"] = self.smear_gate.weight if self.config.smear else None  # type: ignore[assignment]
            rest = (others.get(name) for name in StepWeights._fields[3:])
            self._weights = StepWeights(self.config, self.embedding.weight, layers, *rest)
        return self._weights

    def _smear(self, x: Tensor, mask: Tensor | None, cache: KVCache | None) -> Tensor:
        """Add to each entry [B, T, D] a gated share of the one before it; the first of all takes none."""
        before = None if cache is None else cache.append_embeddings(x)
        previous = torch.cat((torch.zeros_like(x[:, :1]) if before is None else before, x[:, :-1]), dim=1)
        gate = torch.sigmoid(self.smear_gate(x[..., : self.config.smear_gate_channels]))  # [B, T, 1]
        if mask is not None:
            gate = gate * mask.unsqueeze(-1).to(gate.dtype)
        return x + self.smear_scale.to(x.dtype) * gate * previous

    def logits(self, hidden: Tensor) -> Tensor:
        """Capped logits of hidden states [..., D]: fp32 [..., vocab_ids]."""
        return capped_logits(hidden, self.head.weight, self._head)

    def forward(self, tokens: Tensor | None = None, **inputs: Any) -> Tensor:
        """Logits of every entry, fp32 [B, T, vocab_ids]; inputs as in `hidden`."""
        return self.logits(self.hidden(tokens, **inputs))

    def loss(
        self,
        tokens: Tensor | None,
        targets: Tensor,
        *,
        ignore_index: int = -1,
        reduction: Literal["mean", "sum", "none"] = "mean",
        weights: Tensor | None = None,
        **inputs: Any,
    ) -> Tensor:
        """Cross-entropy in nats of `targets` [B, T] at each entry; inputs as in `hidden`, the rest as in `hidden_loss`."""
        hidden = self.hidden(tokens, **inputs)
        return self.hidden_loss(hidden, targets, ignore_index=ignore_index, reduction=reduction, weights=weights)

    def hidden_losses(self, hidden: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """`sum(weights * nll)` and, without gradient, the NLL of each target: fp32, shaped like `targets`, 0 where it is
        negative. One pass over the head gives both; weights [...] carry no gradient.
        """
        flat, wanted = hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1).long()
        scale = weights.detach().reshape(-1).float() * (wanted >= 0)
        total, losses = cross_entropy_and_tokens(flat, self.head.weight, wanted, scale, self._head)
        return total, losses.view(targets.shape)

    def hidden_loss(
        self,
        hidden: Tensor,
        targets: Tensor,
        *,
        ignore_index: int = -1,
        reduction: Literal["mean", "sum", "none"] = "mean",
        weights: Tensor | None = None,
    ) -> Tensor:
        """Cross-entropy in nats of `targets` [...] given hidden states [..., D], fp32.

        "none": one loss per target, 0 where ignored; "sum": their sum, each times its weight; "mean": that over the sum
        of the weights, 0 when nothing is scored. weights: like targets, default 1, no gradient flows into them.
        """
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"unknown reduction {reduction!r}")
        flat = hidden.reshape(-1, hidden.size(-1))
        wanted = targets.reshape(-1).long()
        wanted = wanted.masked_fill(wanted == ignore_index, -1)
        if reduction == "none":
            losses = token_cross_entropy(flat, self.head.weight, wanted, self._head).view(targets.shape)
            return losses if weights is None else losses * weights
        scale = (wanted >= 0).float()
        if weights is not None:
            scale = scale * weights.detach().reshape(-1).float()
        if reduction == "mean":
            total = scale.sum()
            scale = scale / torch.where(total > 0, total, torch.ones_like(total))
        return weighted_cross_entropy(flat, self.head.weight, wanted, scale, self._head)

    def distillation(self, hidden: Tensor, teacher: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """`sum(weights * KL(teacher || own))` of the next-token distributions at hidden states [..., D], and, without
        gradient, each KL in nats, fp32 [...]. No gradient reaches the teacher's states or the head as the teacher used it.
        """
        flat = hidden.reshape(-1, hidden.size(-1))
        known = teacher.detach().reshape(-1, teacher.size(-1)).to(flat.dtype)
        total, each = distillation(flat, known, self.head.weight, weights.detach().reshape(-1).float(), self._head)
        return total, each.view(weights.shape)

    @property
    def _head(self) -> Head:
        config = self.config
        return Head(config.vocab_ids, config.logit_softcap, chunk_rows(config.vocab_ids, self.device))

    def new_cache(self, rows: int, capacity: int, *, grow: bool = False) -> KVCache:
        """An empty cache for `rows` rows of up to `capacity` entries, on the model's device, in its compute dtype."""
        return KVCache(self.config, rows, capacity, device=self.device, dtype=self.compute_dtype, grow=grow)
