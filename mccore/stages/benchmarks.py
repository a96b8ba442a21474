"""Published benchmarks as a part of the stages that measure models: CORE of models of text, ChatCORE's tasks of chat models."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mccore.errors import DataError
from mccore.eval.chatcore import BenchmarkResult, chatcore_metric
from mccore.eval.core import CoreResult, CoreTask, core_metric, read_bundle
from mccore.runtime.benchmarks import Benchmarks
from mccore.runtime.open import OpenModel
from mccore.runtime.runtime import Runtime, StopRequested
from mccore.tasks.catalogue import benchmark_names, open_task

Results = dict[str, Any]


def ask_core(runtime: Runtime, opened: OpenModel) -> Results | None:
    """CORE of a model of text; None where the run names no bundle. What can't be read is told, and no reason to end the run.

    tasks: results by label. core: their mean and its standard error, None where a task is missing. missing: label -> why.
    """
    folder = runtime.config.eval.core_bundle
    if not folder:
        return None
    found: dict[str, CoreResult] = {}
    missing: dict[str, str] = {}
    try:
        tasks = read_bundle(Path(folder))
    except DataError as error:
        return {"tasks": {}, "core": None, "missing": {"CORE": _told(runtime, "CORE", error)}}
    benchmarks = _benchmarks(runtime, opened)
    for number, task in enumerate(tasks):
        _go_on(runtime, number, len(tasks), "tasks of CORE")
        began = time.perf_counter()

        def measure(task: CoreTask = task) -> CoreResult:
            return next(benchmarks.core([task]))

        if (result := _measured(runtime, task.label, missing, measure)) is not None:
            found[task.label] = result
            _tell_result(runtime, task.label, result.accuracy.accuracy, began, result.to_json())
    core: Results | None = None
    if not missing:
        value, stderr = core_metric(list(found.values()))
        core = {"value": value, "stderr": stderr, "tasks": len(found)}
        _emit(runtime, "core", {"core": value}, None, core)
    return {"tasks": {name: one.to_json() for name, one in found.items()}, "core": core, "missing": missing}


def ask_benchmarks(runtime: Runtime, opened: OpenModel) -> Results | None:
    """The benchmarks that a run asks its chat models; None where it names none. In MegaContext sessions where they are on.

    tasks: results by task. chatcore: their centred mean, None unless all six are there. missing: task -> why.
    """
    names = benchmark_names(runtime.config.eval.benchmarks)
    if not names:
        return None
    found: dict[str, BenchmarkResult] = {}
    missing: dict[str, str] = {}
    benchmarks = _benchmarks(runtime, opened)
    for number, name in enumerate(names):
        _go_on(runtime, number, len(names), "benchmarks")
        began = time.perf_counter()

        def measure(name: str = name) -> BenchmarkResult:
            return next(benchmarks.chat([name]))

        problem = _fetched(runtime, name)
        if problem is not None:
            missing[name] = problem
        elif (result := _measured(runtime, name, missing, measure)) is not None:
            found[name] = result
            _tell_result(runtime, name, result.accuracy.accuracy, began, result.to_json())
    together = chatcore_metric(list(found.values()))
    chatcore = None if together is None else {"value": together[0], "stderr": together[1]}
    if chatcore is not None:
        _emit(runtime, "chatcore", {"chatcore": chatcore["value"]}, None, chatcore)
    return {"tasks": {name: one.to_json() for name, one in found.items()}, "chatcore": chatcore, "missing": missing}


def _benchmarks(runtime: Runtime, opened: OpenModel) -> Benchmarks:
    config = runtime.config
    return Benchmarks(
        opened,
        config.eval.benchmark_questions or None,
        config.eval.batch_rows,
        config.eval.benchmark_tokens,
        config.megacontext.enabled,
        runtime.world,
    )


def _fetched(runtime: Runtime, name: str) -> str | None:
    """Bring a task's questions to every machine; why they can't be had, on all ranks alike."""
    world, own = runtime.world, None
    if world.local_rank == 0:
        try:
            open_task(name).fetch(lambda done, total: None)  # most of it came in the first stage of the run
        except DataError as error:
            own = error.message
    problems = [problem for problem in world.gather([own], world.size) if problem is not None]
    if problems:
        _say_missing(runtime, name, problems[0])
    return problems[0] if problems else None


def _measured(runtime: Runtime, name: str, missing: dict[str, str], measure: Callable[[], Any]) -> Any:
    """What `measure` gives; None for questions that have another form, which are the same on all ranks."""
    try:
        return measure()
    except DataError as error:
        missing[name] = _told(runtime, name, error)
        return None


def _told(runtime: Runtime, name: str, error: DataError) -> str:
    _say_missing(runtime, name, error.message)
    return error.message


def _say_missing(runtime: Runtime, name: str, message: str) -> None:
    if runtime.world.is_main:
        runtime.emit("notice", about=name, message=f"it isn't measured: {message}")


def _go_on(runtime: Runtime, done: int, total: int, unit: str) -> None:
    """Tell how far it is. Raises StopRequested on all ranks where the first is asked to end: one alone would leave the others
    waiting for it."""
    if runtime.world.from_main(runtime.stop_requested()):
        raise StopRequested(f"{runtime.stage} was stopped at {done} {unit}")
    if runtime.world.is_main:
        runtime.emit("stage.progress", done=done, total=total, unit=unit)


def _tell_result(runtime: Runtime, name: str, accuracy: float | None, began: float, details: Results) -> None:
    metrics = {} if accuracy is None else {f"task_accuracy/{name}": accuracy}
    _emit(runtime, name, metrics, round(time.perf_counter() - began, 6), details)


def _emit(runtime: Runtime, name: str, metrics: dict[str, float], seconds: float | None, details: Results) -> None:
    if runtime.world.is_main:
        runtime.emit("eval", metrics, name=name, seconds=seconds, details=details)
