from collections.abc import Iterable

PATTERN: str
"""GPT-4's split pattern with digits in groups of at most two."""

class CorpusError(ValueError):
    """A text that can't be split or trained on, or a corpus too large."""

def train(texts: Iterable[str], vocab_size: int, *, pattern: str = ..., threads: int | None = None) -> list[bytes]:
    """Learn byte-level BPE tokens; the index in the result is the token's id (its merge rank).

    The first 256 tokens are the bytes 0 to 255 in order; each further one joins the pair of tokens that is most frequent
    within the pieces of the texts and, on a tie, has the smallest ids. `vocab_size` counts the bytes and the merges; the
    result is shorter when the corpus has no pair left (an empty corpus gives the 256 bytes). Overlapping occurrences
    count: "aaa" holds the pair (a, a) twice. The result doesn't depend on `threads` (default: one per CPU) nor on the
    order of the texts.

    `texts` is consumed in bounded batches; memory grows with the distinct pieces only. The GIL is released while counting
    and merging, and Ctrl-C ends the work.

    Raises CorpusError for a text that isn't a str, has lone surrogates or makes the pattern fail, and for more than 2 GiB
    of distinct pieces; ValueError for a vocab_size below 256, threads out of range or an invalid pattern; TypeError for
    one str in place of an iterable. Errors of the iterator pass through.
    """

def split(text: str, *, pattern: str = ...) -> list[str]:
    """Cut text into the pieces that merges never cross, as tiktoken does with the same pattern.

    Raises CorpusError for anything but a str without lone surrogates and when the pattern fails on it, ValueError for an
    invalid pattern.
    """
