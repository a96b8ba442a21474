"""A run followed by its directory: growth, several ranks, damage, truncation, a long history from its end."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from mccore.config import RunConfig
from mccore.events import Event, EventWriter
from mccore.runs import last_events as searching
from mccore.runs.live import files as following
from mccore.runs.live import watch as watching
from mccore.runs.live.state import SNAPSHOTS, RunState
from mccore.runs.live.watch import RunWatch
from mccore.runs.rundir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir.create(tmp_path, "watched", RunConfig())
    made.events_dir.mkdir()
    return made


def step(number: int, loss: float = 1.0, *, rank: int = 0, time: float | None = None, steps: int = 100) -> Event:
    return Event(
        "step",
        float(number if time is None else time),
        rank,
        "base",
        number,
        number * 512,
        {"loss": loss},
        {"steps": steps},
    )


def write(run: RunDir, events: list[Event], name: str = "rank0") -> None:
    with open(run.events_dir / f"{name}.jsonl", "a", encoding="utf-8") as file:
        file.writelines(event.to_json() + "\n" for event in events)


def drained(run: RunDir) -> RunWatch:
    watch = RunWatch(run)
    watch.open()
    for _ in range(10_000):
        if not watch.poll() and not watch.catching_up:
            break
    return watch


def test_it_follows_creation_growth_and_every_rank(run: RunDir) -> None:
    watch = RunWatch(run)
    watch.open()
    assert watch.state.events == 0
    write(run, [Event("run.start", 0.5, data={"stages": ["base", "report"]})], "launcher")
    write(run, [Event("stage.start", 1.0, 0, "base", data={"world_size": 2}), step(1, 3.0), step(2, 2.5)])
    write(run, [step(1, 9.0, rank=1)], "rank1")
    assert watch.poll()
    state = watch.state
    assert state.stages["base"].state == "running"
    assert state.stages["report"].state == "waiting"
    assert state.stages["base"].ranks == 2
    assert state.metrics["loss"].value == 2.5  # rank 0 speaks
    assert state.ranks == {0: 2.0, 1: 1.0}
    assert state.stages["base"].progress == pytest.approx(0.02)
    assert state.stages["base"].seconds_left == pytest.approx(98.0)
    write(run, [Event("stage.end", 3.0, 0, "base", data={"outcome": "finished"})])
    assert watch.poll()
    assert watch.state.stages["base"].state == "finished"
    assert not watch.poll()


def test_the_time_left_in_the_run_counts_the_stages_whose_size_is_known(run: RunDir) -> None:
    stages = {"stages": ["base", "mid", "sft"], "flops": {"base": 100, "mid": 50}}
    write(run, [Event("run.start", 0.5, data=stages)], "launcher")
    write(run, [Event("stage.start", 1.0, 0, "base", data={"plan": {"flops": 100}}), step(1), step(2)])
    state = drained(run).state
    left = state.seconds_left()
    assert left is not None
    assert state.run_seconds_left() == (pytest.approx(left + 50.0), False)  # sft's size only the data tell
    write(run, [Event("stage.end", 3.0, 0, "base", data={"outcome": "finished"})])
    assert drained(run).state.run_seconds_left() is None


def test_a_failure_keeps_the_traceback_of_the_first_rank(run: RunDir) -> None:
    write(run, [Event("stage.start", 1.0, 0, "base")])
    ended = {"outcome": "failed", "message": "boom", "traceback": "Traceback: boom"}
    write(run, [Event("stage.end", 2.0, 1, "base", data=ended)], "rank1")
    write(run, [Event("stage.end", 3.0, 0, "base", data=ended | {"message": "lost its peers"})])
    stage = drained(run).state.stages["base"]
    assert (stage.state, stage.message, stage.traceback) == ("failed", "boom", "Traceback: boom")


def test_damaged_lines_and_newer_events_are_counted(run: RunDir) -> None:
    with open(run.events_dir / "rank0.jsonl", "wb") as file:
        file.write(b"not json\n\xff\xfe\n[1, 2]\n" + b"[" * 100_000 + b"\n")
        file.write(json.dumps({"v": 99, "type": "of.the.future", "time": 1.0, "data": {"x": 1}}).encode() + b"\n")
        file.write(step(1).to_json().encode() + b"\n" + step(2).to_json().encode()[:20])  # torn
    watch = drained(run)
    assert watch.skipped == 4
    assert watch.state.newer == 1
    assert watch.state.metrics["loss"].step == 1


def test_files_that_are_read_piece_by_piece_are_taken_in_the_order_of_time(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank's short file has what happened last; a long file takes many pieces to get there."""
    monkeypatch.setattr(following, "PIECE_BYTES", 500)
    write(run, [Event("stage.start", 0.5, 0, "base"), *(step(number) for number in range(1, 200))])
    write(run, [Event("stage.end", 150.5, 1, "base", data={"outcome": "failed", "message": "boom"})], "rank1")
    files, times = following.EventFiles(run.events_dir), []
    while pieces := files.fetch():
        times += [event.time for event in files.digest(pieces)]
    assert times == sorted(times)
    assert len(times) == 201
    assert drained(run).state.stages["base"].message == "boom"


def test_nothing_waits_for_a_file_that_is_gone(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PIECE_BYTES", 500)
    write(run, [step(number) for number in range(1, 200)])
    write(run, [step(500, rank=1)], "rank1")
    files = following.EventFiles(run.events_dir)
    assert 500 not in [event.step for event in files.digest(files.fetch())]
    (run.events_dir / "rank0.jsonl").unlink()
    assert [event.step for event in files.digest(files.fetch())] == [500]


def test_the_last_event_of_a_kind_is_searched_for_in_what_is_new_only(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "BLOCK_BYTES", 700)
    write(run, [Event("stage.start", 0.5, 0, "base"), *(step(number) for number in range(1, 60))])
    assert run.last_event("stage.*").time == 0.5
    assert run.last_event("step").step == 59
    read = []
    monkeypatch.setattr(os, "pread", lambda fd, count, at, pread=os.pread: read.append(at) or pread(fd, count, at))
    size = (run.events_dir / "rank0.jsonl").stat().st_size
    write(run, [step(60)])
    assert run.last_event("stage.*").time == 0.5
    assert min(read) >= size
    write(run, [Event("stage.end", 61.0, 0, "base", data={"message": "x" * 5000})])
    assert run.last_event("stage.*").time == 61.0
    (run.events_dir / "rank0.jsonl").write_text(step(1).to_json() + "\n")
    assert run.last_event("stage.*") is None


def test_a_truncated_or_replaced_file_is_read_anew(run: RunDir) -> None:
    write(run, [step(number) for number in range(1, 6)])
    watch = RunWatch(run)
    watch.open()
    path = run.events_dir / "rank0.jsonl"
    path.write_text(step(1, 7.0).to_json() + "\n")
    assert watch.poll()
    assert watch.state.metrics["loss"].value == 7.0
    other = path.with_suffix(".new")
    other.write_text("".join(step(number, 8.0).to_json() + "\n" for number in range(1, 9)))
    os.replace(other, path)
    assert watch.poll()
    assert watch.state.metrics["loss"].value == 8.0
    assert watch.state.stages["base"].step == 8


def test_a_directory_that_vanishes_is_told(run: RunDir) -> None:
    write(run, [step(1)])
    watch = drained(run)
    shutil.rmtree(run.path)
    watch._looked = 0.0
    watch.poll()
    assert "gone" in watch.problem or "can't" in watch.problem
    assert watch.state.metrics["loss"].value == 1.0


def test_a_long_history_shows_its_end_at_once_and_is_the_same_in_the_end(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "TAIL_BYTES", 2_000)
    monkeypatch.setattr(following, "PIECE_BYTES", 4_000)
    write(run, [Event("run.start", 0.1, data={"stages": ["base"]})], "launcher")
    write(run, [Event("stage.start", 0.2, 0, "base", data={"world_size": 1})])
    write(run, [step(number, 1 / number) for number in range(1, 801)])
    watch = RunWatch(run)
    watch.open()
    assert watch.catching_up
    assert watch.state.metrics["loss"].value == 1 / 800
    assert watch.state.stages["base"].step == 800
    assert watch.state.stages["base"].state == "running"
    write(run, [step(801, 0.5)])
    while watch.catching_up:
        watch.poll(0.0)
    while watch.poll(0.0):
        pass
    plain = RunState()
    for event in sorted((event for event in run_events(run)), key=lambda event: event.time):
        plain.take(event)
    assert watch.state.traces == plain.traces
    assert watch.state.to_json() == plain.to_json()
    assert watch.state.metrics["loss"].value == 0.5


def run_events(run: RunDir) -> list[Event]:
    lines = [line for path in run.events_dir.glob("*.jsonl") for line in path.read_text().splitlines()]
    return [Event.from_json(line) for line in lines]


def test_snapshots_are_thinned_and_keep_the_ends() -> None:
    state = RunState()
    for number in range(5 * SNAPSHOTS):
        state.take(
            Event("working_context_snapshot", float(number), 0, "base", number, data={"runs": [[0, number + 1]]})
        )
    kept = state.snapshots["base"]
    assert len(kept) <= SNAPSHOTS
    assert (kept[0].step, kept[-1].step) == (0, 5 * SNAPSHOTS - 1)
    assert [event.step for event in kept] == sorted({event.step for event in kept})


def test_the_picture_of_a_real_writer(run: RunDir) -> None:
    with EventWriter(run.events_dir / "rank0.jsonl") as writer:
        writer.emit("alert", stage="base", metric="swap_rate", value=0.4, band=[0.05, 0.2], since=60.0, advice="look")
        writer.emit("checkpoint", stage="base", step=3, path="checkpoints/base/step_00000003", bytes=10, seconds=0.1)
        picture = drained(run).to_json()
    assert picture["alerts"][0]["metric"] == "swap_rate"
    assert picture["checkpoints"][0]["step"] == 3
    json.dumps(picture)


def test_looking_does_not_disturb_a_launcher(run: RunDir) -> None:
    watch = RunWatch(run)
    began = time.monotonic()
    with run.lock():
        watch.open()
        assert watch.outcome.state == "running"
    assert time.monotonic() - began < 30
