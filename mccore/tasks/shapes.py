"""Conversations in the shapes that people have them, recognised by their keys and turned into messages.

| shape | looks like |
|---|---|
| messages | `[{"role", "content"}, ...]`, or an object with `messages`: OpenAI's; `weight` 0 isn't trained on |
| ShareGPT | an object with `conversations`, a list of `{"from", "value"}` |
| Alpaca | an object with `instruction`, `input` and `output` |
| prompt and completion | an object with `prompt` and `completion`, texts or lists of messages; `question` and `answer` too |

What can't be trained on as it was meant (calls of tools, pictures, hidden reasoning, preference pairs) is refused by name. What
only describes a conversation (ids, sources, dates) is left out and told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mccore.data.conversation import Conversation, validate_conversation
from mccore.errors import DataError

_ROLES = {"developer": "system"}
_SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
    "model": "assistant", "bot": "assistant", "assistant": "assistant", "system": "system",
}  # fmt: skip
_TOOL_ROLES = ("tool", "function", "function_call", "observation", "tool_call", "tool_response")
_ASKED = ("instruction", "prompt", "question", "query")
_BESIDE = ("input", "context")
_REPLIED = ("output", "completion", "response", "answer")
# Keys that say what was meant by a conversation, which a text alone wouldn't say.
_MEANT = {
    "tool_calls": "calls of tools", "function_call": "a call of a tool", "tools": "tools", "functions": "tools",
    "tool_call_id": "a tool's result", "reasoning_content": "reasoning beside the answer",
    "reasoning": "reasoning beside the answer", "thinking": "reasoning beside the answer", "refusal": "a refusal",
    "audio": "sound", "images": "pictures", "image": "pictures", "videos": "pictures",
    "chosen": "preference pairs", "rejected": "preference pairs",
}  # fmt: skip
HINT = (
    'a line is like [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]; OpenAI, ShareGPT, Alpaca '
    "and prompt/completion are read too"
)


@dataclass
class Recognised:
    """A conversation as messages, the shape it had, and what was left out of it."""

    conversation: Conversation
    shape: str
    left_out: list[str] = field(default_factory=list)


def recognise(value: Any, *, where: str, task: str, id: str) -> Recognised:
    """`value`, one record of a file, as a conversation. Raises DataError, naming `where`, for what can't be one."""
    left_out: list[str] = []
    shape, messages = _shape_of(value, where, left_out)
    if isinstance(value, Mapping) and isinstance(value.get("id"), str | int):
        id = str(value["id"])
    messages = [
        _as_message(message, f"{where}, message {number}", left_out) for number, message in enumerate(messages, 1)
    ]
    messages = _trimmed(messages, left_out)
    made = validate_conversation(messages, where=where, task=task, id=id)
    if all(message.get("weight") == 0 for message in made["messages"] if message["role"] == "assistant"):
        raise refused(where, "every answer has the weight 0, so nothing in it is trained on")
    return Recognised(made, shape, left_out)


def refused(where: str, what: str) -> DataError:
    """The error for a record that isn't read."""
    return DataError(f"{where}: {what}", hint=HINT)


def _shape_of(value: Any, where: str, left_out: list[str]) -> tuple[str, list[Any]]:
    if isinstance(value, list):
        return "messages", _messages(value, where)
    if not isinstance(value, Mapping):
        raise refused(where, "it is neither a list of messages nor an object")
    _refuse_meant(value, where)
    if "messages" in value:
        _note_others(value, ("messages", "id"), left_out)
        return "messages", _messages(value["messages"], where)
    for key in ("conversations", "conversation"):
        if isinstance(value.get(key), list):
            _note_others(value, (key, "system", "id"), left_out)
            return "ShareGPT", _system(value, where) + _messages(value[key], where)
    asked, replied = _one_of(value, _ASKED, where), _one_of(value, _REPLIED, where)
    if asked and replied:
        beside = _one_of(value, _BESIDE, where)
        _note_others(value, (asked, replied, *_BESIDE, "system", "history", "id"), left_out)
        shape = "Alpaca" if asked == "instruction" else f"{asked} and {replied}"
        return shape, _system(value, where) + _history(value, where) + _exchange(
            value[asked], value.get(beside), value[replied]
        )
    keys = ", ".join(map(repr, value)) or "none"
    raise refused(where, f"the object has no 'messages' nor another known shape; it has {keys}")


def _messages(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise refused(where, "the messages aren't a non-empty list")
    return value


def _one_of(value: Mapping[str, Any], keys: tuple[str, ...], where: str) -> str:
    """The key among `keys` that holds something; a second one would be dropped, so it is refused."""
    there = [key for key in keys if value.get(key) not in (None, "", [])]
    if len(there) > 1:
        raise refused(where, f"it has both {there[0]!r} and {there[1]!r}: which one is meant isn't clear")
    return there[0] if there else ""


def _exchange(asked: Any, beside: Any, replied: Any) -> list[Any]:
    question = asked if isinstance(asked, list) else [{"role": "user", "content": _question(asked, beside)}]
    return question + (replied if isinstance(replied, list) else [{"role": "assistant", "content": replied}])


def _question(asked: Any, beside: Any) -> Any:
    return f"{asked}\n\n{beside}" if isinstance(asked, str) and isinstance(beside, str) and beside.strip() else asked


def _system(value: Mapping[str, Any], where: str) -> list[Any]:
    text = value.get("system")
    if text in (None, ""):
        return []
    if not isinstance(text, str):
        raise refused(where, "the system message isn't text")
    return [{"role": "system", "content": text}]


def _history(value: Mapping[str, Any], where: str) -> list[Any]:
    history = value.get("history") or []
    if not isinstance(history, list) or not all(isinstance(turn, list) and len(turn) == 2 for turn in history):
        raise refused(where, "the history isn't a list of [question, answer]")
    return [message for question, answer in history for message in _exchange(question, None, answer)]


def _as_message(value: Any, where: str, left_out: list[str]) -> dict[str, Any]:
    if isinstance(value, Mapping) and "from" in value and "value" in value and "role" not in value:
        speaker = value["from"]
        role = _SPEAKERS.get(speaker, speaker) if isinstance(speaker, str) else speaker
        value = {
            **{key: value[key] for key in value if key not in ("from", "value")},
            "role": role,
            "content": value["value"],
        }
    if isinstance(value, Mapping):
        _refuse_meant(value, where)
    if not isinstance(value, Mapping) or not {"role", "content"} <= value.keys():
        raise refused(where, "it isn't an object with 'role' and 'content'")
    role = value["role"]
    if role in _TOOL_ROLES:
        raise refused(where, f"the role {role!r}: calls of tools aren't trained on")
    weight = value.get("weight", 1)
    if weight not in (0, 1) or (weight == 0 and role != "assistant"):
        raise refused(where, f"the weight {weight!r}: an assistant's message has 0 or 1")
    if value.get("train") is False or value.get("mask") is True:
        weight = 0
    _note_others(value, ("role", "content", "weight", "train", "mask"), left_out)
    content = value["content"]
    if content is None:
        raise refused(where, "the content is null")
    if isinstance(content, list) and content and role != "assistant":
        content = _text_of_parts(content, where)
    made = {"role": _ROLES.get(role, role) if isinstance(role, str) else role, "content": content}
    return made if weight else {**made, "weight": 0}


def _text_of_parts(parts: list[Any], where: str) -> str:
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "input_text") or not isinstance(part.get("text"), str):
            raise refused(where, f"a part of type {kind!r}: only text is read")
        texts.append(part["text"])
    return "\n".join(texts)


def _trimmed(messages: list[dict[str, Any]], left_out: list[str]) -> list[dict[str, Any]]:
    """Without an empty system message at the start and questions without an answer at the end."""
    if messages[0]["role"] == "system" and messages[0]["content"] == "":
        left_out.append("an empty system message")
        messages = messages[1:]
    answered = messages
    while answered and answered[-1]["role"] == "user":
        answered = answered[:-1]
    if len(answered) < len(messages) and any(message["role"] == "assistant" for message in answered):
        left_out.append("a last question without an answer")
        return answered
    return messages


def _refuse_meant(value: Mapping[str, Any], where: str) -> None:
    for key in value.keys() & _MEANT.keys():
        if value[key] not in (None, "", [], {}):
            raise refused(
                where,
                f"it has {key!r}: {_MEANT[key]} can't be trained on, nor left out without a change of meaning",
            )


def _note_others(value: Mapping[str, Any], read: tuple[str, ...], left_out: list[str]) -> None:
    left_out += [
        f"the key {key!r}" for key in value if key not in read and key not in _MEANT and value[key] is not None
    ]
