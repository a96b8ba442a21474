"""What training stages read, as tokens: made from a corpus, or from conversations, where it isn't there yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mccore.config import ChatTrainConfig, RLConfig, RunConfig, StageName, stage_spec
from mccore.data.batches.store import Encoded, TokenStore, encode_documents, ensure_store, open_store, store_path
from mccore.data.corpora.document import Corpus, Split
from mccore.data.tokenizer.chat_format import render_conversation
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import DataError
from mccore.scaling.plan import stage_config
from mccore.tasks.catalogue import mix_conversations, open_task
from mccore.tasks.jsonl import ConversationsTask, ReadConversations
from mccore.train.world import World

VAL_CONVERSATIONS = 200  # held-out conversations per source, for the validation loss of chat stages

Progress = Callable[[int, int | None, str], None]
"""Is called with what is done, of how much, in which unit."""

Splits = Callable[[], Mapping[str, Iterator[Encoded]]]
"""Gives the rows of each split, to be encoded one by one."""


def mixture_of(config: RunConfig, stage: StageName) -> dict[str, int]:
    """What a chat stage draws from each source, sources of none left out. Raises DataError for an empty mixture."""
    section = stage_config(config, stage)
    assert isinstance(section, ChatTrainConfig | RLConfig)
    mixture = {name: count for name, count in section.mixture.items() if count}
    if not mixture:
        example = "arithmetic" if stage_spec(stage).rollouts else "stdlib_qa"
        raise DataError(
            f"{stage}.mixture is empty", hint=f"name conversations, such as --set {stage}.mixture.{example}=1000"
        )
    return mixture


def token_store(
    cache: Path, key: Mapping[str, Any], vocab_size: int, splits: Splits, world: World, build: bool
) -> TokenStore:
    """The store of a key, made from `splits` where it isn't there; `build` also makes a damaged one again. For all ranks."""
    directory = store_path(cache, dict(key))

    def make() -> None:
        if build or not directory.exists():
            ensure_store(directory, dict(key), vocab_size, splits)

    world.once_per_machine(make)  # the others wait and open it
    return open_store(directory)


def corpus_splits(corpus: Corpus, tokenizer: Tokenizer, progress: Progress) -> Splits:
    """The documents of a corpus, each with its <|bos|>."""

    def encode(split: Split) -> Iterator[Encoded]:
        documents = ((document.id, document.text) for document in corpus.documents(split))
        return encode_documents(
            documents,
            lambda texts: tokenizer.encode_batch_to_array(texts, bos=True),
            progress=lambda done: progress(done, None, f"{split} documents"),
        )

    def splits() -> Mapping[str, Iterator[Encoded]]:
        corpus.fetch(lambda done, total: progress(done, total, "bytes"))
        return {"train": encode("train"), "val": encode("val")}

    return splits


def mixture_splits(
    mixture: Mapping[str, int], tokenizer: Tokenizer, progress: Progress, *, seed: int, strict: bool
) -> Splits:
    """Conversations of a mixture with the mask of what is learned, at most VAL_CONVERSATIONS of a source for validation."""

    def encode(split: Split) -> Iterator[Encoded]:
        counts = dict(mixture)
        if split == "val":
            counts = {name: min(count, VAL_CONVERSATIONS) for name, count in counts.items()}
        conversations = mix_conversations(counts, split, seed=seed, strict=strict)
        for done, conversation in enumerate(conversations):
            if done % 256 == 0:
                progress(done, len(conversations), f"{split} conversations")
            rendered = render_conversation(tokenizer, conversation["messages"])
            yield Encoded(conversation["id"], np.array(rendered.ids), np.array(rendered.mask, dtype=np.uint8))

    return lambda: {"train": encode("train"), "val": encode("val")}


def check_mixture(names: Sequence[str], progress: Progress, *, strict: bool) -> dict[str, ReadConversations]:
    """Fetch what tasks are made from, and read all files of conversations; returns what these hold, by their names.

    Raises DataError for one that can't be had or read, or has nothing for a split.
    """
    found: dict[str, ReadConversations] = {}
    for name in names:
        task = open_task(name, strict=strict)
        task.fetch(lambda done, total: progress(done, total, "bytes"))
        if isinstance(task, ConversationsTask):
            found[name] = task.read()
            found[name].of("train")
            found[name].of("val")
    return found
