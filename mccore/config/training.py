"""Settings of training and evaluation, and of the hardware they run on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mccore.config.section import (
    Count,
    DerivedCount,
    DerivedFactor,
    Factor,
    Fraction,
    Length,
    NonNegative,
    Positive,
    Section,
    Width,
    derived,
    flags,
)  # fmt: skip


class HardwareConfig(Section):
    """Where and how wide a run executes."""

    group = "Hardware"

    gpu: str = Field(
        "",
        description="profile of the recipe for one kind of machine, such as `h100` or `5090`",
        json_schema_extra=flags("gpu"),
    )
    nproc: Annotated[int, Field(gt=0, le=4096)] = Field(
        1, description="processes (ranks) on this machine", json_schema_extra=flags("nproc")
    )
    nnodes: Annotated[int, Field(gt=0, le=2**16)] = Field(1, description="machines", json_schema_extra=flags("nnodes"))
    rdzv_endpoint: str = Field(
        "", description="host:port where several machines meet", json_schema_extra=flags("rdzv_endpoint")
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU when there is one")
    dtype: Literal["auto", "native", "fp32", "bf16"] = Field(
        "auto",
        description="compute type; auto is bf16 on GPUs that have it, fp32 on CPU; native is bf16 also on CPUs that have it",
    )
    threads: Annotated[int, Field(ge=0, le=4096)] = Field(
        0, description="CPU threads per rank; 0 shares the cores among the ranks"
    )
    compile: Literal["auto", "on", "off"] = Field("auto", description="torch.compile; auto is on for GPUs, off for CPU")


class OptimConfig(Section):
    """Muon for matrices, AdamW for the rest; rates are those of width 768 and a batch of 524,288 tokens."""

    group = "Optimizer"

    matrix_lr: NonNegative = Field(0.02, description="Muon rate of the block matrices")
    embedding_lr: NonNegative = Field(0.3, description="rate of token embeddings")
    value_embedding_lr: NonNegative = Field(0.15, description="rate of value embeddings")
    head_lr: NonNegative = Field(0.008, description="rate of the output head")
    residual_lr: NonNegative = Field(0.005, description="rate of the residual scalars")
    x0_lr: NonNegative = Field(0.5, description="rate of the x0 scalars")
    gate_lr: NonNegative = Field(0.2, description="rate of smear and backout")
    weight_decay: NonNegative = Field(
        0.28, description="cautious decay of the matrices at depth 12; scaled by batch and horizon"
    )
    momentum: tuple[float, float, float] = Field(
        (0.85, 0.97, 0.90), description="Muon's momentum at start, in the middle, at the end"
    )
    momentum_warmup_steps: Count = Field(400, description="steps until the middle momentum")
    second_momentum: Fraction = Field(0.9, description="decay of Muon's per-row variance")
    orthogonalize_steps: Annotated[int, Field(gt=0, le=100)] = Field(
        5, description="polynomial iterations of Muon's orthogonalisation"
    )
    adam_eps: Factor = Field(1e-10, description="epsilon of AdamW")
    grad_clip: NonNegative = Field(0.0, description="global gradient norm limit; 0 switches it off")
    reference_batch: Positive = Field(524_288, description="batch in tokens that the rates were tuned at")
    reference_width: Width = Field(768, description="width that the AdamW rates were tuned at")
    lr_batch_scale: DerivedFactor = derived("factor on all rates for the batch; derived: sqrt(batch / reference_batch)")
    lr_width_scale: DerivedFactor = derived(
        "factor on embedding and head rates for the width; derived: sqrt(reference_width / width)"
    )
    weight_decay_scale: DerivedFactor = derived(
        "factor on the decay; derived: sqrt(batch / reference_batch) * reference horizon / horizon"
    )


class TrainConfig(Section):
    """What every training stage has. Cadences are counted in tokens; 0 means only at the end."""

    group = "Training"

    micro_batch_rows: DerivedCount = derived("sequences of one forward pass per rank; derived: what fits")
    lr_scale: NonNegative = Field(1.0, description="factor on every rate of this stage")
    warmup_steps: Count = Field(40, description="steps of linear warm-up")
    warmdown_ratio: Fraction = Field(0.65, description="share of the stage in which rates fall linearly")
    final_lr_fraction: Fraction = Field(0.05, description="share of the rate left at the end")
    weight_decay: bool = Field(True, description="apply the matrices' weight decay in this stage")
    eval_every_tokens: Count = Field(0, description="validation cadence")
    sample_every_tokens: Count = Field(0, description="cadence of sampled text")
    checkpoint_every_tokens: Count = Field(0, description="cadence of checkpoints")


class EncodedTrainConfig(TrainConfig):
    """What training stages have that read tokens which were encoded beforehand."""

    tokens: DerivedCount = derived(
        "training tokens; derived: from token_ratio, or in stages on conversations one epoch of them times epochs"
    )
    batch_tokens: DerivedCount = derived("tokens of one optimizer step over all ranks; derived from the horizon")
    eval_tokens: Positive = Field(10_485_760, description="validation tokens per evaluation")


class BaseConfig(EncodedTrainConfig):
    """Pretraining."""

    group = "Pretraining"

    token_ratio: Factor = Field(12.0, description="horizon in tokens per scaling parameter (block matrices and head)")


class ChatTrainConfig(EncodedTrainConfig):
    """Training on conversations: midtraining and supervised fine-tuning."""

    group = "Training on conversations"

    mixture: dict[str, Count] = Field({}, description="conversations drawn from each source for one epoch")
    epochs: Positive = Field(1, description="passes over the mixture where `tokens` isn't set")
    loss_on: Literal["all", "assistant"] = Field("assistant", description="which tokens are trained on")


class RLConfig(TrainConfig):
    """Reinforcement learning on questions whose answers can be judged. Defaults are nanochat's."""

    group = "Reinforcement learning"

    mixture: dict[str, Count] = Field({}, description="questions drawn from each task for one epoch")
    epochs: Positive = Field(1, description="passes over the questions")
    questions: Annotated[int, Field(gt=0, le=2**20)] = Field(
        16, description="questions of one optimizer step, over all ranks"
    )
    samples: Annotated[int, Field(gt=1, le=2**16)] = Field(16, description="replies that are drawn to each question")
    max_new_tokens: Length = Field(256, description="tokens of a reply at most")
    temperature: Annotated[float, Field(gt=0, le=2)] = Field(1.0, description="temperature that replies are drawn at")
    top_k: Count = Field(50, description="replies are drawn among the k likeliest tokens; 0 among all")
    advantage: Literal["mean", "normalised", "leave_one_out"] = Field(
        "mean",
        description="a reply's advantage: its reward minus the mean of its question's; that divided by their standard "
        "deviation (GRPO); or minus the mean of the others (RLOO)",
    )
    kl_weight: NonNegative = Field(
        0.0, description="weight of the KL divergence from the model that the stage began with; 0 keeps no such model"
    )
    eval_questions: Positive = Field(400, description="held-out questions for pass@k, per task")
    eval_samples: Annotated[int, Field(gt=0, le=2**16)] = Field(
        8, description="replies to each of them; pass@k is measured for k up to it"
    )


class EvalConfig(Section):
    """Evaluation after training."""

    group = "Evaluation"

    bpb_tokens: Positive = Field(20_971_520, description="validation tokens for bits per byte")
    choice_questions: Count = Field(1000, description="held-out multiple-choice questions")
    generated_questions: Count = Field(100, description="held-out questions answered in free text, per task")
    benchmarks: tuple[str, ...] = Field(
        (), description="published benchmarks that chat models are asked, by task; chatcore is its six tasks"
    )
    benchmark_questions: Count = Field(0, description="test questions of each benchmark at most; 0 for all of them")
    benchmark_tokens: Length = Field(512, description="longest free answer to a benchmark")
    core_bundle: str = Field("", description="folder of CORE's published bundle, which models of text are asked")
    batch_rows: Annotated[int, Field(gt=0, le=2**20)] = Field(32, description="sequences of one evaluation pass")
    sample_prompts: tuple[str, ...] = Field(
        ("import os\n\ndef ", "The standard library of Python ", "class Queue:\n    ", "Return the "),
        description="prompts continued for the report",
    )
    sample_tokens: Length = Field(64, description="tokens of a sample")


class ChatConfig(Section):
    """Defaults of generation in chat."""

    group = "Chat"

    temperature: Annotated[float, Field(ge=0, le=2)] = Field(0.6, description="0 is greedy")
    top_k: Count = Field(50, description="sample among the k likeliest; 0 among all")
    max_new_tokens: Length = Field(256, description="tokens of one answer")


class CheckpointConfig(Section):
    """How many checkpoints stay on disk."""

    group = "Checkpoints"

    keep_last: Positive = Field(2, description="checkpoints kept per stage")
