"""nanochat's model as its description says, in plain operations, and checkpoints as its code lays them out.

docs/exchange.md names the constants; benchmarks/exchange.py compares with nanochat's own code.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import tiktoken
import torch
import torch.nn.functional as F
from torch import Tensor

from mccore.data.tokenizer.tokenizer import SPECIALS, Tokenizer

SHAPE = {"sequence_len": 512, "vocab_size": 265, "n_layer": 3, "n_head": 2, "n_kv_head": 1, "n_embd": 32}
PADDED = 320  # rows of the late generation, which pads to 64


def make_state(late: bool, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors of a model of SHAPE."""
    layers, width, kv = SHAPE["n_layer"], SHAPE["n_embd"], SHAPE["n_embd"] // 2
    rows = PADDED if late else SHAPE["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"transformer.wte.weight": (rows, width), "lm_head.weight": (rows, width)}
    for layer in range(layers):
        block = f"transformer.h.{layer}"
        shapes |= {f"{block}.attn.c_q.weight": (width, width), f"{block}.attn.c_proj.weight": (width, width)}
        shapes |= {f"{block}.attn.c_k.weight": (kv, width), f"{block}.attn.c_v.weight": (kv, width)}
        shapes |= {f"{block}.mlp.c_fc.weight": (4 * width, width), f"{block}.mlp.c_proj.weight": (width, 4 * width)}
        if late and layer % 2 == (layers - 1) % 2:
            shapes |= {f"{block}.attn.ve_gate.weight": (1, 12), f"value_embeds.{layer}.weight": (rows, kv)}
    if late:
        shapes |= {"resid_lambdas": (layers,), "x0_lambdas": (layers,), "smear_gate.weight": (1, 24)}
        shapes |= {"smear_lambda": (1,), "backout_lambda": (1,)}
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * (1.0 if "wte" in name else 2.0 * shape[-1] ** -0.5)
        for name, shape in shapes.items()
    }


def logits(state: dict[str, Tensor], ids: Tensor) -> Tensor:
    """Logits [B, T, ids] of tokens [B, T], of either generation."""
    late = "smear_lambda" in state
    heads, groups, channels = SHAPE["n_head"], SHAPE["n_kv_head"], SHAPE["n_embd"] // SHAPE["n_head"]
    length, layers = ids.size(1), SHAPE["n_layer"]
    short = -(-SHAPE["sequence_len"] // 4 // 128) * 128
    place = torch.arange(length)
    base = 100_000.0 if late else 10_000.0
    angles = place.float()[:, None] / base ** (torch.arange(0, channels, 2).float() / channels)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]  # [T, 1, C / 2]
    if not late:
        cos, sin = cos.bfloat16().float(), sin.bfloat16().float()

    def norm(x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.size(-1),))

    def turned(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        return norm(torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)) * (
            1.2 if late else 1.0
        )

    def matrix(x: Tensor, layer: int, name: str) -> Tensor:
        return x @ state[f"transformer.h.{layer}.{name}.weight"].T

    x = norm(state["transformer.wte.weight"][ids])
    if late:
        gate = state["smear_lambda"] * torch.sigmoid(x[:, 1:, :24] @ state["smear_gate.weight"].T)
        x = torch.cat((x[:, :1], x[:, 1:] + gate * x[:, :-1]), dim=1)
    first, middle = x, None
    for layer in range(layers):
        if late:
            x = state["resid_lambdas"][layer] * x + state["x0_lambdas"][layer] * first
        y = norm(x)
        q, k, v = (matrix(y, layer, f"attn.c_{part}").unflatten(-1, (-1, channels)) for part in ("q", "k", "v"))
        if f"value_embeds.{layer}.weight" in state:
            gate = 3 * torch.sigmoid(matrix(y[..., :12], layer, "attn.ve_gate"))
            v = v + gate[..., None] * state[f"value_embeds.{layer}.weight"][ids].unflatten(-1, (-1, channels))
        q, k = turned(q), turned(k)
        back = place[:, None] - place
        seen = back >= 0
        if late and layer != layers - 1 and "SSSL"[layer % 4] == "S":
            seen = seen & (back <= short)
        scores = torch.einsum("bqhc,bkhc->bhqk", q, k.repeat_interleave(heads // groups, 2)) * channels**-0.5
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        read = torch.einsum("bhqk,bkhc->bqhc", weights, v.repeat_interleave(heads // groups, 2))
        x = x + matrix(read.flatten(2), layer, "attn.c_proj")
        x = x + matrix(F.relu(matrix(norm(x), layer, "mlp.c_fc")).square(), layer, "mlp.c_proj")
        middle = x if layer == layers // 2 else middle
    if late:
        assert middle is not None
        x = x - state["backout_lambda"] * middle
    found = norm(x) @ state["lm_head.weight"].T
    return 15 * torch.tanh(found[..., : SHAPE["vocab_size"]] / 15)


def encoding(tokenizer: Tokenizer) -> tiktoken.Encoding:
    """The tokenizer as nanochat pickles one."""
    ranks = {token: rank for rank, token in enumerate(tokenizer.tokens)}
    specials = {name: len(ranks) + place for place, name in enumerate(SPECIALS)}
    return tiktoken.Encoding("rustbpe", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens=specials)


def write_checkpoint(directory: Path, state: dict[str, Tensor], step: int = 7, *, late: bool, **meta: Any) -> Path:
    """model_<step>.pt and meta_<step>.json; what torch.compile puts before names in one generation is there."""
    directory.mkdir(parents=True, exist_ok=True)
    named = state if late else {f"_orig_mod.{name}": tensor for name, tensor in state.items()}
    torch.save(named, directory / f"model_{step:06d}.pt")
    shape: dict[str, Any] = {**SHAPE, **({"window_pattern": "SSSL"} if late else {})}
    (directory / f"meta_{step:06d}.json").write_text(json.dumps({"step": step, "model_config": shape, **meta}))
    return directory


def write_tokenizer(directory: Path, tokenizer: Tokenizer) -> Path:
    """tokenizer.pkl, as nanochat's tokenizer saves itself."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "tokenizer.pkl"
    path.write_bytes(pickle.dumps(encoding(tokenizer)))
    return path
