"""The stages of a run: each a function from a runtime to its results, and each may be run again after it was cut short.

Those that need torch import what they need themselves, so that the others start at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from mccore.config import STAGES, TRAINING_STAGES, StageName
from mccore.data.corpora import Document
from mccore.data.tokenizer import Tokenizer
from mccore.data.tokenizer_eval import Encodes, evaluate_tokenizer, present_vocabularies
from mccore.errors import DataError, MccoreError
from mccore.rundir import list_runs
from mccore.runtime import Runtime

if TYPE_CHECKING:
    from mccore.megacontext.session import Session

Results = dict[str, Any]
Stage = Callable[[Runtime], Results]

# These compute with a model; the others run without torch.
MODEL_STAGES: frozenset[StageName] = frozenset((*TRAINING_STAGES, "base_eval", "chat_eval_mid", "chat_eval_sft"))

TOKENIZER_EVAL_DOCUMENTS = 200


# --- data and tokenizer ------------------------------------------------------------------------------------------------


def data(runtime: Runtime) -> Results:
    """Find the corpus and say what it is."""
    print(runtime.corpus.describe(), flush=True)
    return {"corpus": runtime.corpus.manifest(), "description": runtime.corpus.describe()}


def tokenizer(runtime: Runtime) -> Results:
    """Train the tokenizer on the training documents of the corpus."""
    config = runtime.config.tokenizer
    began = time.perf_counter()
    trained = Tokenizer.train(_tokenizer_texts(runtime), config.vocab_size)
    trained.save(runtime.run.tokenizer_dir)
    return {
        "vocab_size": trained.vocab_size,
        "fingerprint": trained.fingerprint,
        "seconds": time.perf_counter() - began,
    }


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


def tokenizer_eval(runtime: Runtime) -> Results:
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
    for stage in TRAINING_STAGES:
        if stage not in runtime.config.stages:
            continue
        began = time.perf_counter()
        store = runtime.store(stage, build=True)
        results[stage] = {"store": store.directory.name, "bytes": store.nbytes, "seconds": time.perf_counter() - began}
        results[stage] |= {split: runtime.rows(stage, split).report() for split in ("train", "val")}
    return results


# --- training ----------------------------------------------------------------------------------------------------------


def base(runtime: Runtime) -> Results:
    """Pretrain on the corpus."""
    from mccore.training import train_stage

    return train_stage(runtime)


def mid(runtime: Runtime) -> Results:
    """Train on conversations, every token of them, from the base model."""
    from mccore.training import train_stage

    return train_stage(runtime)


def sft(runtime: Runtime) -> Results:
    """Train on what the assistant says, from the midtrained model."""
    from mccore.training import train_stage

    return train_stage(runtime)


# --- evaluation and report ---------------------------------------------------------------------------------------------


def base_eval(runtime: Runtime) -> Results:
    """Bits per byte of the base model on the held-out documents, and samples."""
    from mccore.eval.samples import sample_completions
    from mccore.training import emit_validation

    gpt, meta = runtime.trained_gpt("base")
    config = runtime.config
    found = runtime.validate(gpt, runtime.rows("base", "val"), config.eval.bpb_tokens, config.base.micro_batch_rows)
    emit_validation(runtime, found, None)
    samples = sample_completions(
        runtime.engine(gpt), config.eval.sample_prompts, config.eval.sample_tokens, config.seed
    )
    for sample in samples:
        runtime.emit("sample", prompt=sample.prompt, text=sample.text)
    results: Results = {"step": meta.step, **found._asdict(), "samples": [sample._asdict() for sample in samples]}
    nets = runtime.trained_megacontext("base")
    if nets is not None:
        from mccore.focus_stage import focus_table

        try:
            results["context"] = focus_table(runtime, gpt, nets)
        except MccoreError as error:  # these shapes leave nothing to compare: no reason to end the run
            print(f"contexts aren't compared: {error.message}", flush=True)
            results["context_missing"] = error.message
    return results


def chat_eval_mid(runtime: Runtime) -> Results:
    """Held-out questions for the midtrained model."""
    return _chat_eval(runtime, "mid")


def chat_eval_sft(runtime: Runtime) -> Results:
    """Held-out questions for the fine-tuned model."""
    return _chat_eval(runtime, "sft")


def _chat_eval(runtime: Runtime, trained: StageName) -> Results:
    from mccore.eval.chat import evaluate_chat

    gpt, meta = runtime.trained_gpt(trained)
    new_session: Callable[[], Session] | None = None
    if runtime.config.megacontext.enabled:
        from mccore.sessions import context_model, session_in_memory

        model, trees = context_model(runtime.last_checkpoint(trained), gpt, meta, runtime.world.device)
        new_session = partial(session_in_memory, model, trees)
    found = evaluate_chat(runtime.engine(gpt), runtime.config.eval, seed=runtime.config.seed, new_session=new_session)
    runtime.emit("eval", metrics=found["metrics"], name="chat", details={"stage": trained})
    return {"step": meta.step, **found}


def report(runtime: Runtime) -> Results:
    """Write the report of the run."""
    from mccore.report import write_report

    write_report(runtime.run)
    return {"path": runtime.run.report_dir.relative_to(runtime.run.path).as_posix()}


STAGE_FUNCTIONS: dict[StageName, Stage] = {name: globals()[name] for name in STAGES}
