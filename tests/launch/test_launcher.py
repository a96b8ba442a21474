"""The launcher with real processes: sequence, resume, stop, death of a stage, death of the launcher, full disk."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mccore.config import HardwareConfig, RunConfig
from mccore.errors import RunError
from mccore.events import find_alerts, read_events
from mccore.launch.command import stage_command, stage_environment
from mccore.launch.launcher import launch
from mccore.runs.rundir import RunDir

FINISH = [{"do": "step"}, {"do": "finish"}]


def stage_ends(run: RunDir):
    return [
        (e.stage, e.data["outcome"], e.data["message"]) for e in read_events(run.events_dir) if e.type == "stage.end"
    ]


def types(run: RunDir):
    return [e.type for e in read_events(run.events_dir)]


class TestCommands:
    def test_one_rank_runs_the_worker_itself(self):
        command = stage_command(Path("/runs/a"), "base", HardwareConfig())
        assert command == [sys.executable, "-m", "mccore.launch.worker", "/runs/a", "base"]

    def test_several_ranks_go_through_torchrun(self):
        command = stage_command(Path("/runs/a"), "base", HardwareConfig(nproc=4))
        assert command == [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "4", "--standalone"),
            *("-m", "mccore.launch.worker", "/runs/a", "base"),
        ]

    def test_several_machines_meet_at_the_endpoint(self):
        hardware = HardwareConfig(nproc=8, nnodes=2, rdzv_endpoint="head:29400")
        command = stage_command(Path("/runs/a"), "sft", hardware, "a")
        assert "--standalone" not in command
        assert command[3:-4] == [
            *("--nproc-per-node", "8", "--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-id", "a"),
            *("--rdzv-endpoint", "head:29400"),
        ]

    @pytest.mark.parametrize("stage", ["data", "tokenizer", "tokenizer_eval", "report"])
    def test_stages_that_dont_train_run_once(self, stage):
        assert stage_command(Path("/r"), stage, HardwareConfig(nproc=4))[1:3] == ["-m", "mccore.launch.worker"]

    def test_threads(self, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
        assert "OMP_NUM_THREADS" not in stage_environment("base", HardwareConfig())
        assert stage_environment("base", HardwareConfig(threads=3))["OMP_NUM_THREADS"] == "3"
        monkeypatch.delenv("OMP_NUM_THREADS")
        monkeypatch.setattr("mccore.launch.command.available_cores", lambda: 8)
        assert stage_environment("base", HardwareConfig(nproc=4))["OMP_NUM_THREADS"] == "2"
        assert stage_environment("report", HardwareConfig(nproc=4))["OMP_NUM_THREADS"] == "8"


class TestSequence:
    def test_all_stages_in_order(self, make_run, start):
        run = make_run({"data": FINISH, "base": FINISH}, threads=2)
        assert start(run).outcome() == {"state": "finished", "stage": "base", "message": ""}
        assert types(run) == [
            *("run.start", "stage.start", "step", "stage.end", "stage.start", "step", "stage.end", "run.end"),
        ]
        assert run.read_result("data")["threads"] == "2"
        assert run.outcome().state == "finished"
        assert "rank 0 of base" in run.log_path("base").read_text()
        assert not run.is_running()

    def test_a_failure_ends_the_run_and_resume_goes_on_there(self, make_run, start):
        run = make_run({"base": [{"do": "raise"}]})
        assert start(run).outcome() == {"state": "failed", "stage": "base", "message": "ValueError: no good"}
        assert run.outcome().message == "ValueError: no good"
        first = run.read_result("data")
        (run.path / "plan.json").write_text("{}")
        assert start(run).outcome()["state"] == "finished"
        assert run.read_result("data") == first  # not done again
        starts = [e.data for e in read_events(run.events_dir) if e.type == "run.start"]
        assert [(s["resumed"], s["stages"]) for s in starts] == [(False, ["data", "base"]), (True, ["base"])]
        assert run.log_path("base").read_text().count("rank 0 of base") == 2  # the log is appended to

    def test_the_events_decide_not_the_exit_code(self, make_run, start):
        run = make_run({"data": [{"do": "finish"}, {"do": "exit", "code": 9}]})
        assert start(run).outcome()["state"] == "finished"

    @pytest.mark.parametrize(
        ("code", "state", "message"),
        [(0, "failed", "without a result"), (3, "stopped", ""), (7, "failed", "exit code 7: something on the way out")],
    )
    def test_without_an_event_the_exit_code_decides(self, make_run, start, code, state, message):
        run = make_run({"data": [{"do": "exit", "code": code}]})
        outcome = start(run).outcome()
        assert outcome["state"] == state
        assert message in outcome["message"]
        assert stage_ends(run)[-1][1] == state
        assert run.outcome().state == state

    def test_a_listener_that_goes_away_doesnt_end_the_run(self, make_run, start):
        run = make_run({})
        launched = start(run)
        launched.process.stdout.close()
        assert launched.process.wait(240) is not None
        assert run.outcome().state == "finished"


class TestDeath:
    def test_a_killed_stage_is_named_with_its_signal(self, make_run, start):
        run = make_run({"base": [{"do": "step"}, {"do": "kill"}]})
        outcome = start(run).outcome()
        assert outcome["state"] == "failed"
        assert "SIGKILL" in outcome["message"]
        assert outcome["message"] == "base was killed (SIGKILL), perhaps for lack of memory"
        assert run.outcome().state == "failed"
        assert stage_ends(run)[-1][:2] == ("base", "failed")

        ends = [event for event in read_events(run.events_dir) if event.type == "stage.end"]
        assert ends[-1].data["seconds"] > 0

    def test_a_killed_rank_is_named_under_torchrun(self, make_run, start, is_alive):
        run = make_run({"base": [{"do": "hang", "rank": 0}, {"do": "kill", "rank": 1}]}, nproc=2, stages=("base",))
        outcome = start(run).outcome()
        assert outcome["state"] == "failed"
        assert "rank 1 was killed (SIGKILL)" in outcome["message"]
        hanging = run.path / "hanging0"
        assert not hanging.exists() or not is_alive(int(hanging.read_text()))

    def test_a_killed_launcher_takes_its_stage_along(self, make_run, start, is_alive, until):
        run = make_run({"data": [{"do": "hang"}]})
        launched = start(run)
        pid = int(launched.wait_for_file("hanging0"))
        assert run.is_running()
        assert run.outcome().state == "running"
        assert run.outcome().stage == "data"
        launched.process.kill()
        until(lambda: not is_alive(pid), "the stage to end")
        assert run.outcome().state == "crashed"
        (run.path / "plan.json").write_text("{}")
        assert start(run).outcome()["state"] == "finished"

    def test_the_first_failure_is_the_one_that_is_told(self, make_run, start):
        last = {"do": "raise", "rank": 1, "after": 0, "message": "RuntimeError: connection closed by peer"}
        run = make_run({"base": [{"do": "raise", "rank": 0, "before": 1}, last]}, nproc=2, stages=("base",))
        assert start(run).outcome()["message"] == "rank 0: ValueError: no good"
        assert run.outcome().message == "rank 0: ValueError: no good"

    def test_a_killed_launcher_takes_torchruns_ranks_along(self, make_run, start, is_alive, until):
        run = make_run({"base": [{"do": "hang"}]}, nproc=2, stages=("base",))
        launched = start(run)
        pids = [int(launched.wait_for_file(f"hanging{rank}")) for rank in (0, 1)]
        launched.process.kill()
        until(lambda: not any(map(is_alive, pids)), "the ranks to end")

    def test_a_killed_agent_takes_its_ranks_along(self, make_run, start, is_alive, until):
        run = make_run({"base": [{"do": "hang", "deaf": True}]}, nproc=2, stages=("base",))
        launched = start(run)
        pids = [int(launched.wait_for_file(f"hanging{rank}")) for rank in (0, 1)]
        agent = psutil.Process(launched.process.pid).children()[0]
        agent.kill()
        assert launched.outcome()["state"] == "failed"
        assert not any(map(is_alive, pids))
        assert not run.is_running()

    def test_the_lock_is_held_while_a_process_of_the_stage_lives(self, make_run, start, is_alive, until):
        run = make_run({"data": [{"do": "hang", "deaf": True}]})
        launched = start(run)
        pid = int(launched.wait_for_file("hanging0"))
        launched.process.kill()
        launched.process.wait()
        assert is_alive(pid)
        second = start(run)
        second.process.wait(240)
        assert "is running (pid" in second.process.stderr.read()
        os.kill(pid, signal.SIGKILL)
        until(lambda: not run.is_running(), "the lock to be free")

    def test_children_of_a_stage_are_ended_with_it(self, make_run, start):
        run = make_run({"data": [{"do": "hang", "child": True}]})
        launched = start(run)
        pid = int(launched.wait_for_file("hanging0"))
        child = psutil.Process(pid).children()[0]
        os.kill(pid, signal.SIGKILL)
        assert launched.outcome()["state"] == "failed"
        assert not child.is_running()


class TestStop:
    def test_the_stop_file_ends_a_run_as_stopped(self, make_run, start, until):
        run = make_run({"data": [{"do": "step"}, {"do": "stop-aware"}]})
        launched = start(run)
        until(lambda: "step" in types(run), "the stage to be at work")
        run.request_stop()
        assert launched.outcome() == {"state": "stopped", "stage": "data", "message": "asked to stop"}
        assert run.outcome().state == "stopped"
        (run.path / "plan.json").write_text("{}")
        assert start(run).outcome()["state"] == "finished"  # the request doesn't outlive the start it was made for

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_the_first_signal_asks_the_stage_to_save(self, make_run, start, until, number):
        run = make_run({"data": [{"do": "step"}, {"do": "stop-aware"}]})
        launched = start(run)
        until(lambda: "step" in types(run), "the stage to be at work")
        launched.process.send_signal(number)
        assert launched.outcome()["state"] == "stopped"
        assert "saves first" in launched.err

    def test_ranks_under_torchrun_stop_too(self, make_run, start, until):
        run = make_run({"base": [{"do": "step"}, {"do": "stop-aware"}]}, nproc=1, stages=("base",))
        launched = start(run, "2")  # the width of this start, not that of run.json
        until(lambda: types(run).count("step") == 2, "both ranks to be at work")
        launched.process.send_signal(signal.SIGINT)
        assert launched.outcome()["state"] == "stopped"
        assert sorted(e.rank for e in read_events(run.events_dir) if e.type == "stage.start") == [0, 1]

    def test_the_second_signal_ends_a_stage_that_doesnt_listen(self, make_run, start, until, is_alive):
        run = make_run({"data": [{"do": "hang"}]})
        launched = start(run)
        pid = int(launched.wait_for_file("hanging0"))
        launched.process.send_signal(signal.SIGINT)
        until(run.stop_requested, "the first signal to be heard")
        launched.process.send_signal(signal.SIGINT)
        assert launched.outcome()["state"] == "interrupted"
        assert not is_alive(pid)
        assert run.outcome().state == "interrupted"

    def test_a_deaf_stage_is_killed_after_the_grace_period(self, make_run, start, until, is_alive):
        run = make_run({"data": [{"do": "hang", "deaf": True}]})
        launched = start(run)
        pid = int(launched.wait_for_file("hanging0"))
        launched.process.send_signal(signal.SIGTERM)
        until(run.stop_requested, "the first signal to be heard")
        launched.process.send_signal(signal.SIGTERM)
        assert launched.outcome()["state"] == "interrupted"
        assert not is_alive(pid)

    def test_a_stop_between_stages(self, make_run, start, until):
        run = make_run({"data": [{"do": "hang"}]})
        launched = start(run)
        pid = int(launched.wait_for_file("hanging0"))
        run.write_result("data", {})
        run.request_stop()
        os.kill(pid, signal.SIGTERM)
        assert launched.outcome()["state"] in ("failed", "stopped")
        assert not run.completed("base")


class TestRefusals:
    def test_a_second_start_in_the_same_directory(self, make_run, start):
        run = make_run({"data": [{"do": "hang"}]})
        first = start(run)
        first.wait_for_file("hanging0")
        second = start(run)
        assert second.process.wait(240) == 1
        error = second.process.stderr.read()
        assert f"the run 'one' is running (pid {first.process.pid})" in error
        assert types(run).count("run.start") == 1

    def test_several_machines_without_a_meeting_place(self, make_run):
        run = make_run({}, nnodes=2)
        with pytest.raises(Exception, match="place to meet"):
            launch(run)
        assert not run.events_dir.exists()


class TestFullDisk:
    def test_a_file_size_limit_ends_the_run_with_a_clear_error(self, make_run, start):
        run = make_run({"data": [{"do": "fill"}]})
        limit = 256 * 1024
        launched = start(run, limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        outcome = launched.outcome()
        assert outcome["state"] == "failed"
        assert "can't write events" in outcome["message"]
        events = (run.events_dir / "rank0.jsonl").read_bytes()
        assert events.endswith(b"\n")  # nothing half-written
        assert run.outcome().state == "failed"

    def test_a_full_disk_leaves_no_run_behind(self, small_disk):
        (small_disk / "ballast").write_bytes(b"\0" * free_bytes(small_disk))
        with pytest.raises(RunError, match="can't") as caught:
            RunDir.create(small_disk / "runs", "one", RunConfig())
        assert "full" in caught.value.hint
        assert not (small_disk / "runs" / "one").exists()

    def test_a_stage_that_fills_the_disk_still_says_so(self, small_disk, start):
        run = RunDir.create(small_disk / "runs", "one", RunConfig(stages=("data",)))
        (run.path / "plan.json").write_text(json.dumps({"data": [{"do": "fill"}]}))
        outcome = start(run).outcome()
        assert outcome["state"] == "failed"
        assert "can't write events" in outcome["message"]
        assert run.outcome().state == "failed"
        for path in run.events_dir.glob("*.jsonl"):
            assert path.read_bytes().endswith(b"\n")


def free_bytes(directory: Path) -> int:
    state = os.statvfs(directory)
    return state.f_bavail * state.f_frsize


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs isn't permitted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_an_alert_is_written_while_the_run_goes_on(make_run, start):
    bad = [{"do": "step", "metrics": {"swap_rate": 0.9}, "later": 100.0 * part} for part in range(3)]
    run = make_run({"base": [*bad, {"do": "finish"}]}, stages=("base",))
    launched = start(run)
    assert launched.outcome()["state"] == "finished"
    (event,) = [event for event in read_events(run.events_dir) if event.type == "alert"]
    assert (event.stage, event.data["metric"], round(event.data["since"])) == ("base", "swap_rate", 200)
    assert '"type":"alert"' in launched.out, "whoever watches the launch is told"
    (found,) = find_alerts(read_events(run.events_dir))
    assert found.data() == event.data
