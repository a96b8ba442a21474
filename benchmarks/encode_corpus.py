"""A corpus from parquet to a store of tokens: its speed beside bare encoding, and its memory by the size of the source.

    python benchmarks/encode_corpus.py [--megabytes 100 300 1000] [--vocab 32768] [--folder DIR]

Documents are made from the standard library's own text: passages of 2 to 12 KB that occur once. For each size, by turns and each
in a process of its own: `bare` reads the documents from memory and encodes them to arrays, 2 MB at a time on all cores, and keeps
nothing; `store` does what the stage `encode` does, from the file to a store on disk. Speeds are in bytes of text. `share` is the
speed of `store` by that of `bare`; `cpu` the same of the time of all threads, which a busy machine leaves as it is. `peak` is the
most memory that the process held, `slope` what it grows by with each further GB of source.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BATCH = 2**21  # characters at a time, as the stage has it


def passages(megabytes: int) -> Iterator[str]:
    """Documents of the standard library cut into passages, each begun with a number of its own so that none occurs twice."""
    from mccore.data.corpora.catalogue import open_corpus

    texts = [document.text for document in open_corpus("stdlib").documents("train")]
    rng, left, number = random.Random(0), megabytes * 10**6, 0
    while left > 0:
        text = rng.choice(texts)
        start = rng.randrange(max(1, len(text) - 12_000))
        passage = f"{number}. {text[start : start + rng.randint(2_000, 12_000)]}"
        left -= len(passage.encode("utf-8", "replace"))
        number += 1
        yield passage


def write_corpus(path: Path, megabytes: int) -> None:
    """A parquet file as published corpora are: one column of text, zstd, groups of 1,024 rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema({"text": pa.string()})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        rows: list[str] = []
        for passage in passages(megabytes):
            rows.append(passage)
            if len(rows) == 1024:
                writer.write_table(pa.table({"text": rows}, schema), row_group_size=1024)
                rows = []
        if rows:
            writer.write_table(pa.table({"text": rows}, schema), row_group_size=1024)


def bare(path: Path, vocabulary: Path) -> dict[str, Any]:
    """Encoding alone. The documents of one batch at a time are in memory before its clock runs."""
    import pyarrow.parquet as pq

    from mccore.data.tokenizer.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(vocabulary)
    size, wall, cpu = 0, 0.0, 0.0
    for group in pq.ParquetFile(path).iter_batches(batch_size=350):  # about BATCH characters
        texts = group.column("text").to_pylist()
        before, began = time.process_time(), time.perf_counter()
        tokenizer.encode_batch_to_array(texts, bos=True)
        wall, cpu = wall + time.perf_counter() - began, cpu + time.process_time() - before
        size += sum(len(text.encode("utf-8", "replace")) for text in texts)
    return {"bytes": size, "wall": wall, "cpu": cpu}


def store(path: Path, vocabulary: Path, out: Path) -> dict[str, Any]:
    """The stage's own path: corpus, encoding, store."""
    from mccore.data.batches.store import build_store
    from mccore.data.corpora.catalogue import open_corpus
    from mccore.data.tokenizer.tokenizer import Tokenizer
    from mccore.runtime.stores import corpus_splits

    tokenizer = Tokenizer.load(vocabulary)
    corpus = open_corpus(f"parquet:{path}")
    began, before = time.perf_counter(), time.process_time()
    splits = corpus_splits(corpus, tokenizer, lambda done, total, unit: None)()
    made = build_store(out, {"kind": "benchmark"}, tokenizer.vocab_size, splits)
    found = {"wall": time.perf_counter() - began, "cpu": time.process_time() - before}
    tokens = sum(len(made.split(name).tokens) for name in made.splits)
    return {**found, "tokens": tokens, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def in_process(*arguments: str) -> dict[str, Any]:
    ended = subprocess.run([sys.executable, __file__, "--one", *arguments], check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--folder", type=Path, help="Where files are made; default: a temporary folder.")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        kind, *paths = options.one
        print(json.dumps((bare if kind == "bare" else store)(*map(Path, paths))))
        return
    from mccore.data.tokenizer.tokenizer import Tokenizer

    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        Tokenizer.train(passages(20), options.vocab).save(folder)
        peaks: list[tuple[int, int]] = []
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        for megabytes in options.megabytes:
            path, out = folder / f"{megabytes}.parquet", folder / f"store-{megabytes}"
            write_corpus(path, megabytes)
            alone, whole = (
                in_process("bare", str(path), str(folder)),
                in_process("store", str(path), str(folder), str(out)),
            )
            size = alone["bytes"]
            peaks.append((size, whole["peak"]))
            print(
                f"{size / 1e6:7.0f} MB  bare {size / alone['wall'] / 1e6:6.1f} MB/s  store {size / whole['wall'] / 1e6:6.1f} "
                f"MB/s  share {alone['wall'] / whole['wall']:.2f}  cpu {alone['cpu'] / whole['cpu']:.2f}  "
                f"peak {whole['peak'] / 1e6:.0f} MB",
                flush=True,
            )
        if len(peaks) > 1:
            (small, least), (large, most) = peaks[0], peaks[-1]
            slope = (most - least) / (large - small)
            print(
                f"slope {slope * 1e3:.1f} MB per GB; 10 GB would take {(most + slope * (10**10 - large)) / 1e6:.0f} MB"
            )


if __name__ == "__main__":
    main()
