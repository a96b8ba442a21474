"""Stages of a run that train: data, model and plan put together around the one loop."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch

from mccore.config import ChatTrainConfig
from mccore.data.batches.loader import Batch, Loader, StepShape, stack_rows
from mccore.data.batches.rows import Position, Rows
from mccore.errors import ConfigError
from mccore.host.files import write_atomic
from mccore.host.json_file import read_object
from mccore.runs.requests import take_evaluation_request
from mccore.runtime.runtime import Runtime, Stopped, Training
from mccore.scaling.plan import TrainPlan, train_plan, training_flops
from mccore.stages.ends import (
    Results,
    check_saved,
    fit_lookup_of,
    loop_settings,
    starting_point,
    tell_start,
    training_results,
)
from mccore.stages.observers.checkpoints import Checkpoints
from mccore.stages.observers.focus import FocusCheck
from mccore.stages.observers.observer import Observers
from mccore.stages.observers.resources import Resources
from mccore.stages.observers.samples import Samples
from mccore.stages.observers.steps import Steps
from mccore.stages.observers.timings import StepTimings
from mccore.stages.observers.validation import Validation
from mccore.stages.sources import losses_by_source
from mccore.train.devices import device_name
from mccore.train.loop import train
from mccore.train.probe import choose_rows, free_memory, measure_probes

_MICRO_ROWS, _RANKS = "micro_rows", "ranks"  # in a checkpoint's state


def train_stage(runtime: Runtime) -> Results:
    """A training stage: data, model, plan, the loop, a last evaluation."""
    config, world = runtime.config, runtime.world
    rows = runtime.rows(runtime.stage, "train")
    plan = _plan(runtime, rows)
    training = runtime.training()
    start, state = starting_point(runtime, training)
    world.broadcast([*training.model.parameters(), *training.optimizer.state_dict().values()])
    tell_start(runtime, plan, start)
    micro_rows = _micro_rows(runtime, training, rows, plan, state)
    flops = training_flops(config.model_copy(update={"model": runtime.model_config}), plan.steps, plan.batch_tokens)
    steps, validation = Steps(runtime, training, plan), Validation(runtime, training)
    checkpoints = Checkpoints(runtime, training, {_MICRO_ROWS: micro_rows, _RANKS: world.size})
    watching = (StepTimings(runtime, training), steps, Resources(runtime), validation, FocusCheck(runtime, training),
                Samples(runtime, training), checkpoints)  # fmt: skip
    observers = Observers(
        watching, runtime.stop_requested, lambda: world.is_main and take_evaluation_request(runtime.run)
    )
    count_syncs = training.nets is not None and not runtime.compiled
    settings = loop_settings(runtime, plan, start, lambda progress: flops[progress.step], count_syncs=count_syncs)
    shape = StepShape(plan.rows, micro_rows, world.rank, world.size)
    with Loader(rows, shape, position=start.position, pin=world.device.type == "cuda") as loader, checkpoints:
        progress, finished = train(
            optimizer=training.optimizer,
            loader=loader,
            objective=training.objective,
            hooks=observers,
            world=world,
            settings=settings,
        )
    if world.is_main and finished:
        check_saved(runtime, progress.step)
    results = training_results(runtime, plan, progress, flops[progress.step]) | {
        "epoch": rows.passes(progress.position)
    }
    if not finished:
        raise Stopped(results)
    if world.is_main:
        _remember_speed(runtime, results)
        fit_lookup_of(runtime)
    observers.evaluate(progress)
    observers.sample(progress)
    results |= validation.results()
    if isinstance(runtime.train_config, ChatTrainConfig):
        results["val_by_source"] = losses_by_source(runtime, training.gpt)
    return results


def _plan(runtime: Runtime, rows: Rows) -> TrainPlan:
    """How many steps of how many rows. Raises ConfigError when the rows don't divide among the ranks."""
    section = runtime.train_config
    tokens = 0
    if isinstance(section, ChatTrainConfig) and not section.tokens:
        batch_rows = section.batch_tokens // runtime.config.model.max_seq_len
        # Up to whole steps, so that the last conversations of the last epoch are seen too.
        tokens = math.ceil(rows.count() * section.epochs / batch_rows) * section.batch_tokens
    plan = train_plan(runtime.config, runtime.stage, tokens)
    if plan.rows % runtime.world.size:
        raise ConfigError(
            f"{runtime.stage}.batch_tokens={plan.batch_tokens} is {plan.rows} sequences, which don't divide among "
            f"{runtime.world.size} ranks",
            hint=f"choose a number of ranks that divides {plan.rows}",
        )
    return plan


def _micro_rows(runtime: Runtime, training: Training, rows: Rows, plan: TrainPlan, state: Mapping[str, Any]) -> int:
    """Sequences of one forward pass per rank: as configured, or fewer where MegaContext's passes need more memory than there
    is. Tokens per step stay the same.

    A resumed run keeps the number of its checkpoint's `state`: memory is another one each time, and another number of rows adds
    up in another order. Only on another number of ranks it is measured again.
    """
    configured, world = runtime.train_config.micro_batch_rows, runtime.world
    probes = training.objective.probes()
    if not probes:
        return configured
    if state.get(_RANKS) == world.size and isinstance(kept := state.get(_MICRO_ROWS), int):
        return kept
    inputs, targets = stack_rows(rows, [row for row, _ in islice(rows.walk(Position()), 2)])
    batch = Batch(inputs, targets, float((targets >= 0).sum()), progress=0.0).to(world.device)
    footprint = measure_probes(probes, batch, training.model)
    hardware = runtime.config.hardware
    found = choose_rows(footprint, free_memory(world.device, hardware.nproc), plan.rows // world.size, configured)
    chosen = torch.tensor([found], device=world.device)
    world.broadcast([chosen])  # ranks that split a step alike can also share their running scales
    if world.is_main:
        each = f"{footprint.per_row / 2**20:,.0f} MiB each, measured"
        runtime.emit(
            "notice",
            about="micro-batch",
            message=f"{int(chosen)} of {configured} configured rows per forward pass: {each}",
        )
    return int(chosen)


def _remember_speed(runtime: Runtime, results: Mapping[str, Any]) -> None:
    """Keep what this machine reached, for estimates before later runs: `machine.json` in the cache directory."""
    if not results["seconds"]:
        return
    path = runtime.cache / "machine.json"
    try:
        known = read_object(path)
        machines = known["devices"] if known.get("version") == 1 else {}
    except (OSError, ValueError, KeyError, AttributeError):
        machines = {}  # nothing known yet, or nothing readable
    machines[device_name(runtime.world.device)] = {
        "flops_per_second": results["flops"] / results["seconds"] / runtime.world.size,
        "ranks": runtime.world.size,
        "dtype": str(runtime.dtype).removeprefix("torch."),
        "n_embd": runtime.model_config.n_embd,
        "measured": time.time(),
    }
    write_atomic(path, json.dumps({"version": 1, "devices": machines}, indent=1) + "\n")
