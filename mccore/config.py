"""The one schema of configuration: `RunConfig` and its sections.

A recipe is a partial `RunConfig`; `mccore.resolve` merges overrides into it, derives what was left at 0 ("derive it") and
writes the result, every default spelled out, to `run.json`. Training processes read that file and nothing else. Flags,
`--set` paths, the docs page and a form in a monitor are generated from this schema, so no default exists twice.

Numbers at 0 whose description says "0 derives it" are filled by `mccore.scaling` from the depth of the model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from mccore.errors import ConfigError

SCHEMA_VERSION = 1

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """A frozen group of settings; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def flags(*names: str) -> dict[str, Any]:
    """Extra command-line names for a field, beside the one its path gives."""
    return {"flags": list(names)}


class Choice(Section):
    """A plugin by the name a user types, and the options its own model declares."""

    name: Annotated[str, Field(min_length=1)]
    options: dict[str, JsonValue] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class HardwareConfig(Section):
    """Where and how wide a run executes."""

    gpu: str = Field(
        "",
        description="profile of the recipe for one kind of machine, such as `h100` or `5090`",
        json_schema_extra=flags("gpu"),
    )
    nproc: Positive = Field(1, description="processes (ranks) on this machine", json_schema_extra=flags("nproc"))
    nnodes: Positive = Field(1, description="machines", json_schema_extra=flags("nnodes"))
    rdzv_endpoint: str = Field(
        "", description="host:port where several machines meet", json_schema_extra=flags("rdzv_endpoint")
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU when there is one")
    dtype: Literal["auto", "native", "fp32", "bf16"] = Field(
        "auto",
        description="compute type; auto is bf16 on GPUs that have it, fp32 on CPU; native is bf16 also on CPUs that have it",
    )
    threads: Count = Field(0, description="CPU threads per rank; 0 shares the cores among the ranks")
    compile: Literal["auto", "on", "off"] = Field("auto", description="torch.compile; auto is on for GPUs, off for CPU")


class TokenizerConfig(Section):
    """The byte-level BPE tokenizer."""

    vocab_size: Annotated[int, Field(ge=265)] = Field(32768, description="all ids: 256 bytes, merges and 9 specials")
    max_chars: Positive = Field(2_000_000_000, description="characters of the corpus to train on")
    doc_max_chars: Positive = Field(10_000, description="characters taken from one document")


class DataConfig(Section):
    """The text a model is pretrained on."""

    corpus: str = Field(
        "stdlib",
        description="stdlib, stdlib:with-tests, stdlib:packages, climbmix, fineweb_edu, parquet:PATH, jsonl:PATH or text:PATH",
    )
    shards: Count = Field(0, description="shards of a remote corpus to fetch; 0 takes all")


class ModelConfig(Section):
    """The GPT. Every constant of its arithmetic is stored with the checkpoint, so code can't change an old model."""

    depth: Positive = Field(
        20, description="layers: the one dial; width, heads, horizon, batch, rates and decay follow"
    )
    aspect_ratio: Positive = Field(64, description="width per layer")
    head_dim: Annotated[int, Field(gt=0, multiple_of=2)] = Field(128, description="width of a head")
    n_embd: Count = Field(0, description="model width; 0 derives it: depth * aspect_ratio, rounded up to whole heads")
    n_head: Count = Field(0, description="query heads; 0 derives it")
    n_kv_head: Count = Field(0, description="key and value heads (GQA); 0 takes n_head")
    vocab_size: Count = Field(0, description="rows of the embedding; 0 takes the tokenizer's size rounded up to 64")
    vocab_ids: Count = Field(
        0, description="ids that exist: rows beyond are padding, never predicted; 0 takes the tokenizer's size"
    )
    max_seq_len: Positive = Field(2048, description="tokens of a training sequence")
    mlp_ratio: Positive = Field(4, description="hidden width of the MLP / width")
    window_pattern: Annotated[str, Field(pattern="^[LS]+$")] = Field(
        "L", description="attention span per layer, tiled: L full, S short; the last layer is always L"
    )
    window_short: Count = Field(
        0, description="span of an S layer in tokens; 0 derives it: a quarter of the sequence, in steps of 128"
    )
    rope_base: Annotated[float, Field(gt=1)] = Field(100_000.0, description="base of the rotary frequencies")
    qk_scale: Annotated[float, Field(gt=0)] = Field(1.2, description="factor on q and on k after their norm")
    norm_eps: Annotated[float, Field(gt=0)] = Field(1e-6, description="epsilon of the RMS norms")
    logit_softcap: NonNegative = Field(
        15.0, description="logits are softcap * tanh(z / softcap), in fp32; 0 switches it off"
    )
    value_embeddings: bool = Field(
        True, description="a gated token embedding added to v in every second layer, counted from the last"
    )
    value_gate_channels: Positive = Field(12, description="channels of the residual that feed the value-embedding gate")
    value_gate_scale: Annotated[float, Field(gt=0)] = Field(3.0, description="range of the value-embedding gate")
    residual_scalars: bool = Field(True, description="per layer: x <- a * x + b * x0, both learned")
    residual_init: tuple[float, float] = Field(
        (1.15, 1.05), description="a at the first and last layer, linear between"
    )
    x0_init: tuple[float, float] = Field((0.20, 0.05), description="b at the first and last layer, linear between")
    smear: bool = Field(False, description="add a learned, gated share of the previous token's embedding")
    smear_init: float = Field(0.0, description="share of the previous token's embedding at the start")
    smear_gate_channels: Positive = Field(24, description="channels of the embedding that feed the smear gate")
    backout: bool = Field(True, description="subtract a learned share of the middle layer's output at the end")
    backout_init: float = Field(0.2, description="share of the middle layer subtracted at the start")
    embedding_std: Annotated[float, Field(gt=0)] = Field(
        0.8, description="standard deviation of token embeddings at the start"
    )
    head_std: Annotated[float, Field(gt=0)] = Field(
        0.001, description="standard deviation of the output head at the start"
    )
    fc_init: Annotated[float, Field(gt=0)] = Field(
        0.4, description="factor on the uniform init of the MLP's first matrix"
    )


class OptimConfig(Section):
    """Muon for matrices, AdamW for the rest; rates are those of width 768 and a batch of 524,288 tokens."""

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
    orthogonalize_steps: Positive = Field(5, description="polynomial iterations of Muon's orthogonalisation")
    adam_eps: Annotated[float, Field(gt=0)] = Field(1e-10, description="epsilon of AdamW")
    grad_clip: NonNegative = Field(0.0, description="global gradient norm limit; 0 switches it off")
    reference_batch: Positive = Field(524_288, description="batch in tokens that the rates were tuned at")
    reference_width: Positive = Field(768, description="width that the AdamW rates were tuned at")
    lr_batch_scale: NonNegative = Field(
        0.0, description="factor on all rates for the batch; 0 derives it: sqrt(batch / reference_batch)"
    )
    lr_width_scale: NonNegative = Field(
        0.0, description="factor on embedding and head rates for the width; 0 derives it: sqrt(reference_width / width)"
    )
    weight_decay_scale: NonNegative = Field(
        0.0,
        description="factor on the decay; 0 derives it: sqrt(batch / reference_batch) * reference horizon / horizon",
    )


class TrainConfig(Section):
    """What every training stage has. Cadences are counted in tokens; 0 means only at the end."""

    tokens: Count = Field(0, description="training tokens; 0 derives it")
    batch_tokens: Count = Field(0, description="tokens of one optimizer step over all ranks; 0 derives it")
    micro_batch_rows: Count = Field(0, description="sequences of one forward pass per rank; 0 derives it")
    lr_scale: NonNegative = Field(1.0, description="factor on every rate of this stage")
    warmup_steps: Count = Field(40, description="steps of linear warm-up")
    warmdown_ratio: Fraction = Field(0.65, description="share of the stage in which rates fall linearly")
    final_lr_fraction: Fraction = Field(0.05, description="share of the rate left at the end")
    weight_decay: bool = Field(True, description="apply the matrices' weight decay in this stage")
    eval_every_tokens: Count = Field(0, description="validation cadence")
    eval_tokens: Positive = Field(10_485_760, description="validation tokens per evaluation")
    sample_every_tokens: Count = Field(0, description="cadence of sampled text")
    checkpoint_every_tokens: Count = Field(0, description="cadence of checkpoints")


class BaseConfig(TrainConfig):
    """Pretraining."""

    token_ratio: Annotated[float, Field(gt=0)] = Field(
        12.0, description="horizon in tokens per scaling parameter (block matrices and head)"
    )


class ChatTrainConfig(TrainConfig):
    """Training on conversations: midtraining and supervised fine-tuning."""

    mixture: dict[str, Count] = Field({}, description="conversations drawn from each source for one epoch")
    epochs: Positive = Field(1, description="passes over the mixture when `tokens` is 0")
    loss_on: Literal["all", "assistant"] = Field("assistant", description="which tokens are trained on")


class EvalConfig(Section):
    """Evaluation after training."""

    bpb_tokens: Positive = Field(20_971_520, description="validation tokens for bits per byte")
    choice_questions: Count = Field(1000, description="held-out multiple-choice questions")
    generated_questions: Count = Field(100, description="held-out questions answered in free text, per task")
    batch_rows: Positive = Field(32, description="sequences of one evaluation pass")
    sample_prompts: tuple[str, ...] = Field(
        ("import os\n\ndef ", "The standard library of Python ", "class Queue:\n    ", "Return the "),
        description="prompts continued for the report",
    )
    sample_tokens: Positive = Field(64, description="tokens of a sample")


class ChatConfig(Section):
    """Defaults of generation in chat."""

    temperature: Annotated[float, Field(ge=0, le=2)] = Field(0.6, description="0 is greedy")
    top_k: Count = Field(50, description="sample among the k likeliest; 0 among all")
    max_new_tokens: Positive = Field(256, description="tokens of one answer")


class CheckpointConfig(Section):
    """How many checkpoints stay on disk."""

    keep_last: Positive = Field(2, description="checkpoints kept per stage")


class GistNetConfig(Section):
    """The network that turns the vectors of one block into one gist."""

    kind: Literal["transformer", "mean"] = Field("transformer", description="transformer, or pooling alone")
    layers: Literal[1, 2, 4] = Field(2, description="layers of the transformer")
    pooling: Literal["mean", "query", "cls"] = Field("mean", description="how a block becomes one vector")
    head: Literal["linear", "mlp"] = Field("mlp", description="map after pooling")
    skip: bool = Field(True, description="add the plain mean of the children to what the network makes")
    matrix_lr: NonNegative = Field(0.02, description="Muon rate of its matrices")
    lr: NonNegative = Field(0.003, description="rate of its other parameters and of the gists' score bias")


class LensConfig(Section):
    """LensNet and its training."""

    layers: Literal[1, 2, 4] = Field(2, description="layers")
    head: Literal["linear", "mlp"] = Field("linear", description="map to a score")
    lr: NonNegative = Field(0.002, description="rate of its parameters")
    start: Fraction = Field(0.2, description="share of a stage after which it is trained; before, attention is noise")
    target: Literal["attention", "preference", "both"] = Field(
        "attention",
        description="what it learns: where the full context's attention goes, which of two contexts predicts better, or both",
    )
    queries: Positive = Field(32, description="newest tokens of a Working Context that ask, each its own question")
    loss_weight: NonNegative = Field(0.1, description="weight of the focus loss")
    question_weight: NonNegative = Field(
        1.0, description="weight, within the focus loss, of each recent token's own attention"
    )
    gist_gradient: Fraction = Field(
        1.0, description="share of the focus loss's gradient that reaches the gists, so that they tell what they hold"
    )
    key_floor: NonNegative = Field(
        0.02, description="weight of a horizon token whose prediction doesn't suffer from gists, in nats"
    )
    temperature: Annotated[float, Field(gt=0)] = Field(1.0, description="temperature of the Bradley-Terry preference")
    adv_norm_beta: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.9, description="decay of the running scale of advantages"
    )
    rank_weight: NonNegative = Field(0.0, description="weight of the rank margin between preferred and other context")
    rank_margin: NonNegative = Field(0.5, description="margin by which the preferred context's utility should lead")
    hard_negative_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="share of pairs kept, by largest gap"
    )
    max_pairs: Positive = Field(8, description="preference pairs per sequence")
    kl_weight: NonNegative = Field(0.0, description="weight of the symmetric KL to the previous policy")
    budget_weight: NonNegative = Field(0.0, description="weight of the balance between expansions and collapses")
    budget_smooth_weight: NonNegative = Field(0.0, description="weight of the smoothed budget balance")
    budget_smooth_beta: Fraction = Field(0.9, description="decay of the smoothed budget balance")


class SearchConfig(Section):
    """A search of the history for spans that the newest tokens ask for, beside LensNet. Allocators see what it finds."""

    kind: Literal["none", "ngram"] = Field(
        "none",
        description="none, or by the rare n-grams that a span shares with the newest tokens",
        json_schema_extra=flags("search"),
    )
    span_tokens: Positive = Field(64, description="tokens of a span, rounded up to whole blocks")
    query_tokens: Annotated[int, Field(ge=2)] = Field(64, description="newest tokens that are searched for")
    half_life: Annotated[float, Field(gt=0)] = Field(
        16.0, description="age in tokens at which an n-gram of the newest tokens counts half as much"
    )


class MegaContextConfig(Section):
    """The MegaContext tree, its Working Context, and the training of both. Applies when `enabled`."""

    enabled: bool = Field(False, description="train and run with MegaContext", json_schema_extra=flags("mc"))
    block_size: Annotated[int, Field(ge=2, le=128)] = Field(
        32, description="children per gist (K)", json_schema_extra=flags("block_size")
    )
    max_lod: Annotated[int, Field(ge=2, le=8)] = Field(2, description="coarsest level of detail")
    tree: Choice = Field(Choice(name="ram"), description="storage of the tree", json_schema_extra=flags("tree"))
    allocator: Choice = Field(
        Choice(name="greedy"), description="focus allocator", json_schema_extra=flags("allocator", "allocator_type")
    )
    gistnet: GistNetConfig = GistNetConfig()
    lens: LensConfig = LensConfig()
    search: SearchConfig = SearchConfig()
    positional: Literal["simple", "gaussian", "gaussian_alibi", "gaussian_lod2d"] = Field(
        "gaussian", description="rotary encoding of spans"
    )
    token_positions: Literal["absolute", "contiguous"] = Field(
        "absolute",
        description="where tokens of a Working Context stand: where they were in the history, or without gaps before the newest",
    )
    span_bias: bool = Field(
        True, description="add a learned multiple of ln(span) to the scores of a gist's key, from 1 at the start"
    )
    gist_mass: Count = Field(
        0,
        description="tokens that all gists of a Working Context together weigh as at most, in the scores of their keys; 0 takes "
        "wc_length",
    )
    position_skip: Count = Field(
        0, description="positions skipped at most between the far past and the recent tokens of a training context"
    )
    num_random_variants: Count = Field(2, description="random Working Contexts per sequence beside the full one (N)")
    start_wc_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8, description="length of a variant at the start / sequence length"
    )
    train_wc_length: Count = Field(
        0, description="entries of a variant at the end of training; 0 derives it: 20 % of the sequence"
    )
    wc_length_steps: Positive = Field(
        4, description="distinct lengths on the way from the first to the last; each is compiled once"
    )
    min_history: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="variants end at random places behind this share of the sequence; 1 is always at its end"
    )
    recent_tokens: Count = Field(
        0, description="newest tokens of a variant that stay tokens; 0 derives it: horizon + block_size"
    )
    expanded_blocks: Count = Field(2, description="far blocks that stay tokens in every second variant")
    expanded_run: Positive = Field(1, description="neighbouring blocks that are expanded together")
    random_share: Fraction = Field(
        0.25,
        description="share of those variants whose tokens lie anywhere, instead of in the newest blocks and a few far ones",
    )
    policy_share: Fraction = Field(
        0.25, description="share of those variants whose expanded blocks LensNet chooses, once it is trained"
    )
    search_share: Fraction = Field(
        0.0,
        description="share of those variants whose expanded blocks the search finds, by the tokens before the horizon",
    )
    lod2_probability: Fraction = Field(0.25, description="share of far groups drawn at LOD2 and above")
    baseline_share: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="share of the sequences that are also read in full, token by token"
    )
    baseline_tokens: Count = Field(
        0,
        description="tokens of a sequence that this pass reads, at a random place, where histories are to be longer than what "
        "the plain model can afford; 0 reads all",
    )
    variant_weight: NonNegative = Field(
        0.1, description="weight of the variants' next-token loss; the higher, the more the plain model pays for them"
    )
    variants_train_gpt: bool = Field(
        True,
        description="variants train the GPT too; off, they train GistNet and what else MegaContext adds, and the GPT is trained "
        "as without it",
    )
    gist_target_weight: NonNegative = Field(
        0.1, description="weight of predicting, at a gist, the token behind its span"
    )
    key_token_weight: NonNegative = Field(
        0.0,
        description="largest extra weight of a token that the full context predicts better; 0 switches it off",
    )
    distill_weight: NonNegative = Field(
        0.0,
        description="weight of the KL from the full context's predictions to a variant's over the horizon; 0 switches it off",
    )
    recon_weight: NonNegative = Field(
        0.0, description="weight of rebuilding a block's tokens from its gist; 0 switches it off"
    )
    recon_blocks: Positive = Field(4, description="blocks per sequence that are rebuilt")
    horizon: Positive = Field(64, description="tokens after the Working Context on which it is judged (H)")
    refocus_interval: Positive = Field(32, description="tokens between two refocuses at inference")
    wc_length: Count = Field(
        0, description="entries of the Working Context at inference (W); 0 takes the sequence length"
    )
    gist_dtype: Literal["fp32", "bf16", "fp16", "int8"] = Field(
        "fp32", description="how a session's tree stores gists; int8 has a scale per gist"
    )
    kv_policy: Literal["exact", "reuse"] = Field(
        "reuse",
        description="after a refocus, read only what is new (reuse), or everything from the first edit on again (exact)",
    )
    surprise: NonNegative = Field(
        0.0, description="NLL in nats of a token that brings the next refocus forward at inference; 0 for never"
    )
    auto_batch: bool = Field(
        True, description="choose the micro-batch from measured memory; tokens per step stay the same"
    )
    aux_dtype: Literal["auto", "fp32", "bf16"] = Field("auto", description="compute type of GistNet and LensNet")

    @model_validator(mode="after")
    def _settings_agree(self) -> MegaContextConfig:
        odd = self.num_random_variants // 2
        if self.lens.target != "attention" and odd < 2:
            raise ValueError(
                f"lens.target={self.lens.target} compares the odd variants of a sequence in pairs, and "
                f"num_random_variants={self.num_random_variants} has {odd}: it takes 4 or more"
            )
        if self.random_share + self.policy_share + self.search_share > 1 + 1e-9:
            raise ValueError(
                f"random_share={self.random_share:g}, policy_share={self.policy_share:g} and "
                f"search_share={self.search_share:g} are shares of the same variants: together they are at most 1"
            )
        if self.baseline_tokens and self.lens.loss_weight and self.lens.target != "preference":
            raise ValueError(
                f"lens.target={self.lens.target} learns from a pass over all of a sequence, and baseline_tokens="
                f"{self.baseline_tokens} reads a part: set lens.loss_weight=0, or baseline_tokens=0"
            )
        if not self.variants_train_gpt and self.baseline_share < 1:
            raise ValueError(
                f"with variants_train_gpt off a sequence without its plain pass trains no GPT: set baseline_share=1, not "
                f"{self.baseline_share:g}"
            )
        if self.baseline_tokens and self.distill_weight:
            raise ValueError(
                f"distill_weight={self.distill_weight:g} takes a pass over all of a sequence for the teacher, and "
                f"baseline_tokens={self.baseline_tokens} reads a part"
            )
        if 0 < self.recent_tokens < self.horizon:
            raise ValueError(
                f"recent_tokens={self.recent_tokens} is less than horizon={self.horizon}: the tokens that judge a Working "
                "Context are its newest and stay tokens"
            )
        return self


StageName = Literal[
    "data", "tokenizer", "tokenizer_eval", "encode", "base", "base_eval",
    "mid", "chat_eval_mid", "sft", "chat_eval_sft", "report",
]  # fmt: skip
STAGES: tuple[StageName, ...] = (
    "data", "tokenizer", "tokenizer_eval", "encode", "base", "base_eval",
    "mid", "chat_eval_mid", "sft", "chat_eval_sft", "report",
)  # fmt: skip
TRAINING_STAGES: tuple[StageName, ...] = ("base", "mid", "sft")


class RunConfig(Section):
    """Everything that decides what a run does."""

    schema_version: Literal[1] = 1
    recipe: str = ""
    seed: Count = Field(
        42, description="seed of initialisation, data order and sampling", json_schema_extra=flags("seed")
    )
    stages: tuple[StageName, ...] = Field(STAGES, description="stages in order")
    hardware: HardwareConfig = HardwareConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    base: BaseConfig = BaseConfig()
    mid: ChatTrainConfig = ChatTrainConfig(
        loss_on="all", warmdown_ratio=0.2, final_lr_fraction=0.0, weight_decay=False, warmup_steps=0
    )
    sft: ChatTrainConfig = ChatTrainConfig(
        lr_scale=0.8, warmdown_ratio=0.5, final_lr_fraction=0.0, weight_decay=False, warmup_steps=0
    )
    eval: EvalConfig = EvalConfig()
    chat: ChatConfig = ChatConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    megacontext: MegaContextConfig = MegaContextConfig()
    telemetry: tuple[Choice, ...] = Field(
        (Choice(name="noop"),), description="telemetry providers", json_schema_extra=flags("telemetry")
    )

    @field_validator("stages")
    @classmethod
    def _stages_in_order(cls, stages: tuple[StageName, ...]) -> tuple[StageName, ...]:
        ranks = [STAGES.index(stage) for stage in stages]
        if not stages or ranks != sorted(set(ranks)):
            raise ValueError(f"stages must be some of {', '.join(STAGES)}, each once and in this order")
        return stages

    def to_json(self) -> str:
        """The configuration as `run.json` holds it: every value spelled out, keys in schema order."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = "run.json") -> RunConfig:
        """Read what `to_json` wrote. Raises ConfigError naming `source` and the field."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError(f"{source}: {describe_validation(error)}") from error


SectionT = TypeVar("SectionT", bound=BaseModel)


def walk_fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a schema as (dotted path, pydantic FieldInfo), depth first, in declaration order. A Choice is a leaf."""
    for name, info in model.model_fields.items():
        path = f"{prefix}{name}"
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Section) and kind is not Choice:
            yield from walk_fields(kind, f"{path}.")
        else:
            yield path, info


def describe_validation(error: ValidationError) -> str:
    """A validation error as one line per field: dotted path, what is wrong, what was given (not for the type `secret`)."""
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"]) or "value"
        given = (
            ""
            if item["type"] in ("missing", "extra_forbidden", "secret") or isinstance(item["input"], dict)
            else f" (got {item['input']!r})"
        )
        message = "unknown setting" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
        lines.append(f"{path}: {message[:1].lower()}{message[1:]}{given}")
    return "; ".join(lines)


def read_config(path: Path) -> RunConfig:
    """The configuration in a `run.json`. Raises ConfigError when it can't be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} isn't text in UTF-8: {error}") from error
    return RunConfig.from_json(text, source=str(path))
