"""Text of the model as it is: documents continued, or questions answered where a stage is about conversations."""

from __future__ import annotations

from typing import Any

from mccore.config import stage_spec
from mccore.data.tokenizer.chat_format import render_for_completion
from mccore.data.tokenizer.tokenizer import StreamDecoder
from mccore.eval.samples import sample_completions
from mccore.generate.answer import batch
from mccore.generate.engine import Engine
from mccore.generate.sampling import Sampling
from mccore.runtime.runtime import Runtime, Training
from mccore.stages.observers.observer import Observer
from mccore.tasks.catalogue import mix_conversations
from mccore.train.loop import Progress

CHAT_SAMPLES = 4


class Samples(Observer):
    """Emits `sample`."""

    def __init__(self, runtime: Runtime, training: Training) -> None:
        self._runtime = runtime
        self._training = training

    def sample(self, progress: Progress) -> None:
        runtime = self._runtime
        if not runtime.world.is_main:
            return
        answers = _answers if stage_spec(runtime.stage).chat else _completions
        for prompt, text in answers(runtime, self._training):
            runtime.emit("sample", at=progress, prompt=prompt, text=text)


def _completions(runtime: Runtime, training: Training) -> list[tuple[str, str]]:
    """Prompts and how the model goes on."""
    config, engine = runtime.config, Engine(training.gpt, runtime.tokenizer)
    found = sample_completions(engine, config.eval.sample_prompts, config.eval.sample_tokens, config.seed)
    return [(sample.prompt, sample.text) for sample in found]


def _answers(runtime: Runtime, training: Training) -> list[tuple[str, str]]:
    """Questions of held-out conversations and what the model replies."""
    config, tokenizer = runtime.config, runtime.tokenizer
    engine = Engine(training.gpt, tokenizer)
    mixture = dict.fromkeys(runtime.mixture(runtime.stage), 1)
    conversations = mix_conversations(mixture, "val", seed=config.seed, strict=config.data.strict)[:CHAT_SAMPLES]
    prompts = [render_for_completion(tokenizer, conversation["messages"]) for conversation in conversations]
    room = engine.max_tokens - config.eval.sample_tokens
    kept = [(c, ids) for c, ids in zip(conversations, prompts, strict=True) if len(ids) <= room]
    if not kept:
        return []
    replies = engine.run(batch([ids for _, ids in kept], Sampling(max_new_tokens=config.eval.sample_tokens)))
    return [
        (_first_question(conversation), StreamDecoder(tokenizer).feed(reply.tokens))
        for (conversation, _), reply in zip(kept, replies, strict=True)
    ]


def _first_question(conversation: Any) -> str:
    return next(str(message["content"]) for message in conversation["messages"] if message["role"] == "user")
