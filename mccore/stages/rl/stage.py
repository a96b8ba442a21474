"""Reinforcement learning: the model answers questions, and learns from what its answers were worth."""

from __future__ import annotations

from typing import Any

from mccore.config import RLConfig
from mccore.errors import ConfigError
from mccore.generate.engine import Engine
from mccore.runs.requests import take_evaluation_request
from mccore.runtime.runtime import Runtime, Stopped
from mccore.scaling.model import flops_per_token
from mccore.scaling.plan import GENERATED_SHARE, train_plan
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
from mccore.stages.observers.observer import Observers
from mccore.stages.observers.pass_at import PassAtK
from mccore.stages.observers.resources import Resources
from mccore.stages.observers.samples import Samples
from mccore.stages.observers.steps import Steps
from mccore.stages.rl.exercises import Practice, read_exercises
from mccore.train.loop import train

_BEFORE = "pass_at_before"  # in a checkpoint's state


def reinforce(runtime: Runtime) -> Results:
    """Train on the model's own replies to questions; pass@k on held-out ones before and after."""
    config, world, section = runtime.config, runtime.world, runtime.train_config
    assert isinstance(section, RLConfig)
    mixture = runtime.mixture(runtime.stage)
    runtime.conversations_version(mixture)  # changed questions are told before anything is computed
    questions = read_exercises(runtime, "train", mixture, config.seed)
    plan = train_plan(config, runtime.stage)
    if section.questions % world.size:
        raise ConfigError(
            f"{runtime.stage}.questions={section.questions} don't divide among {world.size} ranks",
            hint=f"choose a number of ranks that divides {section.questions}",
        )
    training = runtime.training()
    start, state = starting_point(runtime, training)
    world.broadcast([*training.model.parameters(), *training.optimizer.state_dict().values()])
    tell_start(runtime, plan, start)

    engine = Engine(training.gpt, runtime.tokenizer)
    asked = PassAtK(runtime, engine)
    before: dict[str, Any] = state[_BEFORE] if start.step else asked.measure(start)
    steps, checkpoints = Steps(runtime, training, plan), Checkpoints(runtime, training, {_BEFORE: before})
    observers = Observers(
        (steps, Resources(runtime), asked, Samples(runtime, training), checkpoints),
        runtime.stop_requested,
        lambda: world.is_main and take_evaluation_request(runtime.run),
    )
    practice = Practice(runtime, engine, questions, micro_rows=section.micro_batch_rows, step=start.step)
    per_token = flops_per_token(runtime.model_config) * GENERATED_SHARE
    settings = loop_settings(runtime, plan, start, lambda progress: progress.tokens * per_token)
    with checkpoints:
        progress, finished = train(
            optimizer=training.optimizer,
            loader=practice,
            objective=training.objective,
            hooks=observers,
            world=world,
            settings=settings,
        )
    results = training_results(runtime, plan, progress, progress.tokens * per_token)
    results |= {"epoch": progress.step * section.questions / len(questions), "questions": len(questions)}
    if not finished:
        raise Stopped(results)
    if world.is_main:
        check_saved(runtime, progress.step)
        fit_lookup_of(runtime)
    observers.evaluate(progress)
    observers.sample(progress)
    return results | {"before": before, "after": asked.last}
