"""Benchmarks within the stages that measure models: results, events, report, what is missing, and ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mccore.config import RunConfig
from mccore.errors import DataError
from mccore.eval.chatcore import GUESSES
from mccore.events import EventWriter, check_event, read_events
from mccore.report.collect import collect
from mccore.report.pages.summary import render_report
from mccore.runs.checkpoints import Meta
from mccore.runs.rundir import RunDir
from mccore.runtime.runtime import Runtime, StopRequested, build
from mccore.stages.benchmarks import ask_benchmarks, ask_core
from mccore.stages.preflight import check_sources
from mccore.telemetry.emitter import Emitter
from mccore.train.checkpoint.write import write_checkpoint
from mccore.train.world import World
from tests.support.benchmarks import add_benchmarks
from tests.support.core_bundle import write_bundle
from tests.support.hub import Fault, StandInHub, hub
from tests.support.small_run import start_worker

__all__ = ["hub"]


@pytest.fixture
def make_run(
    hub: StandInHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, random_gpt, byte_tokenizer
) -> Callable[..., RunDir]:
    """`make_run(name, **settings of evaluation)`: a run whose base and fine-tuning stages have a random model."""
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    add_benchmarks(hub, count=3)
    gpt = random_gpt(max_seq_len=512)

    def make(name: str, **settings: Any) -> RunDir:
        evaluation = {"choice_questions": 0, "generated_questions": 0, "benchmark_tokens": 4, "benchmark_questions": 3}
        config = RunConfig.model_validate(
            {
                "model": gpt.config.model_dump(),
                "hardware": {"device": "cpu"},
                "stages": ["base", "base_eval", "sft", "chat_eval_sft", "report"],
                "eval": {**evaluation, **settings},
            }
        )
        run = RunDir.create(tmp_path / "base" / "runs", name, config)
        byte_tokenizer.save(run.tokenizer_dir)
        state = {f"model/gpt.{name}": tensor for name, tensor in gpt.state_dict().items()}
        for stage in ("base", "sft"):
            meta = Meta(stage, 3, 1000, config.model_dump(mode="json"), byte_tokenizer.fingerprint)
            write_checkpoint(run.checkpoint_dir(stage), state, meta)
        return run

    return make


@contextmanager
def _stage(run: RunDir, stage: str) -> Iterator[Runtime]:
    with Emitter(EventWriter(run.events_dir / "rank0.jsonl")) as emitter:
        yield build(run, stage, world=World(), emitter=emitter)


def _ask(run: RunDir) -> dict[str, Any]:
    with _stage(run, "chat_eval_sft") as runtime:
        found = ask_benchmarks(runtime, runtime.open_model("sft"))
    assert found is not None
    return found


def test_chatcore_is_measured_told_and_reported(make_run) -> None:
    run = make_run("asked", benchmarks=["chatcore"])
    found = _ask(run)
    assert found["tasks"].keys() == GUESSES.keys()
    assert found["missing"] == {}
    centred = [(found["tasks"][name]["accuracy"] - guess) / (1 - guess) for name, guess in GUESSES.items()]
    assert found["chatcore"]["value"] == pytest.approx(sum(centred) / 6)
    events = read_events(run.events_dir)
    for event in events:
        check_event(event)
    metrics = {name: value for event in events for name, value in event.metrics.items()}
    assert metrics["chatcore"] == pytest.approx(found["chatcore"]["value"])
    assert metrics["task_accuracy/mmlu"] == found["tasks"]["mmlu"]["accuracy"]
    run.write_result("chat_eval_sft", {"step": 3, "choice": None, "generated": {}, "metrics": {}, "benchmarks": found})
    page = render_report(collect(run, read_events(run.events_dir)))
    assert "### Benchmarks" in page
    assert "**ChatCORE**" in page
    assert "sft: ChatCORE" in page


def test_each_result_is_kept_as_it_is_done(make_run, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("kept", benchmarks=["arc_easy", "mmlu"])
    found = _ask(run)
    monkeypatch.setattr("mccore.runtime.benchmarks.evaluate_benchmark", None)
    assert _ask(run) == found


def test_what_cannot_be_had_is_missing_and_not_zero(make_run, hub: StandInHub) -> None:
    run = make_run("partly", benchmarks=["arc_easy", "mmlu"])
    hub.fail("api/cais/mmlu", *[Fault(status=500)] * 30)
    found = _ask(run)
    assert found["tasks"].keys() == {"arc_easy"}
    assert "mmlu" in found["missing"]
    assert found["chatcore"] is None
    run.write_result("chat_eval_sft", {"step": 3, "choice": None, "generated": {}, "metrics": {}, "benchmarks": found})
    data = collect(run, read_events(run.events_dir))
    assert any(entry["what"] == "mmlu in chat_eval_sft" for entry in data["missing"])
    notices = [event.data for event in read_events(run.events_dir) if event.type == "notice"]
    assert any(notice["about"] == "mmlu" for notice in notices)


def test_core_of_a_model_of_text(make_run, tmp_path: Path) -> None:
    run = make_run("core", core_bundle=str(write_bundle(tmp_path / "eval_bundle")))
    with _stage(run, "base_eval") as runtime:
        found = ask_core(runtime, runtime.open_model("base"))
    assert found is not None
    values = [one["centred"] for one in found["tasks"].values()]
    assert found["core"]["value"] == pytest.approx(sum(values) / len(values))
    assert found["core"]["tasks"] == len(values) == 3
    told = {name: value for event in read_events(run.events_dir) for name, value in event.metrics.items()}
    assert told["core"] == pytest.approx(found["core"]["value"])
    text = {"step": 3, "val_bpb": 1.0, "val_loss": 1.0, "tokens": 1, "bytes": 1, "samples": [], "core": found}
    run.write_result("base_eval", text)
    page = render_report(collect(run, read_events(run.events_dir)))
    assert "### CORE, base" in page
    assert "base: CORE of 3 tasks" in page


def test_a_bundle_that_is_damaged_is_no_reason_to_end_the_run(make_run, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "eval_bundle")
    next((bundle / "eval_data").rglob("*.jsonl")).write_text("")
    run = make_run("damaged", core_bundle=str(bundle))
    with _stage(run, "base_eval") as runtime:
        found = ask_core(runtime, runtime.open_model("base"))
    assert found is not None
    assert found["core"] is None
    assert len(found["tasks"]) == 2
    assert "holds no question" in next(iter(found["missing"].values()))


def test_a_run_that_names_none_asks_none(make_run) -> None:
    run = make_run("none")
    with _stage(run, "chat_eval_sft") as runtime:
        opened = runtime.open_model("sft")
        assert ask_benchmarks(runtime, opened) is None
        assert ask_core(runtime, opened) is None
    missing = {entry["what"] for entry in collect(run, [])["missing"]}
    assert {"CORE", "ChatCORE"} <= missing


def test_a_stop_ends_it_between_two_tasks(make_run) -> None:
    run = make_run("stopped", benchmarks=["arc_easy"])
    run.request_stop()
    with pytest.raises(StopRequested, match="0 benchmarks"):
        _ask(run)


def test_two_ranks_find_what_one_finds(make_run) -> None:
    alone, together = (make_run(name, benchmarks=["chatcore"]) for name in ("alone", "together"))
    expected = _ask(alone)
    process = start_worker(together, "chat_eval_sft", ranks=2)
    assert process.wait(timeout=900) == 0, together.log_path("chat_eval_sft").read_text()
    result = together.read_result("chat_eval_sft")
    assert result is not None
    assert result["benchmarks"] == expected
    evals = [event for event in read_events(together.events_dir) if event.type == "eval"]
    assert {event.rank for event in evals} == {0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"benchmarks": ["gsm9k"]}, "there is no task 'gsm9k'"),
        ({"core_bundle": "/nowhere"}, "/nowhere holds no core.yaml"),
    ],
)
def test_what_isnt_there_is_told_before_anything_runs(make_run, settings: dict[str, Any], message: str) -> None:
    run = make_run("early", **settings)
    config = run.config.model_copy(update={"data": run.config.data.model_copy(update={"corpus": "stdlib"})})
    with pytest.raises(DataError, match=message):
        check_sources(config)


def test_a_bundle_that_cant_be_asked_is_told_before_anything_runs(make_run, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "eval_bundle")
    run = make_run("unasked", core_bundle=str(bundle))
    config = run.config.model_copy(update={"data": run.config.data.model_copy(update={"corpus": "stdlib"})})
    check_sources(config, ("base_eval",))
    next((bundle / "eval_data").rglob("*.jsonl")).unlink()
    with pytest.raises(DataError, match=r"can't read .*jsonl"):
        check_sources(config, ("base_eval",))
    (bundle / "core.yaml").write_text("icl_tasks: [")
    with pytest.raises(DataError, match="isn't a bundle of CORE"):
        check_sources(config, ("base_eval",))
