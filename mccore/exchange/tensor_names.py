"""The tensors of our GPT under the names that others give them.

Both nanochat and transformers' NanoChat turn queries and keys by the negative angle. That is our rotation with the halves of a
head's channels exchanged, so the rows of their query and key matrices are exchanged on the way in and out: a permutation, which
loses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# `#` is the number of a layer.
_NANOCHAT = {
    "embedding.weight": "transformer.wte.weight",
    "head.weight": "lm_head.weight",
    "blocks.#.attn.q.weight": "transformer.h.#.attn.c_q.weight",
    "blocks.#.attn.k.weight": "transformer.h.#.attn.c_k.weight",
    "blocks.#.attn.v.weight": "transformer.h.#.attn.c_v.weight",
    "blocks.#.attn.proj.weight": "transformer.h.#.attn.c_proj.weight",
    "blocks.#.attn.value_gate.weight": "transformer.h.#.attn.ve_gate.weight",
    "blocks.#.mlp.fc.weight": "transformer.h.#.mlp.c_fc.weight",
    "blocks.#.mlp.proj.weight": "transformer.h.#.mlp.c_proj.weight",
    "value_embeddings.#.weight": "value_embeds.#.weight",
    "residual_scale": "resid_lambdas",
    "x0_scale": "x0_lambdas",
    "smear_gate.weight": "smear_gate.weight",
    "smear_scale": "smear_lambda",
    "backout_scale": "backout_lambda",
}
_TRANSFORMERS = {
    "embedding.weight": "model.embed_tokens.weight",
    "head.weight": "lm_head.weight",
    "blocks.#.attn.q.weight": "model.layers.#.self_attn.q_proj.weight",
    "blocks.#.attn.k.weight": "model.layers.#.self_attn.k_proj.weight",
    "blocks.#.attn.v.weight": "model.layers.#.self_attn.v_proj.weight",
    "blocks.#.attn.proj.weight": "model.layers.#.self_attn.o_proj.weight",
    "blocks.#.mlp.fc.weight": "model.layers.#.mlp.fc1.weight",
    "blocks.#.mlp.proj.weight": "model.layers.#.mlp.fc2.weight",
}
TABLES = {"nanochat": _NANOCHAT, "transformers": _TRANSFORMERS}
"""Format -> our name of a tensor -> its name there."""

_LAYER = re.compile(r"(?<=\.)\d+(?=\.)", re.ASCII)
_TURNED = re.compile(r"blocks\.\d+\.attn\.[qk]\.weight")


def to_theirs(state: Mapping[str, Tensor], kind: str, head_dim: int) -> dict[str, Tensor]:
    """Tensors of ours as the format `kind` has them. Raises KeyError for one that it has no place for."""
    return {_renamed(name, TABLES[kind]): _exchanged(name, tensor, head_dim) for name, tensor in state.items()}


def to_ours(state: Mapping[str, Tensor], kind: str, head_dim: int) -> dict[str, Tensor]:
    """Tensors of the format `kind` as ours. Raises KeyError for one that we have no place for."""
    table = {theirs: ours for ours, theirs in TABLES[kind].items()}
    named = {_renamed(name, table): tensor for name, tensor in state.items()}
    return {name: _exchanged(name, tensor, head_dim) for name, tensor in named.items()}


def _renamed(name: str, table: Mapping[str, str]) -> str:
    found = _LAYER.search(name)
    if found is None:
        return table[name]
    return table[_LAYER.sub("#", name, count=1)].replace("#", found.group())


def _exchanged(name: str, tensor: Tensor, head_dim: int) -> Tensor:
    """`tensor` [heads * head_dim, D] with the halves of every head exchanged, where it makes queries or keys."""
    if not _TURNED.fullmatch(name):
        return tensor
    return tensor.view(-1, 2, head_dim // 2, tensor.size(-1)).flip(1).reshape(tensor.shape)
