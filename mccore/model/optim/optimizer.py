"""One optimizer for all parameters: Muon for the block matrices, AdamW for the rest, by rules on parameter names.

build_optimizer(model, config, stage, *, prefix="", extra=(), dtype=None) -> Optimizer
optimizer.step(schedule(step, steps, train, optim)); optimizer.zero_grad()
optimizer.state_dict() -> dict[str, Tensor]; optimizer.load_state_dict(state)
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from mccore.config import OptimConfig, RunConfig, StageName
from mccore.errors import CheckpointError, ConfigError
from mccore.model.optim.muon import MuonRates, descend, muon_update, variance_shape
from mccore.model.schedule import Schedule
from mccore.scaling.plan import stage_config


@dataclass(frozen=True)
class Group:
    """A rule: parameters whose whole name matches `pattern` are trained this way."""

    name: str
    pattern: str  # regular expression
    kind: Literal["muon", "adamw"]
    lr: float  # at multiplier 1
    betas: tuple[float, float] = (0.8, 0.95)  # AdamW only
    weight_decay: float = 0.0  # Muon's is cautious and follows the schedule, AdamW's is constant


def gpt_groups(config: RunConfig, stage: StageName, prefix: str = "") -> tuple[Group, ...]:
    """The GPT's groups for a derived configuration; `prefix` is the GPT's name in the module that holds it, with a dot."""
    optim, train = config.optim, stage_config(config, stage)
    if not (optim.lr_batch_scale and optim.lr_width_scale and optim.weight_decay_scale):
        raise ConfigError("optim.lr_batch_scale is not derived", hint="derive the configuration first")
    batch = train.lr_scale * optim.lr_batch_scale
    width = batch * optim.lr_width_scale
    decay = optim.weight_decay * optim.weight_decay_scale if train.weight_decay else 0.0
    at = re.escape(prefix)
    return (
        Group("matrices", rf"{at}blocks\.\d+\..*\.weight", "muon", optim.matrix_lr * batch, weight_decay=decay),
        Group("embedding", rf"{at}embedding\.weight", "adamw", optim.embedding_lr * width, (0.8, 0.995), 0.001),
        Group(
            "value_embeddings",
            rf"{at}value_embeddings\.\d+\.weight",
            "adamw",
            optim.value_embedding_lr * width,
            (0.8, 0.995),
            0.01,
        ),
        Group("head", rf"{at}head\.weight", "adamw", optim.head_lr * width, (0.8, 0.96), 0.01),
        Group("residual", rf"{at}residual_scale", "adamw", optim.residual_lr * batch, (0.8, 0.95), 0.05),
        Group("x0", rf"{at}x0_scale", "adamw", optim.x0_lr * batch, (0.96, 0.95)),
        Group(
            "gates",
            rf"{at}(smear_gate\.weight|smear_scale|backout_scale)",
            "adamw",
            optim.gate_lr * train.lr_scale,
            (0.8, 0.95),
        ),
    )


def build_optimizer(
    model: nn.Module,
    config: RunConfig,
    stage: StageName,
    *,
    prefix: str = "",
    extra: Sequence[Group] = (),
    dtype: torch.dtype | None = None,
) -> Optimizer:
    """The optimizer of a training stage for a derived configuration.

    `extra` are groups for other networks in the same module, `prefix` the GPT's name there ("gpt."). `dtype` is that of
    Muon's orthogonalisation: bf16 on GPUs, fp32 on CPU unless given. Raises ConfigError for a trainable parameter that no
    group or more than one group claims.
    """
    members = assign_groups(model, (*gpt_groups(config, stage, prefix), *extra))
    return Optimizer(members, config.optim, dtype=dtype)


def assign_groups(model: nn.Module, groups: Sequence[Group]) -> dict[Group, dict[str, nn.Parameter]]:
    """Every trainable parameter by the one group that claims it; groups without parameters are left out."""
    members: dict[Group, dict[str, nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        claims = [group for group in groups if re.fullmatch(group.pattern, name)]
        if len(claims) != 1:
            found = ", ".join(group.name for group in claims) or "none"
            raise ConfigError(
                f"parameter {name} must be in exactly one optimizer group, found: {found}",
                hint="give the module's parameters a Group whose pattern matches them and nothing else",
            )
        if claims[0].kind == "muon" and parameter.dim() != 2:
            raise ConfigError(
                f"parameter {name} of shape {tuple(parameter.shape)} is in the Muon group {claims[0].name}",
                hint="Muon takes matrices; put other shapes into an AdamW group",
            )
        members.setdefault(claims[0], {})[name] = parameter
    return members


@dataclass
class AdamWGroup:
    """Parameters that share AdamW settings, and their state. The arithmetic is torch's."""

    group: Group
    parameters: dict[str, nn.Parameter]
    eps: float
    averages: dict[str, Tensor] = field(init=False)
    squares: dict[str, Tensor] = field(init=False)
    counts: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.averages = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.squares = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.counts = {name: torch.zeros((), device=p.device) for name, p in self.parameters.items()}

    def step(self, schedule: Schedule) -> None:
        names = [name for name, p in self.parameters.items() if p.grad is not None]
        adamw(
            [self.parameters[name] for name in names],
            [self.parameters[name].grad for name in names],  # type: ignore[misc]
            [self.averages[name] for name in names],
            [self.squares[name] for name in names],
            [],
            [self.counts[name] for name in names],
            fused=True,
            amsgrad=False,
            beta1=self.group.betas[0],
            beta2=self.group.betas[1],
            lr=self.group.lr * schedule.lr,
            weight_decay=self.group.weight_decay,
            eps=self.eps,
            maximize=False,
        )

    def state(self) -> dict[str, Tensor]:
        tables = {"average": self.averages, "square": self.squares, "count": self.counts}
        return {f"{name}.{kind}": table[name] for kind, table in tables.items() for name in self.parameters}


@dataclass
class MuonGroup:
    """Matrices of one shape, updated as one stack, and their state."""

    group: Group
    parameters: dict[str, nn.Parameter]
    optim: OptimConfig
    dtype: torch.dtype
    velocity: Tensor = field(init=False)  # [K, m, n]
    variance: Tensor = field(init=False)  # [K, m, 1] or [K, 1, n]

    def __post_init__(self) -> None:
        first = next(iter(self.parameters.values()))
        rows, columns = first.shape
        count = len(self.parameters)
        self.velocity = torch.zeros(count, rows, columns, device=first.device)
        self.variance = torch.zeros(count, *variance_shape(rows, columns), device=first.device)
        # A tall matrix has more outputs than inputs: its update grows so that outputs move alike (arXiv 2409.20325).
        self.lr = self.group.lr * max(1.0, rows / columns) ** 0.5

    def step(self, schedule: Schedule) -> None:
        parameters = list(self.parameters.values())
        gradient = torch.stack([torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]).float()
        optim = self.optim
        rates = MuonRates(schedule.momentum, optim.second_momentum, optim.orthogonalize_steps, self.dtype)
        update = muon_update(gradient, self.velocity, self.variance, rates).float()
        weight = torch.stack(list(parameters)).float()
        weight = descend(weight, update, self.lr * schedule.lr, self.group.weight_decay * schedule.weight_decay)
        torch._foreach_copy_(parameters, list(weight.unbind(0)))

    def state(self) -> dict[str, Tensor]:
        tables = {"velocity": self.velocity, "variance": self.variance}
        return {f"{name}.{kind}": table[i] for kind, table in tables.items() for i, name in enumerate(self.parameters)}


class Optimizer:
    """All groups of a model. Gradients are those in `.grad`, already reduced over ranks."""

    def __init__(
        self,
        members: Mapping[Group, Mapping[str, nn.Parameter]],
        optim: OptimConfig,
        *,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.grad_clip = optim.grad_clip
        self.groups: list[AdamWGroup | MuonGroup] = []
        for group, parameters in members.items():
            if group.kind == "adamw":
                self.groups.append(AdamWGroup(group, dict(parameters), optim.adam_eps))
                continue
            shapes: dict[tuple[int, ...], dict[str, nn.Parameter]] = {}
            for name, parameter in parameters.items():
                shapes.setdefault(tuple(parameter.shape), {})[name] = parameter
            for stack in shapes.values():
                device = next(iter(stack.values())).device
                ortho = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
                self.groups.append(MuonGroup(group, stack, optim, ortho))

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter it trains, by name."""
        return {name: parameter for group in self.groups for name, parameter in group.parameters.items()}

    @torch.no_grad()
    def step(self, schedule: Schedule) -> None:
        """Clip where configured, then move every parameter that has a gradient."""
        if self.grad_clip:
            nn.utils.clip_grad_norm_(list(self.parameters.values()), self.grad_clip)
        for group in self.groups:
            group.step(schedule)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """All state as views, named `<parameter>.<kind>`; clone to keep it past the next step."""
        return {name: tensor for group in self.groups for name, tensor in group.state().items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy `state` in. Raises CheckpointError, changing nothing, unless names and shapes fit exactly."""
        own = self.state_dict()
        wrong = sorted(own.keys() ^ state.keys())
        wrong += [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
        if wrong:
            raise CheckpointError(
                f"optimizer state doesn't fit the model: {', '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''}",
                hint="resume with the configuration that the checkpoint was written with",
            )
        for name, tensor in own.items():
            tensor.copy_(state[name])
