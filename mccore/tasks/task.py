"""What a task asks: a question with choices of which one is right, and how it is put to a model."""

from __future__ import annotations

from dataclasses import dataclass

LETTERS = "ABCD"


@dataclass(frozen=True)
class MultipleChoice:
    """A question with four choices, one right. `lexical_overlap`: subject and right choice share a word, a hint."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    subject: str
    kind: str
    lexical_overlap: bool


def render_multiple_choice(question: MultipleChoice) -> str:
    """The question as a user's message; the reply expected is the bare letter.

    The letter follows its choice as `=A` without a space: small models bind it better to what stands before it, and the token
    is the one they answer with (nanochat, render_mc).
    """
    lines = [f"- {choice}={letter}" for choice, letter in zip(question.choices, LETTERS, strict=True)]
    return "\n".join([question.question, *lines, "Answer with the letter only."])
