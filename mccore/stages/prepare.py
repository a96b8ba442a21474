"""Stages before training: the corpus, the tokenizer, the token files."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from mccore.config import TRAINING_STAGES, stage_spec
from mccore.config.stages import ENCODED_STAGES, evaluations
from mccore.data.corpora.document import Corpus, Document, Split
from mccore.data.tokenizer.evaluate import Encodes, evaluate_tokenizer, present_vocabularies
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import DataError, Interrupted, MccoreError
from mccore.runs.rundir import list_runs
from mccore.runtime.runtime import Runtime
from mccore.runtime.sessions import check_sessions

Results = dict[str, Any]

TOKENIZER_EVAL_DOCUMENTS = 200
_PACKED = 3  # characters of text in a byte of a compressed shard, roughly: what is missing then comes when it is read


# --- data and tokenizer ------------------------------------------------------------------------------------------------


def find_corpus(runtime: Runtime) -> Results:
    """Find the corpus and say what it is; fetch what the tokenizer needs of one that is elsewhere."""
    config = runtime.config
    if config.megacontext.enabled and any(spec.name in config.stages for spec in evaluations(chat=True)):
        check_sessions(config.megacontext)  # in which the chat model will be asked, hours from now
    corpus = runtime.corpus
    corpus.fetch(
        lambda done, total: runtime.progress(done, total, "bytes"), size=runtime.config.tokenizer.max_chars // _PACKED
    )
    runtime.emit("notice", about="corpus", message=corpus.describe())
    if any(stage in runtime.config.stages for stage in TRAINING_STAGES if not stage_spec(stage).chat):
        _check_size(corpus, runtime.config.model.max_seq_len)
    conversations = runtime.check_conversations()
    for name, found in conversations.items():
        runtime.emit("notice", about=name, message=found.describe())
    return {
        "corpus": corpus.manifest(),
        "description": corpus.describe(),
        **(
            {"conversations": {name: found.to_json() for name, found in conversations.items()}} if conversations else {}
        ),
    }


def _check_size(corpus: Corpus, length: int) -> None:
    """Both splits must be able to fill one row: a token is at least a byte. Said now, before hours of other stages."""
    splits: tuple[Split, ...] = ("train", "val")
    for split in splits:
        held = 0
        for document in corpus.documents(split):
            held += len(document.text.encode("utf-8", "replace")) + 1
            if held >= length + 1:
                break
        else:
            raise DataError(
                f"the {split} split of {corpus.name} holds {held:,} bytes, less than one sequence of {length:,} tokens",
                hint="give more text, or a smaller model.max_seq_len",
            )


def train_tokenizer(runtime: Runtime) -> Results:
    """Train the tokenizer on the training documents of the corpus, while what the corpus has beyond them is fetched."""
    config = runtime.config.tokenizer
    began = time.perf_counter()
    if config.source:
        return _take_tokenizer(runtime)
    with _fetching_ahead(runtime.corpus):
        trained = Tokenizer.train(_tokenizer_texts(runtime), config.vocab_size)
    trained.save(runtime.run.tokenizer_dir)
    return {
        "vocab_size": trained.vocab_size,
        "fingerprint": trained.fingerprint,
        "seconds": time.perf_counter() - began,
    }


def _take_tokenizer(runtime: Runtime) -> Results:
    """Take the tokenizer that the configuration names. Raises DataError where there is none or it doesn't fit the model."""
    config = runtime.config.tokenizer
    taken = Tokenizer.load(Path(config.source))
    if taken.vocab_size > config.vocab_size:
        raise DataError(
            f"the tokenizer in {config.source} has {taken.vocab_size:,} ids, and the model has room for {config.vocab_size:,}",
            hint=f"start a run with --set tokenizer.vocab_size={taken.vocab_size}",
        )
    taken.save(runtime.run.tokenizer_dir)
    return {"vocab_size": taken.vocab_size, "fingerprint": taken.fingerprint, "source": config.source}


@contextmanager
def _fetching_ahead(corpus: Corpus) -> Iterator[None]:
    """Let the rest of a corpus come in the background. What hasn't come at the end goes on when it is encoded, from the byte
    it stopped at; what fails is tried again then, and told."""
    ended = threading.Event()

    def stop(done: int, total: int) -> None:
        if ended.is_set():
            raise Interrupted("the stage is done")

    def fetch() -> None:
        with suppress(MccoreError):
            corpus.fetch(stop)

    thread = threading.Thread(target=fetch, name="fetching-ahead", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _tokenizer_texts(runtime: Runtime) -> Iterator[str]:
    config = runtime.config.tokenizer
    chars = 0
    for done, document in enumerate(runtime.corpus.documents("train")):
        if chars >= config.max_chars:
            return
        text = document.text[: min(config.doc_max_chars, config.max_chars - chars)]
        chars += len(text)
        if done % 256 == 0:
            runtime.progress(chars, None, "characters")
        yield text


def measure_tokenizer(runtime: Runtime) -> Results:
    """Measure how well the tokenizer compresses fixed texts and the corpus."""

    def texts(documents: Iterator[Document]) -> list[str]:
        return [document.text for document in islice(documents, TOKENIZER_EVAL_DOCUMENTS)]

    samples = {f"corpus {split}": texts(runtime.corpus.documents(split)) for split in ("train", "val")}
    others = present_vocabularies(runtime.cache / "vocabularies") | _previous_tokenizer(runtime)
    return evaluate_tokenizer(runtime.tokenizer, samples, others)


def _previous_tokenizer(runtime: Runtime) -> dict[str, Encodes]:
    """The tokenizer of the last run before this one that has another, under the run's name; empty where there is none."""
    own = runtime.tokenizer.fingerprint
    before = [run for run in list_runs(runtime.run.path.parent) if run.started < runtime.run.started]
    for run in sorted(before, key=lambda run: run.started, reverse=True):
        try:
            previous = Tokenizer.load(run.tokenizer_dir)
        except DataError:  # it never got that far, or its tokenizer is damaged: nothing to compare with
            continue
        if previous.fingerprint != own:
            return {run.name: previous}
    return {}


def encode(runtime: Runtime) -> Results:
    """Turn the corpus, and the conversations of the chat stages, into token files."""
    results: Results = {}
    for stage in ENCODED_STAGES:
        if stage not in runtime.config.stages:
            continue
        began = time.perf_counter()
        store = runtime.store(stage, build=True)
        results[stage] = {"store": store.directory.name, "bytes": store.nbytes, "seconds": time.perf_counter() - began}
        results[stage] |= {split: runtime.rows(stage, split).report() for split in ("train", "val")}
    return results
