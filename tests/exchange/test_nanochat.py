"""nanochat's checkpoints of both generations as runs: the same logits, or a refusal that says why."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import CheckpointError, MccoreError, RunError, UsageError
from mccore.exchange import nanochat
from mccore.exchange.incoming import make_run
from mccore.exchange.outgoing import export, read_exported
from mccore.exchange.tensor_names import to_theirs
from mccore.runs.checkpoints import latest
from mccore.runs.rundir import RunDir
from mccore.runtime.open import OpenModel, open_model
from tests.exchange.reference import SHAPE, logits, make_state, write_checkpoint

IDS = torch.randint(0, 265, (2, 300), generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def take(tmp_path: Path, byte_tokenizer: Tokenizer) -> Callable[..., RunDir]:
    """`take(late, name)`: a random checkpoint of a generation, written and imported."""

    def make(late: bool, name: str = "taken", **options: bool) -> RunDir:
        folder = write_checkpoint(tmp_path / name / "base_checkpoints" / "d3", make_state(late), late=late, val_bpb=1.5)
        (found,) = nanochat.find_checkpoints(folder, stage=None, tag=None, step=None)
        model = nanochat.incoming(found, **options)
        return make_run(name, [model], byte_tokenizer, recipe="nanochat", corpus="climbmix")

    return make


def opened(run: RunDir) -> OpenModel:
    path = latest(run.checkpoint_dir("base"))
    assert path is not None
    return open_model(path)


@pytest.mark.parametrize("late", [False, True])
def test_logits_are_nanochats(take: Callable[..., RunDir], late: bool) -> None:
    gpt = opened(take(late)).gpt
    with torch.inference_mode():
        expected = logits(make_state(late), IDS)
        assert expected.abs().max() > 5  # a cap of 15 is reached for
        torch.testing.assert_close(gpt(IDS), expected, atol=1e-4, rtol=0)
        cache = gpt.new_cache(2, 64)  # several at once, then one by one in the form that a single token has
        parts = [gpt(IDS[:, :40], cache=cache)] + [
            gpt(IDS[:, place : place + 1], cache=cache) for place in range(40, 64)
        ]
        torch.testing.assert_close(torch.cat(parts, 1), expected[:, :64], atol=1e-4, rtol=0)


def test_rounded_tables_are_what_makes_the_difference(take: Callable[..., RunDir]) -> None:
    """fp32 tables are asked for by name: they aren't nanochat's logits."""
    with torch.inference_mode():
        found = opened(take(False, exact_rotary=True)).gpt(IDS)
        difference = (found - logits(make_state(False), IDS)).abs().max()
    assert 1e-4 < difference < 1.0


@pytest.mark.parametrize("late", [False, True])
def test_a_round_trip_is_equal_bit_for_bit(take: Callable[..., RunDir], tmp_path: Path, late: bool) -> None:
    run = take(late)
    source = latest(run.checkpoint_dir("base"))
    assert source is not None
    export(source, "safetensors", tmp_path / "out")
    model, tokenizer, recipe = read_exported(tmp_path / "out")
    again = make_run("again", [model], tokenizer, recipe=recipe, corpus="stdlib")
    state, shape = opened(again).gpt.state_dict(), opened(again).config.model
    assert again.config.model == run.config.model
    theirs = to_theirs(state, "nanochat", shape.head_dim)
    for name, tensor in make_state(late).items():
        assert torch.equal(theirs.pop(name), tensor), name
    assert not theirs


def test_it_is_a_run_like_any_other(take: Callable[..., RunDir]) -> None:
    from mccore.report.write import write_report

    run = take(True)
    assert run.outcome().state == "finished"
    assert run.config.stages == ("base",)
    result = run.read_result("base")
    assert result is not None
    assert result["imported"]["val_bpb"] == 1.5
    text = write_report(run).markdown.read_text()
    assert "finished" in text
    assert "not among the stages of this run" in text


def test_all_stages_of_a_base_directory(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    base = tmp_path / "cache"
    for number, folder in enumerate(nanochat.FOLDERS):
        for step in (number, number + 10):
            write_checkpoint(base / folder / "d3", make_state(True, step), step, late=True)
    found = nanochat.find_checkpoints(base, stage=None, tag=None, step=None)
    assert [(each.stage, each.step) for each in found] == [("base", 10), ("mid", 11), ("sft", 12), ("rl", 13)]
    models = [nanochat.incoming(each) for each in found]
    run = make_run("all", models, byte_tokenizer, recipe="nanochat", corpus="climbmix")
    assert run.config.stages == ("base", "mid", "sft", "rl")
    (only,) = nanochat.find_checkpoints(base, stage="mid", tag="d3", step=1)
    assert (only.stage, only.step) == ("mid", 1)
    with pytest.raises(RunError, match="exists already"):
        make_run("all", models, byte_tokenizer, recipe="nanochat", corpus="climbmix")
    write_checkpoint(base / "base_checkpoints" / "d9", make_state(True), late=True)
    for options, message in (
        ({}, "several models: d3, d9"),
        ({"tag": "d4"}, "no model 'd4'"),
        ({"tag": "d3", "step": 3}, "no checkpoint of step 3"),
    ):
        with pytest.raises(MccoreError, match=message):
            nanochat.find_checkpoints(base, **{"stage": None, "tag": None, "step": None, **options})  # type: ignore[arg-type]


def test_what_is_not_clear_is_asked(tmp_path: Path) -> None:
    lone = write_checkpoint(tmp_path / "lone", make_state(False), late=False)
    with pytest.raises(UsageError, match="which stage") as error:
        nanochat.find_checkpoints(lone, stage=None, tag=None, step=None)
    assert "--stage" in str(error.value.hint)
    with pytest.raises(UsageError, match="no folder"):
        nanochat.find_checkpoints(tmp_path / "nowhere", stage=None, tag=None, step=None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        nanochat.find_checkpoints(tmp_path / "empty", stage=None, tag=None, step=None)
    with pytest.raises(CheckpointError, match=r"no tokenizer\.pkl"):
        nanochat.find_tokenizer(lone)


def one(folder: Path) -> nanochat.Incoming:
    (found,) = nanochat.find_checkpoints(folder, stage="base", tag=None, step=None)
    return nanochat.incoming(found)


def test_a_generation_between_the_two_is_refused_by_name(tmp_path: Path) -> None:
    state = make_state(True)
    del state["smear_lambda"]
    with pytest.raises(CheckpointError, match=r"two published generations .*smear_lambda"):
        one(write_checkpoint(tmp_path / "a", state, late=True))
    state = make_state(False) | {"transformer.h.0.attn.bias": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"two published generations .*attn.bias"):
        one(write_checkpoint(tmp_path / "b", state, late=True))
    state = make_state(False)
    del state["transformer.h.1.mlp.c_fc.weight"]
    with pytest.raises(CheckpointError, match=r"it has no transformer.h.1.mlp.c_fc.weight"):
        one(write_checkpoint(tmp_path / "c", state, late=False))


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "d3", make_state(False), late=False)
    torch.save({"model": Hostile(tmp_path / "done")}, folder / "model_000007.pt")
    with pytest.raises(CheckpointError, match="tensors alone"):
        one(folder)
    (folder / "model_000007.pt").write_bytes(pickle.dumps(Hostile(tmp_path / "done")))
    with pytest.raises(CheckpointError, match="tensors alone"):
        one(folder)
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "meta_000007.json").unlink(), "can't read .*meta_000007"),
        (lambda folder: (folder / "meta_000007.json").write_text("{"), "is damaged"),
        (lambda folder: (folder / "meta_000007.json").write_text("{}"), "doesn't describe a model"),
        (lambda folder: (folder / "model_000007.pt").write_bytes(b"PK"), "tensors alone"),
        (lambda folder: os.truncate(folder / "model_000007.pt", 5000), "can't (be )?read"),
        (lambda folder: torch.save([1, 2], folder / "model_000007.pt"), "more than its tensors"),
        (lambda folder: torch.save({"a": torch.ones(2)}, folder / "model_000007.pt"), "isn't a model of 3 layers"),
    ],
)
def test_damaged_checkpoints(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    folder = write_checkpoint(tmp_path / "d3", make_state(False), late=False)
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        one(folder)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "d3", make_state(False), late=False)
    (found,) = nanochat.find_checkpoints(folder, stage="base", tag=None, step=None)
    (folder / "model_000007.pt").unlink()
    os.mkfifo(folder / "model_000007.pt")
    with pytest.raises(MccoreError, match="model_000007"):
        nanochat.incoming(found)


def test_tensors_that_are_not_the_models_leave_no_run(tmp_path: Path, home: Path, byte_tokenizer: Tokenizer) -> None:
    state = make_state(False)
    state["transformer.h.0.attn.c_v.weight"] = torch.ones(8, 32)
    state["transformer.h.1.mlp.c_fc.weight"][0, 0] = torch.nan
    model = one(write_checkpoint(tmp_path / "a", state, late=False))
    with pytest.raises(CheckpointError, match=r"blocks.0.attn.v.weight is 8 x 32 instead of 16 x 32"):
        make_run("wrong", [model], byte_tokenizer, recipe="nanochat", corpus="stdlib")
    state["transformer.h.0.attn.c_v.weight"] = torch.ones(16, 32)
    model = one(write_checkpoint(tmp_path / "b", state, late=False))
    with pytest.raises(CheckpointError, match=r"blocks.1.mlp.fc.weight holds numbers that aren't finite"):
        make_run("wrong", [model], byte_tokenizer, recipe="nanochat", corpus="stdlib")
    assert list((home / "runs").iterdir()) == []
    bigger = Tokenizer([*byte_tokenizer.tokens, b"th"], pattern=byte_tokenizer.pattern)
    with pytest.raises(CheckpointError, match=f"266 ids, the model {SHAPE['vocab_size']}"):
        make_run("wrong", [model], bigger, recipe="nanochat", corpus="stdlib")
