"""Byte-level BPE trainer in Rust.

`train` learns the tokens, `split` shows the pieces that merges never cross, `PATTERN` is the default split pattern.
"""

from mccore_rustbpe._rustbpe import PATTERN, CorpusError, split, train

__all__ = ["PATTERN", "CorpusError", "split", "train"]
