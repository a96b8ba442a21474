"""Tasks by name, and mixtures of their conversations; each task has held-out splits.

What is held out is the *subject* of a conversation (a function, a word, a sum, a piece of a file), never a way of asking, and
it is held out by its hash: the same for every seed, so that no choice of seed can carry a test item into training.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from mccore import plugins
from mccore.data.conversation import Conversation, Split, check_conversation_split
from mccore.errors import DataError
from mccore.tasks.jsonl import FileTask, HubConversations, named_file
from mccore.tasks.task import AnyTask, FreeAnswers

# Loaded when asked for: name -> module and class.
_TASKS = {
    "arc_challenge": "mccore.tasks.benchmarks.letters:ArcChallenge",
    "arc_easy": "mccore.tasks.benchmarks.letters:ArcEasy",
    "arithmetic": "mccore.tasks.stdlib.arithmetic:Arithmetic",
    "gsm8k": "mccore.tasks.benchmarks.free:GSM8K",
    "humaneval": "mccore.tasks.benchmarks.humaneval:HumanEval",
    "identity": "mccore.tasks.benchmarks.identity:Identity",
    "mmlu": "mccore.tasks.benchmarks.letters:MMLU",
    "needle": "mccore.tasks.stdlib.needle:Needle",
    "simple_spelling": "mccore.tasks.benchmarks.words:SimpleSpelling",
    "smoltalk": "mccore.tasks.benchmarks.free:SmolTalk",
    "spelling": "mccore.tasks.stdlib.spelling:Spelling",
    "spelling_bee": "mccore.tasks.benchmarks.words:SpellingBee",
    "stdlib_choice": "mccore.tasks.stdlib.choice:StdlibChoice",
    "stdlib_qa": "mccore.tasks.stdlib.qa:StdlibQA",
}


_FILES = ("jsonl:PATH", "parquet:PATH", "hf:OWNER/NAME")  # conversations of one's own


def builtin_names() -> tuple[str, ...]:
    """Names of mccore's own tasks, which no plugin can have."""
    return tuple(sorted(_TASKS))


def task_names() -> tuple[str, ...]:
    """Names that `open_task` takes, besides files: mccore's own and those of other packages."""
    return tuple(sorted({*_TASKS, *plugins.names("task")}))


CHATCORE = ("arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval", "spelling_bee")
"""The six tasks of ChatCORE."""


def benchmark_names(asked: Sequence[str]) -> tuple[str, ...]:
    """Tasks by the names that a person gives, each once; `chatcore` is its six. Raises DataError for a name of none."""
    names = [name for each in asked for name in (CHATCORE if each == "chatcore" else (each,))]
    for name in names:
        if name not in task_names():
            raise DataError(f"there is no task {name!r}", hint=f"there are chatcore, {', '.join(task_names())}")
    return tuple(dict.fromkeys(names))


def embedded_names() -> tuple[str, ...]:
    """Names of the tasks that are made from the standard library, on every machine."""
    return tuple(sorted(name for name, place in _TASKS.items() if place.startswith("mccore.tasks.stdlib.")))


def open_task(name: str, *, strict: bool = True) -> AnyTask:
    """The task of this name. A line of a file that can't be read is an error, or passed over where not `strict`.

    Raises DataError for an unknown name; a file is read when its conversations are asked for.
    """
    if (path := named_file(name)) is not None:
        return FileTask(name.partition(":")[0], path, strict=strict)
    if name.startswith("hf:"):
        return HubConversations(name, strict=strict)
    if name not in _TASKS and name in plugins.names("task"):
        from mccore.tasks.plugged import open_plugged

        return open_plugged(name)
    if name not in _TASKS:
        known = ", ".join([*task_names(), *_FILES])
        raise DataError(f"unknown conversations {name!r}", hint=f"use one of {known}")
    module, kind = _TASKS[name].split(":")
    task: AnyTask = getattr(import_module(module), kind)()
    return task


def open_free_task(name: str, *, strict: bool = True) -> FreeAnswers:
    """The task of this name, where it is answered in free text. Raises DataError for another."""
    task = open_task(name, strict=strict)
    if isinstance(task, FreeAnswers):
        return task
    free = ", ".join(each for each in builtin_names() if isinstance(open_task(each), FreeAnswers))
    raise DataError(
        f"the replies to {name!r} aren't free text, and a model learns from the rewards of those alone",
        hint=f"use some of {free}, {', '.join(_FILES)}",
    )


def free_tasks() -> list[FreeAnswers]:
    """The tasks made from the standard library that are answered in free text."""
    return [task for task in map(open_task, embedded_names()) if isinstance(task, FreeAnswers)]


def open_conversations(
    name: str, split: Split, *, seed: int = 0, limit: int | None = None, strict: bool = True
) -> Sequence[Conversation]:
    """The conversations of one task and split, in an order and wording fixed by `seed`; at most `limit` of them.

    Tasks made by rule (`arithmetic`, `spelling`) have no natural end: without a limit they give a default number, with one
    exactly that many.

    Raises DataError for an unknown name or split, an unreadable file, or a split that is empty.
    """
    check_conversation_split(split)
    if limit is not None and limit < 1:
        raise DataError(f"a limit of {limit} conversations", hint="give a positive limit, or none")
    return open_task(name, strict=strict).conversations(split, seed=seed, limit=limit)


def check_source(name: str) -> None:
    """Raise DataError unless `name` is a task that is there; its conversations aren't read."""
    open_task(name).check()


def mix_conversations(
    mixture: Mapping[str, int | float], split: Split, *, seed: int = 0, total: int | None = None, strict: bool = True
) -> list[Conversation]:
    """Conversations of several sources, shuffled together.

    An int is a count, a float a weight: weights share what `total` leaves after the counts. A source with fewer conversations
    than asked for is gone through again, worded with another seed; the ids then get `~2`, `~3`.
    """
    mixed: list[Conversation] = []
    for name, count in sorted(_counts(mixture, total).items()):
        mixed += _draw(name, split, seed, count, strict)
    random.Random(f"mix:{seed}").shuffle(mixed)
    return mixed


def code_version() -> str:
    """Hash of the code that makes, splits and renders conversations: what is cached of them is stale when it changes."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(
        path for room in ("data", "tasks") for path in (package / room).rglob("*.py")
    ):  # no list to keep
        name = path.relative_to(package).as_posix()
        digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _counts(mixture: Mapping[str, int | float], total: int | None) -> dict[str, int]:
    if not mixture:
        raise DataError("the mixture of conversations is empty", hint=f"name a source: {', '.join(task_names())}")
    for name, share in mixture.items():
        if isinstance(share, bool) or not share >= 0:
            raise DataError(
                f"the mixture gives {name!r} the share {share!r}", hint="use a count or a weight of 0 or more"
            )
    counts = {name: share for name, share in mixture.items() if isinstance(share, int)}
    weights = {name: share for name, share in mixture.items() if not isinstance(share, int)}
    if not weights:
        return counts
    if total is None or (rest := total - sum(counts.values())) < 0 or sum(weights.values()) == 0:
        raise DataError(
            f"the weights {weights} have nothing to share",
            hint="give a total above the sum of the counts, or counts only",
        )
    # Largest remainders, so that the counts add up to the total.
    exact = {name: rest * weight / sum(weights.values()) for name, weight in weights.items()}
    floors = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (floors[name] - exact[name], name))
    for name in by_remainder[: rest - sum(floors.values())]:
        floors[name] += 1
    return counts | floors


def _draw(name: str, split: Split, seed: int, count: int, strict: bool) -> Iterator[Conversation]:
    again = 1
    while count > 0:
        taken = open_conversations(name, split, seed=seed + 1_000_003 * (again - 1), limit=count, strict=strict)
        if not taken:
            raise DataError(f"the conversations {name!r} have none for the {split} split", hint="leave the source out")
        for conversation in taken:
            yield conversation if again == 1 else {**conversation, "id": f"{conversation['id']}~{again}"}
        count -= len(taken)
        again += 1
