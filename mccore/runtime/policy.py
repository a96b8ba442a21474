"""A model that is to learn from rewards, put together."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from mccore.config import RLConfig, RunConfig, StageName
from mccore.megacontext.networks.networks import MegaContextNets
from mccore.model.gpt import GPT
from mccore.model.optim.optimizer import Optimizer, build_optimizer
from mccore.scaling.plan import stage_config
from mccore.train.policy_gradient import PolicyObjective


class Policy(NamedTuple):
    """What is trained, and how."""

    model: nn.ModuleDict
    optimizer: Optimizer
    objective: PolicyObjective


def build_policy(
    config: RunConfig,
    stage: StageName,
    gpt: GPT,
    nets: MegaContextNets | None,
    reference: GPT | None,
    *,
    compiled: bool,
) -> Policy:
    """`gpt` as a policy, beside the `reference` it must not move too far from.

    What MegaContext trained stays as it is: a question and its reply are shorter than a Working Context, in which they are tokens
    alone.
    """
    section = stage_config(config, stage)
    assert isinstance(section, RLConfig)
    model = nn.ModuleDict({"gpt": gpt})
    if nets is not None:
        model["mc"] = nets.requires_grad_(False)
    if reference is not None:
        reference.requires_grad_(False)
    optimizer = build_optimizer(model, config, stage, prefix="gpt.", dtype=gpt.compute_dtype)
    objective = PolicyObjective(gpt, reference=reference, kl_weight=section.kl_weight, compiled=compiled)
    return Policy(model, optimizer, objective)
