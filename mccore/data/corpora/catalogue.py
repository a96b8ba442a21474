"""Named sources of text: from what a user writes to a corpus."""

from __future__ import annotations

import os
from pathlib import Path

from mccore.data.corpora.document import Corpus
from mccore.data.corpora.files import SUFFIXES, JsonlCorpus, ParquetCorpus, TextCorpus, find_files, split_field
from mccore.data.hub.address import is_remote
from mccore.data.hub.library import open_library
from mccore.errors import DataError
from mccore.host.text import spell


def open_corpus(spec: str, *, cache_dir: Path | None = None, shards: int = 0) -> Corpus:
    """The corpus that `spec` names; DataError with what to do when it can't be used.

    `stdlib` or `stdlib:with-tests` (the interpreter's library, also with its test suites), `stdlib:packages` (the latter
    joined into one long document per package, and split otherwise), `parquet:PATH`, `jsonl:PATH`, `text:PATH`. PATH is a
    file, a folder (searched recursively) or a glob pattern; `#FIELD` after it names the column or key of the text (default
    `text`). In `cache_dir` the content hashes of large files are remembered.

    `climbmix`, `fineweb_edu` and `hf:OWNER/NAME[/CONFIG][@REVISION]#FIELD` are on the hub: what they hold is asked for the
    first time and remembered in `cache_dir`, their files come when they are read; `shards` takes only the first so many.
    """
    kind, _, rest = spec.partition(":")
    if kind == "stdlib":
        if rest not in ("", "with-tests", "packages"):
            raise DataError(
                f"unknown form of the stdlib corpus: {spec!r}", hint="use stdlib, stdlib:with-tests or stdlib:packages"
            )
        if rest == "packages":
            from mccore.data.corpora.stdlib.packages import PackagesCorpus

            return PackagesCorpus()
        from mccore.data.corpora.stdlib.pages import StdlibCorpus

        return StdlibCorpus(with_tests=bool(rest))
    if is_remote(spec):
        from mccore.data.corpora.remote import HubCorpus

        return HubCorpus(spec, open_library(cache_dir), shards=shards)
    if kind not in SUFFIXES:
        raise DataError(
            f"unknown corpus {spec!r}",
            hint="use stdlib, climbmix, fineweb_edu, hf:OWNER/NAME, parquet:PATH, jsonl:PATH or text:PATH",
        )
    path, field = split_field(rest) if kind != "text" else (rest, "")
    if not path:
        raise DataError(f"the corpus {spec!r} names no path", hint=f"write {kind}:PATH")
    files = find_files(kind, path)
    if unreadable := next((file for file in files.files if not os.access(file, os.R_OK)), None):
        raise DataError(
            f"can't read {spell(unreadable)}", hint="correct its permissions, or leave it out of the corpus"
        )
    corpora: dict[str, type[ParquetCorpus] | type[JsonlCorpus] | type[TextCorpus]]
    corpora = {"parquet": ParquetCorpus, "jsonl": JsonlCorpus, "text": TextCorpus}
    return corpora[kind](spell(spec), files, field, cache_dir)
