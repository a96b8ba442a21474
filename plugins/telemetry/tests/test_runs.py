"""Providers in front of whole launches: real launchers, with stages that write events and compute nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mccore.config import Choice, RunConfig
from mccore.events import Event, read_events
from mccore.runs.rundir import RunDir

from .collectors import Answer, ToldCollector
from .servers import free_port, get, wait_for

PROGRAM = Path(__file__).parents[3] / "tests" / "launch" / "programs" / "launch_standin.py"
STEPS = [{"do": "step"}] * 20
SECRET = "hunter2-planted"


@pytest.fixture
def told() -> Iterator[ToldCollector]:
    with ToldCollector() as server:
        yield server


def make(directory: Path, plan: dict[str, list[dict[str, Any]]], **providers: dict[str, Any]) -> RunDir:
    """A run of the stand-in stages `data` and `base`, with these providers and their options."""
    choices = tuple(Choice(name=name, options=options) for name, options in providers.items())
    run = RunDir.create(directory / "runs", "one", RunConfig(stages=("data", "base"), telemetry=choices))
    (run.path / "plan.json").write_text(json.dumps(plan))
    return run


def start(run: RunDir) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "MC_OTEL"))}
    environment |= {"PYTHONPATH": str(PROGRAM.parent), "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={SECRET}"}
    with open(run.path / "launcher.log", "wb") as log:
        return subprocess.Popen([sys.executable, str(PROGRAM), str(run.path)], stdout=log, stderr=log, env=environment)


def finish(run: RunDir) -> list[Event]:
    """The whole launch; its events."""
    assert start(run).wait(240) == 0, (run.path / "launcher.log").read_text()
    return read_events(run.events_dir)


def reports(events: list[Event]) -> list[tuple[str, int]]:
    return [(event.data["state"], event.data["lost"]) for event in events if event.type == "telemetry"]


def assert_all_lost(events: list[Event], provider: str = "otel") -> None:
    """Every event of the run is counted as lost, and of those about telemetry itself what the provider was given."""
    states = [event for event in events if event.type == "telemetry"]
    last = [event for event in states if event.data["provider"] == provider][-1]
    written = len(events) - len(states)
    assert last.data["state"] == "failing"
    assert written <= last.data["lost"] < written + len(states)


def seconds_after_the_end(run: RunDir, process: subprocess.Popen[bytes]) -> float:
    process.wait(240)
    gone = time.time()
    (end,) = [event for event in read_events(run.events_dir) if event.type == "run.end"]
    return gone - end.time


def test_one_provider_speaks_for_the_whole_launch(tmp_path: Path, told: ToldCollector) -> None:
    run = make(tmp_path, {"base": [*STEPS, {"do": "finish"}]}, otel={"endpoint": told.address})
    events = finish(run)
    assert reports(events) == []
    names = [span["name"] for span in told.received.spans]
    assert sorted(names) == ["stage base", "stage data", "train one"]
    assert (
        told.received.spans[0]["resource"]["mccore.run.id"]
        == json.loads((run.path / "telemetry" / "identity.json").read_text())["run_id"]
    )
    assert told.received.points("mccore.train.loss")[-1]["asDouble"] == 2.5
    assert [log["body"]["stringValue"] for log in told.received.logs] == [
        "run started", "stage data finished", "stage base finished", "run finished"
    ]  # fmt: skip


def test_a_secret_is_nowhere_in_the_run(tmp_path: Path, told: ToldCollector) -> None:
    told.answer = Answer(401)
    run = make(tmp_path, {}, otel={"endpoint": told.address})
    finish(run)
    assert told.headers[0]["authorization"] == SECRET
    for path in run.path.rglob("*"):
        assert path.is_dir() or SECRET not in path.read_text(errors="replace"), path


@pytest.mark.parametrize(
    ("answer", "lost"),
    [
        (Answer(401), "all"),
        (Answer(500), "all"),
        (Answer(429), "all"),
        (Answer(silent=True), "all"),
        (Answer(seconds=2), 0),
    ],
    ids=["401", "500", "429", "silent", "slow"],
)
def test_a_collector_at_fault_costs_no_more_than_its_patience(
    tmp_path: Path, told: ToldCollector, answer: Answer, lost: str | int
) -> None:
    told.answer = answer
    run = make(tmp_path, {"base": [*STEPS, {"do": "finish"}]}, otel={"endpoint": told.address})
    process = start(run)
    assert seconds_after_the_end(run, process) < 10, "3 s are meant; what is looked for are waits of 10 s and more"
    events = read_events(run.events_dir)
    if lost == "all":
        assert_all_lost(events)
    else:
        assert reports(events) == []


def test_no_collector_at_all(tmp_path: Path) -> None:
    run = make(tmp_path, {"base": [*STEPS, {"do": "finish"}]}, otel={"endpoint": f"http://127.0.0.1:{free_port()}"})
    process = start(run)
    assert seconds_after_the_end(run, process) < 10
    assert_all_lost(read_events(run.events_dir))


def test_a_collector_that_comes_back_gets_what_it_missed_once(tmp_path: Path) -> None:
    port = free_port()
    run = make(tmp_path, {"base": [*STEPS, {"do": "stop-aware"}]}, otel={"endpoint": f"http://127.0.0.1:{port}"})
    process = start(run)
    wait_for(lambda: reports(read_events(run.events_dir)) == [("failing", 0)])
    with ToldCollector(port=port) as told:
        run.request_stop()
        process.wait(240)
        names = sorted(span["name"] for span in told.received.spans)
    assert names == ["stage base", "stage data", "train one"]
    assert {lost for _, lost in reports(read_events(run.events_dir))} == {0}


def test_a_killed_launcher_still_says_that_the_run_is_over(tmp_path: Path, told: ToldCollector) -> None:
    run = make(tmp_path, {"base": [*STEPS, {"do": "hang"}]}, otel={"endpoint": told.address})
    process = start(run)
    wait_for(lambda: (run.path / "hanging0").exists())
    process.send_signal(signal.SIGKILL)
    process.wait()
    spans = wait_for(lambda: told.received.spans if len(told.received.spans) == 3 else None, 240)
    by_name = {span["name"]: span["status"]["code"] for span in spans}
    assert by_name == {
        "stage data": "STATUS_CODE_OK", "stage base": "STATUS_CODE_ERROR", "train one": "STATUS_CODE_ERROR"
    }  # fmt: skip


def test_a_killed_rank_is_told_with_what_it_had_done(tmp_path: Path, told: ToldCollector) -> None:
    run = make(tmp_path, {"base": [*STEPS, {"do": "kill"}]}, otel={"endpoint": told.address})
    finish(run)
    (stage,) = [span for span in told.received.spans if span["name"] == "stage base"]
    assert stage["status"]["code"] == "STATUS_CODE_ERROR"
    assert "SIGKILL" in stage["status"]["message"]
    assert told.received.points("mccore.train.loss")[-1]["asDouble"] == 2.5


def test_sigterm_ends_a_run_and_its_telemetry_in_order(tmp_path: Path, told: ToldCollector) -> None:
    run = make(tmp_path, {"base": [*STEPS, {"do": "stop-aware"}]}, otel={"endpoint": told.address})
    process = start(run)
    wait_for(lambda: [event for event in read_events(run.events_dir) if event.type == "step"])
    process.send_signal(signal.SIGTERM)
    assert seconds_after_the_end(run, process) < 10
    assert told.received.logs[-1]["body"]["stringValue"].startswith("run stopped")


def test_a_resumed_run_is_the_same_run_and_nothing_is_sent_twice(tmp_path: Path, told: ToldCollector) -> None:
    run = make(tmp_path, {"base": [*STEPS, {"do": "kill"}]}, otel={"endpoint": told.address})
    finish(run)
    (run.path / "plan.json").write_text(json.dumps({"base": [*STEPS, {"do": "finish"}]}))
    finish(run)
    spans = told.received.spans
    assert sorted(span["name"] for span in spans) == ["stage base"] * 2 + ["stage data"] + ["train one"] * 2
    assert len({span["resource"]["mccore.run.id"] for span in spans}) == 1
    assert [len(span.get("links", ())) for span in spans if span["name"] == "train one"] == [0, 1]
    assert len(told.received.logs) == 4 + 3


def test_one_address_is_scraped_through_all_stages(tmp_path: Path) -> None:
    run = make(tmp_path, {"data": [{"do": "stop-aware"}], "base": []}, prometheus={"port": 0})
    process = start(run)
    place = run.path / "telemetry" / "prometheus-rank0.json"
    wait_for(place.exists)
    (target,) = json.loads(place.read_text())[0]["targets"]
    assert 'mccore_system_stage_active{rank="0",run="one",stage="data"} 1.0' in wait_for(
        lambda: page if "stage_active" in (page := get(f"http://{target}/metrics")) else None
    )
    run.request_stop()
    process.wait(240)
    assert not place.exists()


def test_a_provider_that_hangs_holds_up_no_other(tmp_path: Path, told: ToldCollector) -> None:
    told.answer = Answer(silent=True)
    gateway = {"mode": "push", "gateway": f"http://127.0.0.1:{free_port()}"}
    run = make(tmp_path, {}, otel={"endpoint": told.address}, prometheus=gateway)
    events = finish(run)
    assert_all_lost(events, "otel")
    assert_all_lost(events, "prometheus")


def test_telemetry_that_was_killed_is_started_again_and_sends_nothing_twice(
    tmp_path: Path, told: ToldCollector
) -> None:
    run = make(tmp_path, {"base": [*STEPS, {"do": "stop-aware"}]}, otel={"endpoint": told.address})
    process = start(run)
    wait_for(lambda: "stage data finished" in told_lines(told))
    (first,) = relays(process.pid)
    first.kill()
    wait_for(lambda: [one for one in relays(process.pid) if one != first])
    run.request_stop()
    assert process.wait(240) == 0
    (report,) = [event for event in read_events(run.events_dir) if event.type == "telemetry"]
    assert report.data["message"] == (
        "the process for telemetry ended with -9: see logs/telemetry.log; another goes on, and"
        " `mccore events export one` sends what is missing"
    )
    assert report.data["lost"] is None
    assert told_lines(told)[-1] == "run stopped: asked to stop"
    assert sorted(told_lines(told)) == sorted(set(told_lines(told)))
    spans = [span["name"] for span in told.received.spans]
    assert sorted(spans) == sorted(set(spans))


def told_lines(told: ToldCollector) -> list[str]:
    return [log["body"]["stringValue"] for log in told.received.logs]


def relays(launcher: int) -> list[psutil.Process]:
    """The processes of a launcher that relay."""
    living = [child for child in psutil.Process(launcher).children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in living if "mccore.telemetry.relay" in child.cmdline()]


def test_one_that_cant_be_built_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    run = make(tmp_path, {}, otel={"certificate": "/no/such.pem"})
    events = finish(run)
    (report,) = [event for event in events if event.type == "telemetry"]
    assert "can't read the OpenTelemetry certificate" in report.data["message"]
    assert [event.data["outcome"] for event in events if event.type == "run.end"] == ["finished"]
