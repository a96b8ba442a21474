"""nanochat's tokenizer.pkl: a pickled `tiktoken.Encoding`, read without running anything that it says.

A pickle is a program that may call anything it can name. The reader here knows one name, that of the class such a file was
made from, and answers it with a container that keeps what it is given. Every other name ends the reading.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from mccore.data.tokenizer.tokenizer import SPECIALS, Tokenizer
from mccore.errors import DataError
from mccore.host.text import open_regular, spell, unreadable

_MOST_BYTES = 256 * 2**20  # a vocabulary of 65,536 tokens takes 1 MB
_FIELDS = {"name", "pat_str", "mergeable_ranks", "special_tokens"}


class _Refused(pickle.UnpicklingError):
    """The file names something that no tokenizer of nanochat's holds."""


class _Encoding:
    """What stands for `tiktoken.Encoding`: it keeps the state that the file gives it."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("tiktoken.core", "Encoding"):
            return _Encoding
        raise _Refused(f"it names {module}.{name}, which no tokenizer of nanochat's does")

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("it names something outside of the file")


def read_pickled_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a `tokenizer.pkl` of nanochat's. Nothing in the file is executed.

    Raises DataError for a file that is missing, damaged or holds anything else, and for a tokenizer that ours can't be exactly.
    """

    def refuse(why: str, hint: str = "nanochat's tok_train writes tokenizer.pkl: give that file") -> DataError:
        return DataError(f"{spell(path)}: {why}", hint=hint)

    with open_regular(path) as file:
        try:
            content = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise unreadable(error, path) from error
    if len(content) > _MOST_BYTES:
        raise refuse(f"it is larger than {_MOST_BYTES >> 20} MiB, which no tokenizer is")
    try:
        found = _Reader(io.BytesIO(content)).load()
    except _Refused as error:
        raise refuse(
            f"{error}; nothing of it was run", "don't load this file with other programs: a pickle can run anything"
        ) from error
    except Exception as error:  # the reader raises whatever a damaged file leads it to
        raise refuse(f"it isn't a pickle, or is damaged: {type(error).__name__} {error}") from error
    state = found.state if isinstance(found, _Encoding) else None
    if not isinstance(state, dict) or not state.keys() >= _FIELDS:
        raise refuse("it doesn't hold a tokenizer of tiktoken's")
    return _tokenizer(state, refuse)


def _tokenizer(state: dict[str, Any], refuse: Any) -> Tokenizer:
    ranks, specials, pattern = state["mergeable_ranks"], state["special_tokens"], state["pat_str"]
    sound = (
        isinstance(pattern, str)
        and isinstance(ranks, dict)
        and all(isinstance(token, bytes) and type(rank) is int for token, rank in ranks.items())
        and isinstance(specials, dict)
    )
    if not sound:
        raise refuse("its pattern, its ranks or its special tokens aren't what tiktoken's are")
    tokens = sorted(ranks, key=ranks.__getitem__)
    if [ranks[token] for token in tokens] != list(range(len(tokens))):
        raise refuse("its ranks aren't the numbers from 0 on: the ids of its tokens couldn't be kept")
    expected = {name: len(tokens) + place for place, name in enumerate(SPECIALS)}
    if specials != expected:
        odd = sorted({str(name) for name in specials} ^ set(SPECIALS)) or ["their ids"]
        raise refuse(f"its special tokens aren't nanochat's nine behind the others: {', '.join(odd[:4])}")
    try:
        return Tokenizer(tokens, pattern=pattern)
    except DataError as error:
        raise refuse(error.message) from error
