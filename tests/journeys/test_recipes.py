"""The recipes for GPUs from their first byte to their report, at toy size, from a hub that stands in for the real one."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mccore.cli import main
from mccore.config import RunConfig
from mccore.events import check_event, read_events
from mccore.report.write import read_report
from mccore.resolve.resolve import recipe_config, resolve
from mccore.runs.rundir import RunDir
from mccore.stages.preflight import check_sources
from tests.support.benchmarks import add_benchmarks
from tests.support.core_bundle import write_bundle
from tests.support.hub import StandInHub, hub, parquet
from tests.support.small_run import in_process

__all__ = ["hub", "in_process"]

CORPUS = "karpathy/climbmix-400b-shuffle"
WORDS = "a river of small words runs over stones and under old bridges while people count the boats that pass".split()  # noqa: SIM905

_BATCH = {"batch_tokens": 1024, "micro_batch_rows": 4}
# What makes a recipe for eight GPUs one for a test: everything it does, of each a little.
TOY = [
    "hardware.nproc=1", "hardware.device=cpu", "data.shards=2", "tokenizer.vocab_size=400", "tokenizer.max_chars=20000",
    "model.depth=2", "model.n_embd=32", "model.head_dim=16", "model.max_seq_len=256", "base.tokens=4096",
    *(f"{stage}.{name}={value}" for stage in ("base", "mid", "sft") for name, value in _BATCH.items()),
    "base.eval_tokens=1024", "mid.eval_tokens=1024", "sft.eval_tokens=1024", "mid.tokens=2048", "sft.tokens=2048",
    "eval.bpb_tokens=2048", "eval.choice_questions=8", "eval.generated_questions=1", "eval.sample_tokens=4",
    "eval.benchmark_questions=2", "eval.benchmark_tokens=4",
]  # fmt: skip
REWARDS = [
    "rl.mixture.gsm8k=4", "rl.questions=2", "rl.samples=2", "rl.max_new_tokens=8", "rl.eval_questions=1", "rl.eval_samples=2",
]  # fmt: skip
FOCUS = ["megacontext.block_size=8", "megacontext.horizon=8"]


@pytest.fixture
def stocked(hub: StandInHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandInHub:
    """A hub with a little of everything that the recipes read, for this process's children."""
    rng = random.Random(0)
    for number in (0, 1, 6542):
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(20, 200))) + f" {number}.{row}" for row in range(60)]
        hub.add(CORPUS, {**_files(hub), f"shard_{number:05d}.parquet": parquet(text=texts)})
    add_benchmarks(hub, count=60)
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    return hub


def _files(hub: StandInHub) -> dict[str, bytes]:
    return hub.repositories[CORPUS].files("main")[1] if CORPUS in hub.repositories else {}


def _counts(recipe: str) -> list[str]:
    """Every source of the recipe's own mixtures, each with a few conversations."""
    config = recipe_config(recipe)
    return [f"{stage}.mixture.{name}=12" for stage in ("mid", "sft") for name in getattr(config, stage).mixture]


def _planned(capsys: pytest.CaptureFixture[str], recipe: str, sets: list[str], *flags: str) -> RunConfig:
    """What the command would run with these words."""
    settings = [part for each in sets for part in ("--set", each)]
    assert main(["run", recipe, *flags, *settings, "--dry-run", "--json"]) == 0
    return RunConfig.model_validate(json.loads(capsys.readouterr().out)["config"])


def _done(config: RunConfig, base: Path, in_process: Callable[[RunDir, str], dict[str, Any]]) -> RunDir:
    """Every stage, one after the other, in this process. That each can have one of its own, real runs show: `.ci/run`, and
    that of telemetry's tests."""
    check_sources(config)
    run = RunDir.create(base / "runs", "whole", config)
    for stage in config.stages:
        run.write_result(stage, in_process(run, stage))
    assert all(run.completed(stage) for stage in config.stages)
    return run


@pytest.mark.timeout(900)  # a minute and a half where nothing else is at work
def test_speedrun_with_megacontext_from_its_first_byte_to_its_report(
    stocked: StandInHub, in_process, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "eval_bundle")
    sets = [*TOY, *_counts("speedrun"), *REWARDS, *FOCUS, f"eval.core_bundle={bundle}"]
    config = _planned(capsys, "speedrun", sets, "--mc", "--allocator", "stochastic_greedy")
    assert (config.megacontext.enabled, config.megacontext.allocator.name) == (True, "stochastic_greedy")
    run = _done(config, tmp_path / "base", in_process)
    for event in read_events(run.events_dir):
        check_event(event)
    report = (run.report_dir / "report.md").read_text()
    for heading in ("## Training", "## Reinforcement learning", "## Chat model", "## MegaContext", "### CORE, base"):
        assert heading in report
    for stage in ("mid", "sft", "rl"):
        assert f"| {stage} | **ChatCORE** |" in report
    assert {one["what"] for one in read_report(run)["missing"]}.isdisjoint({"CORE", "ChatCORE", *run.config.stages})
    # What the mixtures need was fetched, each file once.
    sent = [(answer.path, answer.start) for answer in stocked.sent]
    assert len(sent) == len(set(sent))
    paths = {path for path, _ in sent}
    assert {"shard_00000.parquet", "shard_00001.parquet", "shard_06542.parquet"} <= paths


@pytest.mark.parametrize(
    ("recipe", "profile", "more"),
    [("run10", "h100", []), ("speedrun", "h100-d24", REWARDS), ("run1000", None, REWARDS)],
)
def test_the_other_recipes_and_profiles(
    stocked: StandInHub, in_process, tmp_path: Path, recipe: str, profile: str | None, more: list[str]
) -> None:
    """Without the questions about the standard library, which take longest to make."""
    fewer = ["eval.choice_questions=0", "eval.generated_questions=0"]
    config = resolve(recipe, sets=[*TOY, *_counts(recipe), *more, *fewer], gpu=profile)
    run = _done(config, tmp_path / "base", in_process)
    assert "## Training" in (run.report_dir / "report.md").read_text()
