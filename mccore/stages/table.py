"""The stages of a run: each a function from a runtime to its results, and each may be run again after it was cut short.

A stage's module is imported when the stage is run, so that those without a model start without torch.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from mccore.config.stages import StageName, stage_spec
from mccore.runtime.runtime import Runtime
from mccore.stages.prepare import Results

Stage = Callable[[Runtime], Results]


def stage_function(name: StageName) -> Stage:
    """The function of a stage, as its row of the table names it. Raises KeyError for a stage that isn't there."""
    module, _, function = stage_spec(name).work.rpartition(".")
    stage: Stage = getattr(import_module(f"mccore.stages.{module}"), function)
    return stage
