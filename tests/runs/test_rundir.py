"""The run directory: selectors, layout, results, lock, stop file and every outcome."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mccore.config import RunConfig
from mccore.errors import ConfigError, RunError, UsageError
from mccore.events import Event, EventWriter
from mccore.host.files import write_atomic
from mccore.runs.rundir import RunDir, check_name, list_runs

CONFIG = RunConfig(recipe="tiny", stages=("data", "base"))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs"


@pytest.fixture
def run(root):
    return RunDir.create(root, "one", CONFIG)


class TestCreateAndOpen:
    def test_what_is_created_can_be_opened_by_name_and_directory(self, root, run):
        assert RunDir.open("one", root).config == CONFIG
        assert RunDir.open(root / "one").path == run.path
        assert RunDir.open(str(root / "one"), root).name == "one"
        assert run.outcome().state == "created"

    def test_an_existing_run_is_refused(self, root, run):
        with pytest.raises(RunError, match="exists already") as caught:
            RunDir.create(root, "one", CONFIG)
        assert "--resume one" in caught.value.hint

    @pytest.mark.parametrize("name", ["", "latest", "a/b", "../x", ".hidden", "-flag", "with space", "x" * 200, "a\n"])
    def test_names_that_cant_be(self, root, name):
        with pytest.raises(UsageError, match="can't be the name"):
            RunDir.create(root, name, CONFIG)
        assert not root.exists()

    @given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,20}", fullmatch=True).filter(lambda name: name != "latest"))
    def test_names_that_can(self, name):
        check_name(name)

    def test_a_misspelt_name_gets_close_matches(self, root, run):
        with pytest.raises(UsageError, match="there is no run 'ome'") as caught:
            RunDir.open("ome", root)
        assert "one" in caught.value.hint

    def test_latest_is_the_one_started_last(self, root):
        with pytest.raises(UsageError, match="there is no run"):
            RunDir.open("latest", root)
        for name in ("b", "c", "a"):
            RunDir.create(root, name, CONFIG)
        for name, seconds in (("a", 1.0), ("b", 3.0), ("c", 2.0)):
            write_events(RunDir(root / name), "launcher", [("run.start", time.time() + seconds, None, {})])
        assert RunDir.open("latest", root).name == "b"

    def test_list_passes_over_what_isnt_a_run(self, root, run):
        (root / "file").write_text("")
        (root / "empty").mkdir()
        assert [each.name for each in list_runs(root)] == ["one"]
        assert list_runs(root / "nowhere") == []

    def test_a_damaged_configuration_is_named(self, root, run):
        (run.path / "run.json").write_text("{")
        with pytest.raises(ConfigError, match=r"run\.json"):
            _ = RunDir(run.path).config

    def test_an_unwritable_root(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(RunError, match="can't make"):
            RunDir.create(tmp_path / "file", "one", CONFIG)


class TestResults:
    def test_a_result_marks_a_stage_complete(self, run):
        assert run.read_result("base") is None
        assert not run.completed("base")
        run.write_result("base", {"loss": 1.5, "bad": float("nan"), "list": [float("inf"), 1]})
        assert run.completed("base")
        assert run.read_result("base") == {"loss": 1.5, "bad": None, "list": [None, 1]}

    @pytest.mark.parametrize("content", ["", "{", "[1]"])
    def test_a_damaged_result_is_an_error(self, run, content):
        write_atomic(run.result_path("base"), content)
        with pytest.raises(RunError, match=r"base\.json"):
            run.read_result("base")


class TestWriteAtomic:
    def test_mode_and_content(self, tmp_path):
        path = tmp_path / "deep" / "file"
        write_atomic(path, "first", private=True)
        write_atomic(path, b"second", private=True)
        assert path.read_bytes() == b"second"
        assert path.stat().st_mode & 0o777 == 0o600
        assert list(path.parent.iterdir()) == [path]

    def test_a_failure_leaves_the_old_file_alone(self, tmp_path):
        """A process that may only write 1 KiB fails to replace a file by 4 KiB."""
        path = tmp_path / "file"
        path.write_text("old")
        program = (
            "import resource, sys; from pathlib import Path; from mccore.host.files import write_atomic\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))\n"
            "try: write_atomic(Path(sys.argv[1]), b'x' * 4096)\n"
            "except Exception as error: print(error.render())\n"
        )
        done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
        assert f"error: can't write {path}" in done.stdout
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]


class TestLock:
    def test_the_second_is_told_who_holds_it(self, run):
        with run.lock():
            assert run.is_running()
            with pytest.raises(RunError, match=rf"is running \(pid {os.getpid()}\)"):
                run.lock()
        assert not run.is_running()
        run.lock().release()

    def test_a_child_with_the_descriptor_holds_it_on(self, run):
        lock = run.lock()
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(lock.fd,))
        lock.release()
        assert run.is_running()
        child.communicate(b"")
        assert not run.is_running()

    def test_a_rank_holds_it_too(self, run):
        with run.join():
            assert run.is_running()
            with pytest.raises(RunError, match="still ending"):
                run.lock()
        with run.lock(), run.join():
            pass

    def test_looking_doesnt_write(self, root, run):
        assert not run.is_running()
        assert run.holder() is None
        assert [path.name for path in run.path.iterdir()] == ["run.json"]

    def test_the_stop_file(self, run):
        assert not run.stop_requested()
        run.request_stop()
        run.request_stop()
        assert run.stop_requested()
        run.clear_stop()
        run.clear_stop()
        assert not run.stop_requested()


def write_events(run, file, events):
    with EventWriter(run.events_dir / f"{file}.jsonl") as writer:
        for kind, moment, stage, data in events:
            writer.write(Event(kind, moment, stage=stage, data=data))


FAILED = ("stage.end", 13.0, "data", {"outcome": "failed"})
START, END = ("run.start", 10.0, None, {}), ("run.end", 90.0, None, {"outcome": "interrupted", "message": "by force"})


class TestOutcome:
    @pytest.mark.parametrize(
        ("rank0", "launcher", "expected"),
        [
            ([("stage.start", 11.0, "data", {})], [START], ("crashed", "data")),
            ([("stage.start", 11.0, "data", {})], [START, END], ("interrupted", "data")),
            ([("stage.end", 12.0, "data", {"outcome": "failed", "message": "no"})], [START], ("failed", "data")),
            ([("stage.end", 12.0, "data", {"outcome": "stopped"})], [START, END], ("stopped", "data")),
            ([("stage.end", 12.0, "data", {"outcome": "finished"})], [START], ("crashed", "data")),
            ([], [START], ("crashed", None)),
            ([("stage.start", 11.0, "data", {})], [START, FAILED], ("failed", "data")),
            # resumed after a failure and crashed before the first stage
            ([("stage.end", 8.0, "data", {"outcome": "failed"})], [START], ("crashed", "data")),
            # the run.end of an earlier start doesn't count
            ([("stage.start", 11.0, "data", {})], [("run.end", 9.0, None, {"outcome": "failed"}), START], ("crashed", "data")),
        ],
    )  # fmt: skip
    def test_the_last_stage_event_decides(self, run, rank0, launcher, expected):
        write_events(run, "rank0", rank0)
        write_events(run, "launcher", launcher)
        outcome = run.outcome()
        assert (outcome.state, outcome.stage) == expected

    def test_finished_is_every_stage_complete(self, run):
        write_events(run, "launcher", [START])
        write_events(run, "rank0", [("stage.end", 12.0, "base", {"outcome": "finished"})])
        for stage in CONFIG.stages:
            run.write_result(stage, {})
        assert run.outcome().state == "finished"

    def test_running_says_the_stage(self, run):
        write_events(run, "rank0", [("stage.start", 11.0, "base", {})])
        with run.lock():
            assert run.outcome().state == "running"
            assert run.outcome().stage == "base"

    def test_the_last_event_is_found_behind_many_others(self, run):
        write_events(run, "rank0", [("stage.start", 1.0, "data", {}), ("stage.start", 2.0, "base", {})])
        with EventWriter(run.events_dir / "rank0.jsonl") as writer:
            for step in range(2000):
                writer.emit("step", stage="base", step=step, metrics={"loss": 1.0})
            writer.emit("sample", prompt='"type":"stage.end"', text='{"type":"stage.end"}')
        assert run.last_event("stage.start").stage == "base"
        assert run.last_event("stage.end") is None
        assert run.last_event("step").step == 1999

    def test_a_torn_last_line_doesnt_count(self, run):
        write_events(run, "rank0", [("stage.start", 1.0, "data", {})])
        with open(run.events_dir / "rank0.jsonl", "ab") as file:
            file.write(b'{"v":1,"type":"stage.end","time":')
        assert run.last_event("stage.end") is None
