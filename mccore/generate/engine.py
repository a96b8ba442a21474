"""Generation with a model: requests in, answers out, one at a time as a stream or many side by side, with the calculator tool.

engine = Engine(gpt, tokenizer)
for token in engine.stream(Request(ids)): ...               one answer as it comes
answers = engine.run(batch(prompts, Sampling()))            many, to their ends
engine.add(request); engine.step()                          many that come and go
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mccore.generate.answer import Answer, ContextOverflow, Finish, Request
from mccore.generate.scheduler import Running, Scheduler
from mccore.generate.tools import ToolUse

if TYPE_CHECKING:
    from mccore.data.tokenizer.tokenizer import Tokenizer
    from mccore.model.gpt import GPT


class Generation(Iterator[int]):
    """The tokens of one answer as they come; `answer` holds them so far and says in the end why it ended."""

    def __init__(self, answer: Answer, scheduler: Scheduler) -> None:
        self.answer = answer
        self._scheduler = scheduler
        self._given = 0

    def __next__(self) -> int:
        while self._given == len(self.answer.tokens):
            if not self._scheduler.runs(self.answer):
                raise StopIteration
            self._scheduler.step()
        self._given += 1
        return self.answer.tokens[self._given - 1]

    def close(self) -> None:
        """Stop here: what was generated stays, and a session it came from holds all of it."""
        self._scheduler.cancel(self.answer)


class Engine:
    """Generation from `model` with `tokenizer`.

    max_tokens: of prompt and answer together, where there is no session; default: the trained length. tools: whether what
    the model writes between the marks of the calculator is computed. max_rows: requests that `step` runs side by side.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        *,
        max_tokens: int | None = None,
        tools: bool = True,
        max_rows: int | None = None,
    ) -> None:
        self.model, self.tokenizer, self.tools = model, tokenizer, tools
        self.max_tokens = max_tokens or model.config.max_seq_len
        self._end = frozenset((tokenizer.special("assistant_end"), tokenizer.special("bos")))
        self._scheduler = Scheduler(model, max_rows=max_rows)

    def add(self, request: Request) -> Answer:
        """Let a request join those that `step` runs. Its answer fills as they go on.

        A prompt of ids is read anew. One that goes to a session is appended to its history, and the session refocuses before
        it answers; what was generated is in its history too, the stop token isn't. Raises ContextOverflow for ids that fill
        `max_tokens`, ValueError for a session that is answering already.
        """
        return self._scheduler.add(self._running(request))

    def step(self) -> list[tuple[Answer, int]]:
        """One token for every request that was added; see `Scheduler.step`."""
        return self._scheduler.step()

    def runs(self, answer: Answer) -> bool:
        """Whether more may come of an answer of `add`."""
        return self._scheduler.runs(answer)

    def cancel(self, answer: Answer) -> None:
        """End an answer of `add` here; what was generated stays."""
        self._scheduler.cancel(answer)

    def stream(self, request: Request) -> Generation:
        """One answer token by token, tool output included, apart from what `step` runs. Errors as those of `add`."""
        scheduler = Scheduler(self.model)
        return Generation(scheduler.add(self._running(request)), scheduler)

    def run(self, requests: Sequence[Request]) -> list[Answer]:
        """The whole answers of requests that begin together, apart from what `step` runs. Errors as those of `add`."""
        scheduler = Scheduler(self.model)
        answers = [scheduler.add(running) for running in [self._running(request) for request in requests]]
        while scheduler.busy:
            scheduler.step()
        return answers

    def _running(self, request: Request) -> Running:
        limit = request.sampling.max_new_tokens
        full: Finish = "length"
        if request.session is None:
            room = self.max_tokens - len(request.ids)
            if room <= 0:
                raise ContextOverflow(
                    f"a prompt of {len(request.ids)} tokens leaves no room for an answer in a context of {self.max_tokens}",
                    hint="shorten the prompt",
                )
            if limit > room:
                limit, full = room, "context"
        stop = self._end if request.stop is None else request.stop
        return Running(request, Answer(), limit, full, stop, ToolUse(self.tokenizer) if self.tools else None)
