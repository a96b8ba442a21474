"""Checkpoints: exact, whole or absent, checked, kept few, and unable to run code."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pickle
import resource
from pathlib import Path

import pytest
import torch

import mccore
from mccore.errors import CheckpointError
from mccore.runs.checkpoints import Meta, checkpoint_path, latest, list_checkpoints, read_meta
from mccore.train.checkpoint.read import load_into, load_model
from mccore.train.checkpoint.write import CheckpointWriter, Saved, write_checkpoint

SUMS = "SHA256SUMS"


def _state(seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(4, 3, 5, generator=generator)
    model = {
        "gpt.w": torch.randn(7, 3, generator=generator),
        "gpt.half": torch.randn(5, generator=generator).bfloat16(),
        "gpt.scalar": torch.randn((), generator=generator),
        "gpt.transposed": torch.randn(4, 6, generator=generator).t(),
    }
    return model, {"gpt.w.velocity": table[1], "gpt.w.variance": table[2]}  # views, as an optimizer hands them out


def _meta(step: int) -> Meta:
    return Meta("base", step, 512 * step, {"seed": 3}, "fingerprint", {"position": {"epoch": 1}, "loss_average": 0.25})


def _save(directory: Path, step: int = 1, seed: int = 0) -> Path:
    with CheckpointWriter(directory, keep_last=2) as writer:
        writer.save(*_state(seed), _meta(step))
    return checkpoint_path(directory, step)


def _reseal(path: Path) -> None:
    """Make the checksums right again, as whoever forges a checkpoint would."""
    names = [line.partition("  ")[2] for line in (path / SUMS).read_text().splitlines()]
    sums = (f"{hashlib.sha256((path / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    (path / SUMS).write_text("".join(sums))


def test_round_trip_is_bit_equal(tmp_path: Path) -> None:
    path = _save(tmp_path)
    model, optim = _state()
    loaded, meta = load_model(path)
    assert loaded.keys() == model.keys()
    for name, tensor in model.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert meta == _meta(1)
    others = _state(seed=9)
    assert load_into(path, *others) == _meta(1)
    for found, expected in zip(others, (model, optim), strict=True):
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_state_is_copied_before_save_returns(tmp_path: Path) -> None:
    model, optim = _state()
    writer = CheckpointWriter(tmp_path, keep_last=2)
    writer.save(model, optim, _meta(1))
    model["gpt.w"].zero_()
    writer.join()
    assert load_model(checkpoint_path(tmp_path, 1))[0]["gpt.w"].abs().sum() > 0


def test_the_last_few_are_kept_and_told(tmp_path: Path) -> None:
    told: list[Saved] = []
    with CheckpointWriter(tmp_path, keep_last=2, on_saved=told.append) as writer:
        for step in (1, 2, 10, 100_000_000):
            writer.save(*_state(), _meta(step))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000010", "step_100000000"]
    assert latest(tmp_path) == checkpoint_path(tmp_path, 100_000_000)
    assert [saved.step for saved in told] == [1, 2, 10, 100_000_000]
    files = checkpoint_path(tmp_path, 10).iterdir()
    assert told[2].bytes == sum(file.stat().st_size for file in files)


def test_what_a_crash_left_is_passed_over_and_cleared(tmp_path: Path) -> None:
    (tmp_path / ".step_00000005.part").mkdir()
    (tmp_path / ".step_00000001.old").mkdir()
    (tmp_path / "step_00000009").mkdir()  # no checksums: not one of ours
    (tmp_path / "step_x").mkdir()
    assert list_checkpoints(tmp_path) == []
    assert latest(tmp_path / "nowhere") is None
    _save(tmp_path, 5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000005", "step_00000009", "step_x"]


def test_the_checksums_are_what_sha256sum_reads(tmp_path: Path) -> None:
    path = _save(tmp_path)
    lines = (path / SUMS).read_text().splitlines()
    assert {line[66:] for line in lines} == {"meta.json", "index.json", "model.safetensors", "optim.safetensors"}
    for line in lines:
        assert hashlib.sha256((path / line[66:]).read_bytes()).hexdigest() == line[:64]


@pytest.mark.parametrize("name", ["meta.json", "index.json", "model.safetensors", "optim.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_named(tmp_path: Path, name: str, damage: str) -> None:
    path = _save(tmp_path)
    file = path / name
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 4
        file.write_bytes(data)
    elif damage == "truncate":
        file.write_bytes(data[:-3])
    else:
        file.unlink()
    with pytest.raises(CheckpointError, match="is damaged") as raised:
        load_into(path, *_state())
    assert name in raised.value.message
    assert "delete it" in str(raised.value.hint)


def test_damage_changes_nothing(tmp_path: Path) -> None:
    path = _save(tmp_path)
    (path / "optim.safetensors").write_bytes(b"")
    model, optim = _state(seed=4)
    with pytest.raises(CheckpointError):
        load_into(path, model, optim)
    assert all(torch.equal(tensor, _state(seed=4)[0][name]) for name, tensor in model.items())


def test_weights_need_no_optimizer_state(tmp_path: Path) -> None:
    path = _save(tmp_path)
    (path / "optim.safetensors").unlink()
    assert load_model(path)[1].step == 1


def test_another_model_is_refused(tmp_path: Path) -> None:
    path = _save(tmp_path)
    model, optim = _state()
    with pytest.raises(CheckpointError, match=r"doesn't fit the model: model/gpt\.extra"):
        load_into(path, {**model, "gpt.extra": torch.zeros(1)}, optim)
    with pytest.raises(CheckpointError, match=r"model/gpt\.w"):
        load_into(path, {**model, "gpt.w": torch.zeros(3, 7)}, optim)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_into(path, {**model, "gpt.half": torch.zeros(5)}, optim)


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    path = _save(tmp_path)
    content = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps({**content, "version": 99}))
    _reseal(path)
    with pytest.raises(CheckpointError, match="version 99"):
        read_meta(path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": "mccore-checkpoint", "version": 1}', "not json"])
def test_a_forged_meta_is_refused(tmp_path: Path, content: str) -> None:
    path = _save(tmp_path)
    (path / "meta.json").write_text(content)
    _reseal(path)
    with pytest.raises(CheckpointError, match="damaged"):
        read_meta(path)


def test_a_missing_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        load_model(tmp_path / "step_00000001")


class _Bomb:
    """Unpickled, it makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optim.safetensors", "meta.json", "index.json", ".metadata", "__0_0.distcp"]
)
def test_a_planted_pickle_never_runs(tmp_path: Path, name: str) -> None:
    path = _save(tmp_path)
    pwned = tmp_path / "pwned"
    (path / name).write_bytes(pickle.dumps(_Bomb(pwned)))
    _reseal(path)
    pickle.loads(pickle.dumps(_Bomb(tmp_path / "proof")))
    assert (tmp_path / "proof").exists()  # the bomb works where something unpickles it
    known = name.endswith((".safetensors", ".json"))
    try:
        load_into(path, *_state())
        assert not known
    except CheckpointError:
        assert known
    assert not pwned.exists()


def test_the_code_has_no_pickle() -> None:
    """No import of pickle or its kin, no torch.save, and no torch.load, in all of mccore. What takes nanochat's files, which are
    pickles, reads tensors alone, and a tokenizer by a reader that knows one name."""
    found = set()
    for file in Path(mccore.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = [f"{node.value.id}.{node.attr}"]
            else:
                continue
            banned = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "joblib", "torch.save", "torch.load"}
            found |= {f"{file.name}: {name}" for name in names if name in banned}
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node)
    assert found == {"nanochat.py: torch.load", "pickled.py: pickle"}


def test_a_disk_that_takes_no_more_leaves_the_old_one(tmp_path: Path) -> None:
    old = _save(tmp_path)
    big = {"model/gpt.w": torch.zeros(10**6)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(CheckpointError, match="can't write the checkpoint") as raised:
            write_checkpoint(tmp_path, big, _meta(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "earlier checkpoints are intact" in str(raised.value.hint)
    assert [path.name for path in tmp_path.iterdir()] == [old.name]
    load_into(old, *_state())


def test_a_failed_write_is_raised_at_the_next_save(tmp_path: Path) -> None:
    directory = tmp_path / "checkpoints"
    directory.write_text("a file where the directory should be")
    writer = CheckpointWriter(directory, keep_last=2)
    writer.save(*_state(), _meta(1))
    with pytest.raises(CheckpointError, match="can't write the checkpoint"):
        writer.save(*_state(), _meta(2))


def test_only_tensors_are_stored(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is no tensor"):
        write_checkpoint(tmp_path, {"model/a": torch.zeros(1), "optim/step": 3}, _meta(1))  # type: ignore[dict-item]
    assert list(tmp_path.iterdir()) == []
