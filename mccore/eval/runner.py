"""Puts requests of tasks to a model: those of all tasks together, whatever they ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from mccore.data.tokenizer.chat_format import render_for_completion
from mccore.data.tokenizer.reply import split_reply
from mccore.eval.likelihood import Continuation, score_continuations
from mccore.eval.ranks import Alone, Sharing
from mccore.generate.answer import Request, batch
from mccore.generate.sampling import Sampling
from mccore.tasks.task import (
    GenerationRequest,
    Judgement,
    LikelihoodRequest,
    Option,
    OptionScore,
    Response,
    Task,
    TaskRequest,
)

if TYPE_CHECKING:
    from mccore.data.tokenizer.tokenizer import Tokenizer
    from mccore.generate.engine import Engine
    from mccore.megacontext.sessions.session import Session

RequestT = TypeVar("RequestT", LikelihoodRequest, GenerationRequest)


@dataclass(frozen=True)
class Judged(Generic[RequestT]):
    """A request, what the model made of it, and the judgement; both None for a question too long for the model."""

    request: RequestT
    response: Response | None
    judgement: Judgement | None


@dataclass(frozen=True)
class Runner:
    """Answers requests, `batch_rows` at a time, similar lengths together: the batch size changes nothing but speed.

    Replies are greedy, with the calculator, and at most `max_new_tokens` long. With `new_session` each question is asked in a
    session of its own, as a chat with MegaContext does, and none is too long. Several `ranks` answer a share each, and all of
    them get all responses; they ask together.
    """

    engine: Engine
    batch_rows: int = 32
    max_new_tokens: int = 128
    new_session: Callable[[], Session] | None = None
    ranks: Sharing = field(default_factory=Alone)

    def respond(self, requests: Sequence[TaskRequest]) -> list[Response | None]:
        """A response to each request, in order; None where question and right reply don't fit into the model's context."""
        return self.ranks.gather(self._respond(self.ranks.own_share(requests)), len(requests))

    def ask(self, task: Task[RequestT], requests: Sequence[RequestT]) -> list[Judged[RequestT]]:
        """What `task` says of the responses to its requests; each rank judges what it answered."""
        own = self.ranks.own_share(requests)
        return self.ranks.gather(judge_all(task, own, self._respond(own)), len(requests))

    def _respond(self, requests: Sequence[TaskRequest]) -> list[Response | None]:
        options = [option for one in requests if isinstance(one, LikelihoodRequest) for option in one.options]
        scored = iter(self._score(options))
        free = [request for request in requests if isinstance(request, GenerationRequest)]
        replied = iter(self._reply(free))
        return [
            Response(options=tuple(next(scored) for _ in request.options))
            if isinstance(request, LikelihoodRequest)
            else next(replied)
            for request in requests
        ]

    def _score(self, options: Sequence[Option]) -> Sequence[OptionScore]:
        tokenizer = self.engine.tokenizer
        continuations = [_continuation(option, tokenizer) for option in options]
        return score_continuations(self.engine.model, continuations, batch_rows=self.batch_rows)

    def _reply(self, requests: Sequence[GenerationRequest]) -> list[Response | None]:
        tokenizer = self.engine.tokenizer
        prompts = [render_for_completion(tokenizer, request.conversation["messages"]) for request in requests]
        fits = [
            self.new_session is not None
            or self.engine.max_tokens - len(prompt) > len(tokenizer.encode(request.right_reply))
            for prompt, request in zip(prompts, requests, strict=True)
        ]
        order = sorted((i for i, fit in enumerate(fits) if fit), key=lambda i: len(prompts[i]))
        responses: list[Response | None] = [None] * len(requests)
        for start in range(0, len(order), self.batch_rows):
            chosen = order[start : start + self.batch_rows]
            for i, answer in zip(chosen, self.engine.run(self._batch(chosen, prompts, requests)), strict=True):
                responses[i] = Response(parts=tuple(split_reply(answer.tokens, tokenizer)))
        return responses

    def _batch(
        self, chosen: Sequence[int], prompts: Sequence[list[int]], requests: Sequence[GenerationRequest]
    ) -> list[Request]:
        asked = batch([prompts[i] for i in chosen], Sampling(max_new_tokens=self.max_new_tokens))
        for row, i in enumerate(chosen):
            if (most := requests[i].max_new_tokens) is not None:
                shorter = replace(asked[row].sampling, max_new_tokens=min(most, self.max_new_tokens))
                asked[row] = replace(asked[row], sampling=shorter)
            if self.new_session is not None:
                asked[row] = replace(asked[row], session=self.new_session())
        return asked


def judge_all(
    task: Task[RequestT], requests: Sequence[RequestT], responses: Sequence[Response | None]
) -> list[Judged[RequestT]]:
    """What `task` says of the responses to its requests."""
    return [
        Judged(request, response, None if response is None else task.judge(request, response))
        for request, response in zip(requests, responses, strict=True)
    ]


def _continuation(option: Option, tokenizer: Tokenizer) -> Continuation:
    if isinstance(option.prompt, str):
        # As one text: tokens may join what stands on both sides of the border, and then belong to the reply.
        context = [tokenizer.bos_id, *tokenizer.encode(option.prompt)]
        whole = [tokenizer.bos_id, *tokenizer.encode(option.prompt + option.reply)]
        shared = next((i for i, (a, b) in enumerate(zip(context, whole, strict=False)) if a != b), len(context))
        return Continuation(whole[:shared], whole[shared:])
    ended = [tokenizer.special("assistant_end")] if option.complete else []
    return Continuation(
        render_for_completion(tokenizer, list(option.prompt)), [*tokenizer.encode(option.reply), *ended]
    )
