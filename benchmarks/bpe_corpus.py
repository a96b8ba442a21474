"""Builds the corpora that the tokenizer benchmarks read, from folders of documentation and source text.

    python benchmarks/bpe_corpus.py FOLDER... --out DIR [--sizes 10 100] [--seed 0]

FOLDERs hold unpacked (not installed) packages, one below the other; docs/RESULTS.md names those that were used. Every file
(gunzipped where it is packed) that is valid UTF-8, longer than 500 bytes and not a copy of another one becomes a document; a
fixed share of the bytes comes from each kind of text, the order is shuffled with the seed. `DIR/<size>mb.jsonl` gets one
{"kind", "text"} a line, and `DIR/<size>mb.manifest` the package, file and SHA-256 of each document.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

SHARES = {"english": 0.48, "scripts": 0.14, "python": 0.16, "code": 0.22}
CODE = {".go", ".java", ".c", ".h", ".pl", ".pm", ".vim"}
PROSE = {".txt", ".rst", ".md", ".xml", ".sgml", ".dtx"}  # no HTML: most of it is markup
# Letters beyond U+0100 (Latin with accents not counted) on one document in this share of its characters.
SCRIPT_SHARE = 0.15


def documents(folders: list[Path]) -> Iterator[tuple[Path, Path, str]]:
    """(package folder, file, text) of everything that is text, in a fixed order; copies left out."""
    seen: set[bytes] = set()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not path.is_file() or path.stat().st_size > 20_000_000:
                continue
            try:
                data = path.read_bytes()
                data = gzip.decompress(data) if path.suffix == ".gz" else data
                text = data.decode("utf-8")
            except (OSError, EOFError, UnicodeDecodeError):
                continue
            digest = hashlib.sha256(data).digest()
            if len(data) > 500 and "\0" not in text and digest not in seen:
                seen.add(digest)
                yield folder, path, text


def kind_of(path: Path, text: str) -> str | None:
    """The kind of a document, None for one that is of no use."""
    sample = text[:20_000]
    if sum(character > "\u02ff" and character.isalpha() for character in sample) > SCRIPT_SHARE * len(sample):
        return "scripts"
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix == ".py":
        return "python"
    if suffix in CODE:
        return "code"
    # Manual pages end in their section, dictionaries and readmes in nothing that tells.
    if suffix in PROSE or {"man", "dict"} & set(path.parts) or (not suffix and "share" in path.parts):
        return "english"
    return None


def cut(text: str, limit: int) -> str:
    return text.encode()[:limit].decode("utf-8", errors="ignore")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sizes", nargs="+", type=int, default=[10, 100], help="megabytes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    pools: dict[str, list[tuple[str, str, str]]] = {kind: [] for kind in SHARES}
    for folder, path, text in documents(sorted(args.folders)):
        kind = kind_of(path, text)
        if kind is not None:
            # A megabyte is enough of one document: a few dictionaries would otherwise be half the corpus.
            name = path.relative_to(folder).as_posix()
            pools[kind].append((folder.name, name, cut(text, 1_000_000)))
    args.out.mkdir(parents=True, exist_ok=True)
    for kind, pool in pools.items():
        random.Random(f"{args.seed} {kind}").shuffle(pool)
        print(f"{kind}: {len(pool)} documents, {sum(len(text.encode()) for *_, text in pool) / 1e6:.1f} MB found")
    for size in args.sizes:
        chosen: list[tuple[str, str, str, str]] = []
        for kind, share in SHARES.items():
            left = round(share * size * 1e6)
            for package, name, text in pools[kind]:
                if left <= 0:
                    break
                text = cut(text, left)
                chosen.append((kind, package, name, text))
                left -= len(text.encode())
            if left > 3:
                raise SystemExit(f"not enough {kind} for {size} MB: {left} bytes are missing")
        random.Random(args.seed).shuffle(chosen)
        with (
            open(args.out / f"{size}mb.jsonl", "w", encoding="utf-8") as file,
            open(args.out / f"{size}mb.manifest", "w", encoding="utf-8") as manifest,
        ):
            for kind, package, name, text in chosen:
                file.write(json.dumps({"kind": kind, "text": text}, ensure_ascii=False) + "\n")
                manifest.write(f"{package}\t{name}\t{hashlib.sha256(text.encode()).hexdigest()}\n")
        print(f"{size} MB: {len(chosen)} documents, {sum(len(text.encode()) for *_, text in chosen):,} bytes")


if __name__ == "__main__":
    main()
