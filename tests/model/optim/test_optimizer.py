"""Every parameter in one group, every parameter moves, state goes round bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mccore.config import BaseConfig, ModelConfig, OptimConfig, RunConfig, TokenizerConfig
from mccore.errors import CheckpointError, ConfigError
from mccore.model import GPT, Group, Optimizer, Schedule, build_optimizer
from mccore.model.optim.optimizer import assign_groups, gpt_groups
from mccore.scaling.derive import derive
from tests.model.conftest import VARIANTS, small_config

CONSTANT = Schedule(lr=1.0, momentum=0.9, weight_decay=1.0)


def run_config(model: ModelConfig, **optim: object) -> RunConfig:
    """A derived configuration around `model`, with rates that move a small model fast."""
    settings = {"lr_batch_scale": 0.5, "lr_width_scale": 1.0, "weight_decay_scale": 0.1, "momentum_warmup_steps": 10}
    return derive(
        RunConfig(
            tokenizer=TokenizerConfig(vocab_size=265),
            model=model.model_copy(update={"vocab_size": 320, "vocab_ids": 265}),
            optim=OptimConfig.model_validate(settings | optim),
            base=BaseConfig(
                tokens=1000 * model.max_seq_len, batch_tokens=4 * model.max_seq_len, warmup_steps=2, warmdown_ratio=0.5
            ),
        )
    )


def gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_in_one_group_and_moved_by_a_step(variant: str) -> None:
    model = GPT(small_config(**VARIANTS[variant]))
    optimizer = build_optimizer(model, run_config(model.config), "base")
    named = dict(model.named_parameters())
    assert sorted(name for group in optimizer.groups for name in group.parameters) == sorted(named)
    before = {name: parameter.detach().clone() for name, parameter in named.items()}
    gradients(model, 0)
    optimizer.step(CONSTANT)
    assert not [name for name in named if torch.equal(named[name], before[name])]


def test_real_gradients_reach_every_parameter(make_model, tokens) -> None:  # type: ignore[no-untyped-def]
    model = make_model(**VARIANTS["all"])
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, run_config(model.config), "base")
    model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    optimizer.step(CONSTANT)
    assert not [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_kinds_follow_shapes() -> None:
    model = GPT(small_config(**VARIANTS["all"]))
    groups = assign_groups(model, gpt_groups(run_config(model.config), "base"))
    kinds = {name: group.name for group, members in groups.items() for name in members}
    assert kinds["blocks.0.attn.value_gate.weight"] == kinds["blocks.1.mlp.fc.weight"] == "matrices"
    assert kinds["embedding.weight"] == "embedding"
    assert kinds["value_embeddings.2.weight"] == "value_embeddings"
    assert kinds["smear_gate.weight"] == kinds["backout_scale"] == "gates"


def test_rates_follow_the_rules() -> None:
    config = run_config(small_config(smear=True), lr_batch_scale=0.25, lr_width_scale=3.0, weight_decay_scale=2.0)
    rates = {group.name: group.lr for group in gpt_groups(config, "base")}
    assert rates == pytest.approx(
        {
            "matrices": 0.02 * 0.25,
            "embedding": 0.3 * 0.75,
            "value_embeddings": 0.15 * 0.75,
            "head": 0.008 * 0.75,
            "residual": 0.005 * 0.25,
            "x0": 0.5 * 0.25,
            "gates": 0.2,
        }
    )
    assert gpt_groups(config, "base")[0].weight_decay == pytest.approx(0.56)
    sft = gpt_groups(config, "sft")
    assert sft[0].weight_decay == 0.0
    assert sft[0].lr == pytest.approx(0.02 * 0.25 * 0.8)


class Pair(nn.Module):
    """A GPT beside another network, as a larger model would hold it."""

    def __init__(self) -> None:
        super().__init__()
        self.gpt = GPT(small_config())
        self.other = nn.Linear(8, 4)


def test_other_networks_bring_their_groups() -> None:
    pair = Pair()
    config = run_config(pair.gpt.config)
    with pytest.raises(ConfigError, match=r"other\.weight must be in exactly one optimizer group, found: none"):
        build_optimizer(pair, config, "base", prefix="gpt.")
    extra = (
        Group("other_matrices", r"other\.weight", "muon", 0.01),
        Group("other_rest", r"other\.bias", "adamw", 0.001),
    )
    optimizer = build_optimizer(pair, config, "base", prefix="gpt.", extra=extra)
    assert set(optimizer.parameters) == set(dict(pair.named_parameters()))
    with pytest.raises(ConfigError, match="found: other_matrices, all"):
        build_optimizer(pair, config, "base", prefix="gpt.", extra=(*extra, Group("all", r"other\..*", "adamw", 0.1)))
    with pytest.raises(ConfigError, match=r"shape \(4,\) is in the Muon group all"):
        build_optimizer(pair, config, "base", prefix="gpt.", extra=(Group("all", r"other\..*", "muon", 0.1),))
    pair.other.requires_grad_(False)
    build_optimizer(pair, config, "base", prefix="gpt.")


def test_adamw_is_torch_adamw() -> None:
    layer = nn.Linear(6, 5)
    twin = nn.Linear(6, 5)
    twin.load_state_dict(layer.state_dict())
    group = Group("all", ".*", "adamw", 0.01, (0.8, 0.95), 0.1)
    ours = Optimizer(assign_groups(layer, [group]), OptimConfig())
    theirs = torch.optim.AdamW(twin.parameters(), lr=0.01, betas=(0.8, 0.95), weight_decay=0.1, eps=1e-10)
    for step in range(5):
        gradients(layer, step)
        gradients(twin, step)
        ours.step(CONSTANT)
        theirs.step()
    torch.testing.assert_close(layer.weight, twin.weight)
    torch.testing.assert_close(layer.bias, twin.bias)


def test_stacking_does_not_couple_matrices() -> None:
    """A matrix moves the same alone and in a stack."""
    both = nn.ModuleDict({"a": nn.Linear(6, 4, bias=False), "b": nn.Linear(6, 4, bias=False)})
    alone = nn.ModuleDict({"b": nn.Linear(6, 4, bias=False)})
    alone["b"].load_state_dict(both["b"].state_dict())
    group = Group("all", ".*", "muon", 0.02, weight_decay=0.1)
    optimizers = [Optimizer(assign_groups(model, [group]), OptimConfig()) for model in (both, alone)]
    for step in range(4):
        gradients(both, step)
        alone["b"].weight.grad = both["b"].weight.grad.clone()
        for optimizer in optimizers:
            optimizer.step(CONSTANT)
    torch.testing.assert_close(both["b"].weight, alone["b"].weight, atol=1e-6, rtol=1e-5)


def test_clipping_limits_the_global_norm() -> None:
    layer = nn.Linear(3, 3)
    optimizer = Optimizer(assign_groups(layer, [Group("all", ".*", "adamw", 0.1)]), OptimConfig(grad_clip=0.5))
    gradients(layer, 0)
    optimizer.step(CONSTANT)
    total = torch.cat([p.grad.flatten() for p in layer.parameters() if p.grad is not None]).norm()
    assert total.item() == pytest.approx(0.5, rel=1e-4)


def test_state_goes_round_bit_for_bit() -> None:
    def fresh() -> tuple[GPT, Optimizer]:
        model = GPT(small_config(**VARIANTS["all"]))
        return model, build_optimizer(model, run_config(model.config), "base")

    model, optimizer = fresh()
    for step in range(3):
        gradients(model, step)
        optimizer.step(CONSTANT)
    state = {name: tensor.clone() for name, tensor in optimizer.state_dict().items()}
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert {name.rsplit(".", 1)[0] for name in state} == set(weights)
    assert all(isinstance(tensor, Tensor) for tensor in state.values())
    twin, restored = fresh()
    twin.load_state_dict(weights)
    restored.load_state_dict(state)
    for one, other in ((model, optimizer), (twin, restored)):
        gradients(one, 9)
        other.step(CONSTANT)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    ours, theirs = optimizer.state_dict(), restored.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_state_that_does_not_fit_is_refused() -> None:
    model = GPT(small_config())
    optimizer = build_optimizer(model, run_config(model.config), "base")
    state = optimizer.state_dict()
    with pytest.raises(CheckpointError, match=r"head\.weight\.square"):
        optimizer.load_state_dict({name: t for name, t in state.items() if name != "head.weight.square"})
    with pytest.raises(CheckpointError, match=r"head\.weight\.square"):
        optimizer.load_state_dict(state | {"head.weight.square": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="stranger"):
        optimizer.load_state_dict(state | {"stranger": torch.zeros(3)})


def test_underived_configuration_is_refused() -> None:
    model = GPT(small_config())
    with pytest.raises(ConfigError, match="lr_batch_scale"):
        build_optimizer(model, RunConfig(), "base")
    with pytest.raises(ConfigError, match="not a training stage"):
        build_optimizer(model, run_config(model.config), "report")
