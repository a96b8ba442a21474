"""What a session's lookup costs at every token, behind histories of any length, and what its index takes.

python benchmarks/lookup.py [--history 8k,64k,1M] [--vocabulary 2048] [--tokens 2000] [--clock cpu|wall]

The text is the standard library's sources, as ids of pieces of a word each: it comes again as text does.
"""

from __future__ import annotations

import argparse
import re
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from mccore.megacontext.search.bigram_index import BigramIndex
from mccore.megacontext.search.lookup import find_matches
from mccore.megacontext.search.mixing import LookupMixer
from mccore.megacontext.search.one_row import mix_one

SIZES = {"k": 1_000, "M": 1_000_000}


def text(vocabulary: int, count: int) -> np.ndarray:
    """Ids of the words and signs of the standard library's sources, frequent ones first; rare words share ids."""
    words: list[str] = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        words += re.findall(r"\w+|\s+|[^\w\s]", path.read_text("utf-8", "replace"))
        if len(words) > 2 * count:
            break
    distinct, ids, counts = np.unique(words, return_inverse=True, return_counts=True)
    rank = np.empty(len(distinct), np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(distinct))
    found: np.ndarray = np.resize(rank[ids] % vocabulary, count)
    return found


def parts(index: BigramIndex, ids: np.ndarray, vocabulary: int, clock: str) -> Iterator[tuple[str, np.ndarray]]:
    """Seconds of each token: to append it, to find its matches, to mix what they say."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    mixer = LookupMixer().requires_grad_(False)
    logits = torch.randn(1, vocabulary, generator=torch.Generator().manual_seed(0))
    marks = np.empty((len(ids), 4))
    with torch.inference_mode():
        for row, token in enumerate(ids.tolist()):
            marks[row, 0] = now()
            index.append_token(token)
            marks[row, 1] = now()
            matches = find_matches(index)
            marks[row, 2] = now()
            mix_one(mixer, logits[0].numpy(), matches, np.zeros(len(matches.place), bool), index.tokens)
            marks[row, 3] = now()
    yield from zip(("append", "find", "mix"), np.diff(marks, axis=1).T, strict=True)
    yield "all", marks[:, 3] - marks[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--history", default="8k,64k,1M")
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--clock", choices=["cpu", "wall"], default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.history.split(","):
        history = int(float(name.rstrip("kM")) * SIZES.get(name[-1], 1))
        ids = text(args.vocabulary, history + args.tokens)
        index = BigramIndex()
        index.append(ids[:history])
        print(f"{name}: {index.nbytes / history:.1f} bytes a token")
        for part, seconds in parts(index, ids[history:], args.vocabulary, args.clock):
            print(
                f"  {part:8} mean {1e3 * seconds.mean():.3f} ms, median {1e3 * np.median(seconds):.3f}, "
                f"p95 {1e3 * np.quantile(seconds, 0.95):.3f}"
            )


if __name__ == "__main__":
    main()
