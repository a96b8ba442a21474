"""Text into ids and back: byte-level BPE, trained and run by `mccore_rustbpe`.

Its ids are tiktoken's, which the tests check it against; it is the faster of the two (docs/RESULTS.md).

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
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mccore.errors import DataError
from mccore.host.files import write_atomic
from mccore.host.json_file import read_json
from mccore.host.machine import available_cores
from mccore.host.text import mend

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

Progress = Callable[[str, int, int | None], None]
"""Hears the phase, `count` or `merge`; the bytes or merges that are done; and of how many, None where nobody knows."""


class Tokenizer:
    """Byte-level BPE with the nine special tokens of the chat format.

    Ids 0 to 255 are the bytes, then come the merged tokens in the order they were learned, last the special tokens. Text
    never turns into a special token, whatever it says: only `special` gives those ids.
    """

    def __init__(self, tokens: Sequence[bytes], *, pattern: str) -> None:
        """A tokenizer over `tokens` in id order: the 256 bytes, then the merged tokens, special tokens not included.

        Raises DataError for tokens that no training can give and for an invalid pattern.
        """
        import mccore_rustbpe

        _check_tokens(tokens)
        self.pattern = pattern
        self.specials = {name: len(tokens) + i for i, name in enumerate(SPECIALS)}
        self.vocab_size = len(tokens) + len(SPECIALS)
        self._tokens = list(tokens)
        if mend(pattern) != pattern:
            raise DataError("no tokenizer can be made of these tokens: its pattern holds half a surrogate pair")
        self.fingerprint = _fingerprint(pattern, self._tokens)
        try:
            self._encoder = mccore_rustbpe.Encoder(self._tokens, pattern=pattern, specials=list(SPECIALS))
        except ValueError as error:
            raise DataError(f"no tokenizer can be made of these tokens: {error}") from error

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, fingerprint={self.fingerprint[:12]!r})"

    @classmethod
    def train(
        cls,
        texts: Iterable[str | bytes],
        vocab_size: int,
        *,
        pattern: str | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Learn a tokenizer of `vocab_size` ids, special tokens included, from `texts`.

        `texts` is consumed once, in bounded memory. The result depends on the texts alone, not on their order nor on
        `threads` (default: one per CPU). A corpus too small for `vocab_size` gives a smaller tokenizer.

        Raises DataError for a vocabulary without room for bytes and special tokens or larger than an encoder can be, an
        invalid pattern, and texts that aren't valid Unicode strings. Errors of the iterator and of `progress` pass through.
        """
        import mccore_rustbpe

        return cls._train(mccore_rustbpe.train, texts, vocab_size, pattern, threads, progress)

    @classmethod
    def train_files(
        cls,
        paths: Sequence[str | os.PathLike[str]],
        vocab_size: int,
        *,
        pattern: str | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """`train` on files of text, each a document, which are read outside the interpreter, a piece at a time.

        Raises DataError also for a file that can't be read or becomes shorter meanwhile.
        """
        import mccore_rustbpe

        try:
            return cls._train(mccore_rustbpe.train_files, list(paths), vocab_size, pattern, threads, progress)
        except OSError as error:
            raise DataError(
                f"can't train a tokenizer: can't read {error.filename}: {error.strerror}",
                hint="put the file back, correct its permissions, or leave it out",
            ) from error

    @classmethod
    def _train(
        cls,
        train: Callable[..., list[bytes]],
        corpus: Any,
        vocab_size: int,
        pattern: str | None,
        threads: int | None,
        progress: Progress | None,
    ) -> Self:
        import mccore_rustbpe

        smallest = _N_BYTES + len(SPECIALS)
        if vocab_size < smallest:
            raise DataError(
                f"a vocabulary of {vocab_size} ids is too small",
                hint=f"take at least {smallest}: {_N_BYTES} bytes and {len(SPECIALS)} special tokens",
            )
        largest = mccore_rustbpe.MOST_TOKENS + len(SPECIALS)
        if vocab_size > largest:
            raise DataError(f"a vocabulary of {vocab_size} ids is too large", hint=f"take at most {largest}")
        pattern = mccore_rustbpe.PATTERN if pattern is None else pattern
        try:
            mccore_rustbpe.split("", pattern=pattern)
        except ValueError as error:
            raise DataError(f"can't train a tokenizer: {error}") from error
        try:
            tokens = train(corpus, vocab_size - len(SPECIALS), pattern=pattern, threads=threads, progress=progress)
        except mccore_rustbpe.CorpusError as error:
            raise DataError(f"can't train a tokenizer: {error}") from error
        return cls(tokens, pattern=pattern)

    def save(self, directory: Path, *, write: Callable[[Path, str], None] = write_atomic) -> None:
        """Write `tokenizer.json` into `directory`, by the policy of `write`: by default whole or not at all.

        Raises what `write` raises, by default RunError when it can't be written.
        """
        head = {
            "format": _FORMAT,
            "version": _VERSION,
            "fingerprint": self.fingerprint,
            "pattern": self.pattern,
            "specials": list(SPECIALS),
        }
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
        tokens = ",\n".join(json.dumps(_readable(token), ensure_ascii=False) for token in self._tokens)
        write(Path(directory) / FILE_NAME, "{\n" + ",\n".join(lines) + f',\n"tokens": [\n{tokens}\n]\n}}\n')

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

    @property
    def tokens(self) -> tuple[bytes, ...]:
        """The bytes of every id but the special ones, in id order."""
        return tuple(self._tokens)

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as ordinary text: what looks like a special token in it stays text.

        Lone surrogates, which no UTF-8 can hold, become U+FFFD.
        """
        try:
            ids: list[int] = self._encoder.encode(text)
        except UnicodeEncodeError:
            ids = self._encoder.encode(_without_surrogates(text))
        return ids

    def encode_batch(self, texts: Sequence[str], threads: int | None = None) -> list[list[int]]:
        """`encode` of every text, on several threads (default: one per CPU)."""
        ids, offsets = self.encode_batch_to_array(texts, threads=threads)
        places = offsets.tolist()
        return [ids[start:end].tolist() for start, end in itertools.pairwise(places)]

    def encode_to_array(self, text: str) -> np.ndarray:
        """`encode` as an int32 array [n], without the cost of a Python list."""
        import numpy as np

        try:
            buffer = self._encoder.encode_to_buffer(text)
        except UnicodeEncodeError:
            buffer = self._encoder.encode_to_buffer(_without_surrogates(text))
        return np.frombuffer(buffer, dtype=np.int32)

    def encode_batch_to_array(
        self, texts: Sequence[str], *, bos: bool = False, threads: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """`encode` of all texts, one after the other, on several threads (default: one per CPU).

        Returns the ids, int32 [N], and where each text begins among them and the last one ends, int64 [texts + 1]. With
        `bos` every text has the token that begins a document before it.
        """
        import numpy as np

        threads = available_cores() if threads is None else threads
        prefix = self.bos_id if bos else None
        try:
            ids, offsets = self._encoder.encode_batch(texts, prefix=prefix, threads=threads)
        except UnicodeEncodeError:
            texts = [_without_surrogates(text) for text in texts]
            ids, offsets = self._encoder.encode_batch(texts, prefix=prefix, threads=threads)
        return np.frombuffer(ids, dtype=np.int32), np.frombuffer(offsets, dtype=np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; bytes that aren't UTF-8 become U+FFFD, special tokens their names. Raises DataError as below."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Bytes of `ids`, special tokens as their names. Raises DataError for ids that don't exist."""
        ids = ids if isinstance(ids, list) or hasattr(ids, "dtype") else list(ids)
        try:
            decoded: bytes = self._encoder.decode(ids)
        except ValueError:
            unknown = next(id for id in map(operator.index, ids) if not 0 <= id < self.vocab_size)
            raise DataError(
                f"id {unknown} isn't in this tokenizer of {self.vocab_size} ids",
                hint="the model's vocabulary and its tokenizer must belong together",
            ) from None
        return decoded

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


def _without_surrogates(text: str) -> str:
    """`text` with pairs of surrogates as the characters they stand for and lone ones as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


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
        content = read_json(path)
    except FileNotFoundError:
        raise DataError(f"no tokenizer at {path}", hint="the tokenizer stage of a run writes it") from None
    except OSError as error:
        raise DataError(f"can't read {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(
            f"{path}: {error}",
            hint="copy the file again from where it came, or train the tokenizer again",
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} isn't a tokenizer of mccore", hint="it should hold a JSON object")
    return content
