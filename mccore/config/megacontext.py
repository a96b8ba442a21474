"""Settings of MegaContext: GistNet, LensNet, search, contexts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mccore.config.needs import (
    ATTENTION_TARGET,
    BLOCKS_EXPANDED,
    LENS_STARTED,
    LENS_TRAINED,
    PREFERENCE_TARGET,
    RANK_LOSS,
    RECONSTRUCTION,
    SEVERAL_VARIANTS,
    SMOOTH_BUDGET,
    SPAN_BIAS_ON,
    TRANSFORMER,
    VARIANTS_DRAWN,
)
from mccore.config.section import (
    MAX_LENGTH,
    Choice,
    Count,
    DerivedCount,
    DerivedLength,
    Factor,
    Fraction,
    Length,
    NonNegative,
    Section,
    derived,
    flags,
    setting,
)  # fmt: skip

# Where settings of MegaContext stand in help and docs, beside those of its networks.
TRAINING_CONTEXTS, LOSSES, INFERENCE = "Training contexts", "Losses", "Inference"


class GistNetConfig(Section):
    """The network that turns the vectors of one block into one gist."""

    group = "GistNet"

    kind: Literal["transformer", "mean"] = Field("transformer", description="transformer, or pooling alone")
    layers: Literal[1, 2, 4] = setting(2, "layers of the transformer", needs=(TRANSFORMER,))
    pooling: Literal["mean", "query", "cls"] = Field("mean", description="how a block becomes one vector")
    head: Literal["linear", "mlp"] = Field("mlp", description="map after pooling")
    skip: bool = Field(True, description="add the plain mean of the children to what the network makes")
    matrix_lr: NonNegative = Field(0.02, description="Muon rate of its matrices")
    lr: NonNegative = Field(0.003, description="rate of its other parameters and of the gists' score bias")


class LensConfig(Section):
    """LensNet and its training."""

    group = "LensNet"

    layers: Literal[1, 2, 4] = Field(2, description="layers")
    head: Literal["linear", "mlp"] = Field("linear", description="map to a score")
    lr: NonNegative = setting(0.002, "rate of its parameters", needs=(VARIANTS_DRAWN, LENS_TRAINED, LENS_STARTED))
    start: Fraction = setting(
        0.2,
        "share of a stage after which it is trained; before, attention is noise",
        needs=(VARIANTS_DRAWN, LENS_TRAINED),
    )
    target: Literal["attention", "preference", "both"] = setting(
        "attention",
        "what it learns: where the full context's attention goes, which of two contexts predicts better, or both",
        needs=(VARIANTS_DRAWN, LENS_TRAINED, LENS_STARTED),
    )
    queries: Length = setting(
        32,
        "newest tokens of a Working Context that ask, each its own question",
        needs=(VARIANTS_DRAWN, LENS_TRAINED, LENS_STARTED),
    )
    loss_weight: NonNegative = setting(0.1, "weight of the focus loss", needs=(VARIANTS_DRAWN,))
    question_weight: NonNegative = setting(
        1.0,
        "weight, within the focus loss, of each recent token's own attention",
        needs=(VARIANTS_DRAWN, LENS_TRAINED, LENS_STARTED, ATTENTION_TARGET),
    )
    gist_gradient: Fraction = setting(
        1.0,
        "share of the focus loss's gradient that reaches the gists, so that they tell what they hold",
        needs=(VARIANTS_DRAWN, LENS_TRAINED, LENS_STARTED),
    )
    key_floor: NonNegative = setting(
        0.02,
        "weight of a horizon token whose prediction doesn't suffer from gists, in nats",
        needs=(VARIANTS_DRAWN, LENS_TRAINED, LENS_STARTED, ATTENTION_TARGET),
    )
    temperature: Factor = setting(
        1.0,
        "temperature of the Bradley-Terry preference",
        needs=(VARIANTS_DRAWN, LENS_TRAINED, LENS_STARTED, PREFERENCE_TARGET),
    )
    adv_norm_beta: Annotated[float, Field(ge=0, lt=1)] = setting(
        0.9,
        "decay of the running scale of advantages",
        needs=(VARIANTS_DRAWN, LENS_TRAINED, LENS_STARTED, PREFERENCE_TARGET),
    )
    rank_weight: NonNegative = setting(
        0.0,
        "weight of the rank margin between preferred and other context",
        needs=(VARIANTS_DRAWN, LENS_TRAINED, LENS_STARTED, PREFERENCE_TARGET),
    )
    rank_margin: NonNegative = setting(
        0.5,
        "margin by which the preferred context's utility should lead",
        needs=(VARIANTS_DRAWN, LENS_TRAINED, LENS_STARTED, PREFERENCE_TARGET, RANK_LOSS),
    )
    hard_negative_ratio: Annotated[float, Field(gt=0, le=1)] = setting(
        1.0,
        "share of pairs kept, by largest gap",
        needs=(VARIANTS_DRAWN, LENS_TRAINED, LENS_STARTED, PREFERENCE_TARGET),
    )
    max_pairs: Annotated[int, Field(gt=0, le=2**16)] = setting(
        8, "preference pairs per sequence", needs=(VARIANTS_DRAWN, LENS_TRAINED, LENS_STARTED, PREFERENCE_TARGET)
    )
    kl_weight: NonNegative = setting(
        0.0, "weight of the symmetric KL to the previous policy", needs=(VARIANTS_DRAWN, LENS_TRAINED, LENS_STARTED)
    )
    budget_weight: NonNegative = setting(
        0.0,
        "weight of the balance between expansions and collapses",
        needs=(VARIANTS_DRAWN, LENS_TRAINED, LENS_STARTED),
    )
    budget_smooth_weight: NonNegative = setting(
        0.0, "weight of the smoothed budget balance", needs=(VARIANTS_DRAWN, LENS_TRAINED, LENS_STARTED)
    )
    budget_smooth_beta: Fraction = setting(
        0.9, "decay of the smoothed budget balance", needs=(VARIANTS_DRAWN, LENS_TRAINED, LENS_STARTED, SMOOTH_BUDGET)
    )


class SearchConfig(Section):
    """A search of the history for spans that the newest tokens ask for, beside LensNet. Allocators see what it finds."""

    group = "Search"

    kind: Literal["none", "ngram"] = Field(
        "none",
        description="none, or by the rare n-grams that a span shares with the newest tokens",
        json_schema_extra=flags("search"),
    )
    span_tokens: Length = Field(64, description="tokens of a span, rounded up to whole blocks")
    query_tokens: Annotated[int, Field(ge=2, le=MAX_LENGTH)] = Field(
        64, description="newest tokens that are searched for"
    )
    half_life: Factor = Field(
        16.0, description="age in tokens at which an n-gram of the newest tokens counts half as much"
    )
    lookup: bool = Field(
        True,
        description="look up at every token what followed the newest ones before, and let that speak as much as was learned",
    )


class MegaContextConfig(Section):
    """The MegaContext tree, its Working Context, and the training of both. Applies when `enabled`."""

    group = "MegaContext"

    enabled: bool = Field(
        False, description="train and run with MegaContext", json_schema_extra=flags("mc", "mc_enabled")
    )
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
    gist_mass: DerivedCount = derived(
        "tokens that all gists of a Working Context together weigh as at most, in the scores of their keys; derived: wc_length",
        needs=(SPAN_BIAS_ON,),
    )
    position_skip: Count = setting(
        0,
        "positions skipped at most between the far past and the recent tokens of a training context",
        needs=(VARIANTS_DRAWN,),
        group=TRAINING_CONTEXTS,
    )
    num_random_variants: Annotated[int, Field(ge=0, le=1024)] = setting(
        2, "random Working Contexts per sequence beside the full one (N)", group=TRAINING_CONTEXTS
    )
    start_wc_fraction: Annotated[float, Field(gt=0, le=1)] = setting(
        0.8, "length of a variant at the start / sequence length", needs=(VARIANTS_DRAWN,), group=TRAINING_CONTEXTS
    )
    train_wc_length: DerivedLength = derived(
        "entries of a variant at the end of training, or their share of the sequence; derived: 20 % of it",
        needs=(VARIANTS_DRAWN,),
        share=True,
        group=TRAINING_CONTEXTS,
    )
    wc_length_steps: Annotated[int, Field(gt=0, le=1024)] = setting(
        4,
        "distinct lengths on the way from the first to the last; each is compiled once",
        needs=(VARIANTS_DRAWN,),
        group=TRAINING_CONTEXTS,
    )
    min_history: Annotated[float, Field(gt=0, le=1)] = setting(
        1.0,
        "variants end at random places behind this share of the sequence; 1 is always at its end",
        needs=(VARIANTS_DRAWN,),
        group=TRAINING_CONTEXTS,
    )
    recent_tokens: DerivedLength = derived(
        "newest tokens of a variant that stay tokens; derived: horizon + block_size",
        needs=(VARIANTS_DRAWN,),
        group=TRAINING_CONTEXTS,
    )
    expanded_blocks: Annotated[int, Field(ge=0, le=2**16)] = setting(
        2, "far blocks that stay tokens in every second variant", needs=(VARIANTS_DRAWN,), group=TRAINING_CONTEXTS
    )
    expanded_run: Annotated[int, Field(gt=0, le=2**16)] = setting(
        1,
        "neighbouring blocks that are expanded together",
        needs=(VARIANTS_DRAWN, BLOCKS_EXPANDED),
        group=TRAINING_CONTEXTS,
    )
    random_share: Fraction = setting(
        0.25,
        "share of those variants whose tokens lie anywhere, instead of in the newest blocks and a few far ones",
        needs=(VARIANTS_DRAWN,),
        group=TRAINING_CONTEXTS,
    )
    policy_share: Fraction = setting(
        0.25,
        "share of those variants whose expanded blocks LensNet chooses, once it is trained",
        needs=(VARIANTS_DRAWN, SEVERAL_VARIANTS, LENS_TRAINED, LENS_STARTED, BLOCKS_EXPANDED),
        group=TRAINING_CONTEXTS,
    )
    search_share: Fraction = setting(
        0.0,
        "share of those variants whose expanded blocks the search finds, by the tokens before the horizon",
        needs=(VARIANTS_DRAWN, BLOCKS_EXPANDED),
        group=TRAINING_CONTEXTS,
    )
    lod2_probability: Fraction = setting(
        0.25, "share of far groups drawn at LOD2 and above", needs=(VARIANTS_DRAWN,), group=TRAINING_CONTEXTS
    )
    baseline_share: Annotated[float, Field(gt=0, le=1)] = setting(
        1.0, "share of the sequences that are also read in full, token by token", group=TRAINING_CONTEXTS
    )
    baseline_tokens: Count = setting(
        0,
        "tokens of a sequence that this pass reads, at a random place, where histories are to be longer than what "
        "the plain model can afford; 0 reads all",
        group=TRAINING_CONTEXTS,
    )
    variant_weight: NonNegative = setting(
        0.1,
        "weight of the variants' next-token loss; the higher, the more the plain model pays for them",
        needs=(VARIANTS_DRAWN,),
        group=LOSSES,
    )
    variants_train_gpt: bool = setting(
        True,
        "variants train the GPT too; off, they train GistNet and what else MegaContext adds, and the GPT is trained "
        "as without it",
        needs=(VARIANTS_DRAWN,),
        group=LOSSES,
    )
    gist_target_weight: NonNegative = setting(
        0.1, "weight of predicting, at a gist, the token behind its span", needs=(VARIANTS_DRAWN,), group=LOSSES
    )
    key_token_weight: NonNegative = setting(
        0.0,
        "largest extra weight of a token that the full context predicts better; 0 switches it off",
        needs=(VARIANTS_DRAWN,),
        group=LOSSES,
    )
    distill_weight: NonNegative = setting(
        0.0,
        "weight of the KL from the full context's predictions to a variant's over the horizon; 0 switches it off",
        needs=(VARIANTS_DRAWN,),
        group=LOSSES,
    )
    recon_weight: NonNegative = setting(
        0.0, "weight of rebuilding a block's tokens from its gist; 0 switches it off", group=LOSSES
    )
    recon_blocks: Annotated[int, Field(gt=0, le=2**16)] = setting(
        4, "blocks per sequence that are rebuilt", needs=(RECONSTRUCTION,), group=LOSSES
    )
    horizon: Length = Field(64, description="tokens after the Working Context on which it is judged (H)")
    refocus_interval: Length = setting(32, "tokens between two refocuses at inference", group=INFERENCE)
    wc_length: DerivedLength = derived(
        "entries of the Working Context at inference (W); derived: the sequence length", group=INFERENCE
    )
    gist_dtype: Literal["fp32", "bf16", "fp16", "int8"] = setting(
        "fp32", "how a session's tree stores gists; int8 has a scale per gist", group=INFERENCE
    )
    kv_policy: Literal["exact", "reuse"] = setting(
        "reuse",
        "after a refocus, read only what is new (reuse), or everything from the first edit on again (exact)",
        group=INFERENCE,
    )
    surprise: NonNegative = setting(
        0.0, "NLL in nats of a token that brings the next refocus forward at inference; 0 for never", group=INFERENCE
    )
    auto_batch: bool = setting(
        True, "choose the micro-batch from measured memory; tokens per step stay the same", group=TRAINING_CONTEXTS
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
        if self.recent_tokens is not None and self.recent_tokens < self.horizon:
            raise ValueError(
                f"recent_tokens={self.recent_tokens} is less than horizon={self.horizon}: the tokens that judge a Working "
                "Context are its newest and stay tokens"
            )
        return self
