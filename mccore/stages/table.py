"""The stages of a run: each a function from a runtime to its results, and each may be run again after it was cut short.

Those that need torch import what they need themselves, so that the others start at once.
"""

from __future__ import annotations

from collections.abc import Callable

from mccore.config import TRAINING_STAGES, StageName
from mccore.runtime.runtime import Runtime
from mccore.stages.evaluate import base_eval, chat_eval_mid, chat_eval_sft
from mccore.stages.prepare import Results, data, encode, tokenizer, tokenizer_eval

Stage = Callable[[Runtime], Results]

# These compute with a model; the others run without torch.
MODEL_STAGES: frozenset[StageName] = frozenset((*TRAINING_STAGES, "base_eval", "chat_eval_mid", "chat_eval_sft"))


def train(runtime: Runtime) -> Results:
    """Train the model of `runtime.stage`."""
    from mccore.stages.train import train_stage

    return train_stage(runtime)


def report(runtime: Runtime) -> Results:
    """Write the report of the run."""
    from mccore.report.write import write_report

    write_report(runtime.run)
    return {"path": runtime.run.report_dir.relative_to(runtime.run.path).as_posix()}


STAGE_FUNCTIONS: dict[StageName, Stage] = {
    "data": data,
    "tokenizer": tokenizer,
    "tokenizer_eval": tokenizer_eval,
    "encode": encode,
    "base": train,
    "base_eval": base_eval,
    "mid": train,
    "chat_eval_mid": chat_eval_mid,
    "sft": train,
    "chat_eval_sft": chat_eval_sft,
    "report": report,
}
