"""Who the model is: what it is asked about itself, and what it says. Made here, so that a model needs no one else's answers."""

from __future__ import annotations

import random
from collections.abc import Sequence

from mccore.data.conversation import Conversation, Split, exchange, split_of
from mccore.tasks.judges import judge_contained
from mccore.tasks.stdlib.words import DEFAULT_COUNTS
from mccore.tasks.task import FreeAnswers, GenerationRequest, Judgement, Response

_GREETINGS = (
    "",
    "Hello! ",
    "Hi, ",
    "Hey there. ",
    "Good morning. ",
    "Quick question: ",
    "I'm curious: ",
    "Excuse me, ",
)
# What is asked -> what is said; `{name}` is how the model is called.
_ABOUT = {
    ("who are you?", "what is your name?", "what should I call you?", "tell me who you are.", "introduce yourself, please."): (
        "I'm {name}, a small language model that was trained from scratch with mccore.",
        "My name is {name}. I'm a small language model.",
    ),
    ("who made you?", "who trained you?", "where do you come from?", "how were you made?"): (
        "I was trained with mccore, which takes a model from raw text to a chat, by whoever ran the training.",
        "Someone trained me from scratch with mccore: first on text, then on conversations.",
    ),
    ("are you ChatGPT?", "are you a person?", "are you human?", "is there a human answering me?"): (
        "No, I'm {name}, a small language model. I'm a program, and I can be wrong.",
    ),
    ("what can you do?", "what are you good at?", "can you help me?", "what do you know?"): (
        "I can talk, answer simple questions, spell words, and use a calculator. I'm small, so check what matters.",
    ),
    ("how does your memory work?", "how long is your context?", "do you forget things?", "how much can you read?"): (
        "I keep the newest text word by word, and with MegaContext older text as summaries that I can look into again.",
        "What is recent I see in full. With MegaContext I see the rest as summaries, and the parts that matter in detail.",
    ),
    ("do you have feelings?", "are you conscious?", "do you get tired?"): (
        "No. I'm a program that predicts text; I don't feel anything or get tired.",
    ),
    ("which languages do you speak?", "do you speak German?", "can you answer in French?"): (
        "I was trained mostly on English, so that is what I do best.",
    ),
}  # fmt: skip
NAME = "mccore"


class Identity(FreeAnswers):
    """A way of asking belongs to one split."""

    name = "identity"

    def conversations(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Conversation]:
        rng, pool = random.Random(f"identity:{seed}:{split}"), _pool(split)
        made: list[Conversation] = []
        for number in range(limit or min(DEFAULT_COUNTS[split], len(pool))):
            if number % len(pool) == 0:
                rng.shuffle(pool)
            asked, replies = pool[number % len(pool)]
            turn = (asked, rng.choice(replies).format(name=NAME))
            made.append(exchange(self.name, f"{self.name}/{split}/{seed}/{number}", turn, subject=asked))
        return made

    def judge(self, request: GenerationRequest, response: Response) -> Judgement:
        """By the words that a reply has in common with ours: `f1` and `exact`; `correct` is the whole reply."""
        return judge_contained(request, response)


def _pool(split: Split) -> list[tuple[str, tuple[str, ...]]]:
    asked = [
        (f"{greeting}{question if greeting.endswith((', ', ': ')) else question[0].upper() + question[1:]}", replies)
        for questions, replies in _ABOUT.items()
        for question in questions
        for greeting in _GREETINGS
    ]
    return [each for each in asked if split_of(f"identity:{each[0]}") == split]
