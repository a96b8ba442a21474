"""Replies that a model draws to one prompt, with what it wrote itself told from what a tool wrote into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mccore.generate.answer import Request
from mccore.generate.sampling import Sampling

if TYPE_CHECKING:
    from mccore.generate.engine import Engine


@dataclass(frozen=True)
class Rollout:
    """One reply. `tokens` has the token that ended it, where there is one; `wrote[i]` is whether the model drew token i, and
    not a tool. `said` are the tokens without the one that ended it."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    wrote: tuple[bool, ...]
    ended: bool

    @property
    def said(self) -> tuple[int, ...]:
        return self.tokens[:-1] if self.ended else self.tokens


def draw_rollouts(engine: Engine, prompt: Sequence[int], sampling: Sampling, count: int, stream: int) -> list[Rollout]:
    """`count` replies to a prompt, drawn from the seed's random streams `stream`, `stream + 1`, ...

    The prompt is read once. A reply depends on nothing but the model, the prompt and its stream, so it is the same on any
    number of ranks. Raises ContextOverflow for a prompt that fills the model's context.
    """
    requests = [Request(prompt, sampling, stream=stream + number) for number in range(count)]
    found = []
    for answer in engine.run(requests):
        ended = answer.stopped_by is not None
        end = (answer.stopped_by,) if answer.stopped_by is not None else ()
        wrote = tuple(not forced for forced in answer.forced) + (True,) * len(end)
        found.append(Rollout(tuple(prompt), (*answer.tokens, *end), wrote, ended))
    return found
