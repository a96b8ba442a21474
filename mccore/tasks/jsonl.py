"""Conversations of one's own: a JSON Lines file, one array of messages per line."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from mccore.data.conversation import Conversation, Split, split_of, validate_conversation
from mccore.data.corpora.document import text_digest
from mccore.data.corpora.records import read_json_values
from mccore.errors import DataError


def jsonl_path(name: str) -> Path | None:
    """The file that `jsonl:PATH` names; None for other sources."""
    kind, _, path = name.partition(":")
    if kind != "jsonl":
        return None
    if not path:
        raise DataError("the conversations 'jsonl' name no path", hint="write jsonl:PATH")
    return Path(path).expanduser()


def missing_file(path: Path) -> DataError:
    return DataError(f"{path} doesn't exist or isn't a file", hint="check the path of the conversations")


def read_jsonl(path: Path, split: Split, seed: int, limit: int | None) -> Sequence[Conversation]:
    if not path.is_file():
        raise missing_file(path)
    task = f"jsonl:{path.name}"
    everything: dict[str, Conversation] = {}
    for number, value in read_json_values(path):
        made = validate_conversation(value, where=f"{path}, line {number}", task=task, id=f"{path.name}:{number}")
        everything.setdefault(text_digest(repr(made["messages"])).hex(), made)
    if not everything:
        raise DataError(f"{path} holds no conversation", hint="write one JSON array of messages per line")
    splits = _with_both_ends(everything)
    chosen = [conversation for key, conversation in everything.items() if splits[key] == split]
    if not chosen:
        raise DataError(
            f"{path} holds {len(everything)} different conversations, too few for a {split} split",
            hint="add some, at least 3",
        )
    random.Random(f"jsonl:{seed}").shuffle(chosen)
    return chosen[:limit]


def _with_both_ends(keys: Mapping[str, object]) -> dict[str, Split]:
    """The split of each key; in a small set, train gives a key each to a val or test split that would be empty."""
    splits = {key: split_of(key) for key in keys}
    held_out: tuple[Split, Split] = ("test", "val")
    for wanted in held_out:
        spare = sorted(key for key, split in splits.items() if split == "train")
        if wanted not in splits.values() and len(spare) > 1:
            splits[spare[0]] = wanted
    return splits
