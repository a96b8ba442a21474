"""Small networks of MegaContext, batches and Working Contexts, with every path carrying signal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mccore.config import RunConfig
from mccore.data.batches.loader import Batch
from mccore.megacontext.networks.networks import MegaContextNets, megacontext_groups
from mccore.megacontext.training.draw import StepDraw
from mccore.megacontext.training.objective import MegaContextObjective
from mccore.model import GPT, Optimizer, build_optimizer
from mccore.model.chance import hash_uniform
from mccore.scaling.derive import derive

T, VOCAB = 64, 48
MODEL: dict[str, object] = {
    "depth": 2,
    "n_embd": 32,
    "head_dim": 8,
    "n_kv_head": 2,
    "max_seq_len": T,
    "value_gate_channels": 6,
    "smear_gate_channels": 10,
}
MEGACONTEXT: dict[str, object] = {
    "enabled": True,
    "block_size": 4,
    "max_lod": 2,
    "horizon": 8,
    "recent_tokens": 12,
    "train_wc_length": 28,
    "gistnet": {"layers": 1},
    "lens": {"layers": 1, "start": 0.0},
}


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def run_config(model: dict[str, Any] | None = None, rows: int = 4, **changes: Any) -> RunConfig:
    """The derived configuration of a small run; `changes` are those of the MegaContext section, `gistnet` and `lens` merged."""
    megacontext: dict[str, Any] = {**MEGACONTEXT, **changes}
    for part in ("gistnet", "lens"):
        megacontext[part] = {**MEGACONTEXT[part], **changes.get(part, {})}  # type: ignore[dict-item]
    sizes = {**MODEL, **(model or {})}
    config = derive(
        RunConfig.model_validate(
            {
                "tokenizer": {"vocab_size": 265},
                "model": sizes,
                "megacontext": megacontext,
                "optim": {"lr_batch_scale": 0.5, "lr_width_scale": 1.0, "weight_decay_scale": 0.1},
                "base": {"tokens": 100_000, "batch_tokens": rows * int(sizes["max_seq_len"])},  # type: ignore[call-overload]
            }
        )
    )
    ids = {"vocab_size": 64, "vocab_ids": VOCAB}  # fewer than any tokenizer has
    return config.model_copy(update={"model": config.model.model_copy(update=ids)})


def stir(module: nn.Module, seed: int = 0, scale: float = 0.2) -> None:
    """Give every matrix that starts at zero, or near it, random numbers; scalars and vectors a push."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() == 2 and parameter.std() < 0.1:
                parameter.normal_(0.0, scale, generator=generator)
            elif "smear" in name or "bias" in name:
                parameter.add_(torch.rand(parameter.shape, generator=generator) * 0.5)


def networks(config: RunConfig, *, seed: int = 0, stirred: bool = True) -> tuple[GPT, MegaContextNets]:
    """The GPT and what MegaContext trains beside it."""
    gpt = GPT(config.model, seed=seed)
    nets = MegaContextNets(config.megacontext, gpt.config, seed=seed)
    if stirred:
        stir(gpt, seed)
        stir(nets, seed)
    return gpt, nets


def optimizer_of(gpt: GPT, nets: MegaContextNets, config: RunConfig) -> Optimizer:
    """The optimizer of the base stage for both."""
    extra = megacontext_groups(config.megacontext, "mc.", 1.0)
    return build_optimizer(nn.ModuleDict({"gpt": gpt, "mc": nets}), config, "base", prefix="gpt.", extra=extra)


def objective_of(config: RunConfig, gpt: GPT, nets: MegaContextNets, **changes: Any) -> MegaContextObjective:
    draw = StepDraw(nets.config, config.model.max_seq_len, changes.pop("seed", 3))
    return MegaContextObjective(gpt, nets, draw, **changes)


def random_tokens(rows: int, length: int, seed: int = 0, vocab: int = VOCAB) -> Tensor:
    return torch.randint(0, vocab, (rows, length), generator=torch.Generator().manual_seed(seed))


def batch_of(tokens: Tensor, *, step: int = 0, progress: float = 0.5, **changes: Any) -> Batch:
    """Rows [B, T + 1] as one whole optimizer step."""
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    settings: dict[str, Any] = {"step_targets": float((targets >= 0).sum()), "step": step, "progress": progress}
    return Batch(inputs, targets, **{**settings, **changes})


def entries(*nodes: tuple[int, int], rows: int = 1) -> tuple[Tensor, Tensor]:
    """Nodes (level, index) as level and index, int64 [rows, L]."""
    table = torch.tensor(nodes).expand(rows, -1, -1)
    return table[..., 0].contiguous(), table[..., 1].contiguous()


def finest(tokens: int, rows: int = 1) -> tuple[Tensor, Tensor]:
    """The cut of tokens only."""
    return entries(*((0, index) for index in range(tokens)), rows=rows)


def uniform(seed: int, *shape: int) -> Tensor:
    """Reproducible numbers in [0, 1) of any shape."""
    count = torch.arange(max(1, torch.Size(shape).numel()))
    return hash_uniform(seed, count).view(shape)
