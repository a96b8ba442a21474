"""The stages of a run: each a function from a runtime to its results, and each may be run again after it was cut short.

Those that need torch import what they need themselves, so that the others start at once.
"""

from __future__ import annotations

from collections.abc import Callable

from mccore.config.stages import STAGE_TABLE, StageName
from mccore.runtime.runtime import Runtime
from mccore.stages.evaluate import evaluate_chat, evaluate_text
from mccore.stages.prepare import Results, encode, find_corpus, measure_tokenizer, train_tokenizer

Stage = Callable[[Runtime], Results]


def train(runtime: Runtime) -> Results:
    """Train the model of `runtime.stage`."""
    from mccore.stages.train import train_stage

    return train_stage(runtime)


def report(runtime: Runtime) -> Results:
    """Write the report of the run."""
    from mccore.report.write import write_report

    write_report(runtime.run)
    return {"path": runtime.run.report_dir.relative_to(runtime.run.path).as_posix()}


_WORK: tuple[Stage, ...] = (
    find_corpus, train_tokenizer, measure_tokenizer, encode, train, evaluate_text, evaluate_chat, report,
)  # fmt: skip

_BY_NAME = {function.__name__: function for function in _WORK}

STAGE_FUNCTIONS: dict[StageName, Stage] = {spec.name: _BY_NAME[spec.work] for spec in STAGE_TABLE}
