"""Named sources of conversations for midtraining, fine-tuning and evaluation, each with held-out splits.

What is held out is the *subject* of a conversation (a function, a word, a sum, a piece of a file), never a way of asking, and
it is held out by its hash: the same for every seed, so that no choice of seed can carry a test item into training.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, get_args

from mccore.data.corpora import hash_share, read_json_lines, text_digest
from mccore.errors import DataError

Split = Literal["train", "val", "test"]
Role = Literal["system", "user", "assistant"]
PartType = Literal["text", "python", "python_output"]
LETTERS = "ABCD"

TEST_SHARE = 0.10
VAL_SHARE = 0.08


class Part(TypedDict):
    """A piece of an assistant's message: prose, a Python expression it evaluates, or what that gave."""

    type: PartType
    text: str


class Message(TypedDict):
    role: Role
    content: str | list[Part]


class Conversation(TypedDict):
    """`subject` is what the split goes by; `answer` the fact a right reply contains, where there is one."""

    id: str
    task: str
    messages: list[Message]
    subject: NotRequired[str]
    answer: NotRequired[str]


@dataclass(frozen=True)
class MultipleChoice:
    """A question with four choices, one right. `lexical_overlap`: subject and right choice share a word, a hint."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    subject: str
    kind: str
    lexical_overlap: bool


Source = Callable[..., Sequence[Conversation]]  # (split, *, seed, limit)

# Loaded when asked for: name -> module and function.
_SOURCES = {
    "arithmetic": "mccore.data.stdlib_tools:arithmetic",
    "needle": "mccore.data.stdlib_needle:needle",
    "spelling": "mccore.data.stdlib_tools:spelling",
    "stdlib_qa": "mccore.data.stdlib_qa:stdlib_qa",
}


def source_names() -> tuple[str, ...]:
    """Names that `open_conversations` takes, besides `jsonl:PATH`."""
    return tuple(sorted(_SOURCES))


def open_conversations(name: str, split: Split, *, seed: int = 0, limit: int | None = None) -> Sequence[Conversation]:
    """The conversations of one source and split, in an order and wording fixed by `seed`; at most `limit` of them.

    Sources made by rule (`arithmetic`, `spelling`) have no natural end: without a limit they give a default number, with one
    exactly that many. Raises DataError for an unknown name or split, an unreadable file, or a split that is empty.
    """
    _check_split(split)
    if limit is not None and limit < 1:
        raise DataError(f"a limit of {limit} conversations", hint="give a positive limit, or none")
    if (path := _jsonl_path(name)) is not None:
        return _from_jsonl(path, split, seed, limit)
    return _source(name)(split, seed=seed, limit=limit)


def check_source(name: str) -> None:
    """Raise DataError unless `name` is a source that is there; its conversations aren't read."""
    if (path := _jsonl_path(name)) is None:
        _source(name)
    elif not path.is_file():
        raise _no_file(path)


def mix_conversations(
    mixture: Mapping[str, int | float], split: Split, *, seed: int = 0, total: int | None = None
) -> list[Conversation]:
    """Conversations of several sources, shuffled together.

    An int is a count, a float a weight: weights share what `total` leaves after the counts. A source with fewer conversations
    than asked for is gone through again, worded with another seed; the ids then get `~2`, `~3`.
    """
    mixed: list[Conversation] = []
    for name, count in sorted(_counts(mixture, total).items()):
        mixed += _draw(name, split, seed, count)
    random.Random(f"mix:{seed}").shuffle(mixed)
    return mixed


def code_version() -> str:
    """Hash of the code that makes, splits and renders conversations: what is cached of them is stale when it changes."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):  # all of the package: no list to keep up to date
        digest.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def multiple_choice_questions(split: Split, *, seed: int = 0, limit: int | None = None) -> list[MultipleChoice]:
    """Questions about the standard library, of the kinds `describe`, `module` and `name`, in an order fixed by `seed`.

    Subjects, right answers and distractors are all objects of `split`. Questions come in groups of four that share their
    choices, each choice being right once: whoever looks at the choices only, by length, position or style, gets a quarter.
    A limit that isn't a multiple of four cuts the last group.
    """
    from mccore.data.stdlib_qa import build_multiple_choice

    _check_split(split)
    return build_multiple_choice(split, seed=seed, limit=limit)


def render_multiple_choice(question: MultipleChoice) -> str:
    """The question as a user's message; the reply expected is the bare letter.

    The letter follows its choice as `=A` without a space: small models bind it better to what stands before it, and the token
    is the one they answer with (nanochat, render_mc).
    """
    lines = [f"- {choice}={letter}" for choice, letter in zip(question.choices, LETTERS, strict=True)]
    return "\n".join([question.question, *lines, "Answer with the letter only."])


def validate_conversation(value: Any, *, where: str, task: str, id: str) -> Conversation:
    """`value`, a list of messages or an object with `messages`, as a conversation; DataError says what is wrong and `where`.

    Rules: an optional system message, then user and assistant in turn, ending with the assistant; content is text or, for
    the assistant, a list of parts in which an output follows the Python it came from.
    """
    if isinstance(value, dict):
        if "messages" not in value:
            raise _invalid(where, "the object has no 'messages'")
        id = str(value.get("id", id))
        value = value["messages"]
    if not isinstance(value, list) or not value:
        raise _invalid(where, "the messages aren't a non-empty list")
    turns = value[1:] if isinstance(value[0], dict) and value[0].get("role") == "system" else value
    messages = [_message(message, f"{where}, message {index}") for index, message in enumerate(value, start=1)]
    expected: tuple[Role, Role] = ("user", "assistant")
    for index, message in enumerate(messages[len(value) - len(turns) :]):
        if message["role"] != expected[index % 2]:
            position = index + 1 + len(value) - len(turns)
            raise _invalid(
                f"{where}, message {position}", f"the role is {message['role']!r}, not {expected[index % 2]!r}"
            )
    if not turns or messages[-1]["role"] != "assistant":
        raise _invalid(where, "the last message isn't the assistant's")
    return {"id": id, "task": task, "messages": messages}


def split_of(key: str) -> Split:
    """The split that a subject belongs to, by its hash alone."""
    share = hash_share(f"conversations:{key}")
    if share < TEST_SHARE:
        return "test"
    return "val" if share < TEST_SHARE + VAL_SHARE else "train"


def exchange(
    task: str, id: str, *turns: tuple[str, str | list[Part]], subject: str, answer: str | None = None
) -> Conversation:
    """A conversation from (question, reply) pairs."""
    messages: list[Message] = []
    for question, reply in turns:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": reply})
    made: Conversation = {"id": id, "task": task, "messages": messages, "subject": subject}
    if answer is not None:
        made["answer"] = answer
    return made


def _jsonl_path(name: str) -> Path | None:
    """The file that `jsonl:PATH` names; None for other sources."""
    kind, _, path = name.partition(":")
    if kind != "jsonl":
        return None
    if not path:
        raise DataError("the conversations 'jsonl' name no path", hint="write jsonl:PATH")
    return Path(path).expanduser()


def _no_file(path: Path) -> DataError:
    return DataError(f"{path} doesn't exist or isn't a file", hint="check the path of the conversations")


def _source(name: str) -> Source:
    if name not in _SOURCES:
        known = ", ".join([*source_names(), "jsonl:PATH"])
        raise DataError(f"unknown conversations {name!r}", hint=f"use one of {known}")
    module, function = _SOURCES[name].split(":")
    source: Source = getattr(import_module(module), function)
    return source


def _check_split(split: str) -> None:
    if split not in get_args(Split):
        raise DataError(f"unknown split {split!r} of conversations", hint="use train, val or test")


def _counts(mixture: Mapping[str, int | float], total: int | None) -> dict[str, int]:
    if not mixture:
        raise DataError("the mixture of conversations is empty", hint=f"name a source: {', '.join(source_names())}")
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


def _draw(name: str, split: Split, seed: int, count: int) -> Iterator[Conversation]:
    again = 1
    while count > 0:
        taken = open_conversations(name, split, seed=seed + 1_000_003 * (again - 1), limit=count)
        if not taken:
            raise DataError(f"the conversations {name!r} have none for the {split} split", hint="leave the source out")
        for conversation in taken:
            yield conversation if again == 1 else {**conversation, "id": f"{conversation['id']}~{again}"}
        count -= len(taken)
        again += 1


def _from_jsonl(path: Path, split: Split, seed: int, limit: int | None) -> Sequence[Conversation]:
    if not path.is_file():
        raise _no_file(path)
    task = f"jsonl:{path.name}"
    everything: dict[str, Conversation] = {}
    for number, value in read_json_lines(path):
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


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict) or not {"role", "content"} <= value.keys():
        raise _invalid(where, "it isn't an object with 'role' and 'content'")
    role, content = value["role"], value["content"]
    if role not in get_args(Role):
        raise _invalid(where, f"the role {role!r} is none of system, user, assistant")
    if isinstance(content, str):
        if not content.strip():
            raise _invalid(where, "the content is empty")
        return {"role": role, "content": content}
    if not isinstance(content, list) or not content:
        raise _invalid(where, "the content is neither text nor a list of parts")
    if role != "assistant":
        raise _invalid(where, f"parts are for the assistant, not the {role}")
    before: str | None = None
    for part in content:
        kind, text = (part.get("type"), part.get("text")) if isinstance(part, dict) else (None, None)
        if kind not in get_args(PartType) or not isinstance(text, str):
            raise _invalid(where, "a part isn't like {'type': 'text' | 'python' | 'python_output', 'text': '...'}")
        if kind == "python_output" and before != "python":
            raise _invalid(where, "a 'python_output' part doesn't follow a 'python' part")
        before = kind
    return {"role": role, "content": [{"type": part["type"], "text": part["text"]} for part in content]}


def _invalid(where: str, what: str) -> DataError:
    return DataError(
        f"{where}: {what}",
        hint='a line is like [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]',
    )
