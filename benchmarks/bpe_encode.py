"""Speed of encoding and decoding, against tiktoken and every peer that is installed.

    python benchmarks/bpe_encode.py [--corpus FILE.jsonl] [--vocab 32768] [--repeats 5] [--only NAME ...]

A vocabulary is trained on the corpus and given to all encoders. Every run is a process of its own, and encoders take turns,
so that what counts is the ratio to tiktoken within the same round. Kinds of run: `list` encodes document by document into
lists, `buffer` into arrays, both on one thread and on one core; `batch` all documents at once on two threads; `decode` the
lists. `cold` is the first pass, `warm` the second. All ids are compared with tiktoken's: `same` is the share of documents
that agree.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from bpe_train import read_corpus

Ids = Sequence[int]
Call = Callable[[list[str]], Sequence[Ids]]


def ours(folder: Path, pattern: str) -> dict[str, Any]:
    import mccore_rustbpe
    import numpy as np

    encoder = mccore_rustbpe.Encoder(read_ranks(folder), pattern=pattern)

    def batch(texts: list[str]) -> Sequence[Ids]:
        ids, offsets = encoder.encode_batch(texts, threads=2)
        ids, places = np.frombuffer(ids, np.int32), np.frombuffer(offsets, np.int64).tolist()
        return [ids[start:end] for start, end in pairwise(places)]

    return {
        "list": lambda texts: [encoder.encode(text) for text in texts],
        "buffer": lambda texts: [np.frombuffer(encoder.encode_to_buffer(text), np.int32) for text in texts],
        "batch": batch,
        "decode": lambda lists: [encoder.decode(ids) for ids in lists],
    }


def tiktoken(folder: Path, pattern: str) -> dict[str, Any]:
    import tiktoken as peer

    ranks = {token: rank for rank, token in enumerate(read_ranks(folder))}
    encoding = peer.Encoding("bench", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return {
        "list": lambda texts: [encoding.encode_ordinary(text) for text in texts],
        "buffer": lambda texts: [encoding.encode_to_numpy(text, disallowed_special=()) for text in texts],
        "batch": lambda texts: encoding.encode_ordinary_batch(texts, num_threads=2),
        "decode": lambda lists: [encoding.decode_bytes(ids) for ids in lists],
    }


def fastokens(folder: Path, pattern: str) -> dict[str, Any]:
    from fastokens import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return {
        "list": lambda texts: [tokenizer.encode(text).ids for text in texts],
        "batch": lambda texts: [found.ids for found in tokenizer.encode_batch(texts)],
    }


def gigatoken(folder: Path, pattern: str) -> dict[str, Any]:
    import gigatoken as peer
    import numpy as np

    tokenizer = peer.Tokenizer.from_tiktoken(folder / "bench.tiktoken", pretokenizer="gpt4", special_tokens={})

    def batch(texts: list[str]) -> Sequence[Ids]:
        return tokenizer.encode_batch(texts, parallel=True)

    return {
        "list": lambda texts: [tokenizer.encode(text).tolist() for text in texts],
        "buffer": lambda texts: [tokenizer.encode(text) for text in texts],
        "batch": batch,
        "decode": lambda lists: [tokenizer.decode(np.array(ids, dtype=np.uint32)) for ids in lists],
    }


def splintr(folder: Path, pattern: str) -> dict[str, Any]:
    from splintr import Tokenizer

    tokenizer = Tokenizer(str(folder / "bench.tiktoken"), pattern)
    return {
        "list": lambda texts: [tokenizer.encode(text) for text in texts],
        "batch": tokenizer.encode_batch,
    }


def snaptokens(folder: Path, pattern: str) -> dict[str, Any]:
    from snaptokens import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return {"list": lambda texts: [tokenizer.encode(text).ids for text in texts]}


def tuetoken(folder: Path, pattern: str) -> dict[str, Any]:
    import numpy as np
    from tuetoken import Tokenizer

    tokenizer = Tokenizer(str(folder / "tokenizer.json"))
    return {
        "list": lambda texts: [tokenizer.encode_ordinary(text) for text in texts],
        "buffer": lambda texts: [np.frombuffer(tokenizer.encode_to_bytes(text), dtype=np.uint32) for text in texts],
        "batch": lambda texts: tokenizer.encode_ordinary_batch(texts, num_threads=2),
        "decode": lambda lists: [tokenizer.decode(ids).encode() for ids in lists],
    }


def tokenizers(folder: Path, pattern: str) -> dict[str, Any]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return {
        "list": lambda texts: [tokenizer.encode(text).ids for text in texts],
        "batch": lambda texts: [found.ids for found in tokenizer.encode_batch_fast(texts)],
    }


def rustbpe(folder: Path, pattern: str) -> dict[str, Any]:
    import rustbpe as peer

    tokenizer = peer.Tokenizer()
    tokenizer.train_from_iterator(iter(read_corpus(folder / "corpus.jsonl")), len(read_ranks(folder)), pattern=pattern)
    return {"list": lambda texts: [tokenizer.encode(text) for text in texts]}


ENCODERS: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    "tiktoken": tiktoken,
    "ours": ours,
    "gigatoken": gigatoken,
    "fastokens": fastokens,
    "splintr": splintr,
    "snaptokens": snaptokens,
    "tuetoken": tuetoken,
    "tokenizers": tokenizers,
    "rustbpe": rustbpe,
}
MODULES = {"ours": "mccore_rustbpe"}


def read_ranks(folder: Path) -> list[bytes]:
    with open(folder / "bench.tiktoken", encoding="ascii") as file:
        return [base64.b64decode(line.split()[0]) for line in file]


def run_one(name: str, kind: str, folder: Path, pattern: str) -> None:
    """Two passes of one kind in this process; prints what was measured."""
    texts = read_corpus(folder / "corpus.jsonl")
    call: Call | None = ENCODERS[name](folder, pattern).get(kind)
    if call is None:
        print("null")
        return
    if kind != "batch":
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    expected = [ids.split() for ids in (folder / "ids").read_text().splitlines()]
    given: Any = [[int(id) for id in ids] for ids in expected] if kind == "decode" else texts
    found, seconds, cpus = None, [], []
    for _ in range(2):
        del found
        cpu, began = time.process_time(), time.perf_counter()
        found = call(given)
        seconds.append(time.perf_counter() - began)
        cpus.append(time.process_time() - cpu)
    if kind == "decode":
        same = [bytes(data) == text.encode() for data, text in zip(found, texts, strict=True)]
    else:
        same = [list(map(str, ids)) == wanted for ids, wanted in zip(found, expected, strict=True)]
    print(json.dumps({"seconds": seconds, "cpu": cpus, "same": sum(same) / len(same)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], help="peers to run; ours and tiktoken run always")
    parser.add_argument("--kinds", nargs="*", default=["list", "buffer", "batch", "decode"])
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, kind, folder, pattern = args.one
        run_one(name, kind, Path(folder), pattern)
        return

    import mccore_rustbpe
    import tiktoken as reference

    texts = read_corpus(args.corpus)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    tokens = mccore_rustbpe.train(texts, args.vocab)
    print(f"{len(texts)} documents, {megabytes:.1f} MB, vocabulary {len(tokens)}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
        (folder / "bench.tiktoken").write_text("".join(lines))
        write_tokenizer_json(tokens, mccore_rustbpe.PATTERN, folder / "tokenizer.json")
        with open(folder / "corpus.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
        ranks = {token: rank for rank, token in enumerate(tokens)}
        encoding = reference.Encoding("x", pat_str=mccore_rustbpe.PATTERN, mergeable_ranks=ranks, special_tokens={})
        with open(folder / "ids", "w", encoding="ascii") as file:
            file.writelines(" ".join(map(str, encoding.encode_ordinary(text))) + "\n" for text in texts)
        del texts
        there = [name for name in ENCODERS if importlib.util.find_spec(MODULES.get(name, name))]
        chosen = [name for name in there if name in ("ours", "tiktoken") or not args.only or name in args.only]
        for kind in args.kinds:
            runs: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
            for _ in range(args.repeats):
                for name in chosen:
                    command = [sys.executable, __file__, "--one", name, kind, str(folder), mccore_rustbpe.PATTERN]
                    threads = dict.fromkeys(("RAYON_NUM_THREADS", "OMP_NUM_THREADS"), "2")
                    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True)
                    if done.returncode:
                        print(f"{name} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}", flush=True)
                    elif (found := json.loads(done.stdout.splitlines()[-1])) is not None:
                        runs[name].append(found)
            show(kind, runs, megabytes)


def write_tokenizer_json(tokens: list[bytes], pattern: str, path: Path) -> None:
    from mccore.data.tokenizer import Tokenizer
    from mccore.data.tokenizer_formats import write_huggingface

    write_huggingface(Tokenizer(tokens, pattern=pattern), path)


def show(kind: str, runs: dict[str, list[dict[str, Any]]], megabytes: float) -> None:
    print(
        f"{kind:12} {'cold MB/s':>10} {'warm MB/s':>10} {'over tiktoken: cold':>20} {'warm':>20} {'cpu warm':>9}  same",
        flush=True,
    )
    base = runs["tiktoken"]
    for name, measured in runs.items():
        if len(measured) != len(base):
            continue
        speeds = [megabytes / statistics.median(run["seconds"][i] for run in measured) for i in (0, 1)]
        shown = []
        for i in (0, 1):
            ratios = [theirs["seconds"][i] / run["seconds"][i] for run, theirs in zip(measured, base, strict=True)]
            shown.append(f"{statistics.median(ratios):6.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
        cpu = statistics.median(theirs["cpu"][1] / run["cpu"][1] for run, theirs in zip(measured, base, strict=True))
        same = min(run["same"] for run in measured)
        print(
            f"{name:12} {speeds[0]:10.1f} {speeds[1]:10.1f} {shown[0]:>20} {shown[1]:>20} {cpu:9.2f}  {same:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
