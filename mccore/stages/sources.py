"""The validation loss of a stage on conversations, source by source: one mean hides which source a model still learns from."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from mccore.config import ChatTrainConfig
from mccore.data.batches.rows import IGNORED
from mccore.data.tokenizer.chat_format import Rendered, render_conversation
from mccore.model.gpt import GPT
from mccore.runtime.runtime import Runtime
from mccore.runtime.stores import VAL_CONVERSATIONS
from mccore.tasks.catalogue import mix_conversations

Results = dict[str, Any]


def losses_by_source(runtime: Runtime, gpt: GPT) -> Results:
    """source -> {conversations, tokens, loss}: nats per trained token of held-out conversations, each read by itself. Those
    without a trained token within the model's context count in none. Every rank takes its share; all get the result.
    """
    section, world = runtime.train_config, runtime.world
    assert isinstance(section, ChatTrainConfig)
    began = time.perf_counter()
    mixture = runtime.mixture(runtime.stage)
    sums = torch.zeros(len(mixture), 3, dtype=torch.float64, device=world.device)
    for index, (name, count) in enumerate(sorted(mixture.items())):
        few = {name: min(count, VAL_CONVERSATIONS)}
        conversations = mix_conversations(few, "val", seed=runtime.config.seed, strict=runtime.config.data.strict)
        rendered = [
            render_conversation(runtime.tokenizer, each["messages"], max_tokens=gpt.config.max_seq_len + 1)
            for each in world.own_share(conversations)
        ]
        everything = section.loss_on == "all"
        for start in range(0, len(rendered), section.micro_batch_rows):
            sums[index] += _sums(gpt, rendered[start : start + section.micro_batch_rows], everything=everything)
    world.sum(sums)
    found = {
        name: {"conversations": int(read), "tokens": int(tokens), "loss": nats / tokens if tokens else None}
        for name, (nats, tokens, read) in zip(sorted(mixture), sums.tolist(), strict=True)
    }
    if world.is_main:
        seconds = round(time.perf_counter() - began, 6)
        runtime.emit("eval", {}, name="loss_by_source", seconds=seconds, details={"sources": found})
    return found


@torch.no_grad()
def _sums(gpt: GPT, rows: Sequence[Rendered], *, everything: bool) -> torch.Tensor:
    """Nats, trained tokens and conversations that have any: fp64 [3]."""
    length = max(2, *(len(row.ids) for row in rows))
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    targets = torch.full((len(rows), length - 1), IGNORED)
    for index, row in enumerate(rows):
        own = torch.tensor(row.ids)
        ids[index, : len(own)] = own
        trained = torch.ones(len(own) - 1, dtype=torch.bool) if everything else torch.tensor(row.mask[1:]).bool()
        targets[index, : len(own) - 1] = torch.where(trained, own[1:], IGNORED)
    targets = targets.to(gpt.device)
    nats = gpt.loss(ids[:, :-1].to(gpt.device), targets, ignore_index=IGNORED, reduction="none")
    counted = targets >= 0
    return torch.stack((nats.double().sum(), counted.sum().double(), counted.any(dim=1).sum().double()))
