"""`mccore report --check`: every item can pass and can fail."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from mccore.cli import main
from mccore.runs.checkpoints import SUMS_FILE, file_sha256, latest
from mccore.runs.rundir import RunDir
from mccore.stages.checklist import CheckItem, check_run
from tests.support.small_run import BATCH


@pytest.fixture(scope="module")
def whole(new_run, make_config, in_process) -> RunDir:
    """A small run that is over: a base model and what the report needs."""
    stages = ("data", "encode", "base", "base_eval", "report")
    run = new_run("checked", make_config(base={"tokens": 24 * BATCH}).model_copy(update={"stages": stages}))
    for stage in stages:
        run.write_result(stage, in_process(run, stage))
    return run


@pytest.fixture
def run(whole: RunDir) -> Any:
    """A copy that a test may spoil."""
    path = whole.path.with_name("spoilt")
    shutil.copytree(whole.path, path)
    yield RunDir(path)
    shutil.rmtree(path)


def found(run: RunDir, **options: Any) -> dict[str, CheckItem]:
    return {check.name: check for check in check_run(run, device="cpu", **options)}


def test_a_sound_run_passes(whole: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(whole.path), "--check", "--device", "cpu", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["passed"]
    checks = {check["name"]: check for check in said["checks"]}
    assert list(checks) == [
        "stages", "report", "loss of base", "validation loss of base again", "checkpoints of base", "chat",
    ]  # fmt: skip
    assert {check["status"] for check in checks.values()} == {"pass"}, said
    assert checks["chat"]["values"]["first_token_seconds"] > 0
    assert len(checks["chat"]["values"]["replies"]) == 3
    again = checks["validation loss of base again"]["values"]
    assert again["found"] == pytest.approx(again["recorded"], rel=1e-5)


def test_it_is_told_in_lines_and_by_the_exit_code(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    run.result_path("base_eval").unlink()
    shutil.rmtree(run.report_dir)
    assert main(["report", str(run.path), "--check", "--device", "cpu"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("fail     stages:")
    assert "no result of base_eval" in lines[0]
    assert lines[1].startswith("fail     report:")
    assert lines[-1] == "spoilt: 2 of 6 fail"
    assert main(["report", str(run.path), "--against", "latest"]) == 2
    assert "--check" in capsys.readouterr().err


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the tensors of a checkpoint and make its checksums right again."""
    file = path / "model.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file)
    sums = (path / SUMS_FILE).read_text().splitlines()
    names = [line.split("  ")[1] for line in sums]
    (path / SUMS_FILE).write_text("".join(f"{file_sha256(path / name)}  {name}\n" for name in names))


def test_a_checkpoint_with_other_numbers_is_found_by_its_loss(run: RunDir) -> None:
    path = latest(run.checkpoint_dir("base"))
    assert path is not None
    rewrite(path, lambda state: state["model/gpt.head.weight"].mul_(-1))
    checks = found(run)
    assert checks["validation loss of base again"].status == "fail"
    assert checks["checkpoints of base"].status == "pass"


def test_damaged_and_missing_checkpoints_fail(run: RunDir) -> None:
    path = latest(run.checkpoint_dir("base"))
    assert path is not None
    os.truncate(path / "model.safetensors", 1000)
    checks = found(run)
    assert "checksum" in checks["checkpoints of base"].detail
    assert {checks[name].status for name in ("checkpoints of base", "chat")} == {"fail"}
    (path / "model.safetensors").unlink()
    assert "incomplete" in found(run)["checkpoints of base"].detail
    shutil.rmtree(run.checkpoint_dir("base"))
    checks = found(run)
    assert checks["checkpoints of base"].detail == "there is none"
    assert "no checkpoint" in checks["chat"].detail


def test_losses_that_are_no_numbers_or_do_not_fall_fail(run: RunDir) -> None:
    file = run.events_dir / "rank0.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    steps = [line for line in lines if line["type"] == "step"]
    for number, step in enumerate(steps):
        step["metrics"].update(dict.fromkeys(("loss", "token_loss"), 1.0 + number))
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert found(run)["loss of base"].status == "fail"
    steps[-1]["metrics"]["loss"] = float("nan")
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "wasn't a number" in found(run)["loss of base"].detail


def test_parity_with_another_run(run: RunDir, whole: RunDir) -> None:
    result = run.read_result("base")
    assert result is not None
    assert found(run, against=whole)["loss parity of base"].status == "pass"
    run.write_result("base", {**result, "val_loss": result["val_loss"] * 1.03})
    checks = found(run, against=whole)
    assert checks["loss parity of base"].status == "fail"
    assert "+3.0 %" in checks["loss parity of base"].detail
    del result["val_loss"]
    run.write_result("base", result)
    checks = found(run, against=whole)
    assert {checks[name].status for name in ("loss parity of base", "validation loss of base again")} == {"skipped"}


def test_tokens_that_are_gone_are_not_made_again(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path))
    check = found(run)["validation loss of base again"]
    assert (check.status, "any more" in check.detail) == ("skipped", True)
    assert not list(tmp_path.rglob("*.tokens"))


def test_a_run_with_sessions_is_talked_to_in_one(tmp_path: Path) -> None:
    """A run of the first build, with gists: audited and asked as any other."""
    shutil.copytree(Path(__file__).parents[1] / "support" / "old_build" / "runs" / "old", tmp_path / "old")
    checks = found(RunDir(tmp_path / "old"))
    assert checks["chat"].values["new_tokens"] > 0, checks["chat"]
    assert checks["checkpoints of sft"].status == "pass", checks["checkpoints of sft"]
