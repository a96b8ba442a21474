"""HumanEval (arXiv 2107.03374): functions that are to be completed, judged by running their tests in a sandbox."""

from __future__ import annotations

import re
from functools import cached_property

from mccore.data.conversation import Conversation, exchange
from mccore.tasks.benchmarks.free import HubAnswers
from mccore.tasks.hub import HubTable, Row
from mccore.tasks.sandbox import run_program
from mccore.tasks.task import GenerationRequest, Judgement, Response

_BLOCK = re.compile(r"```(?:python)?\s*\n(.*?)\n```", re.DOTALL)


class HumanEval(HubAnswers):
    """164 functions; there is nothing to train on."""

    name = "humaneval"
    table = HubTable("openai/openai_humaneval", {"test": "openai_humaneval/test-*.parquet"})

    @cached_property
    def _checks(self) -> dict[str, tuple[str, str]]:
        """The tests of each question, and the name of the function that they test."""
        return {f"{self.name}/{id}": (row["test"], row["entry_point"]) for id, row in self.table.rows("test")}

    def conversation(self, id: str, row: Row) -> Conversation:
        solution = f"{row['prompt']}\n{row['canonical_solution']}"
        return exchange(self.name, id, (row["prompt"], solution), subject=row["task_id"])

    def judge(self, request: GenerationRequest, response: Response) -> Judgement:
        """`correct`: the program ends within its limits and every test holds."""
        tests, name = self._checks[request.id]
        program = "\n".join([imports_of(request.asked), "", code_of(response.prose), "", tests, f"check({name})"])
        outcome = run_program(program)
        return Judgement({"correct": float(outcome.passed)}, f"{response.shown}\n[{outcome.said}]")


def imports_of(prompt: str) -> str:
    """The imports at the beginning of a prompt, which replies leave out."""
    found = []
    for line in prompt.split("\n"):
        stripped = line.strip()
        if stripped.startswith(("import ", "from ")):
            found.append(stripped)
        elif stripped and not stripped.startswith("#"):
            break
    return "\n".join(found)


def code_of(reply: str) -> str:
    """The first block of code in a reply, or all of a reply without one."""
    found = _BLOCK.search(reply)
    return (found.group(1) if found else reply).strip()
