from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from mccore.cli import main
from mccore.config import RunConfig
from mccore.events import EventWriter, read_events
from mccore.report.collect import collect
from mccore.report.pages.markdown import table
from mccore.report.pages.summary import render_report
from mccore.report.pages.tokenizer import tokenizer_table
from mccore.report.plots.style import short, smooth, thin
from mccore.report.plots.training import draw_plots, draw_tokenizer
from mccore.report.write import ReportPaths, write_report
from mccore.runs.rundir import RunDir
from mccore.runs.series import curves
from mccore.scaling.derive import derive


def accuracy(n: int, value: float, chance: float | None = None) -> dict[str, float | int | None]:
    z = None if chance is None else 1.5
    return {"n": n, "accuracy": value, "stderr": 0.05, "chance": chance, "z": z}


CHOICE = {
    "rule": "calibrated", **accuracy(80, 0.4, 0.25), "kinds": {"describe": accuracy(40, 0.5, 0.25)},
    "with_overlap": accuracy(30, 0.6, 0.25), "without_overlap": accuracy(50, 0.3, 0.25),
    "rules": {"sum": accuracy(80, 0.31, 0.25), "calibrated": accuracy(80, 0.4, 0.25)}, "letters": accuracy(80, 0.26, 0.25),
    "cropped": 3, "chosen_on": {"n": 40, "rules": {"sum": 0.3, "calibrated": 0.45}},
    "examples": [{"id": "1", "question": "What does a|b do?", "chosen": "Cut.", "right": "Copy."}],
}  # fmt: skip
ARITHMETIC = {
    **accuracy(20, 0.75), "scores": {"correct": {"mean": 0.75, "stderr": 0.1}, "tool": {"mean": 0.8, "stderr": 0.09}},
    "kinds": {}, "skipped": 0,
    "examples": [{"id": "x", "question": "1+1?", "reply": "[1+1][2]1 + 1 = 2", "right": "1 + 1 = 2", "scores": {"correct": 1.0}}],
}  # fmt: skip
NEEDLE = {
    "n": 0,
    "accuracy": None,
    "stderr": None,
    "chance": None,
    "z": None,
    "scores": {},
    "kinds": {},
    "skipped": 20,
    "examples": [],
}


def make_run(root: Path, **changes: object) -> RunDir:
    config = derive(
        RunConfig(
            recipe="tiny", **{"model": {"depth": 4, "max_seq_len": 256}, "tokenizer": {"vocab_size": 512}, **changes}
        )
    )
    return RunDir.create(root, "r1", config)


def train_events(writer: EventWriter, stage: str, steps: range, per_step: int = 100) -> None:
    writer.emit("stage.start", stage=stage, world_size=1, resumed_step=None, plan={})
    for step in steps:
        metrics = {
            "loss": 8.0 / step,
            "lr_multiplier": 1 / step,
            "tokens_per_second": 1000.0 + step,
            "flops_total": 1e6 * step,
        }
        writer.emit("step", stage=stage, step=step, tokens=step * per_step, metrics=metrics, steps=40)
    end = steps[-1]
    writer.emit(
        "eval",
        stage=stage,
        step=end,
        tokens=end * per_step,
        metrics={"val_loss": 9.0 / end, "val_bpb": 2.0},
        name="bits_per_byte",
        details={},
    )


def finish(run: RunDir, writer: EventWriter, stage: str, result: dict[str, object]) -> None:
    run.write_result(stage, result)
    writer.emit("stage.end", stage=stage, outcome="finished", message="", traceback="", seconds=12.5, results={})


def training_result(steps: int) -> dict[str, object]:
    return {
        "step": steps, "steps": steps, "tokens": steps * 100, "loss": 2.5, "seconds": 10.0, "tokens_per_second": 1234.5,
        "flops": 5e9, "parameters": {}, "epoch": 1.5, "val_loss": 2.75, "val_bpb": 1.125,
    }  # fmt: skip


@pytest.fixture
def finished(tmp_path: Path) -> RunDir:
    run = make_run(tmp_path / "runs")
    with (
        EventWriter(run.events_dir / "launcher.jsonl") as launcher,
        EventWriter(run.events_dir / "rank0.jsonl") as writer,
    ):
        launcher.emit("run.start", pid=1, resumed=False, version="0.1.0", stages=list(run.config.stages))
        for stage in ("data", "encode"):
            finish(run, writer, stage, {})
        finish(run, writer, "tokenizer", {"vocab_size": 512, "fingerprint": "f", "seconds": 3.0})
        text = {"bytes": 100, "characters": 90, "tokens": 40, "bytes_per_token": 2.5, "round_trip": True}
        finish(run, writer, "tokenizer_eval", {"vocab_size": 512, "fingerprint": "f", "texts": {"prose": text}})
        for stage in ("base", "mid", "sft"):
            train_events(writer, stage, range(1, 41))
            finish(run, writer, stage, training_result(40))
        samples = [{"prompt": "import ", "text": "os\n``` `fence`"}]
        finish(
            run,
            writer,
            "base_eval",
            {"step": 40, "val_loss": 2.75, "val_bpb": 1.0625, "tokens": 10, "bytes": 40, "samples": samples},
        )
        for stage in ("chat_eval_mid", "chat_eval_sft"):
            finish(
                run,
                writer,
                stage,
                {
                    "step": 40,
                    "choice": CHOICE,
                    "generated": {"arithmetic": ARITHMETIC, "needle": NEEDLE},
                    "metrics": {},
                },
            )
        finish(run, writer, "report", {"path": "report"})
        launcher.emit("run.end", outcome="finished", message="", seconds=100.0)
    return run


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", content[16:24])  # type: ignore[return-value]


def read(paths: ReportPaths) -> tuple[str, dict[str, object]]:
    return paths.markdown.read_text(), json.loads(paths.json.read_text())


def test_a_finished_run_has_everything(finished: RunDir) -> None:
    paths = write_report(finished)
    text, data = read(paths)
    assert [path.name for path in paths.plots] == ["loss.png", "learning_rate.png", "throughput.png", "tokenizer.png"]
    for path in paths.plots:
        width, height = png_size(path)
        assert width > 1200
        assert height > 300
        assert f"]({path.name})" in text
    assert data["outcome"]["state"] == "finished"  # type: ignore[index]
    for expected in (
        "# Report of r1", "Recipe `tiny`. Outcome: **finished**", "1.0625 over 40 bytes",
        "| sft: held-out multiple choice | 40.0 % (30.0 to 51.0), chance 25.0 %, n = 80 |",
        "rule `calibrated`, the best on 40 validation questions (sum 30.0 %, calibrated 45.0 %)",
        "| describe | 50.0 % (35.2 to 64.8) | 25.0 % | +1.5 | 40 |", "| answered by letter | 26.0 % (17.6 to 36.6) |",
        "| sft | **arithmetic** | 75.0 % (53.1 to 88.8) | tool 80.0 ± 9.0 % | 20 |", "| sft | **needle** | no questions |",
        "| needle in chat_eval_sft | no question of it fits into the model's context |",
        "| base | 40 of 40 | 4,000 | 5e+09 | 0.2268 | 2.7500 | 1.1250 | 1,234 | 1.50 |",
        "| prose | 100 | 40 | 2.50 | yes |", "| `model.depth` | `4` | `20` |", "What does a\\|b do?", "✗ Cut.",
        "````text\nimport ⟶os\n``` `fence`\n````", "model ✓:  [1+1][2]1 + 1 = 2", "## MegaContext\n\nNot part of this run.",
        "| CORE | eval.core_bundle names no bundle of its questions |", "| data | finished | 1 | 12.5s |",
    ):  # fmt: skip
        assert expected in text, expected
    assert "cut short" not in text


def test_nothing_that_is_missing_is_a_zero(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs")
    text, data = read(write_report(run))
    assert "Outcome: **created**" in text
    assert "This run was cut short" in text
    assert "0.0 %" not in text
    assert data["results"] == {}
    told = {entry["what"]: entry["why"] for entry in data["missing"]}  # type: ignore[attr-defined]
    assert told["base"] == "the run didn't get that far"
    assert told["loss curves"] == "no training step was recorded"
    assert data["plots"] == []


def test_a_failed_run_says_where_and_why(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", stages=("data", "base", "base_eval"))
    with EventWriter(run.events_dir / "rank0.jsonl") as writer:
        finish(run, writer, "data", {})
        train_events(writer, "base", range(1, 8))
        writer.emit(
            "stage.end",
            stage="base",
            outcome="failed",
            message="loss is not a number",
            traceback="...",
            seconds=3.0,
            results=None,
        )
    paths = write_report(run)
    text, data = read(paths)
    assert "Outcome: **failed** in base (loss is not a number)" in text
    assert "| base | failed: loss is not a number | 1 | 3.0s |" in text
    assert "| base | 7 of 40 | 700 | 7e+06 | 2.9633 |" in text
    told = {entry["what"]: entry["why"] for entry in data["missing"]}  # type: ignore[attr-defined]
    assert told["base"] == "failed: loss is not a number"
    assert told["base_eval"] == "the run didn't get that far"
    assert told["sft"] == "not among the stages of this run"
    assert len(paths.plots) == 3


def test_a_run_killed_without_a_word(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", stages=("base",))
    with EventWriter(run.events_dir / "rank0.jsonl") as writer:
        train_events(writer, "base", range(1, 5))
    with open(run.events_dir / "rank0.jsonl", "ab") as file:
        file.write(b'{"v":1,"type":"step","ti')
    text, _ = read(write_report(run))
    assert "| base | cut short: it ended without saying why | 1 |" in text


def test_a_damaged_result_is_missing_not_fatal(finished: RunDir) -> None:
    finished.result_path("base_eval").write_text("{")
    text, data = read(write_report(finished))
    told = {entry["what"]: entry["why"] for entry in data["missing"]}  # type: ignore[attr-defined]
    assert "is damaged" in told["base_eval"]
    assert "base: bits per byte" not in text


def test_results_of_another_shape_spoil_their_own_section_alone(finished: RunDir) -> None:
    odd = {
        "base": '{"step": 40, "steps": 40, "tokens": 4000, "flops": "much", "loss": NaN}',
        "base_eval": '{"val_bpb": "low", "bytes": 1}',
        "tokenizer_eval": '{"texts": {"english": {"bytes": 1, "tokens": 1, "bytes_per_token": null, "round_trip": true}}}',
        "chat_eval_sft": '{"choice": {"accuracy": 0.5, "n": 0, "kinds": {}}}',
    }
    for stage, text in odd.items():
        finished.result_path(stage).write_text(text)
    text, data = read(write_report(finished))
    for name in (
        "the summary",
        "the tokenizer",
        "the training stages",
        "the evaluation of texts",
        "the evaluation of chats",
    ):
        assert f"**{name}** can't be read" in text
    assert "## Stages" in text
    assert "## Model" in text
    assert data["results"]["base"]["loss"] is None  # type: ignore[index]


def test_attempts_add_up(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs", stages=("base",))
    with EventWriter(run.events_dir / "rank0.jsonl") as writer:
        train_events(writer, "base", range(1, 5))
        writer.emit(
            "stage.end",
            stage="base",
            outcome="stopped",
            message="stopped at step 4",
            traceback="",
            seconds=30.0,
            results={},
        )
        train_events(writer, "base", range(3, 41))
        finish(run, writer, "base", training_result(40))
    stage = collect(run, read_events(run.events_dir))["stages"][0]
    assert (stage["outcome"], stage["attempts"], stage["seconds"]) == ("finished", 2, 42.5)


def test_repeated_steps_replace_those_that_were_lost(tmp_path: Path) -> None:
    with EventWriter(tmp_path / "rank0.jsonl") as writer:
        for step, loss in ((1, 5.0), (2, 4.0), (3, 9.0), (2, 3.5), (3, 3.0)):
            writer.emit("step", stage="base", step=step, tokens=step * 10, metrics={"loss": loss}, steps=3)
        writer.emit("step", stage="base", step=4, tokens=40, metrics={"loss": float("nan")}, steps=3)
    assert curves(read_events(tmp_path)) == {"base": {"loss": [(10.0, 5.0), (20.0, 3.5), (30.0, 3.0)]}}


def test_the_environment_of_the_run_is_kept(finished: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    with finished.lock():
        _, during = read(write_report(finished))
    monkeypatch.setattr("mccore.report.environment.cpu_name", lambda: "another machine")
    _, after = read(write_report(finished))
    assert after["environment"] == during["environment"]
    shutil.rmtree(finished.report_dir)
    text, alone = read(write_report(finished))
    assert alone["environment"]["cpu"] == "another machine"  # type: ignore[index]
    assert "the run itself may have been elsewhere" in text


def test_old_plots_don_t_outlive_their_data(finished: RunDir) -> None:
    (finished.report_dir).mkdir(exist_ok=True)
    (finished.report_dir / "swap_rate.png").write_bytes(b"old")
    write_report(finished)
    assert not (finished.report_dir / "swap_rate.png").exists()


def test_tables_survive_any_text() -> None:
    assert table(("a",), [("x | y\nz",), (None,)]) == "| a |\n| --- |\n| x \\| y z |\n|  |"


def test_samples_can_t_hold_control_characters(finished: RunDir) -> None:
    data = collect(finished, read_events(finished.events_dir))
    data["results"]["base_eval"]["samples"] = [{"prompt": "p", "text": "\x1b]0;title\x07\x00"}]
    text = render_report(data)
    assert "\x1b" not in text
    assert "\x00" not in text


def test_smoothing_and_thinning_by_hand() -> None:
    points = [(1.0, 2.0), (2.0, 4.0), (3.0, 6.0), (4.0, 0.0)]
    assert smooth(points, 3) == [(1.0, 2.0), (2.0, 4.0), (3.0, pytest.approx(10 / 3)), (4.0, 0.0)]
    assert thin(points) == points
    many = [(float(i), float(i % 2)) for i in range(4000)]
    thinned = thin(many)
    assert len(thinned) <= 1500
    assert thinned[0] == (2.0, pytest.approx(1 / 3))
    assert thinned[-1][0] == 3999.0


def test_axes_are_labelled_in_short_numbers() -> None:
    assert [short(value) for value in (0, 0.25, 15, 1500, 2e6, 1.2e9, 3e12)] == [
        "0",
        "0.25",
        "15",
        "1.5k",
        "2M",
        "1.2B",
        "3T",
    ]


def test_one_point_is_drawn() -> None:
    images = draw_plots({"base": {"loss": [(10.0, 1.0)], "tokens_per_second": [(10.0, 0.0)]}})
    assert set(images) == {"loss.png", "throughput.png"}
    assert draw_plots({}) == {}


def test_the_command(finished: RunDir, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MCCORE_BASE_DIR", str(finished.path.parent.parent))
    assert main(["report"]) == 0
    shown = capfd.readouterr().out
    assert "# Report of r1" in shown
    assert str(finished.report_dir / "report.md") in shown
    assert main(["report", "r1", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["run"] == "r1"
    assert main(["report", str(finished.path), "--path"]) == 0
    assert capfd.readouterr().out == f"{finished.report_dir / 'report.md'}\n"
    assert main(["report", "r2"]) == 2
    assert "did you mean r1?" in capfd.readouterr().err


def test_the_tokenizer_beside_other_vocabularies() -> None:
    text = {"bytes": 100, "characters": 90, "tokens": 40, "bytes_per_token": 2.5, "round_trip": True}
    other = {"vocab_size": 50257, "bytes_per_token": {"prose": 3.5, "code": 2.25}}
    measured = {"texts": {"prose": text, "code": {**text, "round_trip": False}}, "others": {"other": other}}
    rendered = tokenizer_table(measured)
    assert "other (50,257 ids)" in rendered
    assert "| prose | 100 | 40 | 2.50 | yes | 3.50 |" in rendered
    assert "| code | 100 | 40 | 2.50 | **no** | 2.25 |" in rendered
    assert draw_tokenizer(measured) != draw_tokenizer({"texts": measured["texts"]})
