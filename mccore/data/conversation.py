"""Conversations: their types, what makes one valid, and the split that its subject belongs to."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict, get_args

from mccore.data.corpora.document import hash_share
from mccore.errors import DataError
from mccore.host.text import mend

Split = Literal["train", "val", "test"]

Role = Literal["system", "user", "assistant"]

PartType = Literal["text", "python", "python_output"]

TEST_SHARE = 0.10

VAL_SHARE = 0.08


class Part(TypedDict):
    """A piece of an assistant's message: prose, a Python expression it evaluates, or what that gave."""

    type: PartType
    text: str


class Message(TypedDict):
    role: Role
    content: str | list[Part]
    weight: NotRequired[Literal[0]]  # an answer that isn't trained on


class Conversation(TypedDict):
    """`subject` is what the split goes by; `answer` the fact a right reply contains, where there is one."""

    id: str
    task: str
    messages: list[Message]
    subject: NotRequired[str]
    answer: NotRequired[str]


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


def check_conversation_split(split: str) -> None:
    if split not in get_args(Split):
        raise DataError(f"unknown split {split!r} of conversations", hint="use train, val or test")


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict) or not {"role", "content"} <= value.keys():
        raise _invalid(where, "it isn't an object with 'role' and 'content'")
    role, content = value["role"], value["content"]
    if role not in get_args(Role):
        raise _invalid(where, f"the role {role!r} is none of system, user, assistant")
    if isinstance(content, str):
        if not content.strip():
            raise _invalid(where, "the content is empty")
        return _weighted({"role": role, "content": mend(content)}, value)
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
    parts: list[Part] = [{"type": part["type"], "text": mend(part["text"])} for part in content]
    return _weighted({"role": role, "content": parts}, value)


def _weighted(message: Message, value: dict[str, Any]) -> Message:
    if value.get("weight") == 0 and message["role"] == "assistant":
        message["weight"] = 0
    return message


def _invalid(where: str, what: str) -> DataError:
    return DataError(
        f"{where}: {what}",
        hint='a line is like [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]',
    )
