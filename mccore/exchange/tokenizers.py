"""Tokenizers that people have, as ours: the same id for every token, or refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mccore.data.tokenizer.evaluate import is_json
from mccore.data.tokenizer.formats import read_tiktoken, read_tokenizer
from mccore.data.tokenizer.huggingface import read_huggingface, read_json_file
from mccore.data.tokenizer.tokenizer import FILE_NAME, Tokenizer
from mccore.errors import DataError
from mccore.exchange.pickled import read_pickled_tokenizer
from mccore.host.text import open_regular, spell

_PICKLE = b"\x80"  # what a pickle of protocol 2 and later begins with


def read_any(path: Path, pattern: str | None = None) -> Tokenizer:
    """The tokenizer in a file or a directory: a `tokenizer.pkl` of nanochat's, a `tokenizer.json` of Hugging Face's, tiktoken's
    ranks (`pattern` as for `read_tiktoken`), or what `Tokenizer.save` or a run wrote. What a file is, its content says.

    Raises DataError for anything else, and for a tokenizer whose ids ours can't give exactly.
    """
    if not path.is_dir():
        with open_regular(path) as file:
            is_pickle = file.read(1) == _PICKLE
        if is_pickle:
            return read_pickled_tokenizer(path)
    for directory in (path, path / "tokenizer"):
        if directory.is_dir() and (directory / FILE_NAME).is_file():
            path = directory / FILE_NAME
    if is_json(path):
        content = read_json_file(path)
        if isinstance(content, dict) and "format" in content:
            return _named(path, lambda: Tokenizer.load(path.parent) if path.name == FILE_NAME else _misnamed())
        return _named(path, lambda: read_tokenizer(read_huggingface(path)))
    return _named(path, lambda: read_tokenizer(read_tiktoken(path, pattern)))


def _misnamed() -> Tokenizer:
    raise DataError(f"it is a tokenizer of mccore's under another name than {FILE_NAME}")


def _named(path: Path, read: Callable[[], Tokenizer]) -> Tokenizer:
    """What `read` gives. An error names the file, and what can be done with a tokenizer that isn't taken."""
    try:
        return read()
    except DataError as error:
        where = "" if spell(path) in error.message else f"{spell(path)}: "
        hint = error.hint or "`mccore tok eval --against` compares with such a file as it is"
        raise DataError(where + error.message, hint=hint) from error
