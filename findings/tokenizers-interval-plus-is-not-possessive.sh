#!/usr/bin/env bash
# tiktoken's own split pattern of cl100k, given to Hugging Face's tokenizers, doesn't cut digits in threes.
#
# tiktoken 0.12.0 writes \p{N}{1,3}+ and means "at most three, possessive". tokenizers 0.22.1 reads patterns by Oniguruma's
# Ruby syntax, where a `+` behind an interval isn't possessive: it repeats the interval. So `1234567` is one piece in place of
# `123`, `456`, `7`, without an error. A tokenizer.json made with the pattern as tiktoken has it gives other ids
# for every number of four digits or more. Seen with Python 3.11 on Linux. Ends with 0 while that is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tiktoken==0.12.0 tokenizers==0.22.1
"$folder/venv/bin/python" - << 'PYTHON'
import tiktoken
from tiktoken_ext import openai_public
from tokenizers import Regex, pre_tokenizers

openai_public.load_tiktoken_bpe = lambda *args, **kwargs: {}  # the pattern alone, without the ranks of the network
pattern = openai_public.cl100k_base()["pat_str"]
print("pattern   ", pattern)
ranks = {bytes([byte]): byte for byte in range(256)} | {b"12": 256, b"123": 257, b"45": 258, b"456": 259, b"34": 260, b"67": 261}
ids = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens={}).encode_ordinary("1234567")
print("tiktoken  ", ids)
pieces = [piece for piece, _ in pre_tokenizers.Split(Regex(pattern), "isolated").pre_tokenize_str("1234567")]
print("tokenizers", pieces)
assert "{1,3}+" in pattern
assert ids == [257, 259, 55]  # 123, 456, 7
assert pieces == ["1234567"]
PYTHON
