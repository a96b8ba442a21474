"""What a stage of a derived configuration will do: steps, tokens, FLOPs, memory."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

from mccore.config import TRAINING_STAGES, RLConfig, RunConfig, StageName, TrainConfig
from mccore.config.stages import TEXT_STAGE
from mccore.config.training import EncodedTrainConfig
from mccore.errors import ConfigError
from mccore.scaling.megacontext import (
    context_activations,
    megacontext_flops_per_token,
    megacontext_parameters,
    megacontext_step_flops,
)
from mccore.scaling.model import (
    count_parameters,
    derive_model,
    flops_per_token,
    has_value_embedding,
)


def training_flops(config: RunConfig, steps: int, step_tokens: int) -> list[float]:
    """FLOPs of a derived configuration's training before each of `steps` steps of so many tokens, and after the last: steps
    with MegaContext differ in what they cost."""
    if not config.megacontext.enabled:
        return [step * step_tokens * float(flops_per_token(config.model)) for step in range(steps + 1)]
    mc, kinds = config.megacontext, dict[tuple[int, bool, bool], int]()
    found, total = [0.0], 0.0
    for step in range(steps):
        # What the cost of a step depends on.
        kind = (math.floor(step / steps * mc.wc_length_steps), step / steps >= mc.lens.start, bool(step % 2))
        if kind not in kinds:
            kinds[kind] = megacontext_step_flops(config, step, step / steps).total
        total += kinds[kind] * step_tokens
        found.append(total)
    return found


def training_flops_per_token(config: RunConfig) -> int:
    """Floating-point operations of training on one token, with MegaContext where a derived configuration enables it."""
    return megacontext_flops_per_token(config) if config.megacontext.enabled else flops_per_token(config.model)


@dataclass(frozen=True)
class TrainPlan:
    """What one training stage will do. `tokens` and `steps` are 0 while the size of the data isn't known. In reinforcement
    learning sequences are replies, and tokens, and FLOPs with them, those of replies as long as they may be."""

    stage: StageName
    tokens: int  # steps * batch_tokens
    steps: int
    batch_tokens: int  # per optimizer step, over all ranks
    rows: int  # sequences per optimizer step, over all ranks
    micro_batch_rows: int  # sequences of one forward pass per rank
    accumulation: int  # forward passes per rank and optimizer step
    flops: int  # of the whole stage, over all ranks


def train_plan(config: RunConfig, stage: StageName, tokens: int = 0) -> TrainPlan:
    """The plan of a training stage of a derived configuration; `tokens` is the horizon where the data decides it.

    Steps are whole batches within the horizon, at least one. Raises ConfigError for a configuration that isn't derived.
    """
    section = stage_config(config, stage)
    if isinstance(section, RLConfig):
        return _rollout_plan(config, stage, section)
    assert isinstance(section, EncodedTrainConfig)
    if not section.batch_tokens or not section.micro_batch_rows:
        raise ConfigError(f"{stage}.batch_tokens is not derived", hint="derive the configuration first")
    horizon = section.tokens or tokens
    steps = max(1, horizon // section.batch_tokens) if horizon else 0
    rows = section.batch_tokens // config.model.max_seq_len
    ranks = config.hardware.nproc * config.hardware.nnodes
    return TrainPlan(
        stage=stage,
        tokens=steps * section.batch_tokens,
        steps=steps,
        batch_tokens=section.batch_tokens,
        rows=rows,
        micro_batch_rows=section.micro_batch_rows,
        accumulation=rows // (ranks * section.micro_batch_rows),
        flops=steps * section.batch_tokens * training_flops_per_token(config),
    )


GENERATED_SHARE = 4 / 3
"""FLOPs of a token that is generated and then trained on, per FLOP of one that is trained on: generation is one forward pass,
training three."""


def _rollout_plan(config: RunConfig, stage: StageName, section: RLConfig) -> TrainPlan:
    """The plan of a stage that trains on replies to questions."""
    if not section.micro_batch_rows:
        raise ConfigError(f"{stage}.micro_batch_rows is not derived", hint="derive the configuration first")
    ranks = config.hardware.nproc * config.hardware.nnodes
    steps = max(1, sum(section.mixture.values()) * section.epochs // section.questions) if section.mixture else 0
    rows = section.questions * section.samples
    batch = rows * min(section.max_new_tokens, config.model.max_seq_len)
    return TrainPlan(
        stage=stage,
        tokens=steps * batch,
        steps=steps,
        batch_tokens=batch,
        rows=rows,
        micro_batch_rows=section.micro_batch_rows,
        accumulation=math.ceil(rows / (ranks * section.micro_batch_rows)),
        flops=int(steps * batch * flops_per_token(config.model) * GENERATED_SHARE),
    )


def planned_flops(config: RunConfig, stages: Iterable[StageName]) -> dict[StageName, int]:
    """FLOPs of training stages, those left out whose size only the data tell."""
    found: dict[StageName, int] = {}
    for stage in stages:
        if stage in TRAINING_STAGES:
            with contextlib.suppress(ConfigError):  # nothing is known of a configuration that isn't derived
                found[stage] = train_plan(config, stage).flops
    return {stage: flops for stage, flops in found.items() if flops}


def shared_units(config: RunConfig, stage: StageName) -> tuple[int, str]:
    """What the ranks of a training stage share evenly in a step, and what it is called."""
    section = stage_config(config, stage)
    if isinstance(section, RLConfig):
        return section.questions, "questions"
    assert isinstance(section, EncodedTrainConfig)
    return section.batch_tokens // config.model.max_seq_len, "sequences"


def stage_config(config: RunConfig, stage: StageName) -> TrainConfig:
    """The section of a training stage. Raises ConfigError for another stage."""
    if stage not in TRAINING_STAGES:
        raise ConfigError(f"{stage} is not a training stage", hint=f"training stages are {', '.join(TRAINING_STAGES)}")
    section: TrainConfig = getattr(config, stage)
    return section


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that training takes per rank, without what the framework itself holds."""

    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


def memory_estimate(config: RunConfig, stage: StageName = TEXT_STAGE, *, activation_bytes: int = 4) -> MemoryEstimate:
    """A rough estimate for a derived configuration; `activation_bytes` is 4 for fp32, 2 for bf16.

    Weights and gradients are fp32. AdamW keeps two numbers per parameter, Muon one and a variance per row. Activations
    are what backward needs of one forward pass, counted in widths per token and layer.
    """
    model = derive_model(config.model)
    count = count_parameters(model)
    adam = count.total - count.matrices
    tokens = stage_config(config, stage).micro_batch_rows * model.max_seq_len
    kv_share = model.n_kv_head / model.n_head
    gated = sum(has_value_embedding(model, layer) for layer in range(model.depth)) / model.depth
    # Per layer: the residual, two norms, attention's output and its copy; q and k after norm and after rotation; v, twice
    # where a value embedding is added; the MLP's ReLU and its square. Beside the layers: embeddings, middle and final
    # states, and the gradients of one MLP in flight.
    widths = 5 + 2 * (1 + kv_share) + (1 + gated) * kv_share + 2 * model.mlp_ratio
    beside = 6 + 2 * model.mlp_ratio
    entries, rest = 1.0, 0.0
    extra = adam_extra = 0
    if config.megacontext.enabled:
        entries, rest = context_activations(config)
        parameters = megacontext_parameters(config)
        extra, adam_extra = parameters.total, parameters.lensnet + parameters.bias
    activations = tokens * model.n_embd * (entries * (model.depth * widths + beside) + rest) * activation_bytes
    return MemoryEstimate(
        weights=4 * (count.total + extra),
        gradients=4 * (count.total + extra),
        optimizer=4 * (2 * adam + count.matrices + adam_extra + extra),
        activations=int(activations),
    )
