"""Conversations of one's own, from files: JSON Lines, a JSON array, or parquet, in the shapes that `shapes` knows.

A line that can't be read is passed over, counted and named, so that one among a million doesn't end a run; `strict` makes it an
error. Nothing is left out without being counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from mccore.data.conversation import Conversation, Split, split_of
from mccore.data.corpora.document import Progress, text_digest
from mccore.data.corpora.records import JSON_LINES, is_parquet, read_json_values, read_rows
from mccore.data.hub.address import parse_address
from mccore.data.hub.library import Library, open_library
from mccore.data.hub.listing import HubFile, Listing
from mccore.errors import DataError
from mccore.host.json_file import BadJson, parse_json
from mccore.host.text import open_regular, refuse_stdin, spell, unreadable
from mccore.tasks.judges import judge_contained
from mccore.tasks.shapes import recognise
from mccore.tasks.task import FreeAnswers, GenerationRequest, Judgement, Response

_READABLE = (".parquet", *JSON_LINES, ".json", ".json.gz")
_LISTS = ("messages", "conversations", "conversation")  # columns that some writers keep as JSON text
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


KINDS = ("jsonl", "parquet")


def named_file(name: str) -> Path | None:
    """The file, or for parquet the folder of files, that `jsonl:PATH` or `parquet:PATH` names; None for other sources."""
    kind, _, path = name.partition(":")
    if kind not in KINDS:
        return None
    if not path:
        raise DataError(f"the conversations {kind!r} name no path", hint=f"write {kind}:PATH")
    return Path(path).expanduser()


def files_of(kind: str, path: Path) -> tuple[Path, ...]:
    """The files that a source names. Raises DataError for one that isn't there."""
    if kind == "parquet" and path.is_dir():
        found = tuple(sorted(each for each in path.iterdir() if is_parquet(each) and each.is_file()))
        if not found:
            raise DataError(f"{spell(path)} holds no parquet file", hint="check the path of the conversations")
        return found
    if not path.is_file():
        raise missing_file(path)
    if (kind == "parquet") != is_parquet(path):
        raise DataError(
            f"{spell(path)} isn't named as a {kind} file is",
            hint=f"write {'parquet' if is_parquet(path) else 'jsonl'}:{spell(path)}, or rename it",
        )
    return (path,)


def missing_file(path: Path) -> DataError:
    """The error for a file of conversations that isn't there, or is no file."""
    refuse_stdin(path)
    if path.exists():
        open_regular(path).close()  # says what it is instead
    return DataError(f"{spell(path)} doesn't exist", hint="check the path of the conversations")


def fingerprint_of(path: Path) -> dict[str, Any]:
    """What identifies the content of a file of conversations: its size and SHA-256."""
    with open_regular(path) as file:
        try:
            digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        except OSError as error:
            raise unreadable(error, path) from error
        return {"bytes": file.tell(), "sha256": digest}


def read_conversations(*paths: Path, strict: bool = True) -> ReadConversations:
    """All conversations of files. Raises DataError for a file that can't be read, where they hold none, `strict` for any bad
    line or row."""
    for path in paths:
        if not path.is_file():
            raise missing_file(path)
    stats = [path.stat() for path in paths]
    return _read_once(paths, strict, tuple((stat.st_size, stat.st_mtime_ns) for stat in stats))


@lru_cache(maxsize=4)  # every split, and every pass of a mixture, asks for the same files
def _read_once(paths: tuple[Path, ...], strict: bool, stats: object) -> ReadConversations:
    found = ReadConversations(paths[0] if len(paths) == 1 else paths[0].parent)
    first: list[DataError] = []

    def pass_over(error: DataError) -> None:
        if strict:
            raise error
        first.append(error)
        found.bad += 1
        if len(found.passed_over) < _NAMED:
            found.passed_over.append(error.message.removeprefix(f"{spell(found.path)}, "))
        del first[1:]

    for path in paths:
        name, kind, place = spell(path.name), *(("parquet", "row") if is_parquet(path) else ("jsonl", "line"))
        for number, value in _values_of(path, pass_over):
            where = f"{spell(path)}, {place} {number}"
            try:
                made = recognise(value, where=where, task=f"{kind}:{name}", id=f"{name}:{number}")
            except DataError as error:
                pass_over(error)
                continue
            found.shapes[made.shape] += 1
            found.left_out.update(set(made.left_out))
            found.conversations.setdefault(text_digest(repr(made.conversation["messages"])).hex(), made.conversation)
    if not found.conversations:
        if first:
            raise first[0]
        hint = "a row has a column `messages`" if is_parquet(paths[0]) else "write one JSON array of messages per line"
        raise DataError(f"{spell(found.path)} holds no conversation", hint=hint)
    return found


def _values_of(path: Path, on_bad: Callable[[DataError], None]) -> Iterator[tuple[int, Any]]:
    """(line from 1 or row from 0, value) of a file."""
    if not is_parquet(path):
        yield from read_json_values(path, on_bad=on_bad)
        return
    for row, record in read_rows(path):
        yield row, {name: _from_column(name, value) for name, value in record.items() if value is not None}


def _from_column(name: str, value: Any) -> Any:
    """A value of a parquet row as the same conversation has it in JSON: fields that other rows have and this one hasn't are
    left out, and messages that a column keeps as JSON text are read."""
    if name in _LISTS and isinstance(value, str):
        with contextlib.suppress(BadJson):
            return parse_json(value)
    if isinstance(value, dict):
        return {key: _from_column("", inner) for key, inner in value.items() if inner is not None}
    return [_from_column("", inner) for inner in value] if isinstance(value, list) else value


class ConversationsTask(FreeAnswers):
    """Conversations of files, judged by whether a reply holds the answer. Subclasses say which files."""

    strict: bool

    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """The files, which are here. Raises DataError."""

    def read(self) -> ReadConversations:
        """What they hold. Raises DataError as `read_conversations`."""
        return read_conversations(*self.files(), strict=self.strict)

    def conversations(self, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Conversation]:
        chosen = self.read().of(split)
        random.Random(f"jsonl:{seed}").shuffle(chosen)
        return chosen[:limit]

    def judge(self, request: GenerationRequest, response: Response) -> Judgement:
        return judge_contained(request, response)


class FileTask(ConversationsTask):
    """The conversations of `jsonl:PATH` or `parquet:PATH`."""

    def __init__(self, kind: str, path: Path, *, strict: bool = True) -> None:
        self.name = f"{kind}:{spell(path.name)}"
        self.strict = strict
        self._kind, self._path = kind, path

    def files(self) -> tuple[Path, ...]:
        return files_of(self._kind, self._path)

    def check(self) -> None:
        for path in self.files():
            open_regular(path).close()  # one that may not be read is refused

    def fingerprint(self) -> dict[str, Any]:
        found = [fingerprint_of(path) for path in self.files()]
        if self._path.is_file():
            return found[0]
        digest = hashlib.sha256("".join(each["sha256"] for each in found).encode()).hexdigest()
        return {"files": len(found), "bytes": sum(each["bytes"] for each in found), "sha256": digest}


class HubConversations(ConversationsTask):
    """The conversations of a data set of the hub, `hf:OWNER/NAME[/CONFIG][@REVISION]`: of its split for training. What is held
    out is decided here as for files; the data set's own splits for validation and tests stay untouched."""

    on_hub = True

    def __init__(self, name: str, *, strict: bool = True) -> None:
        self.name = name
        self.strict = strict
        self._address = parse_address(name)

    def _chosen(self) -> tuple[Library, Listing, list[HubFile]]:
        library = open_library()
        listing = library.listing(self._address, splits=True)
        paths = (listing.splits or {}).get("train")
        if not paths:
            raise DataError(
                f"{self.name} has no split 'train'; it has {', '.join(listing.splits or {}) or 'none'}",
                hint="name another configuration, or fetch its files and use parquet:PATH or jsonl:PATH",
            )
        if unread := next((path for path in paths if not path.lower().endswith(_READABLE)), None):
            raise DataError(
                f"{self.name}: {unread} isn't parquet or JSON Lines",
                hint="try @refs/convert/parquet, the hub's own copy as parquet",
            )
        return library, listing, listing.of(paths)

    def files(self) -> tuple[Path, ...]:
        library, listing, files = self._chosen()
        library.get(listing, files, lambda done, total: None)
        return tuple(library.path_of(listing, file) for file in files)

    def check(self) -> None:
        self._chosen()

    def fetch(self, progress: Progress) -> None:
        library, listing, files = self._chosen()
        library.get(listing, files, progress)

    def fingerprint(self) -> dict[str, Any]:
        _, listing, files = self._chosen()
        return {"repository": listing.repository, "commit": listing.commit, "files": [file.path for file in files]}


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
