"""Byte-level BPE in Rust: training, encoding, decoding.

`train` and `train_files` learn the tokens, an `Encoder` turns text into ids with them, `split` shows the pieces that merges
never cross, `PATTERN` is the default split pattern, `MOST_TOKENS` the largest vocabulary that can be encoded with.
"""

from mccore_rustbpe._rustbpe import MOST_TOKENS, PATTERN, CorpusError, Encoder, TokenBuffer, split, train, train_files

__all__ = ["MOST_TOKENS", "PATTERN", "CorpusError", "Encoder", "TokenBuffer", "split", "train", "train_files"]
