from collections.abc import Iterable

PATTERN: str
"""GPT-4's split pattern with digits in groups of at most two."""

def train(
    texts: Iterable[str], vocab_size: int, *, pattern: str = ..., threads: int | None = None
) -> list[bytes]:
    """Learn byte-level BPE tokens; the index in the result is the token's id (its merge rank).

    The first 256 tokens are the bytes 0 to 255 in order; each further one joins the pair of tokens that is most frequent
    within the pieces of the texts and, on a tie, has the smallest ids. `vocab_size` counts the bytes and the merges; the
    result is shorter when the corpus has no pair left (an empty corpus gives the 256 bytes). Overlapping occurrences
    count: "aaa" holds the pair (a, a) twice. The result doesn't depend on `threads` (default: one per CPU) nor on the
    order of the texts.

    `texts` is consumed in bounded batches; memory grows with the distinct pieces only. The GIL is released while counting
    and merging, and Ctrl-C ends the work.

    Raises ValueError for a vocab_size below 256, a text with lone surrogates, or a pattern that is invalid or fails on a
    text; TypeError for anything but str in `texts`.
    """

def split(text: str, *, pattern: str = ...) -> list[str]:
    """Cut text into the pieces that merges never cross, as tiktoken does with the same pattern.

    Raises ValueError for lone surrogates and for an invalid or failing pattern.
    """
