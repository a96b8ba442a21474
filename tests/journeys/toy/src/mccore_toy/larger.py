"""Which of two numbers is larger."""

from mccore.api import Extension, Question
from mccore.hookspecs import hookimpl


class Larger:
    def __init__(self, options, spec):
        pass

    def questions(self):
        for left in range(20):
            for right in range(left):
                yield Question(f"{left}-{right}", f"Which is larger, {right} or {left}?", str(left))

    def score(self, question, said):
        return float(said.strip() == question.answer)


@hookimpl
def mccore_task():
    return Extension(build=Larger, summary="the larger of two numbers")
