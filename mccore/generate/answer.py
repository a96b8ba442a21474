"""One request and what came of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from mccore.errors import MccoreError
from mccore.generate.sampling import Sampling

if TYPE_CHECKING:
    from mccore.megacontext.sessions.session import Session
    from mccore.model.kv_cache import KVCache


Finish = Literal["stop", "length", "context"]


class ContextOverflow(MccoreError):
    """A prompt leaves no room in the model's context for an answer."""


class Prefix:
    """The tokens a model has read for one conversation and their keys and values, to be reused by the next prompt."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.cache: KVCache | None = None

    def reuse(self, ids: Sequence[int]) -> int:
        """How many leading tokens of `ids` needn't be read again; the cache is cut back to them."""
        if self.cache is None:
            return 0
        most = min(len(self.ids), len(ids) - 1)  # the last token is always read: its output is what comes next
        same = next((i for i in range(most) if self.ids[i] != ids[i]), most)
        self.cache.truncate(same)
        del self.ids[same:]
        return same


@dataclass(frozen=True, eq=False)
class Request:
    """What is to be continued, and how.

    ids: a prompt; with `session`, what is appended to its history first, of any length. stop: ends before one of these
    tokens, by default assistant_end and bos. stream: which of the seed's random streams the request draws from.
    prefix: keeps what was read for the next request of the same conversation. logprobs: how many of the likeliest tokens to
    tell of at every step, beside the one that was taken; None for none of this.
    """

    ids: Sequence[int]
    sampling: Sampling = field(default_factory=Sampling)
    session: Session | None = None
    stop: Collection[int] | None = None
    stream: int = 0
    prefix: Prefix | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        if self.session is None and not self.ids:
            raise ValueError("a prompt needs at least one token")
        if self.session is not None and self.prefix is not None:
            raise ValueError("a session keeps what it has read; it takes no prefix")


class TokenLogprobs(NamedTuple):
    """The natural logarithm of a token's probability, as the model has it before temperature and top-k, and the likeliest
    tokens of that place with theirs."""

    logprob: float
    likeliest: list[tuple[int, float]]


@dataclass
class Answer:
    """What a model added to one prompt. `forced[i]` marks tokens that a tool wrote; the stop token is not among `tokens`.
    `logprobs` has an item for each token where they were asked for.

    `finish`: "stop" (a stop token, which is `stopped_by`), "length" (as many tokens as asked for), "context" (no room left),
    None while it runs and where it was cancelled or failed. `error`: why it failed.
    """

    tokens: list[int] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    finish: Finish | None = None
    stopped_by: int | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    error: Exception | None = None


def batch(prompts: Sequence[Sequence[int]], sampling: Sampling, stop: Collection[int] | None = None) -> list[Request]:
    """A request for each prompt, of the same sampling: request i draws from stream i of the seed."""
    return [Request(ids, sampling, stop=stop, stream=stream) for stream, ids in enumerate(prompts)]
