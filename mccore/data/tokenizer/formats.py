"""Tokenizers in the formats of others: tiktoken's file of ranks and the `tokenizer.json` of Hugging Face's `tokenizers`."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import DataError
from mccore.host.files import write_atomic

# The split patterns that go with well-known files of ranks, which don't hold their own. Facts about those vocabularies.
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT4_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
KNOWN_PATTERNS = {"gpt2": GPT2_PATTERN, "r50k": GPT2_PATTERN, "p50k": GPT2_PATTERN, "cl100k": GPT4_PATTERN}


class Vocabulary(NamedTuple):
    """Tokens in id order, without special ones, and the pattern that text is split by."""

    tokens: list[bytes]
    pattern: str


def write_tiktoken(tokenizer: Tokenizer, path: Path) -> None:
    """Write the ranks as tiktoken reads them: a token in base64 and its rank on each line.

    The format has neither pattern nor special tokens; `Tokenizer.pattern` and `Tokenizer.specials` are given to
    `tiktoken.Encoding` beside it. Raises RunError when the file can't be written.
    """
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokenizer.tokens))
    write_atomic(Path(path), "".join(lines))


def write_huggingface(tokenizer: Tokenizer, path: Path) -> None:
    """Write a `tokenizer.json` that `tokenizers.Tokenizer.from_file` reads and that gives the same ids for every text,
    save that Hugging Face turns the names of special tokens in a text into them.

    Raises DataError for tokens that no sequence of merges makes, RunError when the file can't be written.
    """
    name = [_NAME_OF_BYTE[byte] for byte in range(256)]

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
    write_atomic(Path(path), json.dumps(content, ensure_ascii=False, indent=1) + "\n")


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
    """Read a file of ranks. The pattern is the known one for a file named after a known vocabulary (`cl100k_base.tiktoken`).

    Raises DataError for a file that is missing or damaged, ranks with gaps, and a pattern that isn't known.
    """
    path = Path(path)
    if pattern is None:
        pattern = next((known for name, known in KNOWN_PATTERNS.items() if path.name.startswith(name)), None)
    if pattern is None:
        raise DataError(
            f"the split pattern of {path} isn't known",
            hint=f"files of ranks don't hold it; names that tell begin with {', '.join(KNOWN_PATTERNS)}",
        )
    tokens: list[bytes] = []
    for number, line in enumerate(_read(path).splitlines(), start=1):
        try:
            token, rank = line.split()
            tokens.append(base64.b64decode(token, validate=True))
            in_order = int(rank) == len(tokens) - 1
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not a token in base64 and a rank") from error
        if not in_order:
            raise DataError(f"{path}, line {number}: rank {int(rank)} instead of {len(tokens) - 1}")
    return Vocabulary(tokens, pattern)


def read_huggingface(path: Path) -> Vocabulary:
    """Read a byte-level BPE `tokenizer.json`, its added tokens left out.

    Raises DataError for a file that is missing, damaged, of another kind of tokenizer, or whose merges don't come in the
    order of their ids: the ids alone wouldn't give the same tokens then.
    """
    path = Path(path)
    try:
        content = json.loads(_read(path))
        model = content["model"]
        added = {token["content"] for token in content.get("added_tokens") or ()}
        vocabulary: dict[str, int] = {token: id for token, id in model["vocab"].items() if token not in added}
        kind, merges = model.get("type", "BPE"), model["merges"]
        pairs = [tuple(pair.split(" ", 1) if isinstance(pair, str) else pair) for pair in merges]
        pattern = _pattern_of(content.get("pre_tokenizer"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} isn't a tokenizer of Hugging Face's, or is damaged: {error}") from error
    if kind != "BPE" or content.get("normalizer") is not None or pattern is None:
        raise DataError(
            f"{path} isn't byte-level BPE with one split pattern", hint="normalizers and other kinds can't be read"
        )
    ordered = sorted(vocabulary, key=vocabulary.__getitem__)
    if [vocabulary[token] for token in ordered] != list(range(len(ordered))):
        raise DataError(f"the ids in {path} have gaps")
    try:
        tokens = [bytes(_BYTE_OF_NAME[character] for character in token) for token in ordered]
    except KeyError as error:
        raise DataError(f"a token in {path} has {error.args[0]!r}, which stands for no byte") from error
    if [left + right for left, right in pairs] != ordered[len(ordered) - len(pairs) :]:
        raise DataError(f"the merges in {path} don't come in the order of the ids")
    return Vocabulary(tokens, pattern)


def read_tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """A tokenizer of ours from a vocabulary in another format, with our special tokens. Raises DataError where the first
    256 tokens aren't the bytes in order.
    """
    return Tokenizer(vocabulary.tokens, pattern=vocabulary.pattern)


def _pattern_of(pre_tokenizer: Any) -> str | None:
    """The pattern of a byte-level pre-tokenizer, None where there isn't exactly one."""
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    patterns = []
    for step in steps:
        if step["type"] == "Split" and step["behavior"] == "Isolated" and "Regex" in step["pattern"]:
            patterns.append(str(step["pattern"]["Regex"]))
        elif step["type"] == "ByteLevel" and not step.get("add_prefix_space", True):
            if step.get("use_regex", True):
                patterns.append(GPT2_PATTERN)
        else:
            return None
    return patterns[0] if len(patterns) == 1 and steps[-1]["type"] == "ByteLevel" else None


def _byte_names() -> dict[int, str]:
    """The character that stands for each byte in byte-level vocabularies: printable ones for themselves, others shifted."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    names = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in names)
    return names | {byte: chr(256 + i) for i, byte in enumerate(others)}


_NAME_OF_BYTE = _byte_names()
_BYTE_OF_NAME = {name: byte for byte, name in _NAME_OF_BYTE.items()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"there is no {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"can't read {path}: {error}") from error


WRITERS: dict[str, tuple[str, Callable[[Tokenizer, Path], None]]] = {
    "tiktoken": ("tokens.tiktoken", write_tiktoken),
    "huggingface": ("huggingface/tokenizer.json", write_huggingface),
}
"""Name of a format -> file name beside our own, function that writes it."""
