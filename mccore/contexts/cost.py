"""What a session costs by the length of its history, beside the same model's plain decoding, measured in one run.

Machines are noisy, so everything that is compared is measured by turns: all histories and plain decoding generate some tokens
each, round after round, in an order that moves on; ratios are taken per round. A round has whole refocus intervals, so that
every round holds as many refocuses. Ratios are of the clock on the wall and of processor time, which others disturb less.
"""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mccore.contexts.manifest import disk_bytes
from mccore.data.corpora.catalogue import open_corpus
from mccore.data.corpora.text_files import find_text_files, read_documents
from mccore.errors import DataError, UsageError
from mccore.megacontext.focus.state import check_fits
from mccore.megacontext.sessions.history import APPEND
from mccore.megacontext.sessions.model import SessionModel
from mccore.megacontext.sessions.session import Session
from mccore.units import size

if TYPE_CHECKING:
    from mccore.data.tokenizer.tokenizer import Tokenizer
    from mccore.runtime.sessions import Sessions

ROUND = 32  # tokens of a round, or the next multiple of the refocus interval
_DISTINCT = 2**24  # tokens of text; a longer history repeats them
_SPARE = 1.05  # of disk and memory

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Spread:
    """A figure over many measurements."""

    median: float
    mean: float
    p95: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None of no values."""
        if not len(values):
            return None
        return cls(float(np.median(values)), float(np.mean(values)), float(np.quantile(values, 0.95)))


@dataclass(frozen=True)
class Ratio:
    """A ratio over rounds: its median, and the quarters below `low` and above `high`."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, over: NDArray[np.float64], under: NDArray[np.float64]) -> Ratio:
        """Of the times of rounds."""
        low, median, high = np.quantile(over / under, [0.25, 0.5, 0.75])
        return cls(float(median), float(low), float(high))


@dataclass
class HistoryCost:
    """What a session with `tokens` of history costs. Times in seconds, or milliseconds where the name says so.

    ingest_seconds: tokens into the tree, gists made and flushed. first_token_seconds: from there to the logits of the first
    token. index_bytes: of search and lookup. token_ms: of each generated token, refocuses included. controller_ms: a refocus
    alone; refocus_token_ms: a token with one. entries_per_token: that the model read. longest_rss: resident memory at its
    highest until the first token, of which `before_rss` was there before; None where the system doesn't tell.
    """

    tokens: int
    max_lod: int
    ingest_seconds: float
    ingest_tokens_per_second: float
    first_token_seconds: float
    tree_bytes: int
    tree_bytes_per_token: float
    index_bytes: int
    cache_bytes: int
    before_rss: int | None
    longest_rss: int | None
    token_ms: Spread | None = None
    refocuses: int = 0
    controller_ms: Spread | None = None
    refocus_token_ms: Spread | None = None
    entries_per_token: float = 0.0
    to_plain: Ratio | None = None
    to_plain_cpu: Ratio | None = None


@dataclass
class ContextCosts:
    """All that was measured. `plain_ms`: a token of the plain model with keys and values of `wc_length` tokens."""

    wc_length: int
    refocus_interval: int
    kv_policy: str
    block_size: int
    recent_tokens: int
    distinct_tokens: int
    round_tokens: int
    rounds: int
    histories: list[HistoryCost] = field(default_factory=list)
    plain_ms: Spread | None = None
    longest_to_shortest: Ratio | None = None
    longest_to_shortest_cpu: Ratio | None = None
    peak_rss: int | None = None

    def to_json(self) -> dict[str, Any]:
        """All of it, JSON-able."""
        return asdict(self)


def measure_context(
    sessions: Sessions,
    text: NDArray[np.int64],
    histories: Sequence[int],
    *,
    tokens: int = 512,
    scratch: Path | None = None,
    on_progress: Progress = lambda text: None,
) -> ContextCosts:
    """Give a session per length in `histories` so many tokens of `text`, over and over, and let each generate `tokens` more.

    Trees that keep files get a directory below `scratch` (default: the system's place for such), which is removed in the end.
    Raises FocusError for a history that doesn't fit, UsageError for one that memory or disk has no room for, RunError.
    """
    model, options = sessions.model, sessions.model.options
    round_tokens = -(-ROUND // options.refocus_interval) * options.refocus_interval
    rounds = -(-tokens // round_tokens)
    lengths = sorted(set(histories))
    for length in lengths:
        most = length + (rounds + 1) * round_tokens
        check_fits(most, model.limits(most), model.recent_tokens)
    about = (options.wc_length, options.refocus_interval, options.kv_policy, model.block_size, model.recent_tokens)
    costs = ContextCosts(*about, len(text), round_tokens, rounds)
    with ExitStack() as stack:
        place = None
        if sessions.in_files:
            scratch = Path(scratch or tempfile.gettempdir())
            check_room(sum(lengths), model, shutil.disk_usage(scratch).free, f"the disk of {scratch}")
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mccore-bench-", dir=scratch)))
        else:
            check_room(sum(lengths), model, available_memory(), "memory")
        decoding = []
        for length in lengths:
            directory = None if place is None else place / str(length)
            session = sessions.new(directory)
            stack.callback(session.close)
            costs.histories.append(_ingest(session, text, length, directory, on_progress))
            decoding.append(_Decoding(session))
        _decode_by_turns(costs, decoding, _Plain(model, _part(text, 0, options.wc_length), round_tokens), on_progress)
    costs.peak_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return costs


# --- text -------------------------------------------------------------------------------------------------------------


def read_text(
    tokenizer: Tokenizer, corpus: str, files: Sequence[Path], tokens: int, cache_dir: Path | None = None
) -> NDArray[np.int64]:
    """About `tokens` tokens [n] of the documents of a corpus, or of files, each with its <|bos|>; fewer where there are no more.

    Raises DataError for a corpus or file that isn't there, or is empty.
    """
    parts: list[NDArray[Any]] = []
    total, most = 0, min(tokens, _DISTINCT)
    for texts in _by_size(_file_texts(files) if files else _corpus_texts(corpus, cache_dir), 2**20):
        ids, _ = tokenizer.encode_batch_to_array(texts, bos=True)
        parts.append(ids)
        total += len(ids)
        if total >= most:
            break
    if not total:
        raise DataError("there is no text to make a history of", hint="give files with --text")
    return np.concatenate(parts)[:most].astype(np.int64)


def _corpus_texts(corpus: str, cache_dir: Path | None) -> Iterator[str]:
    for document in open_corpus(corpus, cache_dir=cache_dir).documents("train"):
        yield document.text


def _file_texts(paths: Sequence[Path]) -> Iterator[str]:
    for file in find_text_files(paths)[0]:
        for document in read_documents(file.path, "text"):
            yield "".join(document)


def _by_size(texts: Iterable[str], characters: int) -> Iterator[list[str]]:
    batch: list[str] = []
    length = 0
    for text in texts:
        batch.append(text)
        length += len(text)
        if length >= characters:
            yield batch
            batch, length = [], 0
    if batch:
        yield batch


def _part(text: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
    """Tokens `[start, stop)` of the text over and over."""
    return np.take(text, np.arange(start, stop), mode="wrap")


# --- room -------------------------------------------------------------------------------------------------------------


def tree_bytes(model: SessionModel, tokens: int) -> int:
    """Bytes of the rows of a tree of so many tokens."""
    levels = model.encoder.spec().levels
    return sum(
        tokens // model.block_size**level * int(np.prod(rows.shape, dtype=np.int64)) * np.dtype(rows.dtype).itemsize
        for level, rows in enumerate(levels)
    )


def check_room(tokens: int, model: SessionModel, free: int | None, what: str) -> None:
    """Raise UsageError where trees of so many tokens have no room."""
    needed = round(_SPARE * tree_bytes(model, tokens))
    if free is not None and needed > free:
        raise UsageError(
            f"trees of {tokens:,} tokens take {size(needed)}, and {what} has {size(free)} left",
            hint="measure shorter histories, or another --tree, or name another place with --scratch",
        )


def available_memory() -> int | None:
    """Bytes that processes can still get; None where the system doesn't tell."""
    return _status_bytes(Path("/proc/meminfo"), "MemAvailable:")


def _status_bytes(path: Path, name: str) -> int | None:
    try:
        line = next(line for line in path.read_text().splitlines() if line.startswith(name))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024


def _reset_peak() -> int | None:
    """Begin to measure the highest resident memory anew, and give what is resident now. None where that can't be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux, since 4.0
    except OSError:
        return None
    return _status_bytes(Path("/proc/self/status"), "VmRSS:")


# --- measuring --------------------------------------------------------------------------------------------------------


def _ingest(
    session: Session, text: NDArray[np.int64], tokens: int, directory: Path | None, on_progress: Progress
) -> HistoryCost:
    before = _reset_peak()
    began = time.perf_counter()
    for start in range(0, tokens, APPEND):
        on_progress(f"history of {tokens:,}: {start:,} tokens read")
        session.append(_part(text, start, min(tokens, start + APPEND)))
    session.flush()
    ingested = time.perf_counter()
    int(session.read().argmax())
    ended = time.perf_counter()
    peak = None if before is None else _status_bytes(Path("/proc/self/status"), "VmHWM:")
    held = tree_bytes(session.model, tokens) if directory is None else disk_bytes(directory)
    return HistoryCost(
        tokens=tokens,
        max_lod=int(session.focus.cut.level.max()),
        ingest_seconds=ingested - began,
        ingest_tokens_per_second=tokens / (ingested - began),
        first_token_seconds=ended - ingested,
        tree_bytes=held,
        tree_bytes_per_token=held / tokens,
        index_bytes=session.index.nbytes,
        cache_bytes=session.working_context.nbytes,
        before_rss=before,
        longest_rss=peak,
    )


class _Decoding:
    """A session that generates, the likeliest token each time."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.token = int(session.read().argmax())
        self.seconds: list[float] = []  # of each token
        self.controller: list[float] = []  # of each refocus
        self.with_refocus: list[float] = []  # of each token that needed one
        self.entries = session.working_context.entries_read

    def begin(self) -> None:
        """A round begins."""

    def step(self) -> None:
        session, refocuses = self.session, self.session.refocuses
        began = time.perf_counter()
        session.append_token(self.token)
        self.token = int(session.read().argmax())
        self.seconds.append(time.perf_counter() - began)
        if session.refocuses > refocuses:
            self.controller.append(session.recent[-1].duration)
            self.with_refocus.append(self.seconds[-1])

    def forget(self) -> None:
        """Measure from here on."""
        self.entries = self.session.working_context.entries_read
        for each in (self.seconds, self.controller, self.with_refocus):
            each.clear()


class _Plain:
    """The plain model with keys and values of as many tokens as a Working Context has entries, or up to a round fewer."""

    def __init__(self, model: SessionModel, ids: ArrayLike, round_tokens: int) -> None:
        self.gpt, self.round_tokens = model.gpt, round_tokens
        self.capacity = model.options.wc_length
        self.cache = model.gpt.new_cache(1, self.capacity)
        self.token = 0
        self.seconds: list[float] = []
        self._read(torch.as_tensor(np.asarray(ids), device=model.gpt.device).unsqueeze(0))

    def begin(self) -> None:
        """A round begins: make room for it."""
        self.cache.truncate(max(0, self.capacity - self.round_tokens))

    def step(self) -> None:
        began = time.perf_counter()
        self._read(torch.tensor([[self.token]], device=self.gpt.device))
        self.seconds.append(time.perf_counter() - began)

    def forget(self) -> None:
        """Measure from here on."""
        self.seconds.clear()

    @torch.inference_mode()
    def _read(self, tokens: torch.Tensor) -> None:
        positions = torch.arange(self.cache.length, self.cache.length + tokens.size(1), device=tokens.device)
        hidden = self.gpt.hidden(tokens, positions=positions, cache=self.cache)
        self.token = int(self.gpt.logits(hidden[:, -1])[0].argmax())


def _decode_by_turns(costs: ContextCosts, sessions: Sequence[_Decoding], plain: _Plain, on_progress: Progress) -> None:
    subjects: list[_Decoding | _Plain] = [*sessions, plain]
    cpu = np.zeros((len(subjects), costs.rounds + 1))  # seconds of each round
    for number in range(costs.rounds + 1):
        on_progress(f"generating: round {number} of {costs.rounds}")
        for place in range(len(subjects)):
            at = (place + number) % len(subjects)
            subjects[at].begin()
            began = time.process_time()
            for _ in range(costs.round_tokens):
                subjects[at].step()
            cpu[at, number] = time.process_time() - began
        if number == 0:  # the first round warms up
            for subject in subjects:
                subject.forget()
    wall = np.array([np.reshape(each.seconds, (costs.rounds, -1)).sum(axis=1) for each in subjects])
    cpu = cpu[:, 1:]
    for at, (cost, session) in enumerate(zip(costs.histories, sessions, strict=True)):
        cost.token_ms = _milliseconds(session.seconds)
        cost.refocuses = len(session.controller)
        cost.controller_ms = _milliseconds(session.controller)
        cost.refocus_token_ms = _milliseconds(session.with_refocus)
        cost.entries_per_token = (session.session.working_context.entries_read - session.entries) / len(session.seconds)
        cost.to_plain, cost.to_plain_cpu = Ratio.of(wall[at], wall[-1]), Ratio.of(cpu[at], cpu[-1])
    costs.plain_ms = _milliseconds(plain.seconds)
    if len(sessions) > 1:
        costs.longest_to_shortest = Ratio.of(wall[-2], wall[0])
        costs.longest_to_shortest_cpu = Ratio.of(cpu[-2], cpu[0])


def _milliseconds(seconds: Sequence[float]) -> Spread | None:
    return Spread.of([1e3 * each for each in seconds])
