"""Text into ids and back: byte-level BPE, trained by `mccore_rustbpe`, run by tiktoken.

A `Tokenizer` is saved as one readable file, `tokenizer.json`:

    format, version   "mccore-tokenizer", 1
    fingerprint       SHA-256 of everything below; checked on loading, stored with checkpoints and sessions
    pattern           the split pattern: merges never cross its pieces
    specials          names of the special tokens, which take the ids after the last token
    tokens            one per line, the line's place is the id: text, or {"hex": ...} where the bytes aren't UTF-8
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mccore.errors import DataError
from mccore.files import write_atomic
from mccore.machine import available_cores

if TYPE_CHECKING:
    import numpy as np

FILE_NAME = "tokenizer.json"
SPECIALS = (
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)

_FORMAT = "mccore-tokenizer"
_VERSION = 1
_N_BYTES = 256
# tiktoken's engine aborts on a run of some 350,000 characters of white space; runs from twice this length on are cut.
_SPACE_BLOCK = 1 << 16


class Tokenizer:
    """Byte-level BPE with the nine special tokens of the chat format.

    Ids 0 to 255 are the bytes, then come the merged tokens in the order they were learned, last the special tokens. Text
    never turns into a special token, whatever it says: only `special` gives those ids.
    """

    def __init__(self, tokens: Sequence[bytes], *, pattern: str) -> None:
        """A tokenizer over `tokens` in id order: the 256 bytes, then the merged tokens, special tokens not included.

        Raises DataError for tokens that no training can give and for an invalid pattern.
        """
        import tiktoken

        _check_tokens(tokens)
        self.pattern = pattern
        self.specials = {name: len(tokens) + i for i, name in enumerate(SPECIALS)}
        self.vocab_size = len(tokens) + len(SPECIALS)
        self._tokens = list(tokens)
        self.fingerprint = _fingerprint(pattern, self._tokens)
        try:
            self._encoding = tiktoken.Encoding(
                "mccore",
                pat_str=pattern,
                mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
                special_tokens=self.specials,
            )
        except ValueError as error:
            raise DataError(f"the tokenizer's split pattern isn't valid: {error}") from error

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, fingerprint={self.fingerprint[:12]!r})"

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, *, pattern: str | None = None, threads: int | None = None
    ) -> Self:
        """Learn a tokenizer of `vocab_size` ids, special tokens included, from `texts`.

        `texts` is consumed once, in bounded memory. The result depends on the texts alone, not on their order nor on
        `threads` (default: one per CPU). A corpus too small for `vocab_size` gives a smaller tokenizer.

        Raises DataError for a vocabulary without room for bytes and special tokens, an invalid pattern, and texts that
        aren't valid Unicode strings.
        """
        import mccore_rustbpe

        smallest = _N_BYTES + len(SPECIALS)
        if vocab_size < smallest:
            raise DataError(
                f"a vocabulary of {vocab_size} ids is too small",
                hint=f"take at least {smallest}: {_N_BYTES} bytes and {len(SPECIALS)} special tokens",
            )
        pattern = mccore_rustbpe.PATTERN if pattern is None else pattern
        try:
            mccore_rustbpe.split("", pattern=pattern)
        except ValueError as error:
            raise DataError(f"can't train a tokenizer: {error}") from error
        try:
            tokens = mccore_rustbpe.train(texts, vocab_size - len(SPECIALS), pattern=pattern, threads=threads)
        except mccore_rustbpe.CorpusError as error:
            raise DataError(f"can't train a tokenizer: {error}") from error
        return cls(tokens, pattern=pattern)

    def save(self, directory: Path) -> None:
        """Write `tokenizer.json` into `directory`, whole or not at all. Raises RunError when it can't be written."""
        head = {
            "format": _FORMAT,
            "version": _VERSION,
            "fingerprint": self.fingerprint,
            "pattern": self.pattern,
            "specials": list(SPECIALS),
        }
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        tokens = ",\n".join(json.dumps(_readable(token), ensure_ascii=False) for token in self._tokens)
        write_atomic(Path(directory) / FILE_NAME, "{\n" + ",\n".join(lines) + f',\n"tokens": [\n{tokens}\n]\n}}\n')

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote. Raises DataError when it is missing, damaged or of another kind."""
        path = Path(directory) / FILE_NAME
        content = _read_json(path)
        if content.get("format") != _FORMAT:
            raise DataError(f"{path} isn't a tokenizer of mccore", hint="its `format` should be " + repr(_FORMAT))
        if content.get("version") != _VERSION:
            raise DataError(
                f"{path} has version {content.get('version')!r} of the tokenizer format; this mccore reads {_VERSION}",
                hint="use the version of mccore that wrote it, or train the tokenizer again",
            )
        damaged = f"{path} is damaged"
        again = "copy the file again from where it came, or train the tokenizer again"
        pattern, names, readable = (content.get(key) for key in ("pattern", "specials", "tokens"))
        if not isinstance(pattern, str) or not isinstance(readable, list):
            raise DataError(f"{damaged}: it lacks the pattern or the tokens", hint=again)
        if names != list(SPECIALS):
            raise DataError(f"{damaged}: its special tokens aren't {', '.join(SPECIALS)}", hint=again)
        try:
            tokenizer = cls([_from_readable(i, token) for i, token in enumerate(readable)], pattern=pattern)
        except DataError as error:
            raise DataError(f"{damaged}: {error.message}", hint=again) from error
        if content.get("fingerprint") != tokenizer.fingerprint:
            raise DataError(f"{damaged}: its content doesn't match its fingerprint", hint=again)
        return tokenizer

    @property
    def bos_id(self) -> int:
        """Id of the token that begins every document and every conversation."""
        return self.specials["<|bos|>"]

    def special(self, name: str) -> int:
        """Id of a special token, by its name with or without the marks: "bos" or "<|bos|>". Raises DataError for others."""
        try:
            return self.specials[name if name.startswith("<|") else f"<|{name}|>"]
        except KeyError:
            raise DataError(f"no special token {name!r}", hint="there are " + ", ".join(SPECIALS)) from None

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as ordinary text: what looks like a special token in it stays text.

        Lone surrogates, which no UTF-8 can hold, become U+FFFD. A run of 65,536 or more characters of white space may be
        cut at other places than the pattern says.
        """
        parts = _cut_long_space(text)
        if len(parts) == 1:
            return self._encoding.encode_ordinary(text)
        return [id for part in parts for id in self._encoding.encode_ordinary(part)]

    def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[list[int]]:
        """`encode` of every text, on several threads (default: one per CPU)."""
        from concurrent.futures import ThreadPoolExecutor

        threads = available_cores() if threads is None else threads
        if threads < 2 or len(texts) < 2:
            return [self.encode(text) for text in texts]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self.encode, texts))

    def encode_to_array(self, text: str) -> np.ndarray:
        """`encode` as an int32 array [n], without the cost of a Python list."""
        import numpy as np

        if len(text) < 2 * _SPACE_BLOCK:
            try:
                return self._encoding.encode_to_numpy(text, disallowed_special=()).view(np.int32)
            except UnicodeEncodeError:
                pass  # lone surrogates, which only `encode` replaces
        return np.array(self.encode(text), dtype=np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; bytes that aren't UTF-8 become U+FFFD, special tokens their names. Raises DataError as below."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Bytes of `ids`, special tokens as their names. Raises DataError for ids that don't exist."""
        ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        try:
            return self._encoding.decode_bytes(ids)
        except (KeyError, OverflowError):
            unknown = next(id for id in ids if not 0 <= id < self.vocab_size)
            raise DataError(
                f"id {unknown} isn't in this tokenizer of {self.vocab_size} ids",
                hint="the model's vocabulary and its tokenizer must belong together",
            ) from None

    def token_bytes(self) -> np.ndarray:
        """Number of bytes that each id stands for, int32 [vocab_size]: 0 for special tokens. What bits per byte needs."""
        import numpy as np

        return np.array([len(token) for token in self._tokens] + [0] * len(SPECIALS), dtype=np.int32)


class StreamDecoder:
    """Turns a stream of ids into text that never holds half a character.

    What `feed` and `flush` return, joined, is what `Tokenizer.decode` returns for all the ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, ids: int | Iterable[int]) -> str:
        """The text that is complete with `ids` (one or several); the rest waits. Raises DataError as `decode`."""
        ids = ids.tolist() if hasattr(ids, "tolist") else ids
        return self._decoder.decode(self._tokenizer.decode_bytes([ids] if isinstance(ids, int) else ids))

    def flush(self) -> str:
        """The end of the text: U+FFFD where a character was left unfinished. The decoder is then as new."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def _cut_long_space(text: str) -> list[str]:
    """`text` in parts whose runs of white space are all shorter than 2 * _SPACE_BLOCK; one part nearly always."""
    if len(text) < 2 * _SPACE_BLOCK:
        return [text]
    # A run of twice the block's length holds a whole aligned block, so only those need a look.
    cuts = {0, len(text)}
    for start in range(0, len(text) - _SPACE_BLOCK + 1, _SPACE_BLOCK):
        if text[start].isspace() and text[start : start + _SPACE_BLOCK].isspace():
            cuts |= {start, start + _SPACE_BLOCK}
    ordered = sorted(cuts)
    return [text[start:end] for start, end in itertools.pairwise(ordered)]


def _check_tokens(tokens: Sequence[bytes]) -> None:
    if [*tokens[:_N_BYTES]] != [bytes([i]) for i in range(_N_BYTES)]:
        raise DataError("the first 256 tokens of a tokenizer must be the bytes 0 to 255 in order")
    if len(set(tokens)) != len(tokens):
        place = {token: i for i, token in enumerate(tokens)}
        twice = next(i for i, token in enumerate(tokens) if place[token] != i)
        raise DataError(f"tokens {twice} and {place[tokens[twice]]} are the same")
    if b"" in tokens:
        raise DataError("a token is empty")


def _fingerprint(pattern: str, tokens: Iterable[bytes]) -> str:
    """SHA-256 of all that makes a tokenizer; every part with its length, so that no two contents run together alike."""
    digest = hashlib.sha256(f"{_FORMAT} {_VERSION}".encode())
    for part in _parts(pattern, tokens):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _parts(pattern: str, tokens: Iterable[bytes]) -> Iterator[bytes]:
    yield pattern.encode()
    yield from (name.encode() for name in SPECIALS)
    yield from tokens


def _readable(token: bytes) -> str | dict[str, str]:
    try:
        return token.decode("utf-8")
    except UnicodeDecodeError:
        return {"hex": token.hex()}


def _from_readable(id: int, token: object) -> bytes:
    try:
        match token:
            case str():
                return token.encode("utf-8")
            case {"hex": str(digits)} if len(token) == 1:  # type: ignore[arg-type]
                return bytes.fromhex(digits)
    except ValueError:
        pass
    raise DataError(f'token {id} is neither text nor {{"hex": ...}}')


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"no tokenizer at {path}", hint="the tokenizer stage of a run writes it") from None
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} isn't valid JSON: {error}",
            hint="copy the file again from where it came, or train the tokenizer again",
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} isn't a tokenizer of mccore", hint="it should hold a JSON object")
    return content
