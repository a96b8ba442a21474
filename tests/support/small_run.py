"""A small run for the training stages: a tiny model, text and conversations made here, the byte tokenizer."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mccore.config import RunConfig
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.events import EventTail, EventWriter, read_events
from mccore.runs.rundir import RunDir
from mccore.scaling.derive import derive
from mccore.telemetry.emitter import Emitter

WORDS = (
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "wizards",
    "brew",
    "potions",
)
BATCH, STEPS, EVERY = 512, 60, 10


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """What runs here and what runs in workers is to be bit-equal, so both use one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A jsonl file of documents and one of conversations."""
    directory = tmp_path_factory.mktemp("sources")
    rng = random.Random(0)

    def text(words: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(words))

    documents = [{"text": text(rng.randint(3, 60))} for _ in range(400)]
    conversations = [
        {"messages": [{"role": "user", "content": text(3)}, {"role": "assistant", "content": text(rng.randint(1, 6))}]}
        for _ in range(300)
    ]
    for name, rows in (("documents", documents), ("conversations", conversations)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory / "documents.jsonl", directory / "conversations.jsonl"


@pytest.fixture(scope="session")
def make_config(sources: tuple[Path, Path]) -> Callable[..., RunConfig]:
    """`make_config(base={...}, sft={...})`: the small run's configuration with these settings of stages changed."""

    def make(**sections: dict[str, Any]) -> RunConfig:
        batch = {"batch_tokens": BATCH, "micro_batch_rows": 4, "eval_tokens": 1024}
        values: dict[str, Any] = {
            "seed": 7,
            "stages": ["base", "sft"],
            "hardware": {"device": "cpu"},
            "data": {"corpus": f"jsonl:{sources[0]}"},
            "tokenizer": {"vocab_size": 265},
            "model": {"depth": 2, "n_embd": 32, "head_dim": 16, "max_seq_len": 32},
            "base": {
                **batch,
                "tokens": BATCH * STEPS,
                "eval_every_tokens": BATCH * 25,
                "sample_every_tokens": BATCH * 25,
                "checkpoint_every_tokens": BATCH * EVERY,
                "warmup_steps": 5,
            },
            "sft": {**batch, "mixture": {f"jsonl:{sources[1]}": 200}},
            "eval": {"sample_prompts": ["the "], "sample_tokens": 8, "bpb_tokens": 4096},
            "telemetry": [],
        }
        for name, changes in sections.items():
            values[name] = {**values.get(name, {}), **changes}
        return derive(RunConfig.model_validate(values))

    return make


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A base directory of our own, so that no test writes to the user's cache."""
    path = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MCCORE_BASE_DIR", str(path))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield path


@pytest.fixture(scope="session")
def new_run(base_dir: Path, byte_tokenizer: Tokenizer) -> Callable[[str, RunConfig], RunDir]:
    """`new_run(name, config)`: a run directory that is ready for its training stages."""

    def make(name: str, config: RunConfig) -> RunDir:
        run = RunDir.create(base_dir / "runs", name, config)
        byte_tokenizer.save(run.tokenizer_dir)
        return run

    return make


@pytest.fixture(scope="session")
def in_process() -> Callable[[RunDir, str], dict[str, Any]]:
    """`in_process(run, stage)`: do a stage here, on one rank; returns its results."""
    from mccore.runtime.runtime import build
    from mccore.stages.table import stage_function
    from mccore.train.gradients import join_world

    def do(run: RunDir, stage: Any) -> dict[str, Any]:
        with (
            Emitter(EventWriter(run.events_dir / "rank0.jsonl")) as emitter,
            join_world(run.config.hardware, {"OMP_NUM_THREADS": "1"}) as world,
        ):
            return stage_function(stage)(build(run, stage, world=world, emitter=emitter))

    return do


def worker_command(run: RunDir, stage: str, ranks: int = 1) -> list[str]:
    """What the launcher would start."""
    target = ["-m", "mccore.launch.worker", str(run.path), stage]
    if ranks == 1:
        return [sys.executable, *target]
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)),
        *target,
    ]


def start_worker(run: RunDir, stage: str, ranks: int = 1) -> subprocess.Popen[bytes]:
    """Start a stage in processes of its own; its output goes to the stage's log."""
    log = run.log_path(stage)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as stream:
        return subprocess.Popen(worker_command(run, stage, ranks), stdout=stream, stderr=stream, env=dict(os.environ))


def wait_for_step(run: RunDir, process: subprocess.Popen[bytes], step: int) -> None:
    """Wait until rank 0 has told of a step; the process must be alive by then."""
    tail = EventTail(run.events_dir)
    seen = 0
    while seen < step:
        assert process.poll() is None, run.log_path("base").read_text()
        seen = max([seen, *(event.step or 0 for event in tail.poll() if event.type == "step")])
        time.sleep(0.01)  # between two looks, so as not to take the worker's core


def losses(run: RunDir, stage: str) -> dict[int, float]:
    """The loss of every step; of one that was done twice, the last."""
    events = read_events(run.events_dir)
    return {e.step: e.metrics["loss"] for e in events if e.type == "step" and e.stage == stage and e.step is not None}
