"""A task: what is asked, what is right, and how what a model said is judged.

One object serves three uses. A mixture trains on its `conversations`, an evaluation puts its `requests` to a model, and
reinforcement learning takes the reward from `judge`. Tasks know no model: they state requests, and a runner
(`mccore.eval.runner`) answers those of all tasks together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mccore.data.conversation import Conversation, Message, Split
from mccore.data.corpora.document import Progress
from mccore.data.tokenizer.reply import Piece, prose

Prompt = Sequence[Message] | str
"""What comes before: messages that wait for a reply, or a plain text to go on with."""


@dataclass(frozen=True)
class Option:
    """A prompt and one way to go on. `complete`: the reply ends there, so the mark that ends it counts as part of it."""

    prompt: Prompt
    reply: str
    complete: bool = True


@dataclass(frozen=True)
class LikelihoodRequest:
    """How likely is each option? `right` is the index of the one that should win.

    Options may share their prompt (multiple choice), their reply (which beginning fits this end?), or be one alone (would the
    model have said this?). `asked` and `choices` are for people. Results are broken down by `kind` and by each of `tags`.
    """

    id: str
    options: tuple[Option, ...]
    right: int
    asked: str = ""
    choices: tuple[str, ...] = ()
    kind: str = ""
    tags: frozenset[str] = frozenset()

    @property
    def right_reply(self) -> str:
        """The right choice as people read it."""
        return self.choices[self.right] if self.choices else self.options[self.right].reply


@dataclass(frozen=True)
class GenerationRequest:
    """The last question of a conversation whose last reply is right; the model replies freely.

    `max_new_tokens` is the longest reply that is useful, None for what the evaluation allows.
    """

    conversation: Conversation
    kind: str = ""
    max_new_tokens: int | None = None

    @property
    def id(self) -> str:
        return self.conversation["id"]

    @property
    def asked(self) -> str:
        return str(self.conversation["messages"][-2]["content"])

    @property
    def right_reply(self) -> str:
        """The prose of the right reply, without calls of tools."""
        content = self.conversation["messages"][-1]["content"]
        if isinstance(content, str):
            return content
        return "".join(part["text"] for part in content if part["type"] == "text")

    @property
    def answer(self) -> str:
        """The fact that a right reply contains; the whole reply where the conversation names none."""
        return self.conversation.get("answer", self.right_reply)


TaskRequest = LikelihoodRequest | GenerationRequest


@dataclass(frozen=True)
class OptionScore:
    """`logprob`: log-likelihood of the whole reply in nats; `tokens`: its length; `greedy`: whether each of its tokens is the
    likeliest; `cropped`: tokens of the prompt left out because the model's context is shorter."""

    logprob: float
    tokens: int
    greedy: bool = False
    cropped: int = 0


@dataclass(frozen=True)
class Response:
    """What a model made of a request: the scores of its options, or the parts of its reply."""

    options: tuple[OptionScore, ...] = ()
    parts: tuple[Piece, ...] = ()

    @property
    def prose(self) -> str:
        """What the reply says, without calls of tools and their results."""
        return prose(self.parts)

    @property
    def shown(self) -> str:
        """The whole reply as people read it, calls of tools and their results in brackets."""
        return "".join(f"[{part.text}]" if part.type != "text" else part.text for part in self.parts).strip()


@dataclass(frozen=True)
class Judgement:
    """Scores from 0 to 1 by name, of which `correct` decides, and what the model said, as people read it."""

    scores: Mapping[str, float]
    said: str

    @property
    def reward(self) -> float:
        """What reinforcement learning maximises."""
        return self.scores["correct"]


RequestT = TypeVar("RequestT", LikelihoodRequest, GenerationRequest)


class Task(ABC, Generic[RequestT]):
    """Questions of one kind with known answers. Splits are disjoint by subject, whatever the seed."""

    name: str
    on_hub = False
    """Whether it is made from a data set of the hub: `check` asks the network for one that isn't on this machine."""

    def check(self) -> None:
        """Raise DataError where what the task is made from isn't to be had; nothing large is read."""

    def fetch(self, progress: Progress) -> None:
        """Bring what it is made from to this machine; nothing to do for a task that is here."""

    def fingerprint(self) -> dict[str, Any] | None:
        """What identifies the content it is made from; None for one that is made from the standard library."""
        return None

    @abstractmethod
    def conversations(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Conversation]:
        """Worked examples, each ending with a right reply, in an order and wording fixed by `seed`; at most `limit`."""

    @abstractmethod
    def requests(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[RequestT]:
        """What a model is asked, in an order fixed by `seed`; at most `limit` questions."""

    @abstractmethod
    def judge(self, request: RequestT, response: Response) -> Judgement:
        """Judge what a model made of one of this task's requests."""


AnyTask = Task[Any]


class FreeAnswers(Task[GenerationRequest]):
    """A task whose requests are the last questions of its conversations. Subclasses give `conversations` and `judge`."""

    def requests(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[GenerationRequest]:
        return [
            GenerationRequest(made, self.kind_of(made)) for made in self.conversations(split, seed=seed, limit=limit)
        ]

    def kind_of(self, conversation: Conversation) -> str:
        """The kind of question, by which results are broken down; empty for a task of one kind."""
        return ""
