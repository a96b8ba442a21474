"""Settings of tokenizer, data and model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mccore.config.section import (
    Count,
    DerivedLength,
    DerivedWidth,
    Factor,
    Length,
    Need,
    NonNegative,
    Positive,
    Section,
    Width,
    derived,
    flags,
    setting,
)  # fmt: skip

Share = Annotated[float, Field(ge=-1e3, le=1e3)]
"""A learned share may start anywhere near 0, below it too."""


_TRAINED: tuple[Need, ...] = (
    {
        "path": "tokenizer.source",
        "one_of": ("",),
        "reason": "a tokenizer that is taken isn't trained",
        "hint": "leave tokenizer.source out",
    },
)


class TokenizerConfig(Section):
    """The byte-level BPE tokenizer."""

    group = "Tokenizer"

    source: str = Field(
        "",
        description="directory of a tokenizer to take instead of training one, such as `mccore import tokenizer` makes",
    )
    vocab_size: Annotated[int, Field(ge=265, le=2**24)] = Field(
        32768, description="all ids: 256 bytes, merges and 9 specials"
    )
    max_chars: Positive = setting(2_000_000_000, "characters of the corpus to train on", needs=_TRAINED)
    doc_max_chars: Positive = setting(10_000, "characters taken from one document", needs=_TRAINED)


class DataConfig(Section):
    """The text a model is pretrained on."""

    group = "Data"

    corpus: str = Field(
        "stdlib",
        description="stdlib, stdlib:with-tests, stdlib:packages, climbmix, fineweb_edu, hf:OWNER/NAME, parquet:PATH, jsonl:PATH "
        "or text:PATH",
    )
    strict: bool = Field(
        False,
        description="end the run at a line of a conversation file that can't be read; else it is passed over and told",
        json_schema_extra=flags("strict"),
    )
    shards: Count = Field(0, description="files of a corpus on the hub to train on, beside those held out; 0 takes all")


class ModelConfig(Section):
    """The GPT. Every constant of its arithmetic is stored with the checkpoint, so code can't change an old model."""

    group = "Model"

    depth: Annotated[int, Field(gt=0, le=1024)] = Field(
        20, description="layers: the one dial; width, heads, horizon, batch, rates and decay follow"
    )
    aspect_ratio: Width = Field(64, description="width per layer")
    head_dim: Annotated[int, Field(gt=0, le=4096, multiple_of=2)] = Field(128, description="width of a head")
    n_embd: DerivedWidth = derived("model width; derived: depth * aspect_ratio, rounded up to whole heads")
    n_head: DerivedWidth = derived("query heads; derived: n_embd / head_dim")
    n_kv_head: DerivedWidth = derived("key and value heads (GQA); derived: n_head")
    vocab_size: DerivedLength = derived("rows of the embedding; derived: the tokenizer's size rounded up to 64")
    vocab_ids: DerivedLength = derived(
        "ids that exist: rows beyond are padding, never predicted; derived: the tokenizer's size"
    )
    max_seq_len: Length = Field(2048, description="tokens of a training sequence")
    mlp_ratio: Annotated[int, Field(gt=0, le=256)] = Field(4, description="hidden width of the MLP / width")
    window_pattern: Annotated[str, Field(pattern="^[LS]+$")] = Field(
        "L", description="attention span per layer, tiled: L full, S short; the last layer is always L"
    )
    window_short: DerivedLength = derived(
        "span of an S layer in tokens; derived: a quarter of the sequence, in steps of 128"
    )
    rope_base: Annotated[float, Field(gt=1, le=1e100)] = Field(100_000.0, description="base of the rotary frequencies")
    rope_dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="numbers of the rotary tables; bfloat16 rounds them and norms q and k after the rotation, as nanochat's "
        "models of 2025 were trained",
    )
    qk_scale: Factor = Field(1.2, description="factor on q and on k after their norm")
    norm_eps: Factor = Field(1e-6, description="epsilon of the RMS norms")
    logit_softcap: NonNegative = Field(
        15.0, description="logits are softcap * tanh(z / softcap), in fp32; 0 switches it off"
    )
    value_embeddings: bool = Field(
        True, description="a gated token embedding added to v in every second layer, counted from the last"
    )
    value_gate_channels: Width = Field(12, description="channels of the residual that feed the value-embedding gate")
    value_gate_scale: Factor = Field(3.0, description="range of the value-embedding gate")
    residual_scalars: bool = Field(True, description="per layer: x <- a * x + b * x0, both learned")
    residual_init: tuple[float, float] = Field(
        (1.15, 1.05), description="a at the first and last layer, linear between"
    )
    x0_init: tuple[float, float] = Field((0.20, 0.05), description="b at the first and last layer, linear between")
    smear: bool = Field(False, description="add a learned, gated share of the previous token's embedding")
    smear_init: Share = Field(0.0, description="share of the previous token's embedding at the start")
    smear_gate_channels: Width = Field(24, description="channels of the embedding that feed the smear gate")
    backout: bool = Field(True, description="subtract a learned share of the middle layer's output at the end")
    backout_init: Share = Field(0.2, description="share of the middle layer subtracted at the start")
    embedding_std: Factor = Field(0.8, description="standard deviation of token embeddings at the start")
    head_std: Factor = Field(0.001, description="standard deviation of the output head at the start")
    fc_init: Factor = Field(0.4, description="factor on the uniform init of the MLP's first matrix")
