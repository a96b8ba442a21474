"""Runs recorded in files, read back with W&B's own reader."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from mccore_telemetry.shared.names import wandb_name
from mccore_telemetry.wandb import WandbOptions, mccore_telemetry_provider
from msgspec.structs import replace
from PIL import Image

from mccore.api import Extension, Options, TelemetryProvider
from mccore.events import METRICS, Event, EventWriter, last_metrics, read_events
from mccore.testing import TelemetryProviderSuite

from ..servers import wait_for
from .conftest import BEGAN, WANDB_ID, Open, logs, rows, spec, steps


class TestSuite(TelemetryProviderSuite):
    def extension(self) -> Extension[TelemetryProvider]:
        return mccore_telemetry_provider()

    def options(self) -> Options:
        return WandbOptions(mode="offline")

    def open(self, directory: Path, *, rank: int = 0) -> TelemetryProvider:
        directory.mkdir(parents=True, exist_ok=True)
        return self.extension().build(self.options(), spec(directory, rank=rank))


def test_the_last_value_of_every_metric_is_that_of_the_event_file(open_provider: Open, tmp_path: Path) -> None:
    names = [*METRICS, "lod_loss/0", "lod_loss/2", "dwell/p95", "adv_delta/p95"]
    provider = open_provider()
    with EventWriter(tmp_path / "events/rank0.jsonl") as writer:
        for step in range(20):
            metrics = {name: (step + 1) * 1.1**place / 7 for place, name in enumerate(names)}
            metrics |= {"loss": math.nan} if step == 19 else {}
            provider.record(writer.emit("step", stage="base", step=step, tokens=step, metrics=metrics, steps=20))
    provider.close()
    found: dict[str, Any] = {}
    for row in rows(tmp_path):
        found.update(row)
    expected = last_metrics(read_events(tmp_path / "events"))
    assert set(expected) == set(names)
    for name, value in expected.items():
        stored = found[wandb_name(name)]
        assert stored == ("NaN" if math.isnan(value) else value), name


def test_every_row_is_there_in_order_with_its_time(open_provider: Open, tmp_path: Path) -> None:
    provider = open_provider()
    for event in steps(300):
        provider.record(event)
    provider.close()
    found = rows(tmp_path)
    assert [row["train/loss"] for row in found] == [10.0 / step for step in range(1, 301)]
    assert [row["_timestamp"] for row in found] == [BEGAN + step for step in range(1, 301)]


def test_charts_are_drawn_over_what_was_spent_in_all_stages(open_provider: Open, tmp_path: Path) -> None:
    provider = open_provider()
    provider.record(Event("stage.start", BEGAN, stage="base", data={"plan": {"rows": 4}}))
    for event in steps(10):
        metrics = {**event.metrics, "variants_total": (event.step or 0) * 8.0}
        provider.record(replace(event, metrics=metrics))
    for event in steps(3, 11, "sft"):
        step = (event.step or 0) - 10
        provider.record(replace(event, step=step, tokens=step * 100))
    provider.close()
    last = rows(tmp_path)[-1]
    assert last["axes/step"] == 13
    assert last["axes/tokens"] == 10 * 512 + 300
    assert last["axes/seconds"] == 13
    assert last["axes/flops"] == 10e15 + 13e15
    assert last["axes/mc_effective_step"] == 10 * (1 + 2) + 3
    defined = [record["metric"] for record in records(tmp_path) if record["type"] == "metric"]
    assert {metric.get("name") for metric in defined if "hidden" in metric["options"]} == {
        "axes/tokens", "axes/flops", "axes/seconds", "axes/step", "axes/mc_effective_step"
    }  # fmt: skip
    assert [metric["step_metric"] for metric in defined if metric.get("glob_name") == "*"] == ["axes/tokens"]


def test_a_run_that_goes_on_is_the_same_run_and_its_axes_go_back(open_provider: Open, tmp_path: Path) -> None:
    first = open_provider()
    for event in steps(20):
        first.record(event)
    first.close()
    second = open_provider()
    for event in steps(10, 16):  # from the checkpoint of step 15
        second.record(replace(event, time=event.time + 1000))
    second.close()
    assert [log.name for log in logs(tmp_path)] == [f"run-{WANDB_ID}.wandb"] * 2
    assert [row["axes/tokens"] // 512 for row in rows(tmp_path)] == [*range(1, 21), *range(16, 26)]
    assert [row["train/loss"] for row in rows(tmp_path)][20:] == [10.0 / step for step in range(16, 26)]


def test_events_that_were_sent_are_not_sent_again(open_provider: Open, tmp_path: Path) -> None:
    for count in (20, 20, 25):
        provider = open_provider()
        for event in steps(count):
            provider.record(event)
        provider.close()
    assert [row["axes/step"] for row in rows(tmp_path)] == list(range(1, 26))


KILLED = """
import sys
from pathlib import Path
from mccore_telemetry.wandb import WandbOptions, WandbTelemetry
from mccore.api import TelemetrySpec
from mccore.config import RunConfig
from mccore.events import EventTail
directory = Path(sys.argv[1])
spec = TelemetrySpec("a-run", directory, 0, RunConfig(), run_id=sys.argv[2])
provider = WandbTelemetry(WandbOptions(mode="offline"), spec)
for event in EventTail(directory / "events").drain():
    provider.record(event)
print("logged", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_loses_no_row_that_is_older_than_a_second_and_another_fills_the_gap(
    open_provider: Open, tmp_path: Path
) -> None:
    with EventWriter(tmp_path / "events/rank0.jsonl") as writer:
        for event in steps(50):
            writer.write(event)
    command = [sys.executable, "-c", KILLED, str(tmp_path), WANDB_ID * 2]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline() == b"logged\n"
    wait_for(lambda: len(rows(tmp_path)) == 50)  # nothing is flushed or closed: W&B writes by itself
    process.send_signal(signal.SIGKILL)
    process.communicate()
    provider = open_provider()
    for event in steps(60):
        provider.record(event)
    provider.close()
    assert [row["axes/step"] for row in rows(tmp_path)] == list(range(1, 61))


@pytest.mark.parametrize("more", [20, 0], ids=["midway", "at the end"])
def test_a_run_outlives_the_end_of_wandbs_own_process(open_provider: Open, tmp_path: Path, more: int) -> None:
    provider = open_provider()
    for event in steps(30):
        provider.record(event)
    cores = [child for child in psutil.Process().children(recursive=True) if "wandb-core" in child.name()]
    for core in cores:
        core.kill()
    psutil.wait_procs(cores)
    assert cores
    for event in steps(more, 31):
        provider.record(event)
    provider.close()
    assert len(logs(tmp_path)) == 2
    assert sorted(row["axes/step"] for row in rows(tmp_path)) == list(range(1, 31 + more))


def test_a_row_that_wandb_doesnt_take_begins_no_other_part(
    open_provider: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = open_provider()
    for event in steps(2):
        provider.record(event)
    with monkeypatch.context() as patch:
        patch.setattr("wandb.Run.log", refuse)
        with pytest.raises(TypeError, match="unsupported"):
            provider.record(steps(1, 3)[0])
    for event in steps(2, 4):
        provider.record(event)
    provider.close()
    assert [row["axes/step"] for row in rows(tmp_path)] == [1, 2, 4, 5]
    assert len(logs(tmp_path)) == 1


def refuse(run: object, row: object) -> None:
    raise TypeError("unsupported")


def test_other_ranks_make_no_rows(open_provider: Open, tmp_path: Path) -> None:
    provider = open_provider()
    for event in steps(4):
        provider.record(replace(event, rank=1))
        provider.record(event)
    provider.close()
    assert len(rows(tmp_path)) == 4


def test_durations_and_levels_are_histograms_too(open_provider: Open, tmp_path: Path) -> None:
    provider = open_provider()
    for event in steps(100):
        provider.record(event)
    provider.record(Event("mc_batch_stats", BEGAN + 101, stage="base", step=100, data={"entries_by_level": [5, 3, 1]}))
    provider.close()
    found = rows(tmp_path)
    assert sum(found[99]["train/step_duration_histogram.values"]) == 100
    assert found[100]["mc/entries_by_level.values"] == [5, 3, 1]
    assert found[100]["mc/entries_by_level.bins"] == [-0.5, 0.5, 1.5, 2.5]


def test_the_report_its_plots_and_the_samples_go_along(open_provider: Open, tmp_path: Path) -> None:
    there = "pandas" in sys.modules  # another test's doing
    (tmp_path / "report").mkdir()
    (tmp_path / "report/report.md").write_text("# A report\n")
    Image.new("RGB", (4, 3)).save(tmp_path / "report/loss.png")
    provider = open_provider()
    for event in steps(2):
        provider.record(event)
    provider.record(Event("sample", BEGAN + 3, stage="base", step=2, data={"prompt": "Once", "text": " upon"}))
    provider.record(Event("run.end", BEGAN + 4, data={"outcome": "finished", "seconds": 4.0}))
    provider.close()
    last = rows(tmp_path)[-1]
    assert last["report/loss._type"] == "image-file"
    table = next((logs(tmp_path)[0].parent / "files").rglob("samples*.table.json"))
    assert json.loads(table.read_text())["data"] == [["base", 2, "Once", " upon"]]
    assert there or "pandas" not in sys.modules, "W&B's client imports it, 40 MB, to look whether a table is one of its"
    artifacts = [record["artifact"] for record in records(tmp_path) if record["type"] == "artifact"]
    assert [file["path"] for each in artifacts if each["type"] == "report" for file in manifest(each)] == [
        "loss.png", "report.md"
    ]  # fmt: skip


@pytest.mark.parametrize(("outcome", "code"), [("finished", 0), ("stopped", 0), ("failed", 1), (None, 1)])
def test_wandb_is_told_how_the_run_ended(open_provider: Open, tmp_path: Path, outcome: str | None, code: int) -> None:
    provider = open_provider()
    provider.record(steps(1)[0])
    if outcome:
        provider.record(Event("run.end", BEGAN + 4, data={"outcome": outcome}))
    provider.close()
    (end,) = [record["exit"] for record in records(tmp_path) if record["type"] == "exit"]
    assert end.get("exit_code", 0) == code


def test_a_fork_may_end_without_a_call(open_provider: Open, tmp_path: Path) -> None:
    provider = open_provider()
    for event in steps(5):
        provider.record(event)
    if (child := os.fork()) == 0:
        os._exit(0)
    os.waitpid(child, 0)
    for event in steps(5, 6):
        provider.record(event)
    provider.close()
    assert len(rows(tmp_path)) == 10


def records(directory: Path) -> list[dict[str, Any]]:
    """Everything in the newest log."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(logs(directory)[-1])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def manifest(artifact: dict[str, Any]) -> list[dict[str, Any]]:
    contents: list[dict[str, Any]] = artifact["manifest"]["contents"]
    return sorted(contents, key=lambda file: str(file["path"]))
