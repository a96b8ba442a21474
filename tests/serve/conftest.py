"""A tiny model with random weights and the byte tokenizer: real code paths at no cost."""

from __future__ import annotations

import mccore_rustbpe
import pytest
import torch

from mccore.config import ModelConfig
from mccore.data.tokenizer import Tokenizer
from mccore.model import GPT
from mccore.serve.engine import Engine


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer([bytes([i]) for i in range(256)], pattern=mccore_rustbpe.PATTERN)


def random_model(seed: int = 0, **changes: object) -> GPT:
    """A model whose every matrix is random: freshly initialised ones end in zeros and answer alike."""
    config = {"depth": 2, "n_embd": 32, "head_dim": 8, "n_kv_head": 2, "max_seq_len": 128, "vocab_ids": 265}
    model = GPT(ModelConfig(**{**config, "vocab_size": 320, **changes}), seed=seed)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, 1.0 if "embedding" in name else 0.3, generator=generator)
    return model


@pytest.fixture(scope="session")
def model() -> GPT:
    return random_model()


@pytest.fixture
def engine(model: GPT, tokenizer: Tokenizer) -> Engine:
    return Engine(model, tokenizer)
