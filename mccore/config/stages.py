"""The stages of a run, in order."""

from __future__ import annotations

from typing import Literal

StageName = Literal[
    "data", "tokenizer", "tokenizer_eval", "encode", "base", "base_eval",
    "mid", "chat_eval_mid", "sft", "chat_eval_sft", "report",
]  # fmt: skip

STAGES: tuple[StageName, ...] = (
    "data", "tokenizer", "tokenizer_eval", "encode", "base", "base_eval",
    "mid", "chat_eval_mid", "sft", "chat_eval_sft", "report",
)  # fmt: skip

TRAINING_STAGES: tuple[StageName, ...] = ("base", "mid", "sft")
