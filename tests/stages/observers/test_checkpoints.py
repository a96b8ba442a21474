"""A checkpoint that a person asks for is written after the step that is under way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mccore.config import RunConfig
from mccore.runs.requests import request_checkpoint
from mccore.runs.rundir import RunDir
from mccore.stages.observers.checkpoints import Checkpoints
from mccore.train.loop import Progress


@pytest.mark.parametrize("main", [True, False])
def test_one_request_is_one_checkpoint_by_the_main_rank(
    main: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir.create(tmp_path, "a", RunConfig())
    runtime: Any = SimpleNamespace(run=run, stage="base", config=RunConfig(), world=SimpleNamespace(is_main=main))
    observer = Checkpoints(runtime, SimpleNamespace(), {})  # type: ignore[arg-type]
    saved: list[int] = []
    monkeypatch.setattr(observer, "save", lambda progress: saved.append(progress.step))
    observer.on_step(Progress(step=1), {})
    request_checkpoint(run)
    observer.on_step(Progress(step=2), {})
    observer.on_step(Progress(step=3), {})
    assert saved == ([2] if main else [])
