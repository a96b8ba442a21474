from __future__ import annotations

from collections.abc import Callable

import pytest

from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.generate.engine import Engine
from mccore.model import GPT


@pytest.fixture(scope="session")
def tokenizer(byte_tokenizer: Tokenizer) -> Tokenizer:
    return byte_tokenizer


@pytest.fixture(scope="session")
def model(random_gpt: Callable[..., GPT]) -> GPT:
    return random_gpt()


@pytest.fixture
def engine(model: GPT, tokenizer: Tokenizer) -> Engine:
    return Engine(model, tokenizer)
