"""Words of the standard library's prose, and how its conversations use the Python tool."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache

from mccore.data.conversation import Part, Split, split_of
from mccore.data.corpora.stdlib.api import api_modules
from mccore.data.corpora.stdlib.sources import group_of, in_stdlib_val, topics

DEFAULT_COUNTS = {"train": 8_000, "val": 400, "test": 400}
"""Conversations of tasks made by rule, which have no natural end."""

_MIN_WORD, _MAX_WORD, _MIN_USES = 3, 12, 4


@lru_cache(maxsize=4)
def words(split: Split) -> tuple[str, ...]:
    """Lower-case words of 3 to 12 letters that occur at least four times in docstrings and language topics, sorted."""
    counts: Counter[str] = Counter()
    for module in api_modules():
        if not in_stdlib_val(group_of(module.name)):
            for found in module.objects:
                counts.update(re.findall(r"(?<![\w.'])[a-z]+(?![\w('])", found.doc))
    for name, text in topics().items():
        if not in_stdlib_val(f"topic:{name}"):
            counts.update(re.findall(r"(?<![\w.'])[a-z]+(?![\w('])", text))
    return tuple(
        sorted(
            word
            for word, uses in counts.items()
            if uses >= _MIN_USES
            and _MIN_WORD <= len(word) <= _MAX_WORD
            and re.search("[aeiouy]", word)
            and split_of(f"word:{word}") == split
        )
    )


def tool_use(expression: str, output: str, reply: str) -> list[Part]:
    """An assistant's message that evaluates `expression`, gets `output` and then says `reply`."""
    return [
        {"type": "python", "text": expression},
        {"type": "python_output", "text": output},
        {"type": "text", "text": reply},
    ]
