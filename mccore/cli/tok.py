"""`mccore tok`: train a tokenizer on files of text, and measure how well one compresses."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mccore.data.corpora.text_files import is_records, record_texts, unreadable
from mccore.errors import DataError, RunError, UsageError
from mccore.host.terminal import StatusLine, echo, echo_json
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
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option("--vocab-size", type=int, required=True, metavar="N", help="Ids, the nine special tokens included.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Directory to write to.")
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

    if (out / FILE_NAME).exists() and not force:
        raise UsageError(
            f"{out / FILE_NAME} is there already", hint="choose another --out, or give --force to replace it"
        )
    files = find_files(paths)
    _check_writable(out)
    progress = Progress()
    began = time.perf_counter()
    try:
        if any(is_records(path) for path in files):
            tokenizer = Tokenizer.train(_texts(files, field), vocab_size, threads=threads, progress=progress)
        else:
            tokenizer = Tokenizer.train_files(files, vocab_size, threads=threads, progress=progress)
    finally:
        progress.clear()  # an error's message has the line to itself, too
    seconds = time.perf_counter() - began
    if not progress.bytes:
        raise DataError("there is no text to train on: all files are empty", hint="check the paths")
    try:
        # Our own file comes last: where it is, the others are complete.
        for name in formats:
            file, write = WRITERS[name]
            write(tokenizer, out / file)
        tokenizer.save(out)
    except RunError as error:
        raise RunError(error.message, hint="make room or correct the permissions, or choose another --out") from error
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


@tok.command("eval")
@click.argument("tokenizer", default="latest")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option(
    "--against",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Compare with this vocabulary: a tokenizer of ours, tiktoken's ranks (NAME.tiktoken), Hugging Face's "
    "tokenizer.json. Repeatable. What lies in the cache directory's `vocabularies` is compared with as well.",
)
@_FIELD
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Write a plot to this PNG file.")
@_JSON
def evaluate(
    tokenizer: str, paths: tuple[Path, ...], against: tuple[Path, ...], field: str, plot: Path | None, as_json: bool
) -> None:
    """Measure how many bytes a token of TOKENIZER stands for, by kind of text.

    TOKENIZER is a directory that holds one, or a run: its name, its directory, or `latest` (the default). It is measured on
    fixed short texts of several kinds, and on every PATH.
    """
    from mccore.data.tokenizer.evaluate import evaluate_tokenizer, present_vocabularies, read_vocabulary
    from mccore.host.files import write_atomic
    from mccore.host.paths import cache_dir
    from mccore.report.pages.tokenizer import tokenizer_table

    chosen = _open(tokenizer)
    texts = {str(path): list(_texts(find_files((path,)), field, decode=True)) for path in paths}
    others = present_vocabularies(cache_dir() / "vocabularies") | {str(path): read_vocabulary(path) for path in against}
    found = evaluate_tokenizer(chosen, texts, others)
    if plot is not None:
        from mccore.report.plots.training import draw_tokenizer

        write_atomic(plot, draw_tokenizer(found))
    if as_json:
        echo_json(found)
        return
    echo(f"{found['vocab_size']:,} ids, fingerprint {found['fingerprint'][:12]}\n")
    echo(tokenizer_table(found))


def _open(selector: str) -> Tokenizer:
    from mccore.data.tokenizer.tokenizer import FILE_NAME, Tokenizer
    from mccore.runs.rundir import RunDir

    directory = Path(selector).expanduser()
    return Tokenizer.load(directory if (directory / FILE_NAME).is_file() else RunDir.open(selector).tokenizer_dir)


def find_files(paths: tuple[Path, ...]) -> list[Path]:
    """The files that `paths` stand for, in a fixed order.

    Raises DataError where one doesn't exist or can't be read, and where nothing is found.
    """
    files: list[Path] = []
    for path in (path.expanduser() for path in paths):
        try:
            if path.is_dir():
                files += [found for found in _files_below(path) if is_records(found) or _is_text(found)]
            elif path.exists():
                files.append(path)
            else:
                raise DataError(f"there is no {path}", hint="check the path")
        except OSError as error:
            raise unreadable(error, path) from error
    if not files:
        raise DataError(f"no file of text in {', '.join(map(str, paths))}", hint="name the files themselves")
    return files


def _files_below(root: Path) -> Iterator[Path]:
    """All files below a directory, those and the directories whose names begin with a dot left out."""

    def fail(error: OSError) -> None:
        raise error  # os.walk would go on without what it can't read

    found: list[Path] = []
    for directory, directories, names in os.walk(root, onerror=fail):
        directories[:] = [name for name in directories if not name.startswith(".")]
        found += [Path(directory, name) for name in names if not name.startswith(".")]
    return (path for path in sorted(found) if path.is_file())


def _check_writable(directory: Path) -> None:
    """Find out before a long training whether anything can be written. Raises UsageError."""
    existing = directory.absolute()
    while not os.path.lexists(existing):
        existing = existing.parent
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        why = "isn't writable" if existing.is_dir() else "isn't a directory"
        raise UsageError(f"can't write to {directory}: {existing} {why}", hint="choose another --out")


def _is_text(path: Path) -> bool:
    """Whether a file looks like text: no zero byte at its start."""
    with path.open("rb") as file:
        return b"\0" not in file.read(8192)


def _texts(files: list[Path], field: str, *, decode: bool = False) -> Iterator[Any]:
    """The documents of files: str, or bytes for plain files unless they are to be decoded."""
    for path in files:
        if is_records(path):
            yield from record_texts(path, field)
        else:
            try:
                data = path.read_bytes()
            except OSError as error:
                raise unreadable(error, path) from error
            yield data.decode("utf-8", errors="replace") if decode else data


class Progress:
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
