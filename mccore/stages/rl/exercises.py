"""Exercises that reinforcement learning asks its model, what the replies are worth, and the steps that come of them."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import torch

from mccore.config import RLConfig
from mccore.data.batches.loader import Batch, StepData
from mccore.data.batches.rows import Position
from mccore.data.conversation import Split
from mccore.data.tokenizer.chat_format import render_for_completion
from mccore.data.tokenizer.reply import split_reply
from mccore.errors import DataError
from mccore.generate.engine import Engine
from mccore.generate.rollouts import Rollout, draw_rollouts
from mccore.generate.sampling import Sampling
from mccore.runtime.runtime import Runtime
from mccore.tasks.catalogue import open_free_task
from mccore.tasks.task import FreeAnswers, GenerationRequest, Response
from mccore.train.policy_gradient import Reply, advantages, rollout_batches


@dataclass(frozen=True)
class Exercise:
    """A request of a task, and the ids that ask it."""

    task: FreeAnswers
    request: GenerationRequest
    prompt: tuple[int, ...]


def read_exercises(runtime: Runtime, split: Split, counts: dict[str, int], seed: int) -> list[Exercise]:
    """Up to so many questions of each task, those apart that don't fit into the model's context with their right reply.

    Raises DataError where a task has none that fits.
    """
    found: list[Exercise] = []
    for name, count in sorted(counts.items()):
        task = open_free_task(name, strict=runtime.config.data.strict)
        requests = task.requests(split, seed=seed, limit=count)
        fitting = [question for request in requests if (question := _fitting(runtime, task, request)) is not None]
        if not fitting:
            raise DataError(
                f"none of {len(requests)} questions of {name} fits with its right reply into "
                f"{runtime.config.model.max_seq_len} tokens",
                hint=f"leave it out of {runtime.stage}.mixture, or train a model of longer sequences",
            )
        if len(fitting) < len(requests) and runtime.world.is_main:
            left = len(requests) - len(fitting)
            message = f"{left:,} of {len(requests):,} {split} questions don't fit with their reply into the context"
            runtime.emit("notice", about=name, message=message)
        found += fitting
    return found


def _fitting(runtime: Runtime, task: FreeAnswers, request: GenerationRequest) -> Exercise | None:
    tokenizer = runtime.tokenizer
    prompt = render_for_completion(tokenizer, request.conversation["messages"])
    room = runtime.config.model.max_seq_len - len(prompt)
    return Exercise(task, request, tuple(prompt)) if room > len(tokenizer.encode(request.right_reply)) else None


def sampling_of(section: RLConfig, seed: int, use: str) -> Sampling:
    """How replies are drawn; each `use` of a run's seed has random streams of its own."""
    digest = hashlib.blake2b(f"{seed}/{use}".encode(), digest_size=8).digest()
    return Sampling(section.temperature, section.top_k, section.max_new_tokens, int.from_bytes(digest, "little") >> 1)


def reward_of(question: Exercise, rollout: Rollout, engine: Engine) -> float:
    """What the question's task says of a reply, from 0 to 1."""
    response = Response(parts=tuple(split_reply(rollout.said, engine.tokenizer)))
    return question.task.judge(question.request, response).reward


class Practice:
    """The steps of the stage: at each, questions are asked and the replies that the model draws are judged. All ranks ask for
    steps together; each asks its own questions, the same whatever the number of ranks.

    Which questions a step asks, and every random number, follows from seed and step: a run that goes on asks what it would
    have asked.
    """

    def __init__(
        self, runtime: Runtime, engine: Engine, questions: Sequence[Exercise], *, micro_rows: int, step: int
    ) -> None:
        section = runtime.train_config
        assert isinstance(section, RLConfig)
        self.section, self.world, self.engine = section, runtime.world, engine
        self.questions, self.micro_rows, self.step = questions, micro_rows, step
        self._seed = runtime.config.seed
        self._sampling = sampling_of(section, self._seed, "rollouts")
        self._order = lru_cache(maxsize=2)(self._shuffled)

    def next(self) -> StepData:
        """Ask, judge, and make batches of the next step."""
        began = time.perf_counter()
        own = self.section.questions // self.world.size
        first = self.step * self.section.questions + self.world.rank * own
        replies = [reply for number in range(first, first + own) for reply in self._replies(number)]
        written = sum(sum(reply.wrote) for reply in replies)
        read = sum(len(reply.prompt) + len(reply.tokens) for reply in replies)
        counts = torch.tensor([written, read], dtype=torch.float64, device=self.world.device)
        self.world.sum(counts)
        all_written, all_read = counts.tolist()
        batches = rollout_batches(replies, self.micro_rows, all_written, self.engine.tokenizer.bos_id)
        self.step += 1
        asked = self.step * self.section.questions
        epoch, place = divmod(asked, len(self.questions))
        return StepData(
            cast("list[Batch]", batches),
            Position(epoch, 0, place),
            asked / len(self.questions),
            time.perf_counter() - began,
            int(all_read),
        )

    def _replies(self, number: int) -> list[Reply]:
        """The replies to the question of this number, counted from the beginning of the stage."""
        samples = self.section.samples
        epoch, place = divmod(number, len(self.questions))
        question = self.questions[self._order(epoch)[place]]
        rollouts = draw_rollouts(self.engine, question.prompt, self._sampling, samples, number * samples)
        rewards = [reward_of(question, rollout, self.engine) for rollout in rollouts]
        worth = advantages(torch.tensor([rewards]), self.section.advantage)[0].tolist()
        mixed = min(rewards) < max(rewards)
        return [
            Reply(rollout.prompt, rollout.tokens, rollout.wrote, reward, advantage, rollout.ended, mixed)
            for rollout, reward, advantage in zip(rollouts, rewards, worth, strict=True)
        ]

    def _shuffled(self, epoch: int) -> list[int]:
        order = list(range(len(self.questions)))
        random.Random(f"rl:{self._seed}:{epoch}").shuffle(order)
        return order
