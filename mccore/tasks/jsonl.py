"""Conversations of one's own, from a file: JSON Lines or a JSON array, in the shapes that `shapes` knows.

A line that can't be read is passed over, counted and named, so that one among a million doesn't end a run; `strict` makes it an
error. Nothing is left out without being counted.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from mccore.data.conversation import Conversation, Split, split_of
from mccore.data.corpora.document import text_digest
from mccore.data.corpora.records import read_json_values
from mccore.errors import DataError
from mccore.host.text import open_regular, refuse_stdin, spell, unreadable
from mccore.tasks.judges import judge_contained
from mccore.tasks.shapes import recognise
from mccore.tasks.task import FreeAnswers, GenerationRequest, Judgement, Response

_NAMED = 5  # lines passed over that are named


@dataclass
class ReadConversations:
    """What a file of conversations holds. `passed_over` are the messages of the first lines that weren't read."""

    path: Path
    conversations: dict[str, Conversation] = field(default_factory=dict)  # by content, each once
    shapes: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    bad: int = 0
    passed_over: list[str] = field(default_factory=list)

    def of(self, split: Split) -> list[Conversation]:
        """The conversations of one split. Raises DataError where there are too few for it."""
        splits = _with_both_ends(self.conversations)
        chosen = [conversation for key, conversation in self.conversations.items() if splits[key] == split]
        if not chosen:
            raise DataError(
                f"{spell(self.path)} holds {len(self.conversations)} different conversations, too few for a {split} split",
                hint="add some, at least 3",
            )
        return chosen

    def describe(self) -> str:
        """One line for people, and one for each thing that was left out."""
        shapes = ", ".join(f"{number:,} {shape}" for shape, number in self.shapes.most_common())
        lines = [f"{len(self.conversations):,} different conversations ({shapes})"]
        lines += [f"left out {number:,} times: {what}" for what, number in self.left_out.most_common()]
        if self.bad:
            more = f" and {self.bad - len(self.passed_over):,} more" if self.bad > len(self.passed_over) else ""
            lines.append(f"passed over {self.bad:,} that can't be read: {'; '.join(self.passed_over)}{more}")
        return "\n  ".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same for a stage's result."""
        return {
            "conversations": len(self.conversations),
            "shapes": dict(self.shapes),
            "left_out": dict(self.left_out),
            "passed_over": self.bad,
            "first_passed_over": self.passed_over,
        }


def jsonl_path(name: str) -> Path | None:
    """The file that `jsonl:PATH` names; None for other sources."""
    kind, _, path = name.partition(":")
    if kind != "jsonl":
        return None
    if not path:
        raise DataError("the conversations 'jsonl' name no path", hint="write jsonl:PATH")
    return Path(path).expanduser()


def missing_file(path: Path) -> DataError:
    """The error for a file of conversations that isn't there, or is no file."""
    refuse_stdin(path)
    if path.exists():
        open_regular(path).close()  # says what it is instead
    return DataError(f"{spell(path)} doesn't exist", hint="check the path of the conversations")


def fingerprint_of(path: Path) -> dict[str, Any]:
    """What identifies the content of a file of conversations: its size and SHA-256."""
    if not path.is_file():
        raise missing_file(path)
    with open_regular(path) as file:
        try:
            digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        except OSError as error:
            raise unreadable(error, path) from error
        return {"bytes": file.tell(), "sha256": digest}


def read_conversations(path: Path, *, strict: bool = True) -> ReadConversations:
    """All conversations of a file. Raises DataError for a file that can't be read or holds none, `strict` for any bad line."""
    if not path.is_file():
        raise missing_file(path)
    stat = path.stat()
    return _read_once(path, strict, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)  # every split, and every pass of a mixture, asks for the same file
def _read_once(path: Path, strict: bool, size: int, modified: int) -> ReadConversations:
    found = ReadConversations(path)
    first: list[DataError] = []

    def pass_over(error: DataError) -> None:
        if strict:
            raise error
        first.append(error)
        found.bad += 1
        if len(found.passed_over) < _NAMED:
            found.passed_over.append(error.message.removeprefix(f"{spell(path)}, "))
        del first[1:]

    name = spell(path.name)
    for number, value in read_json_values(path, on_bad=pass_over):
        where = f"{spell(path)}, line {number}"
        try:
            made = recognise(value, where=where, task=f"jsonl:{name}", id=f"{name}:{number}")
        except DataError as error:
            pass_over(error)
            continue
        found.shapes[made.shape] += 1
        found.left_out.update(set(made.left_out))
        found.conversations.setdefault(text_digest(repr(made.conversation["messages"])).hex(), made.conversation)
    if not found.conversations:
        if first:
            raise first[0]
        raise DataError(f"{spell(path)} holds no conversation", hint="write one JSON array of messages per line")
    return found


class JsonlTask(FreeAnswers):
    """The conversations of a file, judged by whether a reply holds the answer."""

    def __init__(self, path: Path, *, strict: bool = True) -> None:
        self.name = f"jsonl:{spell(path.name)}"
        self._path = path
        self._strict = strict

    def check(self) -> None:
        if not self._path.is_file():
            raise missing_file(self._path)
        open_regular(self._path).close()  # one that may not be read is refused

    def fingerprint(self) -> dict[str, Any]:
        return fingerprint_of(self._path)

    def conversations(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Conversation]:
        chosen = read_conversations(self._path, strict=self._strict).of(split)
        random.Random(f"jsonl:{seed}").shuffle(chosen)
        return chosen[:limit]

    def judge(self, request: GenerationRequest, response: Response) -> Judgement:
        return judge_contained(request, response)


def _with_both_ends(keys: Mapping[str, object]) -> dict[str, Split]:
    """The split of each key; in a small set, train gives a key each to a val or test split that would be empty.

    A set without one for train takes one back: two conversations are one to train on and one to validate on.
    """
    splits = {key: split_of(key) for key in keys}
    held_out: tuple[Split, Split] = ("val", "test")
    if len(splits) > 1 and "train" not in splits.values():
        splits[min(splits)] = "train"
    for wanted in held_out:
        spare = sorted(key for key, split in splits.items() if split == "train")
        if wanted in splits.values():
            continue
        if len(spare) > 1:
            splits[spare[0]] = wanted
        elif wanted == "val" and (test := sorted(key for key, split in splits.items() if split == "test")):
            splits[test[0]] = wanted
    return splits
