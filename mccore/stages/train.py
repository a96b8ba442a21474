"""Stages of a run that train: data, model and plan put together around the one loop."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mccore.config import ChatTrainConfig, stage_spec
from mccore.config.stages import TEXT_STAGE
from mccore.data.batches.loader import Batch, Loader, stack_rows
from mccore.data.batches.rows import Position, Rows
from mccore.data.tokenizer.chat_format import render_for_completion
from mccore.data.tokenizer.tokenizer import StreamDecoder
from mccore.errors import ConfigError, MccoreError, RunError
from mccore.eval.bits_per_byte import BitsPerByte
from mccore.eval.samples import sample_completions
from mccore.host.files import write_atomic
from mccore.model.schedule import schedule
from mccore.runs.checkpoints import Meta, latest
from mccore.runtime.runtime import Runtime, Stopped, Training
from mccore.scaling.model import count_parameters
from mccore.scaling.plan import TrainPlan, train_plan, training_flops
from mccore.stages.focus import CHECK_ROWS, check_focus, validation_rows
from mccore.tasks.catalogue import mix_conversations
from mccore.train.checkpoint.read import load_into
from mccore.train.checkpoint.write import CheckpointWriter, Saved
from mccore.train.devices import device_name, peak_flops
from mccore.train.loop import Cadence, Progress, train
from mccore.train.probe import choose_rows, free_memory, measure_probes

Results = dict[str, Any]

CHAT_SAMPLES = 4
TIMED_EVERY = 50  # steps with MegaContext between two whose parts are timed
_LOG_SECONDS = 2.0
_MICRO_ROWS, _RANKS = "micro_rows", "ranks"  # in a checkpoint's state


def train_stage(runtime: Runtime) -> Results:
    """A training stage: data, model, plan, the loop, a last evaluation."""
    config, world, section = runtime.config, runtime.world, runtime.train_config
    rows = runtime.rows(runtime.stage, "train")
    plan = _plan(runtime, rows)
    training = runtime.training()
    writer = CheckpointWriter(
        runtime.run.checkpoint_dir(runtime.stage),
        keep_last=config.checkpoint.keep_last,
        on_saved=lambda saved: _tell_saved(runtime, saved),
    )
    start, state = _starting_point(runtime, training)
    world.broadcast([*training.model.parameters(), *training.optimizer.state_dict().values()])
    runtime.emit(
        "stage.start",
        world_size=world.size,
        resumed_step=start.step or None,
        plan={**asdict(plan), "parameters": count_parameters(runtime.model_config).total},
        durable=True,
    )
    if world.is_main:
        print(_describe(runtime, plan, start), flush=True)
    micro_rows = _micro_rows(runtime, training, rows, plan, state)
    flops = training_flops(config.model_copy(update={"model": runtime.model_config}), plan.steps, plan.batch_tokens)
    hooks = _Hooks(runtime, training, writer, plan, {_MICRO_ROWS: micro_rows, _RANKS: world.size})
    loader = Loader(
        rows,
        step_rows=plan.rows,
        micro_rows=micro_rows,
        rank=world.rank,
        world_size=world.size,
        position=start.position,
        pin=world.device.type == "cuda",
    )
    with loader, writer:
        progress, finished = train(
            optimizer=training.optimizer,
            loader=loader,
            objective=training.objective,
            schedule=lambda step: schedule(step, plan.steps, section, config.optim),
            steps=plan.steps,
            step_tokens=plan.batch_tokens,
            hooks=hooks,
            world=world,
            cadence=Cadence(section.eval_every_tokens, section.sample_every_tokens, section.checkpoint_every_tokens),
            seed=config.seed,
            start=start,
            flops=lambda steps: flops[steps],
            peak_flops=peak_flops(world.device, runtime.dtype),
            count_syncs=training.nets is not None and not runtime.compiled,
        )
    results: Results = {
        "step": progress.step,
        "steps": plan.steps,
        "tokens": progress.tokens,
        "loss": hooks.token_loss if hooks.token_loss is not None else progress.loss,
        "objective_loss": progress.loss,
        "seconds": progress.seconds,
        "tokens_per_second": progress.tokens / progress.seconds if progress.seconds else None,
        "flops": flops[progress.step],
        "parameters": asdict(count_parameters(runtime.model_config)),
        "epoch": rows.passes(progress.position),
    }
    if not finished:
        raise Stopped(results)
    if world.is_main:
        _remember_speed(runtime, results)
    validation = hooks.evaluate(progress)
    hooks.sample(progress)
    return results | {"val_loss": validation.val_loss, "val_bpb": validation.val_bpb}


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
        print(
            f"{int(chosen)} of {configured} configured rows per forward pass: {footprint.per_row / 2**20:,.0f} MiB each, "
            f"measured",
            flush=True,
        )
    return int(chosen)


def _starting_point(runtime: Runtime, training: Training) -> tuple[Progress, Mapping[str, Any]]:
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
    if meta.tokenizer != runtime.tokenizer.fingerprint:
        raise RunError(
            f"the {meta.stage} checkpoint was trained with another tokenizer than {runtime.run.tokenizer_dir} holds",
            hint="a run keeps one tokenizer; start a new run to change it",
        )


class _Hooks:
    """What the loop tells: events, a line in the log, evaluations, samples and checkpoints."""

    def __init__(
        self,
        runtime: Runtime,
        training: Training,
        writer: CheckpointWriter,
        plan: TrainPlan,
        kept: Mapping[str, Any],
    ) -> None:
        self._kept = kept  # beside the progress, in every checkpoint
        self.runtime = runtime
        self.training = training
        self.writer = writer
        self.plan = plan
        self._val_rows: Rows | None = None
        self._focus_rows: tuple[torch.Tensor, NDArray[np.int64]] | None = None
        self._logged = 0.0
        self.token_loss: float | None = None  # the language model's own, of the last step, where it is told apart

    def on_step(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """Record a step."""
        if not self.runtime.world.is_main:
            return
        metrics = {**metrics, **self._describe_step(progress)}
        self.token_loss = metrics.get("token_loss")
        self.runtime.emit("step", step=progress.step, tokens=progress.tokens, metrics=metrics, steps=self.plan.steps)
        now = time.monotonic()
        if now - self._logged >= _LOG_SECONDS or progress.step == self.plan.steps:
            self._logged = now
            loss = metrics.get("token_loss", metrics["loss"])
            print(
                f"step {progress.step}/{self.plan.steps}  loss {loss:.4f}  norm {metrics['grad_norm']:.3f}  "
                f"lr x{metrics['lr_multiplier']:.3f}  {metrics['tokens_per_second']:,.0f} tok/s  "
                f"epoch {metrics['epoch']:.2f}",
                flush=True,
            )

    def _describe_step(self, progress: Progress) -> Mapping[str, float]:
        """What the objective knows of the step before its passes, and on some steps an event of what these took."""
        objective, step = self.training.objective, progress.step - 1
        times = objective.timings.end()
        if times:
            self.runtime.emit("mc_timing", step=progress.step, tokens=progress.tokens, **times, synchronised=True)
        if (progress.step + 1) % TIMED_EVERY == 0:
            objective.timings.begin(synchronised=True)
        return objective.describe(step, step / self.plan.steps, self.plan.rows)

    def evaluate(self, progress: Progress) -> BitsPerByte:
        """Loss on the validation rows, on all ranks together."""
        runtime, section = self.runtime, self.runtime.train_config
        if self._val_rows is None:
            self._val_rows = runtime.rows(runtime.stage, "val")
            if self.training.nets is not None and TEXT_STAGE in runtime.config.stages:
                self._focus_rows = validation_rows(runtime, CHECK_ROWS)
        began = time.perf_counter()
        found = runtime.validate(self.training.gpt, self._val_rows, section.eval_tokens, section.micro_batch_rows)
        if runtime.world.is_main:
            emit_validation(runtime, found, time.perf_counter() - began, progress)
            if self.training.nets is not None and self._focus_rows is not None:
                try:
                    check_focus(runtime, self.training.gpt, self.training.nets, *self._focus_rows, progress)
                except MccoreError as error:  # shapes that can't be streamed are no reason to lose the training
                    print(f"focus isn't checked: {error.message}", flush=True)
                    self._focus_rows = None
        return found

    def sample(self, progress: Progress) -> None:
        """Text of the model as it is."""
        if self.runtime.world.is_main:
            for prompt, text in _samples(self.runtime, self.training):
                self.runtime.emit("sample", step=progress.step, tokens=progress.tokens, prompt=prompt, text=text)

    def save(self, progress: Progress) -> None:
        """Begin a checkpoint."""
        if not self.runtime.world.is_main:
            return
        config = self.runtime.config.model_copy(update={"model": self.runtime.model_config})
        meta = Meta(
            stage=self.runtime.stage,
            step=progress.step,
            tokens=progress.tokens,
            config=config.model_dump(mode="json"),
            tokenizer=self.runtime.tokenizer.fingerprint,
            state={**progress.to_json(), **self._kept},
        )
        self.writer.save(self.training.model.state_dict(), self.training.optimizer.state_dict(), meta)

    def stop_requested(self) -> bool:
        """Whether this rank was asked to end."""
        return self.runtime.stop_requested()


def emit_validation(runtime: Runtime, found: BitsPerByte, seconds: float, progress: Progress | None) -> None:
    metrics = {
        "val_loss": found.val_loss,
        "val_bpb": found.val_bpb,
        "bytes_per_token": found.bytes / found.tokens,
    }
    details = {"tokens": found.tokens, "bytes": found.bytes}
    step, tokens = (progress.step, progress.tokens) if progress else (None, None)
    at = {"step": step, "tokens": tokens, "seconds": round(seconds, 6)}
    runtime.emit("eval", **at, metrics=metrics, name="bits_per_byte", details=details)
    print(f"validation: loss {found.val_loss:.4f}, {found.val_bpb:.4f} bits per byte", flush=True)


def _samples(runtime: Runtime, training: Training) -> list[tuple[str, str]]:
    """Prompts and what the model says: documents continued after the base stage, questions answered after the others."""
    config, tokenizer = runtime.config, runtime.tokenizer
    engine = runtime.engine(training.gpt)
    if not stage_spec(runtime.stage).chat:
        found = sample_completions(engine, config.eval.sample_prompts, config.eval.sample_tokens, config.seed)
        return [(sample.prompt, sample.text) for sample in found]
    mixture = {name: 1 for name, count in runtime.chat_section(runtime.stage).mixture.items() if count}
    conversations = mix_conversations(mixture, "val", seed=config.seed, strict=config.data.strict)[:CHAT_SAMPLES]
    prompts = [render_for_completion(tokenizer, conversation["messages"]) for conversation in conversations]
    room = engine.max_tokens - config.eval.sample_tokens
    kept = [(c, ids) for c, ids in zip(conversations, prompts, strict=True) if len(ids) <= room]
    if not kept:
        return []
    replies = engine.generate_batch([ids for _, ids in kept], max_new_tokens=config.eval.sample_tokens)
    return [
        (_first_question(conversation), StreamDecoder(tokenizer).feed(reply.tokens))
        for (conversation, _), reply in zip(kept, replies, strict=True)
    ]


def _first_question(conversation: Any) -> str:
    return next(str(message["content"]) for message in conversation["messages"] if message["role"] == "user")


def _tell_saved(runtime: Runtime, saved: Saved) -> None:
    runtime.emit(
        "checkpoint",
        step=saved.step,
        tokens=saved.tokens,
        path=saved.path.relative_to(runtime.run.path).as_posix(),
        bytes=saved.bytes,
        seconds=saved.seconds,
        durable=True,
    )


def _describe(runtime: Runtime, plan: TrainPlan, start: Progress) -> str:
    count = count_parameters(runtime.model_config)
    world = runtime.world
    lines = [
        f"{runtime.stage}: {count.total:,} parameters ({count.scaling:,} in matrices and head), "
        f"{str(runtime.dtype).removeprefix('torch.')} on {world.size} x {device_name(world.device)}",
        f"{plan.steps} steps of {plan.batch_tokens:,} tokens = {plan.rows} rows of {runtime.config.model.max_seq_len}, "
        f"{plan.tokens:,} tokens, {plan.flops:.3g} FLOPs",
    ]
    if start.step:
        lines.append(f"goes on from step {start.step}")
    return "\n".join(lines)


def _remember_speed(runtime: Runtime, results: Mapping[str, Any]) -> None:
    """Keep what this machine reached, for estimates before later runs: `machine.json` in the cache directory."""
    if not results["seconds"]:
        return
    path = runtime.cache / "machine.json"
    try:
        known = json.loads(path.read_bytes())
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
