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

import hashlib
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mccore.config import ModelConfig
from mccore.model.attention import Attend, Rotary, attend, rotary, rotate, with_key_bias
from mccore.model.kv_cache import KVCache
from mccore.model.ops.cross_entropy import (
    Head,
    capped_logits,
    chunk_rows,
    cross_entropy_and_tokens,
    distillation,
    token_cross_entropy,
    weighted_cross_entropy,
)
from mccore.model.ops.elementwise import mix, relu_squared, rms_norm
from mccore.scaling.model import derive_model, has_value_embedding, layer_windows


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

    def forward(
        self,
        x: Tensor,
        rotary: Rotary,
        value_embedding: Tensor | None,
        attend: Attend,
        attn_bias: Tensor | None,
        key_bias: Tensor | None,
        key_bias_weights: Tensor | None,
        cache: KVCache | None,
    ) -> Tensor:
        config = self.config
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, config.n_head, config.head_dim)
        k = self.k(x).view(batch, length, config.n_kv_head, config.head_dim)
        v = self.v(x).view(batch, length, config.n_kv_head, config.head_dim)
        if self.value_gate is not None and value_embedding is not None:
            gate = config.value_gate_scale * torch.sigmoid(self.value_gate(x[..., : config.value_gate_channels]))
            v = v + gate.unsqueeze(-1) * value_embedding.view_as(v)
        # Rotation after the norm: the norm would undo a damping that comes with the angles.
        q = rotate(rms_norm(q, config.norm_eps), rotary).transpose(1, 2)  # [B, H, T, C]
        k = rotate(rms_norm(k, config.norm_eps), rotary).transpose(1, 2)  # [B, G, T, C]
        v = v.transpose(1, 2)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        if key_bias is not None and key_bias_weights is not None:
            q, k, v = with_key_bias(q, k, v, key_bias, key_bias_weights, self.scale)
        y = attend(q, k, v, scale=self.scale, window=self.window, bias=attn_bias)[..., : config.head_dim]
        return self.proj(y.transpose(1, 2).reshape(batch, length, -1))


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

    def forward(self, x: Tensor, *attention_inputs: Any) -> Tensor:
        x = x + self.attn(rms_norm(x, self.eps), *attention_inputs)
        return x + self.mlp(rms_norm(x, self.eps))


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
        self.attend: Attend = attend
        kv_width = config.n_kv_head * config.head_dim
        # `_weight` keeps nn.Embedding from initialising: init_weights does, from its own generators.
        self.embedding = nn.Embedding(
            config.vocab_size, config.n_embd, _weight=torch.empty(config.vocab_size, config.n_embd)
        )
        self.value_embeddings = nn.ModuleDict(
            {
                str(layer): nn.Embedding(config.vocab_size, kv_width, _weight=torch.empty(config.vocab_size, kv_width))
                for layer in range(config.depth)
                if has_value_embedding(config, layer)
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
        self.init_weights(seed)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Set every parameter. Each draws from a generator of its own, seeded by `seed` and its name, on its device."""
        config = self.config
        bound = (3 / config.n_embd) ** 0.5  # a uniform distribution of standard deviation 1 / sqrt(D)
        for name, parameter in self.named_parameters():
            if parameter.is_meta:
                continue
            generator = torch.Generator(parameter.device)
            digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
            generator.manual_seed(int.from_bytes(digest, "little") >> 1)
            match name.split(".")[:-1]:
                case ["embedding"]:
                    parameter.normal_(0.0, config.embedding_std, generator=generator)
                case ["head"]:
                    parameter.normal_(0.0, config.head_std, generator=generator)
                case [*_, "proj"]:
                    parameter.zero_()
                case [*_, "value_gate"] | ["smear_gate"]:
                    # Small and positive: gates start near the middle of their range.
                    parameter.uniform_(0.0, 0.02, generator=generator)
                case [*_, "mlp", "fc"]:
                    parameter.uniform_(-bound * config.fc_init, bound * config.fc_init, generator=generator)
                case ["value_embeddings", _] | [*_, "attn", "q" | "k" | "v"]:
                    parameter.uniform_(-bound, bound, generator=generator)
                case []:
                    parameter.copy_(self._initial_scalars(name))
                case _:
                    raise AssertionError(f"no initialisation for {name}")

    def _initial_scalars(self, name: str) -> Tensor:
        config = self.config
        match name:
            case "residual_scale":
                return torch.linspace(*config.residual_init, config.depth)
            case "x0_scale":
                return torch.linspace(*config.x0_init, config.depth)
            case "smear_scale":
                return torch.tensor([config.smear_init])
            case "backout_scale":
                return torch.tensor([config.backout_init])
            case _:
                raise AssertionError(f"no initialisation for {name}")

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
        return rotary(positions, self.config.head_dim, self.config.rope_base)

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
        config = self.config
        if (tokens is None) == (embeddings is None):
            raise ValueError("give either tokens or embeddings")
        if cache is not None and torch.is_grad_enabled():
            raise ValueError("a cache works without gradients only: call under torch.inference_mode or no_grad")
        x = self.embed(tokens) if embeddings is None else embeddings.to(self.compute_dtype)
        batch, length, _ = x.shape
        start = 0
        if cache is not None:
            cache.reserve(batch, length)
            start = cache.length
            key_bias = cache.append_key_bias(key_bias, length)
        if (key_bias is None) != (key_bias_weights is None):
            raise ValueError("key_bias and key_bias_weights go together")
        if rotary is None:
            rotary = self.rotary(
                torch.arange(start, start + length, device=x.device) if positions is None else positions
            )
        elif positions is not None:
            raise ValueError("give either positions or rotary")

        scores: Tensor | None = None
        if start and key_bias is not None and key_bias_weights is not None:
            # Few queries before many keys: a bias costs less than extra channels of all keys. One product for all layers.
            scores = torch.einsum("lhr,bkr->lbhk", key_bias_weights.float(), key_bias.float()).unsqueeze(3)
            scores = (scores if attn_bias is None else attn_bias + scores).to(x.dtype)  # [L, B, H, 1 or T, cached + T]

        x = rms_norm(x, config.norm_eps)
        if config.smear:
            x = self._smear(x, smear_mask, cache)
        x0 = x
        attention = self.attend if attend is None else attend
        value_layer = 0
        middle: Tensor | None = None
        for layer, block in enumerate(self.blocks):
            value: Tensor | None = None
            if has_value_embedding(config, layer):
                if tokens is not None:
                    value = self.value_embeddings[str(layer)](tokens).to(x.dtype)
                elif value_embeddings is not None:
                    value = value_embeddings[value_layer]
                value_layer += 1
            if config.residual_scalars:
                x = mix(x, x0, self.residual_scale[layer], self.x0_scale[layer])
            if scores is not None:
                x = block(x, rotary, value, attention, scores[layer], None, None, cache)
            else:
                weights = None if key_bias_weights is None else key_bias_weights[layer]
                x = block(x, rotary, value, attention, attn_bias, key_bias, weights, cache)
            if config.backout and layer == config.depth // 2:
                middle = x
        if middle is not None:
            x = x - self.backout_scale.to(x.dtype) * middle
        if cache is not None:
            cache.advance(length)
        return rms_norm(x, config.norm_eps)

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
