"""What of a run can be deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from mccore.config import RunConfig
from mccore.errors import RunError, UsageError
from mccore.runs.checkpoints import SUMS_FILE
from mccore.runs.removal import checkpoint_rows, delete_checkpoint, delete_run, find_row
from mccore.runs.rundir import RunDir, list_runs
from tests.support.checkpoints import write_checkpoint


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, "one", RunConfig(recipe="tiny", stages=("base", "mid", "sft")))


def test_rows_say_what_each_checkpoint_is_for(run: RunDir) -> None:
    for stage, step in (("base", 5), ("base", 10), ("mid", 3)):
        write_checkpoint(run, stage, step)
    rows = checkpoint_rows(run)
    assert [(row.name, row.tokens, row.latest) for row in rows] == [
        ("base/5", 2560, False), ("base/10", 5120, True), ("mid/3", 1536, True),
    ]  # fmt: skip
    assert rows[0].needed == ""
    assert rows[1].needed == "a resumed run goes on from it"
    run.write_result("base", {"step": 10})
    assert find_row(run, "base").needed == "mid begins with it"
    run.write_result("mid", {"step": 3})
    assert "model of base" in find_row(run, "base/10").needed


def test_what_is_incomplete_or_damaged_says_why(run: RunDir) -> None:
    for step in (1, 2, 3):
        write_checkpoint(run, "base", step)
    first, second, third = (row.path for row in checkpoint_rows(run))
    (first / SUMS_FILE).unlink()
    (second / "model.safetensors").unlink()
    (third / "meta.json").write_text("{}")
    problems = [row.problem for row in checkpoint_rows(run)]
    assert "cut off" in problems[0]
    assert problems[1] == "model.safetensors is missing"
    assert "the checksum of meta.json is wrong" in problems[2]


def test_what_is_needed_goes_with_a_yes_alone(run: RunDir) -> None:
    write_checkpoint(run, "base", 5)
    write_checkpoint(run, "base", 10)
    delete_checkpoint(run, find_row(run, "base/5"))
    needed = find_row(run, "base")
    with pytest.raises(UsageError, match="base/10 is needed: a resumed run"):
        delete_checkpoint(run, needed)
    delete_checkpoint(run, needed, sure=True)
    assert checkpoint_rows(run) == []
    assert list(run.checkpoint_dir("base").iterdir()) == []
    delete_checkpoint(run, needed, sure=True)  # gone already
    with pytest.raises(UsageError, match="no checkpoint 'base'"):
        find_row(run, "base")


def test_nothing_that_is_in_use_goes(run: RunDir) -> None:
    write_checkpoint(run, "base", 5)
    write_checkpoint(run, "base", 10)
    with run.lock():
        delete_checkpoint(run, find_row(run, "base/5"))
        with pytest.raises(RunError, match="running"):
            delete_checkpoint(run, find_row(run, "base"), sure=True)
        with pytest.raises(RunError, match="running"):
            delete_run(run)
    assert find_row(run, "base").path.exists()


def test_a_run_goes_as_a_whole(run: RunDir) -> None:
    write_checkpoint(run, "base", 5)
    delete_run(run)
    assert not run.path.exists()
    delete_run(run)


def test_of_a_link_only_the_link_goes(run: RunDir, tmp_path: Path) -> None:
    there = tmp_path / "elsewhere"
    there.mkdir()
    (there / "linked").symlink_to(run.path)
    delete_run(list_runs(there)[0])
    assert run.path.exists()
    assert list_runs(there) == []
