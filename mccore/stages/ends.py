"""How stages that train begin and end, whatever they train on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from mccore.errors import CheckpointError
from mccore.model.schedule import schedule
from mccore.runs.checkpoints import Meta, latest, step_of
from mccore.runtime.open import require_tokenizer
from mccore.runtime.runtime import Runtime, Training
from mccore.scaling.model import count_parameters
from mccore.scaling.plan import TrainPlan
from mccore.train.checkpoint.read import load_into
from mccore.train.devices import device_name, peak_flops
from mccore.train.loop import Cadence, LoopSettings, Progress

Results = dict[str, Any]


def starting_point(runtime: Runtime, training: Training) -> tuple[Progress, Mapping[str, Any]]:
    """Load the newest checkpoint of this stage, or the weights of the stage before, or leave the fresh initialisation. Returns
    where training goes on and all that the checkpoint keeps beside tensors, nothing where a stage begins."""
    weights = training.model.state_dict()
    own = latest(runtime.run.checkpoint_dir(runtime.stage))
    if own is not None:
        meta = load_into(own, weights, training.optimizer.state_dict())
        _check_tokenizer(runtime, meta)
        return Progress.from_json(meta.step, meta.tokens, meta.state), meta.state
    previous = runtime.previous_stage()
    if previous is not None:
        _check_tokenizer(runtime, load_into(runtime.last_checkpoint(previous), weights))
    return Progress(), {}


def _check_tokenizer(runtime: Runtime, meta: Meta) -> None:
    require_tokenizer(meta, runtime.tokenizer, runtime.run.tokenizer_dir)


def tell_start(runtime: Runtime, plan: TrainPlan, start: Progress) -> None:
    count, world = count_parameters(runtime.model_config), runtime.world
    told = {
        "parameters": count.total,
        "scaling_parameters": count.scaling,
        "dtype": str(runtime.dtype).removeprefix("torch."),
        "device": f"{world.size} x {device_name(world.device)}",
    }
    resumed = start.step or None
    runtime.emit(
        "stage.start", world_size=world.size, resumed_step=resumed, plan={**asdict(plan), **told}, durable=True
    )


def loop_settings(
    runtime: Runtime,
    plan: TrainPlan,
    start: Progress,
    flops: Callable[[Progress], float],
    *,
    count_syncs: bool = False,
) -> LoopSettings:
    """How the loop goes through this stage, from `start` on; `flops` are the model FLOPs up to a progress."""
    config, section = runtime.config, runtime.train_config
    return LoopSettings(
        steps=plan.steps,
        step_tokens=plan.batch_tokens,
        schedule=lambda step: schedule(step, plan.steps, section, config.optim),
        cadence=Cadence(section.eval_every_tokens, section.sample_every_tokens, section.checkpoint_every_tokens),
        seed=config.seed,
        start=start,
        flops=flops,
        peak_flops=peak_flops(runtime.world.device, runtime.dtype),
        count_syncs=count_syncs,
    )


def training_results(runtime: Runtime, plan: TrainPlan, progress: Progress, flops: float) -> Results:
    """What a training stage says of itself: means over about its last ten steps, so that a resumed one says the same."""
    return {
        "step": progress.step,
        "steps": plan.steps,
        "tokens": progress.tokens,
        "loss": progress.token_loss if runtime.config.megacontext.enabled else progress.loss,
        "objective_loss": progress.loss,
        "seconds": progress.seconds,
        "tokens_per_second": progress.tokens / progress.seconds if progress.seconds else None,
        "flops": flops,
        "parameters": asdict(count_parameters(runtime.model_config)),
    }


def check_saved(runtime: Runtime, step: int) -> None:
    """Raise CheckpointError unless this stage's newest complete checkpoint is of that step: what a stage claims is there."""
    found = latest(runtime.run.checkpoint_dir(runtime.stage))
    if found is None or step_of(found) != step:
        raise CheckpointError(
            f"{runtime.stage} reached step {step}, and its newest complete checkpoint is {found.name if found else 'none'}",
            hint="see that nothing else writes into the run, then go on with `mccore run --resume`",
        )


def fit_lookup_of(runtime: Runtime) -> None:
    """Fit how much sessions of the model that was trained may look up, where they are to."""
    config = runtime.config.megacontext
    if not config.enabled or not config.search.lookup:
        return
    from mccore.megacontext.focus.state import FocusError
    from mccore.stages.lookup import fit_lookup

    began = time.perf_counter()
    opened = runtime.open_model(runtime.stage, aux_dtype=runtime.aux_dtype)

    def progress(done: int, total: int) -> None:
        runtime.progress(done, total, "documents looked up")

    try:
        found = fit_lookup(opened, runtime.corpus, progress)
    except FocusError as error:  # these shapes allow no session: no reason to end the run
        runtime.emit("notice", about="lookup", message=f"not fitted: {error.message}")
        return
    if found is None:
        message = "not fitted: no validation document that is set apart for it is long enough"
    else:
        message = (
            f"fitted to {found['tokens']:,} tokens of {found['documents']} documents in {time.perf_counter() - began:.1f} s: "
            f"{found['nll']:.4f} -> {found['nll_with_lookup']:.4f} nats per token there"
        )
    runtime.emit("notice", about="lookup", message=message)
