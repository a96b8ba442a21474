"""Text continued by a model, for a reader to judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mccore.data.tokenizer.tokenizer import StreamDecoder
from mccore.generate.answer import batch
from mccore.generate.sampling import Sampling

if TYPE_CHECKING:
    from mccore.generate.engine import Engine


class Sample(NamedTuple):
    """A prompt and what came after it."""

    prompt: str
    text: str


def sample_completions(
    engine: Engine, prompts: Sequence[str], tokens: int, seed: int, *, temperature: float = 0.8, top_k: int = 50
) -> list[Sample]:
    """Continue each prompt, read as the beginning of a document, by up to `tokens` tokens; the same for the same seed."""
    tokenizer = engine.tokenizer
    ids = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in prompts]
    answers = engine.run(batch(ids, Sampling(temperature, top_k, tokens, seed), stop=(tokenizer.bos_id,)))
    # A character cut off by the limit is left out: `feed` gives whole ones only.
    texts = [StreamDecoder(tokenizer).feed(answer.tokens) for answer in answers]
    return [Sample(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
