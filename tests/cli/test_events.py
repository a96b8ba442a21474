"""`mccore events`: reading, following, exporting."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mccore.cli import main
from mccore.config import Choice, RunConfig
from mccore.events import Event, EventWriter, read_events
from mccore.runs.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    run = RunDir.create(tmp_path / "runs", "one", RunConfig(telemetry=(Choice(name="noop"),)))
    with EventWriter(run.events_dir / "launcher.jsonl") as writer:
        writer.write(Event("run.start", 1.0, data={"stages": ["base"], "telemetry": ["otel"]}))
        writer.write(Event("run.end", 9.0, data={"outcome": "finished\x1b[2J"}))
    for rank in range(2):
        with EventWriter(run.events_dir / f"rank{rank}.jsonl", rank=rank) as writer:
            writer.write(Event("stage.start", 2.0, rank, "base"))
            for step in range(3):
                metrics = {"loss": 3.0 - step, "lod_loss/1": 1.0}
                writer.write(Event("step", 3.0 + step, rank, "base", step, step, metrics))
            writer.write(Event("eval", 7.0, rank, "mid", metrics={"val_bpb": 1.5}))
    return run


def lines(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main(["events", *arguments, "--json"] if arguments[0] != "export" else ["events", *arguments]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ([], 12), (["--type", "step"], 6), (["--type", "run"], 2), (["--type", "step", "--type", "eval"], 8),
        (["--rank", "1"], 5), (["--stage", "mid"], 2), (["--metric", "lod_loss"], 6), (["--metric", "lod_loss/1"], 6),
        (["--metric", "loss", "--rank", "0"], 3), (["--stage", "base", "--metric", "val_bpb"], 0),
    ],
)  # fmt: skip
def test_filters(run: RunDir, capsys: pytest.CaptureFixture[str], filters: list[str], count: int) -> None:
    assert len(lines(capsys, "show", "one", *filters)) == count
    assert len(lines(capsys, "export", "one", *filters)) == count
    assert len(lines(capsys, "tail", "one", "-n", "100", *filters)) == count


def test_tail_shows_the_newest_and_follow_ends_with_the_run(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert [line["time"] for line in lines(capsys, "tail", "one", "-n", "2")] == [7.0, 9.0]
    assert lines(capsys, "tail", "one", "-n", "0") == []
    with run.lock():
        command = [sys.executable, "-m", "mccore", "events", "tail", "one", "-f", "-n", "1", "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["time"] == 9.0
        with EventWriter(run.events_dir / "rank0.jsonl") as writer:
            writer.write(Event("step", 20.0, stage="base", step=9, metrics={"loss": 0.5}))
        assert json.loads(process.stdout.readline())["time"] == 20.0
        assert process.poll() is None
    assert process.wait(240) == 0


def test_lines_for_people_obey_nobody(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", "show", "one", "--metric", "loss", "--rank", "0"]) == 0
    out = capsys.readouterr().out
    assert "step 2  loss=1" in out
    assert "lod_loss" not in out, "only the metrics that were asked for"
    assert main(["events", "show", "one", "--type", "run.end"]) == 0
    out = capsys.readouterr().out
    assert "outcome=finished" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("command", ["tail", "show", "export"])
@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--metric", "los", "no metric 'los'"),
        ("--type", "stepp", "no type of event 'stepp'"),
        ("--stage", "bse", "no stage 'bse'"),
        ("--rank", "2", "no rank 2"),
    ],
)
def test_a_filter_that_nothing_can_pass_is_refused(
    run: RunDir, capsys: pytest.CaptureFixture[str], command: str, option: str, value: str, said: str
) -> None:
    for wrong in (value, ""):
        assert main(["events", command, "one", option, wrong]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert said in err or not wrong


def test_a_rank_of_a_run_that_goes_on_may_come_later(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    with run.lock():
        assert main(["events", "tail", "one", "--rank", "2"]) == 0


@pytest.mark.parametrize("command", ["tail", "show", "export"])
def test_filters_that_let_nothing_pass_say_so(run: RunDir, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main(["events", command, "one", "--metric", "lod_loss/7"]) == 0
    out, err = capsys.readouterr()
    assert (out, "no event of the run 'one' passes" in err) == ("", True)
    assert main(["events", command, "one", "--metric", "lod_loss/1"]) == 0
    assert "passes" not in capsys.readouterr().err


def test_long_reasons_are_cut_and_empty_fields_left_out(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    reason = "the collector said: " + "no " * 100
    with EventWriter(run.events_dir / "rank0.jsonl") as writer:
        writer.write(Event("telemetry", 8.0, data={"provider": "otel", "lost": 9, "message": reason}))
        writer.write(Event("stage.end", 8.5, data={"outcome": "finished", "message": "", "hint": ""}))
    assert main(["events", "show", "one", "--type", "telemetry", "--type", "stage.end"]) == 0
    told, ended = capsys.readouterr().out.splitlines()
    assert "lost=9  message=the collector said: no no" in told
    assert told.endswith("…")
    assert len(told) < 300
    assert ended.endswith("outcome=finished")


def test_lines_of_json_go_into_a_file(run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", "export", "one", "--output", "out.jsonl"]) == 0
    assert "12 events written to out.jsonl" in capsys.readouterr().err
    assert [Event.from_json(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == read_events(
        run.events_dir
    )


def test_a_file_that_is_there_is_kept_unless_it_may_go(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("mine")
    assert main(["events", "export", "one", "--output", "out.jsonl"]) == 2
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    assert main(["events", "export", "one", "--output", "out.jsonl", "--force", "--type", "run.end"]) == 0
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "otel"], "has had events of the run 'one' before"),
        (["--to", "prometheus"], "prometheus.mode=push"),
        (["--to", "noop"], "sends nothing"),
        (["--to", "otel", "--output", "x"], "--output is for lines of JSON"),
        (["--unsent"], "add --to PROVIDER"),
        (["--to", "otel", "--set", "otel.endpont=http://h"], "did you mean endpoint"),
        (["--to", "otel", "--set", "endpoint=http://h"], "PROVIDER.OPTION=VALUE"),
        (["--to", "nobody"], "nobody"),
    ],
)
def test_what_cant_be_meant_is_refused(
    run: RunDir, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["events", "export", "one", *arguments]) != 0
    assert said in capsys.readouterr().err


def test_a_run_that_goes_on_is_left_to_its_own_telemetry(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    with run.lock():
        assert main(["events", "export", "one", "--to", "otel"]) == 1
        assert "still goes on" in capsys.readouterr().err
        assert main(["events", "export", "one", "--to", "otell"]) != 0
    assert "otell" in capsys.readouterr().err


def test_reading_loads_nothing_heavy(run: RunDir) -> None:
    code = (
        "import sys; from mccore.cli import main; main(['events', 'tail', 'one']); "
        "print({name.partition('.')[0] for name in sys.modules} & {'torch', 'numpy', 'wandb', 'opensearchpy', 'rich'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
