"""A tiny model with random weights and the byte tokenizer: real code paths at no cost, for all tests that need a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mccore.data.tokenizer.tokenizer import Tokenizer
    from mccore.model import GPT

# Imports are inside: tests of the kernel and the command line must not load torch.


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    """A tokenizer without merges: 256 bytes and the special tokens."""
    import mccore_rustbpe

    from mccore.data.tokenizer.tokenizer import Tokenizer

    return Tokenizer([bytes([i]) for i in range(256)], pattern=mccore_rustbpe.PATTERN)


@pytest.fixture(scope="session")
def random_gpt() -> Callable[..., GPT]:
    """`random_gpt(seed, **changes of ModelConfig)`: a model for the byte tokenizer whose every matrix is random.

    Freshly initialised models end in zeros and say the same to everything.
    """
    import torch

    from mccore.config import ModelConfig
    from mccore.model import GPT

    def make(seed: int = 0, **changes: object) -> GPT:
        config = {"depth": 2, "n_embd": 32, "head_dim": 8, "n_kv_head": 2, "max_seq_len": 128, "vocab_ids": 265}
        model = GPT(ModelConfig(**{**config, "vocab_size": 320, **changes}), seed=seed)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() == 2:
                    parameter.normal_(0.0, 1.0 if "embedding" in name else 0.3, generator=generator)
        return model

    return make
