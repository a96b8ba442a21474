"""Tasks of the hub that are answered in free text: GSM8K and SmolTalk."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from mccore.data.conversation import Conversation, Part, Split, exchange
from mccore.data.corpora.document import Progress
from mccore.errors import DataError
from mccore.tasks.hub import HubTable, Row
from mccore.tasks.judges import judge_contained
from mccore.tasks.shapes import recognise
from mccore.tasks.task import FreeAnswers, GenerationRequest, Judgement, Response

_FINAL = re.compile(r"#### (-?[0-9.,]+)")
_CALL = re.compile(r"<<([^>]+)>>")


class HubAnswers(FreeAnswers):
    """Conversations from the rows of a table."""

    table: HubTable
    on_hub = True

    @abstractmethod
    def conversation(self, id: str, row: Row) -> Conversation:
        """The conversation of a row. Raises KeyError, TypeError or ValueError for a row of another shape."""

    def conversations(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Conversation]:
        return [self._read(id, row) for id, row in self.table.rows(split, seed=seed, limit=limit)]

    def _read(self, id: str, row: Row) -> Conversation:
        try:
            return self.conversation(f"{self.name}/{id}", row)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.table.repository}, {id}: it isn't a row of {self.name}: {error!r}",
                hint="the data set has changed its form: take an older commit of it",
            ) from error

    def check(self) -> None:
        self.table.check()

    def fetch(self, progress: Progress) -> None:
        self.table.fetch(progress)

    def fingerprint(self) -> dict[str, Any]:
        return self.table.fingerprint()


def final_answer(text: str) -> str | None:
    """The number after the first `#### `, without thousands' commas, as GSM8K's own code reads it; None where there is none.

    >>> final_answer("So 2 boxes.\\n#### 1,250"), final_answer("1,250")
    ('1250', None)
    """
    found = _FINAL.search(text)
    return found.group(1).strip().replace(",", "") if found else None


def judge_final(request: GenerationRequest, response: Response) -> Judgement:
    """`correct`: the number after `####` is the answer."""
    return Judgement({"correct": float(final_answer(response.prose) == request.answer)}, response.shown)


class GSM8K(HubAnswers):
    """Word problems of grade schools (arXiv 2110.14168). `<<48/2=24>>` becomes a call of the calculator and its result."""

    name = "gsm8k"
    table = HubTable("openai/gsm8k", {"train": "main/train-*.parquet", "test": "main/test-*.parquet"})

    def conversation(self, id: str, row: Row) -> Conversation:
        answer = final_answer(row["answer"])
        if answer is None:
            raise ValueError("no answer after ####")
        return exchange(self.name, id, (row["question"], worked(row["answer"])), subject=row["question"], answer=answer)

    def judge(self, request: GenerationRequest, response: Response) -> Judgement:
        return judge_final(request, response)


def worked(solution: str) -> list[Part]:
    """A solution with `<<expression=result>>` in it, as prose, calls of the calculator, and what they gave."""
    parts: list[Part] = []
    for number, piece in enumerate(_CALL.split(solution)):
        if number % 2:
            expression, _, result = piece.rpartition("=")
            parts.append({"type": "python", "text": expression or piece})
            parts.append({"type": "python_output", "text": result if expression else ""})
        elif piece:
            parts.append({"type": "text", "text": piece})
    return parts


class SmolTalk(HubAnswers):
    """Conversations for small models (arXiv 2502.02737): 460,000 to train on."""

    name = "smoltalk"
    table = HubTable("HuggingFaceTB/smol-smoltalk", {"train": "data/train-*.parquet", "test": "data/test-*.parquet"})

    def conversation(self, id: str, row: Row) -> Conversation:
        return recognise({"messages": row["messages"]}, where=id, task=self.name, id=id).conversation

    def judge(self, request: GenerationRequest, response: Response) -> Judgement:
        return judge_contained(request, response)
