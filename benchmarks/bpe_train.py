"""Time and memory of training a BPE tokenizer, against every peer that is installed.

    python benchmarks/bpe_train.py [--corpus FILE.jsonl] [--vocab 32768] [--threads 2] [--repeats 5] [--only NAME ...]

Every run is a process of its own: it loads the corpus, then trains. Trainers take turns, so that a busy machine slows all of
them; what counts is the ratio of a peer's time to ours within the same round. `cpu` is user and system time of the training
alone, `memory` the peak above what the process held once the corpus was loaded. The corpus is one {"text": ...} a line
(`benchmarks/bpe_corpus.py` makes one); default: the sources of the standard library. Peers that read files get the same text
as one file of plain text. `tokens` compares what was learned with ours: `ours` are the same tokens in the same order, other
rules or patterns give others, and `-` stands where a peer doesn't hand out its tokens or has seen another text.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Tokens = list[bytes] | None
Trainer = Callable[[list[str], str, int, int], Tokens]  # texts, the same as one file, vocabulary, threads


def ours(texts: list[str], file: str, vocab_size: int, threads: int) -> Tokens:
    import mccore_rustbpe

    return mccore_rustbpe.train(iter(texts), vocab_size, threads=threads)


def ours_from_file(texts: list[str], file: str, vocab_size: int, threads: int) -> Tokens:
    import mccore_rustbpe

    mccore_rustbpe.train_files([file], vocab_size, threads=threads)
    return None  # one long document isn't the same text as many


def rustbpe(texts: list[str], file: str, vocab_size: int, threads: int) -> Tokens:
    import rustbpe as peer

    tokenizer = peer.Tokenizer()
    tokenizer.train_from_iterator(iter(texts), vocab_size, pattern=our_pattern())
    return [bytes(token) for token, _ in sorted(tokenizer.get_mergeable_ranks(), key=lambda item: item[1])]


def flashbpe(texts: list[str], file: str, vocab_size: int, threads: int) -> Tokens:
    import flashbpe as peer

    tokenizer = peer.Tokenizer()
    tokenizer.train_from_iterator(iter(texts), vocab_size=vocab_size, pattern=our_pattern())
    return [bytes(token) for token, _ in sorted(tokenizer.get_mergeable_ranks(), key=lambda item: item[1])]


def gigabpe(texts: list[str], file: str, vocab_size: int, threads: int) -> Tokens:
    import gigabpe as peer

    peer.train_bpe([file], vocab_size=vocab_size, pretokenizer="bytelevel", threads=threads)  # GPT-2's pattern
    return None


def gigatoken(texts: list[str], file: str, vocab_size: int, threads: int) -> Tokens:
    import gigatoken as peer

    peer.train_bpe(file, vocab_size, [])
    return None


def ffbpe(texts: list[str], file: str, vocab_size: int, threads: int) -> Tokens:
    import ffbpe as peer

    peer.train_bpe(iter(texts), vocab_size=vocab_size)
    return None


def fast_bpe_rs(texts: list[str], file: str, vocab_size: int, threads: int) -> Tokens:
    import fast_bpe_rs as peer

    peer.BPE(plain(our_pattern())).train(vocab_size, texts)
    return None


def minibperust(texts: list[str], file: str, vocab_size: int, threads: int) -> Tokens:
    from MiniBpeRust import FastRegexTokenizer

    FastRegexTokenizer().train_files([file], vocab_size=vocab_size)
    return None


def bpeasy(texts: list[str], file: str, vocab_size: int, threads: int) -> Tokens:
    import bpeasy as peer

    vocabulary = peer.train_bpe(iter(texts), plain(our_pattern()), 1 << 20, vocab_size)
    return sorted(vocabulary, key=vocabulary.__getitem__)


def sentencepiece(texts: list[str], file: str, vocab_size: int, threads: int) -> Tokens:
    import sentencepiece as peer

    lines = (line for text in texts for line in text.splitlines() if line)
    with tempfile.TemporaryDirectory() as folder:
        peer.SentencePieceTrainer.train(
            sentence_iterator=lines, model_prefix=f"{folder}/model", vocab_size=vocab_size, model_type="bpe",
            byte_fallback=True, num_threads=threads, minloglevel=2, max_sentence_length=1 << 20, character_coverage=0.999,
        )  # fmt: skip
    return None


def youtokentome(texts: list[str], file: str, vocab_size: int, threads: int) -> Tokens:
    import youtokentome as peer

    with tempfile.TemporaryDirectory() as folder:
        peer.BPE.train(data=file, model=f"{folder}/model", vocab_size=vocab_size, n_threads=threads)
    return None


def tokenizers(texts: list[str], file: str, vocab_size: int, threads: int) -> Tokens:
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    split = Split(Regex(our_pattern()), "isolated")
    return train_tokenizers(Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)]), texts, vocab_size)


def tokenizers_byte_level(texts: list[str], file: str, vocab_size: int, threads: int) -> Tokens:
    from tokenizers.pre_tokenizers import ByteLevel

    train_tokenizers(ByteLevel(add_prefix_space=False), texts, vocab_size)
    return None  # GPT-2's pattern


def train_tokenizers(pre_tokenizer: Any, texts: list[str], vocab_size: int) -> Tokens:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        iter(texts), BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    )
    names = tokenizer.get_vocab(with_added_tokens=False)
    return [name.encode() for name in sorted(names, key=names.__getitem__)]


TRAINERS: dict[str, tuple[str, Trainer]] = {
    "ours": ("mccore_rustbpe", ours),
    "ours, file": ("mccore_rustbpe", ours_from_file),
    "gigabpe": ("gigabpe", gigabpe),
    "gigatoken": ("gigatoken", gigatoken),
    "ffbpe": ("ffbpe", ffbpe),
    "fast-bpe-rs": ("fast_bpe_rs", fast_bpe_rs),
    "rustbpe": ("rustbpe", rustbpe),
    "MiniBpeRust": ("MiniBpeRust", minibperust),
    "youtokentome": ("youtokentome", youtokentome),
    "flashbpe": ("flashbpe", flashbpe),
    "sentencepiece": ("sentencepiece", sentencepiece),
    "tokenizers": ("tokenizers", tokenizers),
    "  byte level": ("tokenizers", tokenizers_byte_level),
    "bpeasy": ("bpeasy", bpeasy),
}


def our_pattern() -> str:
    import mccore_rustbpe

    return mccore_rustbpe.PATTERN


def plain(pattern: str) -> str:
    """The pattern without possessive quantifiers, which some engines don't have; ours cuts alike."""
    return pattern.replace("?+", "?").replace("++", "+")


def read_corpus(path: Path | None, kind: str | None = None) -> list[str]:
    """The texts of a corpus, or those of one kind."""
    if path is not None:
        with open(path, encoding="utf-8") as file:
            lines = map(json.loads, file)
            return [line["text"] for line in lines if kind in (None, line.get("kind"))]
    folder = Path(sysconfig.get_paths()["stdlib"])
    texts = []
    for source in sorted(path for path in folder.rglob("*.py") if "site-packages" not in path.parts):
        try:
            texts.append(source.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue  # a few test files aren't UTF-8
    return texts


def measure(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What `work` returns; its wall and CPU seconds, and the bytes that this process then held at most, beyond those before."""
    gc.collect()
    with open("/proc/self/clear_refs", "w", encoding="ascii") as peak:
        peak.write("5")  # the peak starts again from what is held now
    before, cpu, began = memory("VmRSS"), time.process_time(), time.perf_counter()
    result = work()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return result, {"seconds": seconds, "cpu": cpu, "memory": memory("VmHWM") - before}


def memory(what: str) -> int:
    """A figure of this process's memory, in bytes."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(what))


def run_process(command: list[str], threads: int) -> Any:
    """What a process of its own measured; None, with a line, where it failed."""
    limits = dict.fromkeys(("RAYON_NUM_THREADS", "OMP_NUM_THREADS"), str(threads))
    done = subprocess.run([sys.executable, *command], env={**os.environ, **limits}, capture_output=True, text=True)
    if done.returncode:
        print(f"{' '.join(command[1:4])} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}", flush=True)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def run_one(name: str, corpus: Path | None, file: str, vocab_size: int, threads: int) -> None:
    """One training, in this process; prints what was measured."""
    module, train = TRAINERS[name]
    texts = read_corpus(corpus)
    importlib.import_module(module)
    tokens, measured = measure(lambda: train(texts, file, vocab_size, threads))
    digest = hashlib.sha256(b"\0".join(tokens)).hexdigest() if tokens else None
    print(json.dumps({**measured, "tokens": digest}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], help="peers to run; ours runs always")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        run_one(args.one[0], args.corpus, args.one[1], args.vocab, args.threads)
        return

    texts = read_corpus(args.corpus)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    there = [name for name, (module, _) in TRAINERS.items() if importlib.util.find_spec(module)]
    chosen = [name for name in there if name == "ours" or not args.only or name in args.only]
    print(f"{len(texts)} documents, {megabytes:.1f} MB, vocabulary {args.vocab}, {args.threads} threads", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "corpus.txt"
        file.write_text("\n".join(texts), encoding="utf-8")
        del texts
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
        for _ in range(args.repeats):
            for name in chosen:
                command = [__file__, "--one", name, str(file), "--vocab", str(args.vocab)]
                command += ["--threads", str(args.threads)] + (["--corpus", str(args.corpus)] if args.corpus else [])
                measured = run_process(command, args.threads)
                runs[name] += [] if measured is None else [measured]
    show(runs, megabytes)


def show(runs: dict[str, list[dict[str, Any]]], megabytes: float) -> None:
    print(
        f"{'trainer':14} {'wall s':>7} {'MB/s':>6} {'cpu s':>7} {'memory MB':>9}  {'wall / ours':>22} {'cpu / ours':>10}  tokens"
    )
    own = runs["ours"]
    for name, measured in runs.items():
        if len(measured) != len(own):
            continue
        wall, cpu, memory = (statistics.median(run[key] for run in measured) for key in ("seconds", "cpu", "memory"))
        ratios = [run["seconds"] / mine["seconds"] for run, mine in zip(measured, own, strict=True)]
        cpus = statistics.median(run["cpu"] / mine["cpu"] for run, mine in zip(measured, own, strict=True))
        digests = {run["tokens"] for run in measured}
        same = "-" if digests == {None} else "ours" if digests == {own[0]["tokens"]} else "others"
        print(
            f"{name:14} {wall:7.2f} {megabytes / wall:6.1f} {cpu:7.2f} {memory / 1e6:9.0f}  "
            f"{statistics.median(ratios):6.2f} ({min(ratios):.2f} - {max(ratios):.2f}) {cpus:10.2f}  {same}"
        )


if __name__ == "__main__":
    main()
