"""Conversations as ids: nanochat's chat format.

    <|bos|> <|user_start|>...<|user_end|> <|assistant_start|>...<|assistant_end|> <|user_start|>...

A message is `{"role": "system" | "user" | "assistant", "content": ...}`. An optional system message comes first and is
merged into the first user turn. An assistant's content is a str or a list of parts `{"type": ..., "text": ...}`: `text`,
`python` (a call: <|python_start|>...<|python_end|>) and `python_output` (its result: <|output_start|>...<|output_end|>).

The mask is 1 on what a model has to learn to write: the assistant's text, its python calls with their marks, and the mark
that ends the turn. It is 0 on everything that is given to the model: other turns, answers
of `weight` 0, <|assistant_start|>, and tool output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import DataError

Message = Mapping[str, Any]

# Part type: the special tokens around it, and whether the model writes it.
_PARTS = {
    "text": (None, None, 1),
    "python": ("python_start", "python_end", 1),
    "python_output": ("output_start", "output_end", 0),
}


class Rendered(NamedTuple):
    """Ids and, for each, 1 where it is a target for the model, else 0. Both have the same length."""

    ids: list[int]
    mask: list[int]


class _Turn(NamedTuple):
    role: str
    parts: list[tuple[str, str]]  # (type, text)
    weight: int = 1  # 0: an answer that isn't trained on


def render_conversation(
    tokenizer: Tokenizer, messages: Sequence[Message], *, max_tokens: int | None = None
) -> Rendered:
    """Ids and mask of a whole conversation; the first `max_tokens` of them where that is given.

    Raises DataError, naming the message, for anything that isn't a conversation: no messages, roles that don't alternate
    from a user turn on, a system message anywhere but first, content of the wrong kind.
    """
    rendered = Rendered([tokenizer.bos_id], [0])
    for turn in _turns(messages):
        _add_turn(tokenizer, rendered, turn)
    return Rendered(rendered.ids[:max_tokens], rendered.mask[:max_tokens])


def render_for_completion(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids that ask the model for the next assistant turn, ending with <|assistant_start|>.

    A last assistant message is dropped, so that a conversation from a data set can be asked again. Raises DataError as
    `render_conversation`.
    """
    turns = _turns(messages)
    if turns[-1].role == "assistant":
        turns.pop()
    rendered = Rendered([tokenizer.bos_id], [0])
    for turn in turns:
        _add_turn(tokenizer, rendered, turn)
    return [*rendered.ids, tokenizer.special("assistant_start")]


def render_turn(tokenizer: Tokenizer, role: str, content: str | Sequence[Mapping[str, str]]) -> Rendered:
    """Ids and mask of one more user or assistant turn, marks included: what a session appends to what it has read.

    The ids of a conversation are those of <|bos|> and of its turns, one after the other. Raises DataError for other roles
    and for content of the wrong kind.
    """
    if role not in ("user", "assistant"):
        raise DataError(f"a turn is the user's or the assistant's, not {role!r}")
    rendered = Rendered([], [])
    _add_turn(tokenizer, rendered, _Turn(role, _parts(f"the {role}'s turn", role, content)))
    return rendered


def _add_turn(tokenizer: Tokenizer, rendered: Rendered, turn: _Turn) -> None:
    def add(ids: list[int], mask: int) -> None:
        rendered.ids.extend(ids)
        rendered.mask.extend([mask] * len(ids))

    assistant = int(turn.role == "assistant") * turn.weight
    add([tokenizer.special(f"{turn.role}_start")], 0)
    for kind, text in turn.parts:
        start, end, written = _PARTS[kind]
        ids = tokenizer.encode(text)
        if start is not None and end is not None:
            ids = [tokenizer.special(start), *ids, tokenizer.special(end)]
        add(ids, written * assistant)
    add([tokenizer.special(f"{turn.role}_end")], assistant)


def _turns(messages: Sequence[Message]) -> list[_Turn]:
    """The turns of a valid conversation: user and assistant in alternation, the system message merged into the first."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise DataError(f"a conversation must be a list of messages, not {type(messages).__name__}")
    turns: list[_Turn] = []
    system: str | None = None
    for i, message in enumerate(messages):
        where = f"messages[{i}]"
        if not isinstance(message, Mapping):
            raise DataError(f"{where} must be an object with role and content, not {type(message).__name__}")
        role, content = message.get("role"), message.get("content")
        if role == "system" and i == 0:
            system = _text(f"{where}: the system's content", content)
            continue
        expected = "assistant" if len(turns) % 2 else "user"
        if role != expected:
            raise DataError(
                f"{where} has role {role!r} where {expected!r} is due",
                hint="a conversation is an optional system message, then user and assistant in turn",
            )
        parts = _parts(f"{where}: the {expected}'s content", expected, content)
        turns.append(_Turn(expected, parts, int(message.get("weight", 1))))
    if not turns:
        raise DataError("a conversation needs at least one user message")
    if system is not None:
        turns[0] = _Turn("user", [("text", f"{system}\n\n{turns[0].parts[0][1]}")])
    return turns


def _parts(where: str, role: str, content: object) -> list[tuple[str, str]]:
    if role == "user" or isinstance(content, str):
        return [("text", _text(where, content))]
    if not isinstance(content, Sequence) or isinstance(content, bytes) or not content:
        raise DataError(f"{where} must be a str or a list of parts, not {content!r}")
    parts = []
    for i, part in enumerate(content):
        if not isinstance(part, Mapping) or part.get("type") not in tuple(_PARTS):
            raise DataError(f"{where}: part {i} must be an object whose type is one of {', '.join(_PARTS)}")
        parts.append((part["type"], _text(f"{where}: the text of part {i}", part.get("text"))))
    return parts


def _text(where: str, content: object) -> str:
    if not isinstance(content, str):
        raise DataError(f"{where} must be a str, not {type(content).__name__}")
    return content
