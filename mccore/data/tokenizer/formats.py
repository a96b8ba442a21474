"""Tokenizers in the formats of others: tiktoken's file of ranks and the `tokenizer.json` of Hugging Face's `tokenizers`."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mccore.data.tokenizer.dialect import other_meaning
from mccore.data.tokenizer.huggingface import BYTE_OF_NAME, GPT2_PATTERN, NAME_OF_BYTE, HuggingFace
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import DataError
from mccore.host.files import write_atomic
from mccore.host.text import open_regular, spell, unreadable

Write = Callable[[Path, str], None]
"""A policy of `host.files` by which a file is written."""

# The split patterns that go with well-known files of ranks, which don't hold their own. Facts about those vocabularies.
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
GPT4_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
O200K_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + _CONTRACTIONS + "?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + _CONTRACTIONS + "?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_WORDS = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3_PATTERN = _WORDS.replace("DIGITS", "{1,3}")
QWEN_PATTERN = _WORDS.replace("DIGITS", "")
KNOWN_PATTERNS = {
    "gpt2": GPT2_PATTERN, "r50k": GPT2_PATTERN, "p50k": GPT2_PATTERN, "multilingual": GPT2_PATTERN,  # Whisper's
    "cl100k": GPT4_PATTERN, "o200k": O200K_PATTERN, "llama3": LLAMA3_PATTERN, "qwen": QWEN_PATTERN,
}  # fmt: skip


class Vocabulary(NamedTuple):
    """Tokens in the order of their ranks, without special ones, the pattern that text is split by, and each token's id."""

    tokens: list[bytes]
    pattern: str
    ids: list[int]


def write_tiktoken(tokenizer: Tokenizer, path: Path, write: Write = write_atomic) -> None:
    """Write the ranks as tiktoken reads them: a token in base64 and its rank on each line.

    The format has neither pattern nor special tokens; `Tokenizer.pattern` and `Tokenizer.specials` are given to
    `tiktoken.Encoding` beside it. `write` is the policy of the file. Raises what it raises.
    """
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokenizer.tokens))
    write(Path(path), "".join(lines))


def write_huggingface(tokenizer: Tokenizer, path: Path, write: Write = write_atomic) -> None:
    """Write a `tokenizer.json` that `tokenizers.Tokenizer.from_file` reads and that gives the same ids for every text,
    save that Hugging Face turns the names of special tokens in a text into them.

    Raises DataError for tokens that no sequence of merges makes and for a split pattern that Hugging Face's library could take
    otherwise, and what `write`, the policy of the file, raises.
    """
    if part := other_meaning(tokenizer.pattern):
        raise DataError(
            f"the split pattern has {part!r}, which Hugging Face's library can take otherwise: its ids could differ",
            hint="write tiktoken's format, which keeps the pattern beside it",
        )
    name = [NAME_OF_BYTE[byte] for byte in range(256)]

    def spelled(token: bytes) -> str:
        return "".join(name[byte] for byte in token)

    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id, "content": special, "single_word": False, "lstrip": False, "rstrip": False}
            | {"normalized": False, "special": True}
            for special, id in tokenizer.specials.items()
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": tokenizer.pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {spelled(token): id for id, token in enumerate(tokenizer.tokens)},
            "merges": [[spelled(left), spelled(right)] for left, right in merges_of(tokenizer.tokens)],
        },
    }
    write(Path(path), json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def merges_of(tokens: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
    """The pair that makes each token after the 256 bytes: what its bytes merge to with the tokens before it.

    Raises DataError for a token that isn't made by one merge.
    """
    ranks = {token: rank for rank, token in enumerate(tokens)}
    merges = []
    for rank, token in enumerate(tokens[256:], start=256):
        parts = _merge([token[i : i + 1] for i in range(len(token))], ranks, rank)
        if len(parts) != 2:
            raise DataError(
                f"token {rank} ({token!r}) isn't made by one merge of tokens before it",
                hint="only vocabularies that byte-pair training gave can be written in this format",
            )
        merges.append((parts[0], parts[1]))
    return merges


def _merge(parts: list[bytes], ranks: dict[bytes, int], below: int) -> list[bytes]:
    """`parts` after all merges to tokens with ranks less than `below`."""
    while len(parts) > 1:
        rank, at = min((ranks.get(parts[i] + parts[i + 1], below), i) for i in range(len(parts) - 1))
        if rank >= below:
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def read_tiktoken(path: Path, pattern: str | None = None) -> Vocabulary:
    """Read a file of ranks. `pattern` is a regular expression or the name of a known one; without it the file's name tells,
    as in `cl100k_base.tiktoken`. Ranks may have gaps, where special tokens stand.

    Raises DataError for a file that is missing or damaged, and for a pattern that isn't known.
    """
    path = Path(path)
    named = {name: known for name, known in KNOWN_PATTERNS.items() if path.name.lower().startswith(name)}
    pattern = next(iter(named.values()), None) if pattern is None else KNOWN_PATTERNS.get(pattern, pattern)
    if pattern is None:
        raise DataError(
            f"the split pattern of {spell(path)} isn't known",
            hint="files of ranks don't hold it: name it with --pattern, a regular expression or one of "
            + ", ".join(KNOWN_PATTERNS),
        )
    tokens: dict[int, bytes] = {}
    for number, line in enumerate(_read_ranks(path).splitlines(), start=1):
        try:
            encoded, digits = line.split()
            # Whisper's file writes an empty token as `=`.
            token, rank = b"" if encoded == "=" else base64.b64decode(encoded, validate=True), int(digits)
        except ValueError as error:
            raise DataError(f"{spell(path)}, line {number}: not a token in base64 and a rank") from error
        if rank in tokens or rank < 0:
            raise DataError(f"{spell(path)}, line {number}: the rank {rank} comes twice or is below 0")
        if token:  # no text gives an empty one
            tokens[rank] = token
    ranks = sorted(tokens)
    return Vocabulary([tokens[rank] for rank in ranks], pattern, ranks)


def read_tokenizer(found: Vocabulary | HuggingFace) -> Tokenizer:
    """A tokenizer of ours from a vocabulary in another format, with our special tokens.

    Raises DataError where the first 256 tokens aren't the bytes in order or an id is left out, and for a `tokenizer.json` that
    is more than ranks.
    """
    vocabulary = _as_ranks(found) if isinstance(found, HuggingFace) else found
    if gap := next((place for place, id in enumerate(vocabulary.ids) if place != id), None):
        raise DataError(f"its ranks leave out the id {gap}: the ids behind it couldn't be kept")
    return Tokenizer(vocabulary.tokens, pattern=vocabulary.pattern)


def _as_ranks(found: HuggingFace) -> Vocabulary:
    """A file of Hugging Face's as ranks, where these say all that is in it."""
    names = [token for token in sorted(found.vocab, key=found.vocab.__getitem__) if set(token) <= BYTE_OF_NAME.keys()]
    tokens = [bytes(BYTE_OF_NAME[character] for character in name) for name in names]
    ids = [found.vocab[name] for name in names]
    if found.beside_ranks or ids != list(range(len(ids))):
        more = ", ".join(found.beside_ranks) or "ids that don't begin at 0 or leave some out"
        raise DataError(
            f"this tokenizer has more than ranks and one pattern: {more}", hint="it serves for comparison only"
        )
    spelled = [tuple("".join(NAME_OF_BYTE[byte] for byte in part) for part in pair) for pair in merges_of(tokens)]
    if list(found.merges) != spelled:
        raise DataError(
            "the merges of this tokenizer don't come in the order of the ids", hint="it serves for comparison only"
        )
    return Vocabulary(tokens, found.cuts[0].pattern, ids)


_CONTROLS = {chr(code) for code in range(32)} - set("\t\n\r")


def _read_ranks(path: Path) -> str:
    with open_regular(path) as file:
        try:
            text = file.read().decode("ascii")
            if not text.isprintable() and set(text) & _CONTROLS:
                raise UnicodeDecodeError("ascii", b"", 0, 1, "a control character")
            return text
        except OSError as error:
            raise unreadable(error, path) from error
        except UnicodeDecodeError as error:
            raise DataError(
                f"can't read {spell(path)}: it isn't a file of ranks (a model of SentencePiece's can't be read)",
                hint="give tiktoken's ranks, a tokenizer.json, or a tokenizer of mccore",
            ) from error


WRITERS: dict[str, tuple[str, Callable[[Tokenizer, Path, Write], None]]] = {
    "tiktoken": ("tokens.tiktoken", write_tiktoken),
    "huggingface": ("huggingface/tokenizer.json", write_huggingface),
}
"""Name of a format -> file name beside our own, function that writes it."""
