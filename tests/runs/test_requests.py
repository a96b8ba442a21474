"""Requests to a run: files that whoever trains takes away."""

from __future__ import annotations

from pathlib import Path

import pytest

from mccore.config import RunConfig
from mccore.errors import RunError
from mccore.runs.requests import (
    request_checkpoint,
    request_evaluation,
    take_checkpoint_request,
    take_evaluation_request,
)
from mccore.runs.rundir import RunDir


def test_a_request_is_taken_once(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "a", RunConfig())
    assert not take_checkpoint_request(run)
    request_checkpoint(run)
    request_checkpoint(run)
    assert take_checkpoint_request(run)
    assert not take_checkpoint_request(run)


def test_a_run_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="can't ask for a checkpoint"):
        request_checkpoint(RunDir(tmp_path / "nowhere"))


def test_an_evaluation_is_another_request_than_a_checkpoint(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "a", RunConfig())
    request_evaluation(run)
    assert not take_checkpoint_request(run)
    assert take_evaluation_request(run)
    assert not take_evaluation_request(run)
    with pytest.raises(RunError, match="can't ask for an evaluation"):
        request_evaluation(RunDir(tmp_path / "nowhere"))
