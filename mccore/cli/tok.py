"""`mccore tok`: train a tokenizer on files of text, and measure how well one compresses."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mccore.cli.named_path import NamedPath
from mccore.data.corpora.text_files import Choose, find_text_files, is_records, read_documents
from mccore.data.corpora.walk import describe_skipped
from mccore.errors import DataError, RunError, UsageError
from mccore.host.terminal import StatusLine, echo, echo_json, one_line
from mccore.host.text import is_clean, spell
from mccore.units import count, duration, size

if TYPE_CHECKING:
    from mccore.data.tokenizer.tokenizer import Tokenizer

_FIELD = click.option(
    "--field", default="text", show_default=True, help="Column or key of the text in parquet and JSON Lines files."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")


@click.group()
def tok() -> None:
    """Train a tokenizer on files, or measure one."""


@tok.command()
@click.argument("paths", nargs=-1, required=True, type=NamedPath(path_type=Path), metavar="PATH...")
@click.option("--vocab-size", type=int, required=True, metavar="N", help="Ids, the nine special tokens included.")
@click.option("--out", type=NamedPath(path_type=Path, file_okay=False), required=True, help="Directory to write to.")
@_FIELD
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads; the result is the same with any number.")
@click.option(
    "--export",
    "formats",
    multiple=True,
    type=click.Choice(["tiktoken", "huggingface"]),
    help="Write this format beside our own. Repeatable.",
)
@click.option("--force", is_flag=True, help="Replace a tokenizer that is there.")
@_JSON
def train(
    paths: tuple[Path, ...],
    vocab_size: int,
    out: Path,
    field: str,
    threads: int | None,
    formats: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> None:
    """Train a tokenizer on PATH...: files and folders.

    A folder stands for all files below it, hidden ones and those that aren't text left out. Rows of parquet files and lines
    of JSON Lines files are a document each, any other file is one. Nothing is written before the training has ended.
    """
    from mccore.data.tokenizer.formats import WRITERS
    from mccore.data.tokenizer.tokenizer import FILE_NAME, Tokenizer

    targets = [out / FILE_NAME, *(out / WRITERS[name][0] for name in formats)]
    _check_free(targets, force=force)
    files = find_files(paths)
    for folder in {target.parent for target in targets}:
        _check_writable(folder)
    progress = TrainerLine()
    began = time.perf_counter()
    try:
        if any(is_records(path) or not is_clean(path) for path in files):
            tokenizer = Tokenizer.train(_texts(files, field), vocab_size, threads=threads, progress=progress)
        else:
            tokenizer = Tokenizer.train_files(files, vocab_size, threads=threads, progress=progress)
    finally:
        progress.clear()  # an error's message has the line to itself, too
    seconds = time.perf_counter() - began
    if not progress.bytes:
        raise DataError("there is no text to train on: all files are empty", hint="check the paths")
    _save(tokenizer, out, formats, force=force)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    found = {
        "vocab_size": tokenizer.vocab_size,
        "fingerprint": tokenizer.fingerprint,
        "files": len(files),
        "bytes": progress.bytes,
        "seconds": seconds,
        "mb_per_second": progress.bytes / 1e6 / seconds,
        "peak_memory_bytes": peak,
        "path": str(out / FILE_NAME),
    }
    if as_json:
        echo_json(found)
        return
    echo(f"{tokenizer.vocab_size:,} ids from {count(progress.bytes)}B in {len(files):,} files")
    if tokenizer.vocab_size < vocab_size:
        echo(f"the corpus is too small for {vocab_size:,} ids: no pair is left to merge")
    echo(
        f"{duration(seconds)} ({seconds:.3f} s), {found['mb_per_second']:.1f} MB/s, peak memory of the process {size(peak)}"
    )
    echo(found["path"])


def _save(tokenizer: Tokenizer, out: Path, formats: tuple[str, ...], *, force: bool) -> None:
    """Write a tokenizer in our format, and before it in others: where ours is, the others are complete.

    The place is a person's: what is there keeps its mode, and goes only by `force`. Raises RunError, UsageError.
    """
    from mccore.data.tokenizer.formats import WRITERS
    from mccore.host.files import write_theirs

    write = partial(write_theirs, overwrite=force)
    try:
        for name in formats:
            file, write_format = WRITERS[name]
            write_format(tokenizer, out / file, write)
        tokenizer.save(out, write=write)
    except RunError as error:
        raise RunError(error.message, hint="make room or correct the permissions, or choose another --out") from error


@tok.command("eval")
@click.argument("tokenizer", default="latest")
@click.argument("paths", nargs=-1, type=NamedPath(path_type=Path), metavar="[PATH]...")
@click.option(
    "--against",
    multiple=True,
    type=NamedPath(path_type=Path),
    metavar="PATH",
    help="Compare with this vocabulary: a tokenizer of ours, tiktoken's ranks (NAME.tiktoken), Hugging Face's "
    "tokenizer.json. Repeatable. What lies in the cache directory's `vocabularies` is compared with as well.",
)
@click.option(
    "--pattern",
    metavar="NAME|REGEX",
    help="How files of ranks split text, where their names don't tell: gpt2, cl100k, o200k, llama3, qwen, or an expression.",
)
@_FIELD
@click.option("--plot", type=NamedPath(path_type=Path, dir_okay=False), help="Write a plot to this PNG file.")
@click.option("--force", is_flag=True, help="Let --plot replace a file that exists.")
@_JSON
def evaluate(
    tokenizer: str,
    paths: tuple[Path, ...],
    against: tuple[Path, ...],
    pattern: str | None,
    field: str,
    plot: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure how many bytes a token of TOKENIZER stands for, by kind of text.

    TOKENIZER is a directory that holds one, or a run: its name, its directory, or `latest` (the default). It is measured on
    fixed short texts of several kinds, and on every PATH.
    """
    from mccore.data.tokenizer.evaluate import evaluate_tokenizer, present_vocabularies, read_vocabulary
    from mccore.host.files import FileExists, write_theirs
    from mccore.host.paths import cache_dir
    from mccore.report.pages.tokenizer import tokenizer_table

    if plot is not None and plot.is_file() and not force:
        raise FileExists(plot)
    chosen = _open(tokenizer)
    texts = {spell(path): list(_texts(find_files((path,)), field)) for path in paths}
    others = present_vocabularies(cache_dir() / "vocabularies") | {
        spell(path): read_vocabulary(path, pattern) for path in against
    }
    found = evaluate_tokenizer(chosen, texts, others)
    if plot is not None:
        from mccore.report.plots.training import draw_tokenizer

        write_theirs(plot, draw_tokenizer(found), overwrite=force)
    if as_json:
        echo_json(found)
        return
    echo(f"{found['vocab_size']:,} ids, fingerprint {found['fingerprint'][:12]}\n")
    echo(tokenizer_table(found))


def _open(selector: str) -> Tokenizer:
    from mccore.data.tokenizer.tokenizer import FILE_NAME, Tokenizer
    from mccore.host.paths import expand
    from mccore.runs.rundir import RunDir

    directory = expand(selector)
    return Tokenizer.load(directory if (directory / FILE_NAME).is_file() else RunDir.open(selector).tokenizer_dir)


def find_files(paths: tuple[Path, ...]) -> list[Path]:
    """The files of text that `paths` stand for, in a fixed order; what is left out of folders is told.

    Raises DataError where one doesn't exist or can't be read, and where nothing is found.
    """
    files, skipped = find_text_files(paths, Choose(largest=None, links=True))
    for line in describe_skipped(skipped):
        echo(one_line(line), err=True)
    return sorted(file.path for file in files)


def _check_free(targets: list[Path], *, force: bool) -> None:
    """Raise UsageError where one of the files is there already, unless by `force`, or where a directory is in its place."""
    for path in targets:
        if path.is_dir():
            raise UsageError(f"{path} is a directory", hint="choose another --out")
        if path.exists() and not force:
            raise UsageError(f"{path} is there already", hint="choose another --out, or give --force to replace it")


def _check_writable(directory: Path) -> None:
    """Find out before a long training whether anything can be written. Raises UsageError."""
    existing = directory.absolute()
    while not os.path.lexists(existing):
        existing = existing.parent
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        why = "isn't writable" if existing.is_dir() else "isn't a directory"
        raise UsageError(f"can't write to {directory}: {existing} {why}", hint="choose another --out")


def _texts(files: list[Path], field: str) -> Iterator[str]:
    """The documents of files; one of many megabytes in pieces that end at line ends."""
    for path in files:
        for document in read_documents(path, field):
            yield from document


class TrainerLine:
    """What the trainer tells, on one line of the terminal; `bytes` is how much text it has read."""

    def __init__(self) -> None:
        self.bytes = 0
        self._line = StatusLine()
        self._began = time.perf_counter()

    def __call__(self, phase: str, done: int, total: int | None) -> None:
        if phase == "count":
            self.bytes = done
        if not self._line.shown:
            return
        share = f" of {count(total)}" if total else ""
        seconds = time.perf_counter() - self._began
        what = f"reading and splitting: {count(done)}{share} bytes" if phase == "count" else f"merging: {done:,}{share}"
        self._line.show(f"{what}, {duration(seconds)}")

    def clear(self) -> None:
        """Take the line away."""
        self._line.clear()
