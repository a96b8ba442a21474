"""Which directories are checkpoints, by their names and by what is in them."""

from __future__ import annotations

from pathlib import Path

from mccore.config import RunConfig
from mccore.runs.checkpoints import incomplete_checkpoints, latest, list_checkpoints
from mccore.runs.rundir import RunDir
from tests.support.checkpoints import write_checkpoint


def test_odd_names_are_no_checkpoints(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, "run", RunConfig())
    kept = [write_checkpoint(run, "base", step) for step in (9, 10, 123_456_789)]
    folder = run.checkpoint_dir("base")
    for name in (
        "step_",
        "step_12",
        "step_00000011.bak",
        "step_00000012 (copy)",
        "step_abcdefgh",
        "step_٠٠٠٠٠٠٠٩",
        "model_99",
    ):
        (folder / name).mkdir()
    (folder / "step_99999999").touch()
    (folder / "step_00000099").mkdir()
    assert list_checkpoints(folder) == kept
    assert latest(folder) == kept[-1]
    assert [path.name for path in incomplete_checkpoints(folder)] == ["step_00000099"]
