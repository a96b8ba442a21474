"""CORE (DCLM, arXiv 2406.11794): 22 tasks asked in context, each accuracy centred so that guessing is 0 and no mistake is 1.

Read from the published bundle: `core.yaml` names the tasks, `eval_meta_data.csv` what guessing gives, `eval_data/` has a JSON
Lines file for each. Prompts, few-shot examples, and which tokens count are those of nanochat's evaluation, so that figures can
stand beside its own (benchmarks/core.py compares them).
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mccore.data.corpora.records import read_rows
from mccore.errors import DataError
from mccore.eval.likelihood import Continuation, score_continuations
from mccore.eval.ranks import Alone, Sharing
from mccore.eval.statistics import Accuracy, share
from mccore.host.text import open_regular, read_text, spell

if TYPE_CHECKING:
    from mccore.data.tokenizer.tokenizer import Tokenizer
    from mccore.model.gpt import GPT

Kind = Literal["multiple_choice", "schema", "language_modeling"]
Item = dict[str, Any]

_SHUFFLE_SEED, _EXAMPLES_SEED = 1337, 1234  # nanochat's: the same questions in the same order, with the same examples
_MOST_BYTES = 2**24  # of the bundle's own two files; those of 2023 have a few kilobytes
_AT_ONCE = 256  # questions whose prompts are held as tokens


@dataclass(frozen=True)
class CoreTask:
    """One task of the bundle. `guess` is the accuracy of guessing, from 0 to 1."""

    label: str
    kind: Kind
    path: Path
    few_shot: int
    delimiter: str
    guess: float

    def items(self, limit: int | None = None) -> list[Item]:
        """The questions in their fixed order; at most `limit`. Raises DataError for a file that can't be read or is empty."""
        found = [row for _, row in read_rows(self.path)]
        if not found:
            raise DataError(f"{spell(self.path)} holds no question", hint="fetch the bundle again")
        random.Random(_SHUFFLE_SEED).shuffle(found)
        return found[:limit]


@dataclass(frozen=True)
class CoreResult:
    """`accuracy` of one task, `centred`: (accuracy - guess) / (1 - guess)."""

    label: str
    accuracy: Accuracy
    guess: float

    @property
    def centred(self) -> float:
        assert self.accuracy.accuracy is not None
        return (self.accuracy.accuracy - self.guess) / (1 - self.guess)

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {"label": self.label, "guess": self.guess, "centred": self.centred, **asdict(self.accuracy)}


def read_bundle(folder: Path) -> list[CoreTask]:
    """The tasks of a bundle. Raises DataError for a folder that isn't one."""
    import yaml

    try:
        listed = yaml.safe_load(_content_of(folder / "core.yaml"))["icl_tasks"]
        guesses = {
            row["Eval Task"]: _guess(row["Random baseline"])
            for row in csv.DictReader(io.StringIO(_content_of(folder / "eval_meta_data.csv")))
        }
        return [
            CoreTask(
                label=each["label"],
                kind=_kind(each["icl_task_type"]),
                path=folder / "eval_data" / each["dataset_uri"],
                few_shot=int(each["num_fewshot"][0]),
                delimiter=each.get("continuation_delimiter", " "),
                guess=guesses[each["label"]],
            )
            for each in listed
        ]
    except (yaml.YAMLError, csv.Error, RecursionError, KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"{spell(folder)} isn't a bundle of CORE: {repr(error)[:200]}",
            hint="unpack eval_bundle.zip: the folder holds core.yaml, eval_meta_data.csv and eval_data",
        ) from error


def _content_of(path: Path) -> str:
    if not path.is_file():
        raise DataError(
            f"{spell(path)} doesn't exist", hint="name the folder that eval_bundle.zip unpacks to: it holds core.yaml"
        )
    return read_text(path, most=_MOST_BYTES)


def _guess(percent: str) -> float:
    """The accuracy of guessing, from a percentage."""
    value = 0.01 * float(percent)
    if not 0 <= value < 1:  # `centred` divides by what is left of 1
        raise ValueError(f"a guesser can't be right in {percent} % of the cases")
    return value


def _kind(name: str) -> Kind:
    if name not in ("multiple_choice", "schema", "language_modeling"):
        raise ValueError(f"unknown type of task {name!r}")
    return name  # type: ignore[return-value]


def evaluate_core_task(
    model: GPT,
    tokenizer: Tokenizer,
    task: CoreTask,
    *,
    limit: int | None = None,
    batch_rows: int = 32,
    ranks: Sharing | None = None,
) -> CoreResult:
    """The accuracy of a model at one task. The batch size changes nothing but speed. Several `ranks` ask a share each.

    Raises DataError for a file that can't be read, or whose questions have another form.
    """
    items = task.items(limit)
    ranks = ranks or Alone()
    own = ranks.own_share(range(len(items)))
    right: list[bool] = []
    for start in range(0, len(own), _AT_ONCE):
        numbers = own[start : start + _AT_ONCE]
        questions = [_continuations(task, items, number, tokenizer) for number in numbers]
        scores = iter(score_continuations(model, [one for each in questions for one in each], batch_rows=batch_rows))
        for number, options in zip(numbers, questions, strict=True):
            found = [next(scores) for _ in options]
            if task.kind == "language_modeling":
                right.append(found[0].greedy)
                continue
            losses = [-score.logprob / len(option.tokens) for score, option in zip(found, options, strict=True)]
            right.append(losses.index(min(losses)) == items[number]["gold"])
    return CoreResult(task.label, share(ranks.gather(right, len(items))), task.guess)


def _continuations(task: CoreTask, items: Sequence[Item], number: int, tokenizer: Tokenizer) -> list[Continuation]:
    """What is scored for one question: each option's tokens that tell it from the others, after what comes before them."""
    try:
        prompts = render(task, items[number], few_shot_examples(items, number, task.few_shot))
    except (KeyError, TypeError, IndexError) as error:
        raise DataError(
            f"{spell(task.path)}: a question of {task.label} isn't of the kind {task.kind}: {error!r}",
            hint="fetch the bundle again",
        ) from error
    rows = [[tokenizer.bos_id, *tokenizer.encode(prompt)] for prompt in prompts]
    if task.kind == "language_modeling":
        starts = [common_length(rows)]
        rows = rows[1:]
    elif task.kind == "multiple_choice":
        starts = [common_length(rows)] * len(rows)
    else:
        same = common_length([row[::-1] for row in rows])
        starts = [len(row) - same for row in rows]
    # An option that is another's beginning would have no token of its own.
    starts = [max(1, min(start, len(row) - 1)) for start, row in zip(starts, rows, strict=True)]
    return [Continuation(row[:start], row[start:]) for start, row in zip(starts, rows, strict=True)]


def few_shot_examples(items: Sequence[Item], number: int, count: int) -> list[Item]:
    """Examples for a question, drawn from the others; all of them where there are fewer."""
    others = [index for index in range(len(items)) if index != number]
    chosen = random.Random(_EXAMPLES_SEED + number).sample(others, min(count, len(others)))
    return [items[index] for index in chosen]


def render(task: CoreTask, item: Item, examples: Sequence[Item]) -> list[str]:
    """The prompts of one question: one for each option, or without and with the text that is to be continued by."""
    between = task.delimiter
    if task.kind == "multiple_choice":
        shown = "".join(f"{each['query']}{between}{each['choices'][each['gold']]}\n\n" for each in examples)
        return [f"{shown}{item['query']}{between}{choice}" for choice in item["choices"]]
    if task.kind == "schema":
        shown = "".join(
            f"{each['context_options'][each['gold']]}{between}{each['continuation']}\n\n" for each in examples
        )
        return [f"{shown}{context}{between}{item['continuation']}" for context in item["context_options"]]
    shown = "".join(f"{each['context'].strip()}{between}{each['continuation']}\n\n" for each in examples)
    before = f"{shown}{item['context'].strip()}{between}"
    # Without the space at its end, which belongs to the first token of the continuation.
    return [before.strip(), f"{before}{item['continuation']}"]


def common_length(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all rows begin with."""
    shortest = min(map(len, rows))
    return next((i for i in range(shortest) if any(row[i] != rows[0][i] for row in rows)), shortest)


def core_metric(results: Sequence[CoreResult]) -> tuple[float, float | None]:
    """CORE: the mean of centred accuracies, and its standard error from those of the tasks (None where one isn't known)."""
    return centred_mean([(each.accuracy, each.guess) for each in results])


def centred_mean(found: Sequence[tuple[Accuracy, float]]) -> tuple[float, float | None]:
    """The mean of (accuracy - guess) / (1 - guess), and its standard error."""
    if not found or any(accuracy.accuracy is None for accuracy, _ in found):
        raise ValueError("a mean of centred accuracies needs an answer to every task")
    mean = sum((accuracy.accuracy - guess) / (1 - guess) for accuracy, guess in found) / len(found)  # type: ignore[operator]
    errors = [(accuracy.stderr, guess) for accuracy, guess in found]
    if any(stderr is None for stderr, _ in errors):
        return mean, None
    return mean, math.sqrt(sum((stderr / (1 - guess)) ** 2 for stderr, guess in errors)) / len(found)  # type: ignore[operator]


def evaluate_core(
    model: GPT,
    tokenizer: Tokenizer,
    tasks: Sequence[CoreTask],
    *,
    limit: int | None = None,
    batch_rows: int = 32,
    known: Callable[[CoreTask], CoreResult | None] = lambda task: None,
) -> Iterator[CoreResult]:
    """The results of tasks, one after the other; those that `known` has from before aren't computed again."""
    for task in tasks:
        yield known(task) or evaluate_core_task(model, tokenizer, task, limit=limit, batch_rows=batch_rows)


def bundle_digest(tasks: Sequence[CoreTask]) -> str:
    """What identifies the questions and how they are asked."""
    digest = hashlib.sha256()
    for task in tasks:
        digest.update(repr((task.label, task.kind, task.few_shot, task.delimiter, task.guess)).encode())
        with open_regular(task.path) as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())  # type: ignore[arg-type]
    return digest.hexdigest()
