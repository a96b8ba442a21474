"""Stages that measure a trained model."""

from __future__ import annotations

import time
from dataclasses import replace

from mccore.config import StageName, stage_spec
from mccore.errors import MccoreError
from mccore.runtime.runtime import Runtime
from mccore.scaling.plan import stage_config
from mccore.stages.prepare import Results
from mccore.train.world import World


def evaluate_text(runtime: Runtime) -> Results:
    """Bits per byte of a model of text on the held-out documents, CORE, and samples."""
    from mccore.eval.samples import sample_completions
    from mccore.stages.benchmarks import ask_core
    from mccore.stages.observers.validation import emit_validation

    config, trained = runtime.config, _evaluated(runtime)
    opened = runtime.open_model(trained, aux_dtype=runtime.aux_dtype)
    gpt = opened.gpt
    rows = stage_config(config, trained).micro_batch_rows
    began = time.perf_counter()
    found = runtime.validate(gpt, runtime.rows(trained, "val"), config.eval.bpb_tokens, rows)
    core = ask_core(runtime, opened)
    if not runtime.world.is_main:
        return {}
    emit_validation(runtime, found, time.perf_counter() - began, None)
    samples = sample_completions(opened.engine(), config.eval.sample_prompts, config.eval.sample_tokens, config.seed)
    for sample in samples:
        runtime.emit("sample", prompt=sample.prompt, text=sample.text)
    results: Results = {
        "step": opened.meta.step,
        **found._asdict(),
        "samples": [sample._asdict() for sample in samples],
        **({"core": core} if core is not None else {}),
    }
    if opened.nets is not None:
        from mccore.stages.focus import focus_table

        try:
            alone = replace(runtime, world=World(device_name=runtime.world.device_name))  # the other ranks are done
            results["context"] = focus_table(alone, gpt, opened.nets)
        except MccoreError as error:  # these shapes leave nothing to compare: no reason to end the run
            runtime.emit("notice", about="contexts", message=f"they aren't compared: {error.message}")
            results["context_missing"] = error.message
    return results


def evaluate_chat(runtime: Runtime) -> Results:
    """Held-out questions for a chat model, and benchmarks."""
    from mccore.eval.chat import evaluate_chat as ask_questions
    from mccore.eval.runner import Runner
    from mccore.stages.benchmarks import ask_benchmarks

    trained = _evaluated(runtime)
    opened = runtime.open_model(trained)
    new_session = opened.sessions().new if runtime.config.megacontext.enabled else None
    began = time.perf_counter()
    batch_rows = runtime.config.eval.batch_rows
    runner = Runner(opened.engine(), batch_rows=batch_rows, new_session=new_session, ranks=runtime.world)
    found = ask_questions(runner, runtime.config.eval, seed=runtime.config.seed)
    seconds = round(time.perf_counter() - began, 6)
    if runtime.world.is_main:
        runtime.emit("eval", found["metrics"], name="chat", seconds=seconds, details={"stage": trained})
    benchmarks = ask_benchmarks(runtime, opened)
    return {
        "step": opened.meta.step,
        **found,
        **({"benchmarks": benchmarks} if benchmarks is not None else {}),
    }


def _evaluated(runtime: Runtime) -> StageName:
    """The training stage whose model this stage measures."""
    trained = stage_spec(runtime.stage).evaluates
    assert trained is not None
    return trained
