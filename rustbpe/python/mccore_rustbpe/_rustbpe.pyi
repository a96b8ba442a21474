import os
from collections.abc import Callable, Iterable, Sequence
from typing import overload

from typing_extensions import Buffer

PATTERN: str
"""GPT-4's split pattern with digits in groups of at most two."""

MOST_TOKENS: int
"""The most tokens that an `Encoder` can have, special ones not counted."""

class CorpusError(ValueError):
    """A text that can't be split or trained on, or a corpus too large."""

Progress = Callable[[str, int, int | None], object]
"""Called with the phase, `count` or `merge`, the bytes or merges that are done, and of how many (None: nobody knows)."""

def train(
    texts: Iterable[str | bytes],
    vocab_size: int,
    *,
    pattern: str = ...,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[bytes]:
    """Learn byte-level BPE tokens; the index in the result is the token's id (its merge rank).

    The first 256 tokens are the bytes 0 to 255 in order; each further one joins the pair of tokens that is most frequent
    within the pieces of the texts and, on a tie, has the smallest ids. `vocab_size` counts the bytes and the merges; the
    result is shorter when the corpus has no pair left (an empty corpus gives the 256 bytes). Overlapping occurrences
    count: "aaa" holds the pair (a, a) twice. The result doesn't depend on `threads` (default: one per CPU) nor on the
    order of the texts.

    A text is a str, or bytes, which are UTF-8 as a rule: where they aren't, they are cut as the text that decoding with
    errors="replace" gives, and learned as they are. `texts` is consumed in bounded batches; memory grows with the distinct
    pieces only. The GIL is released while counting and merging, and Ctrl-C ends the work. `progress` is called on the
    calling thread about ten times a second and at the end of each phase; its errors end the work.

    Raises CorpusError for a text that is neither, has lone surrogates or makes the pattern fail, and for more than 2 GiB
    of distinct pieces; ValueError for a vocab_size below 256, threads out of range or an invalid pattern; TypeError for
    one text in place of an iterable. Errors of the iterator pass through.
    """

def train_files(
    paths: Sequence[str | os.PathLike[str]],
    vocab_size: int,
    *,
    pattern: str = ...,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[bytes]:
    """`train` on files, each of them one text, read a megabyte at a time without the interpreter.

    Raises OSError for a file that can't be read and CorpusError for one that becomes shorter while it is read.
    """

@overload
def split(text: str, *, pattern: str = ...) -> list[str]: ...
@overload
def split(text: bytes, *, pattern: str = ...) -> list[bytes]:
    """Cut text into the pieces that merges never cross, as tiktoken does with the same pattern.

    Raises CorpusError for anything but text without lone surrogates and when the pattern fails on it, ValueError for an
    invalid pattern.
    """

class TokenBuffer(Buffer):
    """int32 ids or int64 places in one piece of memory: `numpy.frombuffer` takes it over without a copy, writable."""

    def __len__(self) -> int: ...

class Encoder:
    """Text into ids and back; any number of threads may use one at the same time.

    In every piece of the text, the two neighbouring parts whose bytes together have the lowest id are merged first, the
    leftmost of equals, until no two make a token; a piece that is a token by itself is that token. The ids are tiktoken's
    for the same tokens and pattern. A piece of n bytes takes O(n log n) at worst.
    """

    def __init__(self, tokens: Sequence[bytes], *, pattern: str = ..., specials: Sequence[str] = ()) -> None:
        """An encoder of `tokens` in id order. `specials` take the ids after them; only `decode` and `prefix` know those,
        text never turns into them.

        Raises ValueError for an empty token, two that are the same, a byte that is no token, more than
        `MOST_TOKENS` tokens, and an invalid pattern.
        """

    def __len__(self) -> int:
        """Number of ids, special ones included."""

    def encode(self, text: str | bytes) -> list[int]:
        """Ids of a text. Bytes that aren't UTF-8 are encoded as they are.

        Raises UnicodeEncodeError for lone surrogates, CorpusError for anything but text and when the pattern fails.
        """

    def encode_to_buffer(self, text: str | bytes) -> TokenBuffer:
        """`encode` without a Python list."""

    def encode_batch(
        self, texts: Iterable[str | bytes], *, prefix: int | None = None, threads: int | None = None
    ) -> tuple[TokenBuffer, TokenBuffer]:
        """The ids of all texts, one after the other, each text after the id `prefix` if there is one; and where each text
        begins among them and the last one ends. Nothing depends on `threads` (default: one per CPU).
        """

    def decode(self, ids: Sequence[int] | Buffer) -> bytes:
        """Bytes of ids, special tokens as their names. Raises ValueError for an id that doesn't exist."""
