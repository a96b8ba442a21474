"""A run that uses every other plugin of this package."""

from __future__ import annotations

from mccore.api import Recipe
from mccore.config import BaseConfig, Choice, MegaContextConfig, ModelConfig, RunConfig, TokenizerConfig
from mccore.hookspecs import hookimpl


@hookimpl
def mccore_recipe() -> Recipe:
    return Recipe(
        summary="everything by somebody else",
        config=RunConfig(
            stages=("data", "tokenizer", "encode", "base", "report"),
            tokenizer=TokenizerConfig(vocab_size=512),
            model=ModelConfig(depth=2, head_dim=16, n_embd=32, max_seq_len=64),
            base=BaseConfig(tokens=8192, batch_tokens=512),
            megacontext=MegaContextConfig(
                block_size=8,
                horizon=16,
                tree=Choice(name="toy"),
                allocator=Choice(name="toy", options={"keep_tokens": 16}),
            ),
            telemetry=(Choice(name="toy"),),
        ),
        profiles={"wide": {"model.n_embd": 64, "megacontext.allocator.options.keep_tokens": 32}},
    )
