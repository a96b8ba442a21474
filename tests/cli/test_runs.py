"""`mccore runs`: list, show, stop, compare, on directories written by hand."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mccore.cli import main
from mccore.config import BaseConfig, RunConfig
from mccore.events import Event, EventWriter
from mccore.runs.rundir import RunDir
from tests.support.checkpoints import write_checkpoint

STAGES = ("tokenizer", "base")


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "runs"


def make(root, name, *, start, loss, tokens=4096, outcome="finished", seed=42):
    """A run whose `base` ended as told, `start` seconds after the epoch."""
    config = RunConfig(recipe="tiny", stages=STAGES, seed=seed, base=BaseConfig(tokens=tokens))
    run = RunDir.create(root, name, config)
    with EventWriter(run.events_dir / "launcher.jsonl") as launcher:
        launcher.write(Event("run.start", start))
    with EventWriter(run.events_dir / "rank0.jsonl") as rank:
        rank.write(Event("stage.start", start + 1, stage="base"))
        metrics = {"loss": loss, "lod_loss/1": 3.0, "grad_norm": float("nan")}
        rank.write(Event("step", start + 2, stage="base", step=1, tokens=tokens, metrics=metrics))
        data = {"outcome": outcome, "message": "why", "seconds": 12.5}
        rank.write(Event("stage.end", start + 3, stage="base", data=data))
    with EventWriter(run.events_dir / "rank1.jsonl", rank=1) as other:
        other.write(Event("step", start + 2.5, 1, "base", 1, tokens, {"loss": 99.0, "mfu": 0.5}))
    run.write_result("tokenizer", {"vocab_size": 2048, "kind": "bpe"})
    if outcome == "finished":
        run.write_result("base", {"loss": loss})
    return run


def output(capsys, *arguments):
    assert main(["runs", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def failure(capsys, *arguments):
    code = main(["runs", *arguments])
    return code, capsys.readouterr().err


class TestList:
    def test_empty(self, root, capsys):
        assert output(capsys) == []
        assert main(["runs"]) == 0
        assert "mccore run tiny" in capsys.readouterr().out

    def test_rows_in_the_order_of_their_start(self, root, capsys):
        make(root, "b", start=2000.0, loss=2.5)
        make(root, "a", start=3000.0, loss=3.5, outcome="failed")
        rows = output(capsys)
        assert rows == output(capsys, "list")
        assert [(row["name"], row["state"], row["loss"], row["tokens"], row["recipe"]) for row in rows] == [
            ("b", "finished", 2.5, 4096, "tiny"),
            ("a", "failed", 3.5, 4096, "tiny"),
        ]
        assert main(["runs", "list"]) == 0
        assert "failed" in capsys.readouterr().out

    def test_a_damaged_run_doesnt_hide_the_others(self, root, capsys):
        make(root, "good", start=1.0, loss=1.0)
        (root / "bad").mkdir()
        (root / "bad" / "run.json").write_text("{}{")
        states = {row["name"]: row["state"] for row in output(capsys)}
        assert states == {"good": "finished", "bad": "unreadable"}
        assert main(["runs"]) == 0


class TestShow:
    def test_outcome_stages_and_last_metrics(self, root, capsys):
        run = make(root, "one", start=1000.0, loss=2.5, outcome="stopped")
        detail = output(capsys, "show", "one")
        assert detail["outcome"] == {"state": "stopped", "stage": "base", "message": "why"}
        assert detail["stages"] == [
            {
                "stage": "tokenizer",
                "state": "finished",
                "seconds": None,
                "results": {"vocab_size": 2048, "kind": "bpe"},
            },
            {"stage": "base", "state": "stopped", "seconds": 12.5, "results": None},
        ]
        # rank 0's word counts, the other ranks fill in; what isn't finite is left out
        assert detail["metrics"] == {"lod_loss/1": 3.0, "loss": 2.5, "mfu": 0.5}
        assert output(capsys, "show", str(run.path)) == output(capsys, "show") == detail

    def test_says_what_telemetry_lost_over_all_starts(self, root, capsys):
        run = make(root, "one", start=1000.0, loss=2.5)
        told = [(1001, "failing", 2, "no route"), (1002, "failing", 4, "no route"), (1003, "recovered", 5, "")]
        with EventWriter(run.events_dir / "telemetry.jsonl") as writer:
            for at, state, lost, message in [*told, (1004, "failing", 1, "refused\x1b[2J")]:
                data = {"provider": "otel", "state": state, "lost": lost, "message": message}
                writer.write(Event("telemetry", float(at), data=data))
        with EventWriter(run.events_dir / "launcher.jsonl") as launcher:  # resumed: counted from nothing again
            launcher.write(Event("run.start", 2000.0))
        with EventWriter(run.events_dir / "telemetry.jsonl") as writer:
            writer.write(Event("telemetry", 2001.0, data={"provider": "otel", "state": "failing", "lost": 3}))
        (row,) = output(capsys, "show", "one")["telemetry"]
        assert (row["lost"], row["state"]) == (9, "failing")
        assert main(["runs", "show", "one"]) == 0
        out = capsys.readouterr().out
        assert "telemetry  otel: 9 events lost (refused" in out
        assert "\x1b" not in out

    def test_the_models_part_of_an_objective_has_its_own_word(self, root, capsys):
        run = make(root, "one", start=1000.0, loss=2.5)
        assert main(["runs", "show", "one"]) == 0
        assert "  loss 2.5" in capsys.readouterr().out
        run.write_result("base", {"loss": 6.332, "objective_loss": 10.62})
        assert main(["runs", "show", "one"]) == 0
        assert "token_loss 6.332, loss 10.62" in capsys.readouterr().out

    def test_says_where_a_running_run_can_be_scraped(self, root, capsys):
        run = make(root, "one", start=1000.0, loss=2.5)
        (run.path / "telemetry").mkdir()
        place = [{"targets": ["127.0.0.1:9464"], "labels": {"__scheme__": "http"}}]
        (run.path / "telemetry" / "prometheus-rank0.json").write_text(json.dumps(place))
        (run.path / "telemetry" / "prometheus-rank1.json").write_text("{")
        assert output(capsys, "show", "one")["metrics_at"] == [], "a run that is over serves nothing"
        with run.lock():
            assert output(capsys, "show", "one")["metrics_at"] == ["http://127.0.0.1:9464/metrics"]
            assert main(["runs", "show", "one"]) == 0
        assert "metrics for Prometheus at http://127.0.0.1:9464/metrics" in capsys.readouterr().out
        assert main(["runs", "show", "one"]) == 0
        text = capsys.readouterr().out
        assert "vocab_size 2,048" in text
        assert "nat" in text

    def test_a_bad_selector(self, root, capsys):
        make(root, "experiment", start=1.0, loss=1.0)
        code, error = failure(capsys, "show", "experimant")
        assert code == 2
        assert "did you mean experiment?" in error


class TestCompare:
    def test_settings_and_metrics_side_by_side(self, root, capsys):
        make(root, "a", start=1.0, loss=2.5, seed=1)
        make(root, "b", start=2.0, loss=2.0, seed=2, tokens=8192)
        content = output(capsys, "compare", "a", "b")
        assert content["runs"] == ["a", "b"]
        assert content["config"] == {"seed": [1, 2], "base.tokens": [4096, 8192]}
        assert content["metrics"]["loss"] == [2.5, 2.0]
        assert main(["runs", "compare", "a", "b"]) == 0
        assert "-0.5" in capsys.readouterr().out

    def test_a_metric_stands_beside_itself_of_the_same_stage(self, root, capsys):
        one = make(root, "ended-in-sft", start=1.0, loss=4.0)
        with EventWriter(one.events_dir / "rank0.jsonl") as rank:
            rank.write(Event("step", 9.0, stage="sft", step=1, tokens=64, metrics={"loss": 0.8, "grad_norm": 2.0}))
        make(root, "stopped-in-base", start=2.0, loss=3.0)
        content = output(capsys, "compare", "ended-in-sft", "stopped-in-base")
        assert content["metrics"]["loss"] == [4.0, 3.0], "of base, not that of sft beside that of base"
        assert content["metrics"]["grad_norm"] == [2.0, None]
        assert {row["metric"]: row["stage"] for row in content["metrics_by_stage"]} == {
            "grad_norm": "sft", "lod_loss/1": "base", "loss": "base", "mfu": "base",
        }  # fmt: skip
        assert main(["runs", "compare", "ended-in-sft", "stopped-in-base"]) == 0
        assert "-1          nat" in capsys.readouterr().out
        rows = {row["name"]: (row["loss"], row["loss_stage"]) for row in output(capsys)}
        assert rows == {"ended-in-sft": (0.8, "sft"), "stopped-in-base": (3.0, "base")}

    def test_the_same_settings(self, root, capsys):
        make(root, "a", start=1.0, loss=2.5)
        make(root, "b", start=2.0, loss=2.5)
        assert main(["runs", "compare", "a", "b"]) == 0
        assert "the configurations are the same" in capsys.readouterr().out


class TestStop:
    def test_a_run_that_isnt_running(self, root, capsys):
        run = make(root, "one", start=1.0, loss=1.0)
        code, error = failure(capsys, "stop", "one")
        assert code == 1
        assert "isn't running: it is finished" in error
        assert not run.stop_requested()

    def test_a_running_one_is_asked_and_waited_for(self, root, capsys):
        run = make(root, "one", start=1.0, loss=1.0, outcome="stopped")
        program = (
            "import sys, time; from pathlib import Path; from mccore.runs.rundir import RunDir\n"
            "run = RunDir(Path(sys.argv[1]))\n"
            "with run.lock():\n"
            "    print('locked', flush=True)\n"
            "    while not run.stop_requested(): time.sleep(0.01)\n"
        )
        command = [sys.executable, "-c", program, str(run.path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout.readline() == "locked\n"
            assert output(capsys, "stop", "one", "--wait") == {"name": "one", "state": "stopped", "stage": "base"}
        assert holder.returncode == 0

    def test_waiting_has_an_end(self, root, capsys):
        run = make(root, "one", start=1.0, loss=1.0)
        with run.lock():
            code, error = failure(capsys, "stop", "one", "--wait", "--timeout", "0.05")
        assert code == 1
        assert "hasn't ended" in error
        assert run.stop_requested()


class TestDelete:
    def test_a_whole_run_goes_with_a_yes(self, root, capsys):
        run = make(root, "a", start=100, loss=2.0)
        code, told = failure(capsys, "delete", "a")
        assert code == 2
        assert "would be deleted with its 0 checkpoints" in told
        assert run.path.exists()
        assert main(["runs", "delete", "a", "--yes"]) == 0
        assert not run.path.exists()

    def test_one_that_runs_stays(self, root, capsys):
        run = make(root, "a", start=100, loss=2.0)
        with run.lock():
            code, told = failure(capsys, "delete", "a", "--yes")
        assert code == 1
        assert "running" in told

    def test_checkpoints_are_listed_and_a_needed_one_goes_with_a_yes(self, root, capsys):
        run = make(root, "a", start=100, loss=2.0)
        write_checkpoint(run, "base", 5)
        write_checkpoint(run, "base", 10)
        rows = output(capsys, "checkpoints", "a")
        assert [(row["step"], row["latest"]) for row in rows] == [(5, False), (10, True)]
        assert main(["runs", "checkpoints", "a"]) == 0
        assert "base/10" in capsys.readouterr().out
        assert main(["runs", "delete", "a", "--checkpoint", "base/5"]) == 0
        code, told = failure(capsys, "delete", "a", "--checkpoint", "base")
        assert code == 2
        assert "base/10 is needed" in told
        assert main(["runs", "delete", "a", "--checkpoint", "base", "--yes"]) == 0
        capsys.readouterr()
        assert output(capsys, "checkpoints", "a") == []
