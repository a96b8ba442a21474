"""Settings of MegaContext: GistNet, LensNet, search, contexts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mccore.config.section import Choice, Count, Fraction, NonNegative, Positive, Section, flags


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
    lookup: bool = Field(
        True,
        description="look up at every token what followed the newest ones before, and let that speak as much as was learned",
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
        expanded = self.num_random_variants // 2
        if self.lens.target != "attention" and expanded < 2:
            raise ValueError(
                f"lens.target={self.lens.target} compares the expanded variants of a sequence in pairs, and "
                f"num_random_variants={self.num_random_variants} has {expanded}: it takes 4 or more"
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
