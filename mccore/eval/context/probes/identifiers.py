"""Names of code that were told in another file, far behind: which one comes next, as in completing a project's code."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from mccore.eval.context.probes.kinds import Encode
from mccore.eval.context.probes.probe import Asked, HistoryProbe, Ids, ProbeDraft, Statement, placed

LEAST = 6  # characters of a name
MOST_TOKENS = 24  # of one; longer ones aren't asked
_HEAD = re.compile(r"^# [\w.-]+(?:/[\w.-]+)+$", re.M)  # above each file of a document that has several
_NAME = re.compile(rf"[ .(\[](?=[A-Za-z_]\w{{{LEAST - 1},}})[A-Za-z_]\w*\b")


def files_of(text: str) -> list[str]:
    """The files that a document is made of: what stands under lines like `# source/name.py`; all of it where there are none."""
    starts = [match.start() for match in _HEAD.finditer(text)]
    ends = [*starts[1:], len(text)]
    return [text[start:stop] for start, stop in zip(starts, ends, strict=True)] if starts else [text]


def is_compound(name: str) -> bool:
    """Whether a name is one that somebody gave: of several words, by underscores or capitals."""
    return "_" in name.strip("_") or bool(re.search(r"[a-z][A-Z]", name))


@dataclass(frozen=True)
class NameTask:
    """Names behind `size` tokens, of which the last `window` don't have them. encode, decode: of the tokenizer."""

    encode: Encode
    decode: Callable[[Sequence[int]], str]
    size: int
    window: int


def identifier_probes(documents: Sequence[str], task: NameTask, count: int) -> Iterator[HistoryProbe]:
    """At most `count` names in documents, one a file, that stand in another file before, and not in the window. Documents of
    one file are read in their order, as one project. None for texts without names."""
    encode, decode, size, window = task.encode, task.decode, task.size, task.window
    files = [file for document in documents for file in files_of(document)]
    ids = [np.asarray(encode(file), dtype=np.int64) for file in files]
    ends = np.cumsum([len(each) for each in ids])
    found = 0
    for number, text in enumerate(files):
        if found == count:
            return
        before = int(ends[number - 1]) if number else 0
        if before < size:
            continue
        past = np.concatenate(_newest(ids[:number], size))[-size:]
        told = decode(past.tolist())
        match = _first(text, told, partial(_window_before, task, past))
        if match is None:
            continue
        prefix, answer = encode(text[: match.start()]), encode(match.group())
        if len(answer) > MOST_TOKENS or len(prefix) >= size:
            continue
        history = np.concatenate([past, np.asarray(prefix, dtype=np.int64)])[-size:]
        if not _holds(decode(history[:-window].tolist()), match.group()[1:]):
            continue  # what told it has gone to make room for the file
        draft = ProbeDraft([Statement(0.0, history.tolist())], [], [(answer, True)], None)
        yield placed(draft, Asked("identifier", "other file", size), history[:0])
        found += 1


def _window_before(task: NameTask, past: Ids, prefix: str) -> str:
    """The last tokens of other files and the start of this one."""
    return task.decode([*past.tolist(), *task.encode(prefix)][-task.window :])


def _newest(ids: Sequence[Ids], size: int) -> list[Ids]:
    """The last of these files that hold `size` tokens."""
    kept: list[Ids] = []
    held = 0
    for each in reversed(ids):
        kept.append(each)
        held += len(each)
        if held >= size:
            break
    return kept[::-1]


def _first(text: str, told: str, window_before: Callable[[str], str]) -> re.Match[str] | None:
    """The first name of a file that is told in other files, and not in the window before it."""
    for match in _NAME.finditer(text):
        name = match.group()[1:]
        before = text[: match.start()]
        if not is_compound(name) or not _holds(told, name) or _holds(before, name):
            continue
        if not _holds(window_before(before), name):
            return match
    return None


def _holds(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None
