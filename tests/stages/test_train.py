"""The stages around training, in this process: what they leave for one another, and what restarting them does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mccore.data.batches.store import open_store
from mccore.data.corpora.catalogue import open_corpus
from mccore.errors import CheckpointError, ConfigError, DataError
from mccore.events import check_event, read_events
from mccore.host.paths import cache_dir
from mccore.runs.checkpoints import latest
from mccore.runs.rundir import RunDir
from mccore.runtime.open import open_model
from mccore.stages.lookup import fit_lookup
from mccore.stages.table import stage_function
from tests.support.small_run import BATCH, losses


@pytest.fixture(scope="module")
def run(new_run, make_config, in_process) -> RunDir:
    """All stages up to the evaluation of a small base model."""
    stages = ["data", "tokenizer", "tokenizer_eval", "encode", "base", "base_eval", "sft"]
    config = make_config(base={"tokens": 30 * BATCH}, tokenizer={"vocab_size": 400})
    run = new_run("stages", config.model_copy(update={"stages": tuple(stages)}))
    for stage in stages:
        run.write_result(stage, in_process(run, stage))
    return run


def _result(run: RunDir, stage: str) -> dict:
    result = run.read_result(stage)
    assert result is not None
    return result


def test_every_stage_has_a_function() -> None:
    from mccore.config import STAGES

    assert all(function.__doc__ for function in map(stage_function, STAGES))


def test_events_keep_to_the_schema(run: RunDir) -> None:
    for event in read_events(run.events_dir):
        check_event(event)


def test_the_tokenizer_is_the_one_that_was_trained(run: RunDir) -> None:
    assert _result(run, "tokenizer")["vocab_size"] <= 400
    evaluated = _result(run, "tokenizer_eval")
    assert evaluated["fingerprint"] == _result(run, "tokenizer")["fingerprint"]
    assert evaluated["texts"]["corpus val"]["bytes_per_token"] > 1.5


def test_encoding_tells_what_packing_makes_of_it(run: RunDir) -> None:
    found = _result(run, "encode")
    assert found.keys() == {"base", "sft"}
    assert found["base"]["train"]["utilization"] == 1.0
    assert 0 <= found["base"]["train"]["lost"] < 0.05
    assert found["sft"]["train"]["documents"] == 200
    assert found["sft"]["val"]["trained_tokens"] > 0


def test_a_second_encoding_finds_the_first_and_repairs_it(run: RunDir, in_process) -> None:
    directory = cache_dir() / "tokens" / _result(run, "encode")["base"]["store"]
    before = directory.stat().st_ino
    in_process(run, "encode")
    assert directory.stat().st_ino == before
    tokens = directory / "train.tokens"
    data = tokens.read_bytes()
    tokens.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    in_process(run, "encode")
    assert tokens.read_bytes() == data
    open_store(directory, checksums=True)


def test_a_finished_stage_done_again_changes_nothing(run: RunDir, in_process) -> None:
    path = latest(run.checkpoint_dir("base"))
    assert path is not None
    before = (path / "SHA256SUMS").read_text()
    again = in_process(run, "base")
    assert again["val_loss"] == _result(run, "base")["val_loss"]
    assert (path / "SHA256SUMS").read_text() == before


def test_fine_tuning_starts_from_the_base_model_with_a_fresh_optimizer(run: RunDir) -> None:
    steps = [event for event in read_events(run.events_dir) if event.type == "step"]
    last_base = [event for event in steps if event.stage == "base"][-1]
    first_sft = next(event for event in steps if event.stage == "sft")
    assert first_sft.step == 1
    assert first_sft.tokens == BATCH
    assert first_sft.metrics["loss"] < 5.5  # a fresh model starts at ln 400 = 6.0
    assert last_base.step == 30
    assert _result(run, "sft")["epoch"] >= 1.0  # every conversation was seen


def test_evaluation_of_the_base_model_is_that_of_its_checkpoint(run: RunDir) -> None:
    found = _result(run, "base_eval")
    assert found["step"] == 30
    assert found["val_bpb"] == pytest.approx(_result(run, "base")["val_bpb"], rel=0.2)  # other numbers of rows
    assert found["samples"][0]["prompt"] == "the "


def test_a_checkpoint_is_all_that_inference_needs(run: RunDir, tmp_path: Path) -> None:
    path = latest(run.checkpoint_dir("sft"))
    assert path is not None
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for name in ("meta.json", "model.safetensors", "SHA256SUMS"):
        (copy / name).write_bytes((path / name).read_bytes())
    opened = open_model(copy)
    assert opened.meta.tokenizer == _result(run, "tokenizer")["fingerprint"]
    assert (
        opened.gpt.config.vocab_ids == _result(run, "tokenizer")["vocab_size"]
    )  # ids that don't exist are never predicted
    assert torch.isfinite(opened.gpt(torch.tensor([[1, 2, 3]]))).all()


def test_the_speed_is_remembered_for_estimates(run: RunDir) -> None:
    known = json.loads((cache_dir() / "machine.json").read_text())
    assert known["version"] == 1
    [entry] = known["devices"].values()
    assert entry["flops_per_second"] > 0
    assert (entry["ranks"], entry["dtype"], entry["n_embd"]) == (1, "float32", 32)


def test_a_stop_between_documents_ends_the_stage(new_run, make_config, in_process, tmp_path: Path) -> None:
    from mccore.runtime.runtime import StopRequested

    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": f"document {n}"}) + "\n" for n in range(100)))
    run = new_run("stopped", make_config(data={"corpus": f"jsonl:{corpus}"}))
    run.request_stop()
    with pytest.raises(StopRequested, match="encode was stopped"):
        in_process(run, "encode")


def test_a_stop_while_training_saves_after_one_step(new_run, make_config, in_process) -> None:
    from mccore.runtime.runtime import Stopped

    run = new_run("stop-file", make_config())
    in_process(run, "encode")
    run.request_stop()
    with pytest.raises(Stopped) as stopped:
        in_process(run, "base")
    assert stopped.value.results["step"] == 1
    path = latest(run.checkpoint_dir("base"))
    assert path is not None
    assert path.name == "step_00000001"


def test_ranks_that_dont_divide_the_batch_are_refused(new_run, make_config, byte_tokenizer) -> None:
    from dataclasses import replace

    from mccore.events import EventWriter
    from mccore.runtime.runtime import build
    from mccore.stages.train import _plan
    from mccore.telemetry.emitter import Emitter
    from mccore.train.world import World

    run = new_run("three", make_config())
    with Emitter(EventWriter(run.events_dir / "rank0.jsonl")) as emitter:
        runtime = build(run, "base", world=World(), emitter=emitter)
        rows = runtime.rows("base", "train")
        with pytest.raises(ConfigError, match="16 sequences, which don't divide among 3 ranks"):
            _plan(replace(runtime, world=World(size=3)), rows)


def test_another_tokenizer_is_noticed(run: RunDir, in_process, byte_tokenizer, tmp_path: Path) -> None:
    original = (run.tokenizer_dir / "tokenizer.json").read_bytes()
    byte_tokenizer.save(run.tokenizer_dir)
    try:
        with pytest.raises(CheckpointError, match="another tokenizer"):
            in_process(run, "base_eval")
    finally:
        (run.tokenizer_dir / "tokenizer.json").write_bytes(original)


def test_an_empty_mixture_is_told(new_run, make_config, in_process) -> None:
    config = make_config()
    config = config.model_copy(update={"sft": config.sft.model_copy(update={"mixture": {}})})
    run = new_run("no-mixture", config)
    with pytest.raises(DataError, match=r"sft\.mixture is empty"):
        in_process(run, "sft")


@pytest.fixture(scope="module")
def megacontext_run(new_run, make_config, in_process) -> RunDir:
    """A small base model trained with MegaContext."""
    megacontext = {
        "enabled": True, "block_size": 4, "horizon": 3, "recent_tokens": 8, "expanded_blocks": 1, "refocus_interval": 2,
    }  # fmt: skip
    config = make_config(
        megacontext={**megacontext, "gistnet": {"layers": 1}, "lens": {"layers": 1, "queries": 4}},
        base={"tokens": 6 * BATCH, "eval_every_tokens": 0, "sample_every_tokens": 0},
    )
    run = new_run("mc-whole", config)
    in_process(run, "encode")
    in_process(run, "base")
    return run


def test_contexts_are_checked_and_compared(megacontext_run: RunDir, in_process) -> None:
    run = megacontext_run
    [check] = [event for event in read_events(run.events_dir) if event.type == "delta_nll"]
    assert (check.data["horizon"], check.data["sequences"]) == (3, 8)
    assert check.data["stderr"] > 0
    focus = next(event for event in read_events(run.events_dir) if event.type == "focus_allocator")
    assert focus.metrics["residency"] > 0.8
    assert focus.data["refocus"] > 3
    steps = [event for event in read_events(run.events_dir) if event.type == "step"]
    assert {"adv_delta/p95", "adv_delta"} <= steps[0].metrics.keys()
    assert "lens_gain" in steps[-1].metrics
    flops = [event.metrics["flops_total"] for event in steps]
    assert flops[0] / 1 != pytest.approx(flops[-1] / len(steps))  # contexts of other lengths cost other amounts
    found = in_process(run, "base_eval")["context"]
    assert found["horizon"] == 3
    assert found["documents"] < found["rows"]  # rows of one document aren't independent
    assert {"oracle", "oracle_bound", "lens"} <= found["nll"].keys()
    for name in ("by_distance", "by_lod"):
        assert {row["condition"] for row in found[name]} >= {"gists", "lens", "oracle"}
        assert all(row["tokens"] > 0 for row in found[name])
    gists = [row for row in found["by_distance"] if row["condition"] == "gists"]
    total = sum(row["delta"] * row["tokens"] for row in gists) / sum(row["tokens"] for row in gists)
    assert total == pytest.approx(found["delta_nll"]["gists"]["mean"])


def test_what_a_lookup_may_say_is_fitted_when_training_ends(megacontext_run: RunDir) -> None:
    run = megacontext_run
    told = [event.data["message"] for event in read_events(run.events_dir) if event.data.get("about") == "lookup"]
    assert len(told) == 1
    assert told[0].startswith("fitted to ")
    opened = open_model(latest(run.checkpoint_dir("base")))
    before = (opened.checkpoint / "lookup.json").read_bytes()
    assert opened.sessions().new().lookup is not None
    assert opened.sessions().missing_lookup is None
    again = fit_lookup(opened, open_corpus(run.config.data.corpus, cache_dir=cache_dir()))
    assert again is not None
    assert again["nll_with_lookup"] <= again["nll"] + 1e-6
    (opened.checkpoint / "lookup.json").unlink()
    without = opened.sessions()
    assert without.new().lookup is None
    assert "mccore eval fit-lookup" in str(without.missing_lookup)
    (opened.checkpoint / "lookup.json").write_bytes(before)


def test_rows_per_pass_are_measured_once_and_kept(
    megacontext_run: RunDir, new_run, in_process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much memory a resumed run finds, it goes on with the same bits."""
    from mccore.runtime.runtime import Stopped
    from mccore.stages import train as training

    config, whole = megacontext_run.config, megacontext_run
    interrupted = new_run("mc-interrupted", config)
    interrupted.request_stop()
    with pytest.raises(Stopped):
        in_process(interrupted, "base")
    interrupted.clear_stop()
    monkeypatch.setattr(training, "free_memory", lambda *_: 1.0)
    in_process(interrupted, "base")
    assert losses(interrupted, "base") == losses(whole, "base")
    sums = [
        (latest(run.checkpoint_dir("base")) / "SHA256SUMS").read_text().splitlines() for run in (whole, interrupted)
    ]
    model = [[line for line in lines if "safetensors" in line] for lines in sums]
    assert model[0] == model[1]
    # And that number matters: with one row per pass the bits are others.
    single = new_run("mc-single", config)
    in_process(single, "base")
    assert losses(single, "base") != losses(whole, "base")
