"""Conversations as the server knows them: whose they are, where they live, and a fingerprint of every message.

What was said stays in the journals; in memory is what finding a conversation takes, some hundred bytes a message.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mccore.serve.ledger.journal import FILE, Record, read_records

TITLE = 60  # characters of a title that is made from a first message


class Utterance(NamedTuple):
    """A message: who says what."""

    role: str
    text: str


class Mark(NamedTuple):
    """A message of a conversation: `key` stands for it and all before it, `stop` are the tokens of the history behind it."""

    role: str
    key: bytes
    stop: int


@dataclass(eq=False)
class Dialogue:
    """One conversation. `tokens`: of its history, None before the worker has opened it; `state` and `serial`: the folder that has
    the session, and the number of the newest. tail: an answer whose tokens the session may lack. kept: asked for by name, not
    made for a request that came without one."""

    id: str
    owner: str
    root: Path
    title: str = ""
    created: float = 0.0
    updated: float = 0.0
    kept: bool = True
    parent: str | None = None
    serial: int = 1
    state: str = "1"
    tokens: int | None = None
    tail: dict[str, Any] | None = None
    source: tuple[str, int] | None = None  # a conversation that it begins with, and tokens of it; until it is made
    marks: list[Mark] = field(default_factory=list)
    running: Any = None  # the exchange that is going on
    pending_system: str | None = None  # what goes before the first message

    def apply(self, record: Record) -> None:
        """Take over what a record of the journal says."""
        self.updated = float(record.get("time", self.updated))
        match record["type"]:
            case "conversation":
                self.owner, self.title = str(record["owner"]), str(record["title"])
                self.created, self.kept = self.updated, bool(record["kept"])
                self.parent = record.get("parent")
                source = record.get("source")
                self.source = (str(source[0]), int(source[1])) if source else None
                self.tokens = self.source[1] if self.source else None
            case "system":
                self.pending_system = str(record["text"])
            case "title":
                self.title = str(record["title"])
            case "state":
                self.state, self.serial = str(record["state"]), int(record["serial"])
                self.tokens, self.tail, self.source = int(record["tokens"]), None, None
            case "message":
                stop = int(record["stop"])
                before = self.marks[-1].key if self.marks else b""
                role = str(record["role"])
                key = before if role == "file" else next_key(before, Utterance(role, str(record["text"])))
                self.marks.append(Mark(role, key, stop))
                self.tokens, ids = stop, record.get("ids")
                self.pending_system = None if role == "system" else self.pending_system
                self.tail = None if ids is None else {"start": stop - len(ids), "ids": ids}
                if role == "user" and not self.title:
                    self.title = title_of(str(record["text"]))

    def place(self, dialogues: Dialogues, *, whole: bool = True) -> dict[str, Any]:
        """Where the worker finds the session. whole: cut it back to what counts."""
        place: dict[str, Any] = {"session": self.id, "root": str(self.root), "state": self.state}
        place["spare"] = str(self.serial + 1)
        if whole:
            place["tokens"], place["tail"] = self.tokens, self.tail
        if self.source is not None and (base := dialogues.by_id.get(self.source[0])) is not None:
            place["source"] = {**base.place(dialogues, whole=False), "tokens": self.source[1]}
        return place

    def summary(self) -> dict[str, Any]:
        """What a list of conversations says of this one."""
        return {
            "id": self.id,
            "object": "session",
            "title": self.title,
            "created": int(self.created),
            "updated": int(self.updated),
            "messages": len(self.marks),
            "tokens": self.tokens or 0,
            "parent": self.parent,
            "running": self.running is not None,
        }


class Dialogues:
    """All conversations below a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.by_id: dict[str, Dialogue] = {}
        self._by_key: dict[tuple[str, bytes], tuple[str, int]] = {}  # owner and key -> conversation, number of messages

    def load(self) -> int:
        """Read what is on disk; how many conversations there are. Folders of other kinds are passed over."""
        if self.directory.is_dir():
            for root in sorted(self.directory.iterdir()):
                if (root / FILE).is_file():
                    self._load(root)
        return len(self.by_id)

    def _load(self, root: Path) -> None:
        dialogue = Dialogue(root.name, "", root)
        known = False
        for record in read_records(root):
            try:
                dialogue.apply(record)
                known = known or record["type"] == "conversation"
            except (KeyError, TypeError, ValueError):
                continue
        if known:
            self.by_id[dialogue.id] = dialogue
            self.index(dialogue)

    def new(self, owner: str, **fields: Any) -> Dialogue:
        """A conversation with an id that nobody can guess; it isn't on disk yet."""
        name = secrets.token_urlsafe(18)
        dialogue = Dialogue(name, owner, self.directory / name, created=time.time(), updated=time.time(), **fields)
        self.by_id[name] = dialogue
        return dialogue

    def get(self, name: str, owner: str) -> Dialogue | None:
        """A conversation of this owner; None for a stranger's as for none."""
        dialogue = self.by_id.get(name)
        return dialogue if dialogue is not None and dialogue.owner == owner else None

    def of(self, owner: str) -> list[Dialogue]:
        """The conversations of an owner, the newest first."""
        return sorted((each for each in self.by_id.values() if each.owner == owner), key=lambda each: -each.updated)

    def index(self, dialogue: Dialogue) -> None:
        """Let the messages of a conversation be found."""
        for count, mark in enumerate(dialogue.marks, start=1):
            self._by_key[dialogue.owner, mark.key] = (dialogue.id, count)

    def remove(self, dialogue: Dialogue) -> None:
        """Forget a conversation."""
        self.by_id.pop(dialogue.id, None)
        for mark in dialogue.marks:
            if self._by_key.get((dialogue.owner, mark.key), ("", 0))[0] == dialogue.id:
                del self._by_key[dialogue.owner, mark.key]

    def longest(self, owner: str, messages: Sequence[Utterance]) -> tuple[Dialogue | None, int, int]:
        """The conversation that begins with most of these messages: itself, the number of its messages that count, and of those
        that are in it already."""
        keys = keys_of(messages)
        for count in range(len(messages), 0, -1):
            found = self._by_key.get((owner, keys[count - 1]))
            dialogue = None if found is None else self.by_id.get(found[0])
            if found is not None and dialogue is not None and messages[count - 1].role != "system":
                return dialogue, found[1], count
        return None, 0, 0


def next_key(before: bytes, message: Utterance) -> bytes:
    """The key of a message behind those that `before` stands for."""
    # A client may trim what the model said.
    text = message.text.strip() if message.role == "assistant" else message.text
    content = f"{message.role}\0{text}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(content, key=before, digest_size=16).digest()


def keys_of(messages: Sequence[Utterance]) -> list[bytes]:
    """The key of every message."""
    keys: list[bytes] = []
    for message in messages:
        keys.append(next_key(keys[-1] if keys else b"", message))
    return keys


def title_of(text: str) -> str:
    """A first message as a title."""
    words = " ".join(text.split())
    return words if len(words) <= TITLE else f"{words[: TITLE - 1]}…"
