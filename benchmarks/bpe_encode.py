"""Speed of encoding and decoding, against tiktoken and every peer that is installed.

    python benchmarks/bpe_encode.py [--corpus FILE.jsonl] [--text KIND] [--megabytes 10] [--vocab 32768] [--digits 2]
        [--ranks FILE] [--repeats 5] [--only NAME ...] [--modes MODE ...]

A vocabulary is trained on the texts (or read from FILE, in tiktoken's format or quicktok's) and given to all encoders.
Every run is a process of its own, and encoders take turns, so that what counts is the ratio to tiktoken within the same
round. Modes: `list` encodes document by document into lists, `buffer` into arrays, both on one thread and on one core; `batch`
all documents at once on two threads into lists, `arrays` into arrays; `decode` the lists, on one core. `cold` is the first
pass, `warm` the second, `memory` the peak of both beyond what was held before. `same` is the share of documents whose ids
(bytes, for `decode`) are those of tiktoken's first run, which is checked in every run.

`--text` takes the documents of one kind only, `--digits` is the most digits in a group of the split pattern: many peers know
GPT-4's three and no other, quicktok and toktok moreover nothing but GPT-4's vocabulary.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import json
import os
import statistics
import struct
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bpe_train import measure, plain, read_corpus, run_process

Ids = Sequence[int]
Call = Callable[[list[str]], Sequence[Ids]]
GPT4_TOKENS = 100_256


def ours(folder: Path, pattern: str) -> dict[str, Any]:
    import mccore_rustbpe
    import numpy as np

    encoder = mccore_rustbpe.Encoder(read_ranks(folder), pattern=pattern)

    def arrays(texts: list[str]) -> Sequence[Ids]:
        ids, offsets = encoder.encode_batch(texts, threads=2)
        return rows(np.frombuffer(ids, np.int32), np.frombuffer(offsets, np.int64))

    return {
        "list": lambda texts: [encoder.encode(text) for text in texts],
        "buffer": lambda texts: [np.frombuffer(encoder.encode_to_buffer(text), np.int32) for text in texts],
        "batch": lambda texts: [ids.tolist() for ids in arrays(texts)],
        "arrays": arrays,
        "decode": lambda lists: [encoder.decode(ids) for ids in lists],
    }


def tiktoken(folder: Path, pattern: str) -> dict[str, Any]:
    import numpy as np
    import tiktoken as peer

    ranks = {token: rank for rank, token in enumerate(read_ranks(folder))}
    encoding = peer.Encoding("bench", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return {
        "list": lambda texts: [encoding.encode_ordinary(text) for text in texts],
        "buffer": lambda texts: [encoding.encode_to_numpy(text, disallowed_special=()) for text in texts],
        "batch": lambda texts: encoding.encode_ordinary_batch(texts, num_threads=2),
        # It has no batch into arrays: this is what a loader has to do.
        "arrays": lambda texts: [
            np.array(ids, np.int32) for ids in encoding.encode_ordinary_batch(texts, num_threads=2)
        ],
        "decode": lambda lists: [encoding.decode_bytes(ids) for ids in lists],
    }


def gigatoken(folder: Path, pattern: str) -> dict[str, Any]:
    import gigatoken as peer
    import numpy as np

    tokenizer = peer.Tokenizer.from_tiktoken(folder / "bench.tiktoken", pretokenizer="gpt4", special_tokens={})
    return {
        "list": lambda texts: [tokenizer.encode(text).tolist() for text in texts],
        "buffer": lambda texts: [tokenizer.encode(text) for text in texts],
        "batch": lambda texts: tokenizer.encode_batch_list(texts, parallel=True),
        "arrays": lambda texts: tokenizer.encode_batch(texts, parallel=True),
        "decode": lambda lists: [tokenizer.decode(np.array(ids, dtype=np.uint32)) for ids in lists],
    }


def splintr(folder: Path, pattern: str) -> dict[str, Any]:
    import numpy as np
    from splintr import Tokenizer

    tokenizer = Tokenizer(str(folder / "bench.tiktoken"), plain(pattern))
    return {
        "list": lambda texts: [tokenizer.encode(text) for text in texts],
        "buffer": lambda texts: [np.frombuffer(tokenizer.encode_flat(text), np.uint32) for text in texts],
        "batch": tokenizer.encode_batch,
        "arrays": lambda texts: rows_of_bytes(*tokenizer.encode_batch_flat(texts)),
        "decode": lambda lists: [tokenizer.decode_bytes(ids) for ids in lists],
    }


def fastokens(folder: Path, pattern: str) -> dict[str, Any]:
    from fastokens import Tokenizer

    return adapt(Tokenizer, folder)


def snaptokens(folder: Path, pattern: str) -> dict[str, Any]:
    from snaptokens import Tokenizer

    return adapt(Tokenizer, folder)


def adapt(peer: Any, folder: Path) -> dict[str, Any]:
    """A tokenizer class with the methods of Hugging Face's, and a batch into flat bytes."""
    tokenizer = peer.from_file(str(folder / "tokenizer.json"))
    return {
        "list": lambda texts: [tokenizer.encode(text).ids for text in texts],
        "batch": lambda texts: [found.ids for found in tokenizer.encode_batch(texts)],
        "arrays": lambda texts: rows_of_bytes(*tokenizer.encode_batch_flat(texts)),
        "decode": lambda lists: [tokenizer.decode(ids).encode() for ids in lists],
    }


def tuetoken(folder: Path, pattern: str) -> dict[str, Any]:
    import numpy as np
    from tuetoken import Tokenizer

    tokenizer = Tokenizer(str(folder / "tokenizer.json"))
    return {
        "list": lambda texts: [tokenizer.encode_ordinary(text) for text in texts],
        "buffer": lambda texts: [np.frombuffer(tokenizer.encode_to_bytes(text), dtype=np.uint32) for text in texts],
        "batch": lambda texts: tokenizer.encode_ordinary_batch(texts, num_threads=2),
        "arrays": lambda texts: rows(*tokenizer.encode_ordinary_to_buffer(texts).values()),
        "decode": lambda lists: [tokenizer.decode(ids).encode() for ids in lists],
    }


def quicktok(folder: Path, pattern: str) -> dict[str, Any]:
    import quicktok as peer

    if len(read_ranks(folder)) != GPT4_TOKENS:
        return {}
    tokenizer = peer.get_encoding("cl100k_base")
    return {
        "list": lambda texts: [tokenizer.encode_ordinary(text) for text in texts],
        "arrays": lambda texts: rows(*tokenizer.encode_batch(texts, 2)),
        "decode": lambda lists: [tokenizer.decode_bytes(ids) for ids in lists],
    }


def toktok(folder: Path, pattern: str) -> dict[str, Any]:
    from toktok._toktok import Tokenizer

    if len(read_ranks(folder)) != GPT4_TOKENS:
        return {}
    tokenizer = Tokenizer("cl100k_base")
    return {
        "list": lambda texts: [tokenizer.encode_ordinary(text) for text in texts],
        "buffer": lambda texts: [tokenizer.encode_to_numpy(text) for text in texts],
        "arrays": lambda texts: rows(*tokenizer.encode_batch_to_numpy(texts)),
        "decode": lambda lists: [tokenizer.decode_bytes(ids) for ids in lists],
    }


def tokenizers(folder: Path, pattern: str) -> dict[str, Any]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return {
        "list": lambda texts: [tokenizer.encode(text).ids for text in texts],
        "batch": lambda texts: [found.ids for found in tokenizer.encode_batch_fast(texts)],
        "decode": lambda lists: [tokenizer.decode(ids).encode() for ids in lists],
    }


def rustbpe(folder: Path, pattern: str) -> dict[str, Any]:
    import rustbpe as peer

    vocab_size = len(read_ranks(folder))
    if vocab_size == GPT4_TOKENS:
        return {}  # it can't be given a vocabulary
    tokenizer = peer.Tokenizer()
    tokenizer.train_from_iterator(iter(read_corpus(folder / "corpus.jsonl")), vocab_size, pattern=pattern)
    return {
        "list": lambda texts: [tokenizer.encode(text) for text in texts],
        "batch": tokenizer.batch_encode,
    }


ENCODERS: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    "tiktoken": tiktoken,
    "ours": ours,
    "gigatoken": gigatoken,
    "fastokens": fastokens,
    "toktok": toktok,
    "snaptokens": snaptokens,
    "quicktok": quicktok,
    "splintr": splintr,
    "tuetoken": tuetoken,
    "tokenizers": tokenizers,
    "rustbpe": rustbpe,
}
MODULES = {"ours": "mccore_rustbpe"}
MODES = ("list", "buffer", "batch", "arrays", "decode")


def rows(ids: Any, offsets: Any) -> Sequence[Ids]:
    """Arrays of each text, without copying."""
    places = offsets.tolist()
    return [ids[start:end] for start, end in pairwise(places)]


def rows_of_bytes(ids: bytes, offsets: bytes) -> Sequence[Ids]:
    import numpy as np

    return rows(np.frombuffer(ids, np.uint32), np.frombuffer(offsets, np.uint64))


def read_ranks(folder: Path) -> list[bytes]:
    with open(folder / "bench.tiktoken", encoding="ascii") as file:
        return [base64.b64decode(line.split()[0]) for line in file]


def read_vocabulary(path: Path) -> list[bytes]:
    """Tokens by rank: lines of base64 and rank, or quicktok's packed (length, bytes, rank)."""
    data = path.read_bytes()
    if path.suffix == ".tiktoken":
        ranks = [(base64.b64decode(token), int(rank)) for token, rank in map(bytes.split, data.splitlines())]
    else:
        ranks, at = [], 4
        while at < len(data):
            (length,) = struct.unpack_from("<H", data, at)
            token = data[at + 2 : at + 2 + length]
            ranks.append((token, struct.unpack_from("<I", data, at + 2 + length)[0]))
            at += 6 + length
    return [token for token, _ in sorted(ranks, key=lambda pair: pair[1])]


def run_one(name: str, mode: str, folder: Path, pattern: str) -> None:
    """Two passes of one mode in this process; prints what was measured."""
    import numpy as np

    texts = read_corpus(folder / "corpus.jsonl")
    call: Call | None = ENCODERS[name](folder, pattern).get(mode)
    if call is None:
        print("null")
        return
    if mode in ("list", "buffer", "decode"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    expected = rows(np.load(folder / "ids.npy"), np.load(folder / "offsets.npy"))
    given: Any = [ids.tolist() for ids in expected] if mode == "decode" else texts
    cold = measure(lambda: call(given))[1]
    found, warm = measure(lambda: call(given))
    if mode == "decode":
        same = [bytes(data) == text.encode() for data, text in zip(found, texts, strict=True)]
    else:
        same = [np.array_equal(np.asarray(ids), wanted) for ids, wanted in zip(found, expected, strict=True)]
    memory = max(cold["memory"], warm["memory"])
    shown = {"cold": cold["seconds"], "warm": warm["seconds"], "cpu": warm["cpu"], "memory": memory}
    print(json.dumps(shown | {"same": sum(same) / len(same)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--text", help="english, scripts, python or code; default: all")
    parser.add_argument("--megabytes", type=float, default=10.0, help="at most so much text")
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--digits", type=int, default=2)
    parser.add_argument("--ranks", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], help="peers to run; ours and tiktoken run always")
    parser.add_argument("--modes", nargs="*", default=MODES)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, mode, folder, pattern = args.one
        run_one(name, mode, Path(folder), pattern)
        return

    import mccore_rustbpe

    pattern = mccore_rustbpe.PATTERN.replace("{1,2}", f"{{1,{args.digits}}}")
    texts = limited(read_corpus(args.corpus, args.text), args.megabytes)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    tokens = read_vocabulary(args.ranks) if args.ranks else mccore_rustbpe.train(texts, args.vocab, pattern=pattern)
    kind = args.text or "all kinds"
    print(
        f"{kind}: {len(texts)} documents, {megabytes:.1f} MB, vocabulary {len(tokens)}, {args.digits} digits",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, texts, tokens, pattern)
        del texts
        there = [name for name in ENCODERS if importlib.util.find_spec(MODULES.get(name, name))]
        chosen = [name for name in there if name in ("ours", "tiktoken") or not args.only or name in args.only]
        for mode in args.modes:
            runs: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
            for _ in range(args.repeats):
                for name in chosen:
                    measured = run_process([__file__, "--one", name, mode, str(folder), pattern], threads=2)
                    runs[name] += [] if measured is None else [measured]
            show(mode, runs, megabytes)


def limited(texts: list[str], megabytes: float) -> list[str]:
    """The first texts, together at least so long where there are enough."""
    total, n = 0, 0
    while n < len(texts) and total < megabytes * 1e6:
        total += len(texts[n].encode())
        n += 1
    return texts[:n]


def prepare(folder: Path, texts: list[str], tokens: list[bytes], pattern: str) -> None:
    """Write the vocabulary, the texts, and the ids that tiktoken gives them."""
    import numpy as np
    import tiktoken as reference

    from mccore.data.tokenizer.formats import write_huggingface

    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    (folder / "bench.tiktoken").write_text("".join(lines))
    write_huggingface(SimpleNamespace(tokens=tokens, pattern=known(pattern), specials={}), folder / "tokenizer.json")
    with open(folder / "corpus.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    ranks = {token: rank for rank, token in enumerate(tokens)}
    encoding = reference.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    ids = [np.array(encoding.encode_ordinary(text), np.int32) for text in texts]
    np.save(folder / "ids.npy", np.concatenate(ids))
    np.save(folder / "offsets.npy", np.cumsum([0, *map(len, ids)]))


def known(pattern: str) -> str:
    """The pattern in Llama 3's spelling, which some peers recognise by its letters; it cuts alike."""
    digits = next(n for n in "123" if f"{{1,{n}}}" in pattern)
    return (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,"
        + digits
        + r"}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


def show(mode: str, runs: dict[str, list[dict[str, Any]]], megabytes: float) -> None:
    print(
        f"{mode:11} {'cold MB/s':>9} {'warm MB/s':>9} {'over tiktoken: cold':>20} {'warm':>22} {'cpu warm':>8} "
        f"{'memory MB':>9}  same",
        flush=True,
    )
    base = runs["tiktoken"]
    for name, measured in runs.items():
        if not measured or len(measured) != len(base):
            continue
        speeds = [megabytes / statistics.median(run[pass_] for run in measured) for pass_ in ("cold", "warm")]
        shown = []
        for pass_ in ("cold", "warm"):
            ratios = [theirs[pass_] / run[pass_] for run, theirs in zip(measured, base, strict=True)]
            shown.append(f"{statistics.median(ratios):6.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
        cpu = statistics.median(theirs["cpu"] / run["cpu"] for run, theirs in zip(measured, base, strict=True))
        memory = statistics.median(run["memory"] for run in measured)
        same = min(run["same"] for run in measured)
        print(
            f"{name:11} {speeds[0]:9.1f} {speeds[1]:9.1f} {shown[0]:>20} {shown[1]:>22} {cpu:8.2f} "
            f"{memory / 1e6:9.0f}  {same:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
