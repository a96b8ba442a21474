"""`mccore eval tasks`: benchmarks of a model, kept as they are done."""

from __future__ import annotations

import json

import pytest

from mccore.cli import main
from mccore.config import RunConfig
from mccore.eval.chatcore import GUESSES
from mccore.runs.checkpoints import Meta
from mccore.runs.rundir import RunDir
from mccore.train.checkpoint.write import write_checkpoint
from tests.support.benchmarks import add_benchmarks
from tests.support.core_bundle import write_bundle
from tests.support.hub import Fault, hub

__all__ = ["hub"]


@pytest.fixture
def run(hub, monkeypatch, tmp_path, random_gpt, byte_tokenizer) -> RunDir:
    """A run whose base and fine-tuning stages have a checkpoint of a random model."""
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path / "base"))
    monkeypatch.setattr("mccore.tasks.benchmarks.words.words", lambda split: ("apple", "banana"))
    add_benchmarks(hub, count=4)
    gpt = random_gpt(max_seq_len=512)
    made = RunDir.create(tmp_path / "base" / "runs", "ready", RunConfig(model=gpt.config))
    byte_tokenizer.save(made.tokenizer_dir)
    state = {f"model/gpt.{name}": tensor for name, tensor in gpt.state_dict().items()}
    for stage in ("base", "sft"):
        meta = Meta(stage, 3, 1000, made.config.model_dump(mode="json"), byte_tokenizer.fingerprint)
        write_checkpoint(made.checkpoint_dir(stage), state, meta)
    return made


QUICK = ["--max-new-tokens", "4", "--device", "cpu"]


def test_all_of_chatcore(run, hub, capsys):
    assert main(["eval", "tasks", "ready", "--limit", "2", *QUICK, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["tasks"]) == set(GUESSES)
    assert found["model"] == {"run": "ready", "stage": "sft", "step": 3}
    centred = [(found["tasks"][name]["accuracy"] - guess) / (1 - guess) for name, guess in GUESSES.items()]
    assert found["chatcore"]["value"] == pytest.approx(sum(centred) / 6)
    assert found["core"] is None
    # Again: from what was kept, without a model's word.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mccore.runtime.benchmarks.evaluate_benchmark", None)
        assert main(["eval", "tasks", "ready", "--limit", "2", *QUICK, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_some_tasks_and_core(run, tmp_path, capsys):
    bundle = write_bundle(tmp_path / "eval_bundle")
    assert (
        main(["eval", "tasks", "ready", "--tasks", "mmlu,arc_easy", "--core", str(bundle), "--stage", "base", *QUICK])
        == 0
    )
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()] == [
        "mmlu", "arc_easy", "hellaswag", "winograd", "lambada_openai", "CORE"
    ]  # fmt: skip
    assert "n 4" in said
    assert "centred" in said


def test_what_was_cut_short_goes_on(run, hub, capsys):
    hub.fail("api/cais/mmlu", *[Fault(status=500)] * 9)
    assert main(["eval", "tasks", "ready", "--tasks", "arc_easy", "--tasks", "mmlu", *QUICK]) == 1
    assert "answers 500" in capsys.readouterr().err
    hub.faults.clear()
    assert main(["eval", "tasks", "ready", "--tasks", "arc_easy", "--tasks", "mmlu", *QUICK]) == 0
    kept = json.loads((run.path / "evaluations" / "sft-3.json").read_text())
    assert len(kept) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "mmmlu"], "there is no task 'mmmlu'"),
        (["--core", "."], "core.yaml doesn't exist"),
        (["--stage", "mid"], "no checkpoint of mid"),
    ],
)
def test_what_is_refused(run, capsys, arguments, message):
    assert main(["eval", "tasks", "ready", *arguments]) == 2
    assert message in capsys.readouterr().err
