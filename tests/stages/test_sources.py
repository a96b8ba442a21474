"""Validation losses by source: together they are the loss of all of them, and each is that of its conversations."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from mccore.data.tokenizer.chat_format import render_conversation
from mccore.events import check_event, read_events
from mccore.report.collect import collect
from mccore.report.pages.summary import render_report
from mccore.runs.checkpoints import latest
from mccore.runs.rundir import RunDir
from mccore.runtime.open import open_model
from mccore.tasks.catalogue import mix_conversations


@pytest.fixture(scope="module")
def run(new_run, make_config, in_process, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A model that was fine-tuned on two sources: one that always says the same, one of random letters."""
    folder, rng = tmp_path_factory.mktemp("two-sources"), random.Random(0)
    sources = {
        "easy": [("ask %d" % n, "yes") for n in range(120)],  # noqa: UP031 -- as short as can be
        "hard": [(f"ask {n}", "".join(rng.choices("abcdefgh", k=6))) for n in range(120)],
    }
    for name, pairs in sources.items():
        lines = [[{"role": "user", "content": asked}, {"role": "assistant", "content": said}] for asked, said in pairs]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    mixture = {f"jsonl:{folder / name}.jsonl": 90 for name in sources}
    sft = {"mixture": mixture, "tokens": 20_480, "weight_decay": False, "warmup_steps": 0}
    config = make_config(optim={"lr_batch_scale": 1.0}, sft=sft)
    made = new_run("two-sources", config.model_copy(update={"stages": ("sft", "report")}))
    made.write_result("sft", in_process(made, "sft"))
    return made


def _found(run: RunDir) -> dict[str, dict]:
    result = run.read_result("sft")
    assert result is not None
    return {Path(name).stem: one for name, one in result["val_by_source"].items()}


def test_the_harder_source_is_told_apart(run: RunDir) -> None:
    found = _found(run)
    assert found.keys() == {"easy", "hard"}
    assert found["easy"]["loss"] < 0.5 * found["hard"]["loss"]
    assert all(one["conversations"] > 0 and one["tokens"] > one["conversations"] for one in found.values())


def test_a_loss_is_that_of_the_conversations_one_by_one(run: RunDir, byte_tokenizer) -> None:
    gpt = open_model(latest(run.checkpoint_dir("sft"))).gpt
    name = next(name for name in run.config.sft.mixture if "hard" in name)
    nats, tokens = 0.0, 0
    for conversation in mix_conversations({name: 90}, "val", seed=run.config.seed):
        ids, mask = render_conversation(byte_tokenizer, conversation["messages"], max_tokens=33)
        logprobs = torch.log_softmax(gpt(torch.tensor([ids[:-1]])), dim=-1)[0]
        for place, (target, trained) in enumerate(zip(ids[1:], mask[1:], strict=True)):
            nats -= float(logprobs[place, target]) * trained
            tokens += trained
    assert _found(run)["hard"]["tokens"] == tokens
    assert _found(run)["hard"]["loss"] == pytest.approx(nats / tokens, rel=1e-4)


def test_it_is_told_and_reported(run: RunDir) -> None:
    [event] = [event for event in read_events(run.events_dir) if event.data.get("name") == "loss_by_source"]
    check_event(event)
    assert len(event.data["details"]["sources"]) == 2
    assert "Validation losses by source" in render_report(collect(run, read_events(run.events_dir)))
