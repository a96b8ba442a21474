"""Stages that measure a trained model."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from mccore.config import StageName, stage_spec
from mccore.errors import MccoreError
from mccore.runtime.runtime import Runtime
from mccore.scaling.plan import stage_config
from mccore.stages.prepare import Results

if TYPE_CHECKING:
    from mccore.megacontext.sessions.session import Session


# --- evaluation and report ---------------------------------------------------------------------------------------------


def evaluate_text(runtime: Runtime) -> Results:
    """Bits per byte of a model of text on the held-out documents, and samples."""
    from mccore.eval.samples import sample_completions
    from mccore.stages.observers.validation import emit_validation

    config, trained = runtime.config, _evaluated(runtime)
    gpt, meta = runtime.trained_gpt(trained)
    rows = stage_config(config, trained).micro_batch_rows
    began = time.perf_counter()
    found = runtime.validate(gpt, runtime.rows(trained, "val"), config.eval.bpb_tokens, rows)
    emit_validation(runtime, found, time.perf_counter() - began, None)
    samples = sample_completions(
        runtime.engine(gpt), config.eval.sample_prompts, config.eval.sample_tokens, config.seed
    )
    for sample in samples:
        runtime.emit("sample", prompt=sample.prompt, text=sample.text)
    results: Results = {"step": meta.step, **found._asdict(), "samples": [sample._asdict() for sample in samples]}
    nets = runtime.trained_megacontext(trained)
    if nets is not None:
        from mccore.stages.focus import focus_table

        try:
            results["context"] = focus_table(runtime, gpt, nets)
        except MccoreError as error:  # these shapes leave nothing to compare: no reason to end the run
            runtime.emit("notice", about="contexts", message=f"they aren't compared: {error.message}")
            results["context_missing"] = error.message
    return results


def evaluate_chat(runtime: Runtime) -> Results:
    """Held-out questions for a chat model."""
    from mccore.eval.chat import evaluate_chat as ask_questions

    trained = _evaluated(runtime)
    gpt, meta = runtime.trained_gpt(trained)
    new_session: Callable[[], Session] | None = None
    if runtime.config.megacontext.enabled:
        from mccore.runtime.sessions import context_model, session_in_memory

        model, trees = context_model(runtime.last_checkpoint(trained), gpt, meta, runtime.world.device)
        new_session = partial(session_in_memory, model, trees)
    began = time.perf_counter()
    found = ask_questions(runtime.engine(gpt), runtime.config.eval, seed=runtime.config.seed, new_session=new_session)
    seconds = round(time.perf_counter() - began, 6)
    runtime.emit("eval", found["metrics"], name="chat", seconds=seconds, details={"stage": trained})
    return {"step": meta.step, **found}


def _evaluated(runtime: Runtime) -> StageName:
    """The training stage whose model this stage measures."""
    trained = stage_spec(runtime.stage).evaluates
    assert trained is not None
    return trained
