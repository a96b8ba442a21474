"""The first weights of a GPT: each parameter draws from a generator of its own, seeded by the run's seed and its name.

So a weight doesn't depend on the order of parameters, on the rank or on what else a configuration has.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from mccore.config import ModelConfig


@torch.no_grad()
def init_weights(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Set every parameter of a GPT of this configuration; those on the meta device stay as they are."""
    bound = (3 / config.n_embd) ** 0.5  # a uniform distribution of standard deviation 1 / sqrt(D)
    for name, parameter in model.named_parameters():
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
                parameter.copy_(_initial_scalars(config, name))
            case _:
                raise AssertionError(f"no initialisation for {name}")


def _initial_scalars(config: ModelConfig, name: str) -> Tensor:
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
