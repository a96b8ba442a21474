"""Time of training a BPE tokenizer, against the peers that are installed: `rustbpe` and Hugging Face's `tokenizers`.

    python benchmarks/bpe_train.py [--corpus FILE ...] [--vocab 32768] [--threads 2] [--repeats 5]

Trainers take turns, so that a busy machine slows all of them; what counts is the ratio of a peer's time to ours within
the same round. Corpus files hold one document each; default: the sources of the standard library.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

Trainer = Callable[[list[str], int], list[bytes] | None]


def read_corpus(paths: list[Path]) -> list[str]:
    """The files that are UTF-8 text, one document each."""
    if not paths:
        folder = Path(sysconfig.get_paths()["stdlib"])
        paths = sorted(path for path in folder.rglob("*.py") if "site-packages" not in path.parts)
    texts = []
    for path in paths:
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            print(f"left out, not UTF-8: {path.name}")
    return texts


def trainers(threads: int) -> dict[str, Trainer]:
    """Ours first, then the peers that can be imported. All use the same split pattern."""
    import mccore_rustbpe

    def ours(texts: list[str], vocab_size: int) -> list[bytes]:
        return mccore_rustbpe.train(iter(texts), vocab_size, threads=threads)

    def rustbpe(texts: list[str], vocab_size: int) -> list[bytes]:
        from rustbpe import Tokenizer

        tokenizer = Tokenizer()
        tokenizer.train_from_iterator(iter(texts), vocab_size, pattern=mccore_rustbpe.PATTERN)
        return [bytes(token) for token, _ in sorted(tokenizer.get_mergeable_ranks(), key=lambda item: item[1])]

    def tokenizers(texts: list[str], vocab_size: int) -> None:
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers
        from tokenizers.trainers import BpeTrainer

        tokenizer = Tokenizer(models.BPE(byte_fallback=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(mccore_rustbpe.PATTERN), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        tokenizer.train_from_iterator(
            iter(texts), BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
        )

    peers = {"rustbpe": rustbpe, "tokenizers": tokenizers}
    return {"mccore_rustbpe": ours} | {name: run for name, run in peers.items() if importlib.util.find_spec(name)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", nargs="*", type=Path, default=[])
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = str(args.threads)  # read by the peers when they start their threads

    texts = read_corpus(args.corpus)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts)} documents, {megabytes:.1f} MB, vocabulary {args.vocab}, {args.threads} threads")
    seconds: dict[str, list[float]] = {}
    tokens: dict[str, list[bytes] | None] = {}
    for _ in range(args.repeats):
        for name, run in trainers(args.threads).items():
            start = time.perf_counter()
            tokens[name] = run(texts, args.vocab)
            seconds.setdefault(name, []).append(time.perf_counter() - start)

    ours = seconds["mccore_rustbpe"]
    print(f"{'trainer':16} {'median s':>9} {'MB/s':>7} {'time / ours':>12} {'spread':>14}  same tokens")
    for name, times in seconds.items():
        ratios = [theirs / own for theirs, own in zip(times, ours, strict=True)]
        same = "-" if tokens[name] is None else tokens[name] == tokens["mccore_rustbpe"]
        median = statistics.median(times)
        print(
            f"{name:16} {median:9.2f} {megabytes / median:7.1f} {statistics.median(ratios):12.2f} "
            f"{min(ratios):6.2f} - {max(ratios):5.2f}  {same}"
        )


if __name__ == "__main__":
    main()
