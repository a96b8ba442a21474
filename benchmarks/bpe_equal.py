"""Checks on whole corpora that the trainer and the encoder give what their references give.

    python benchmarks/bpe_equal.py CORPUS.jsonl... [--vocab 32768 65536]

Training: the tokens on 1, 2 and 8 threads, with the documents in order and in reverse, against those of `rustbpe`.
Encoding: the ids of every document, alone and in a batch, against those of `tiktoken`; decoding, against the text. One line
for each, by kind of text; the exit status is 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

import mccore_rustbpe
import numpy as np
import tiktoken

import rustbpe


def train_reference(texts: list[str], vocab_size: int) -> list[bytes]:
    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(texts), vocab_size, pattern=mccore_rustbpe.PATTERN)
    return [bytes(token) for token, _ in sorted(tokenizer.get_mergeable_ranks(), key=lambda item: item[1])]


def check_training(texts: list[str], reference: list[bytes]) -> bool:
    same = []
    for threads in (1, 2, 8):
        for order in (texts, texts[::-1]):
            same.append(mccore_rustbpe.train(order, len(reference), threads=threads) == reference)
    print(f"  trained on 1, 2, 8 threads in two orders: {sum(same)} of {len(same)} equal rustbpe's tokens", flush=True)
    return all(same)


def check_encoding(documents: list[dict[str, str]], tokens: list[bytes]) -> bool:
    encoder = mccore_rustbpe.Encoder(tokens)
    ranks = {token: rank for rank, token in enumerate(tokens)}
    reference = tiktoken.Encoding("x", pat_str=mccore_rustbpe.PATTERN, mergeable_ranks=ranks, special_tokens={})
    ids, offsets = encoder.encode_batch([document["text"] for document in documents], threads=2)
    ids, places = np.frombuffer(ids, np.int32), np.frombuffer(offsets, np.int64).tolist()
    same, of = Counter[str](), Counter[str]()
    for i, document in enumerate(documents):
        text, kind = document["text"], document.get("kind", "all")
        expected = reference.encode_ordinary(text)
        equal = encoder.encode(text) == expected and ids[places[i] : places[i + 1]].tolist() == expected
        same[kind] += equal and encoder.decode(expected) == text.encode()
        of[kind] += 1
    shown = ", ".join(f"{kind} {same[kind]} of {of[kind]}" for kind in sorted(of))
    print(f"  documents encoded and decoded as by tiktoken: {shown}", flush=True)
    return same == of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="+", type=Path)
    parser.add_argument("--vocab", nargs="*", type=int, default=[32768, 65536])
    args = parser.parse_args()
    holds = True
    for corpus in args.corpora:
        with open(corpus, encoding="utf-8") as file:
            documents = [json.loads(line) for line in file]
        texts = [document["text"] for document in documents]
        for vocab_size in args.vocab:
            print(f"{corpus.name}, {len(texts)} documents, vocabulary {vocab_size}", flush=True)
            reference = train_reference(texts, vocab_size)
            holds = check_training(texts, reference) and holds
            holds = check_encoding(documents, reference) and holds
    raise SystemExit(0 if holds else 1)


if __name__ == "__main__":
    main()
