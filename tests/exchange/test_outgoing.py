"""Models of ours as folders that others load, and back: exact, or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file

from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import CheckpointError, DataError, UsageError
from mccore.exchange.incoming import Incoming, make_run
from mccore.exchange.outgoing import export, read_exported
from mccore.exchange.transformers import ROWS, misfits, read_directory
from mccore.model.gpt import GPT
from mccore.runs.checkpoints import latest
from mccore.runs.rundir import RunDir
from mccore.runtime.open import OpenModel, open_model

WRITTEN = Path(__file__).parents[1] / "support" / "old_build" / "runs" / "old"  # with GistNet and LensNet
PLAIN: dict[str, Any] = {
    "qk_scale": 1.0, "value_embeddings": False, "residual_scalars": False, "backout": False,
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path / "home"))


@pytest.fixture
def plain_run(random_gpt: Callable[..., GPT], byte_tokenizer: Tokenizer) -> RunDir:
    """A run of a model that transformers' class can hold."""
    gpt = random_gpt(3, **PLAIN)
    state = {f"gpt.{name}": tensor for name, tensor in gpt.state_dict().items()}
    model = Incoming("sft", 5, gpt.config, lambda: state, "/secret/place/model.pt")
    return make_run("plain", [model], byte_tokenizer, recipe="mine", corpus="jsonl:/secret/place/text.jsonl")


def checkpoint(run: RunDir, stage: str = "sft") -> Path:
    path = latest(run.checkpoint_dir(stage))
    assert path is not None
    return path


def opened(run: RunDir) -> OpenModel:
    return open_model(checkpoint(run))


def test_transformers_folder_and_back(plain_run: RunDir, tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    written = export(checkpoint(plain_run), "transformers", tmp_path / "out")
    assert sorted(path.name for path in written.folder.iterdir()) == sorted(written.files)
    config = json.loads((written.folder / "config.json").read_text())
    assert (config["architectures"], config["vocab_size"]) == (["NanoChatForCausalLM"], 265)
    assert config["eos_token_id"] == byte_tokenizer.special("assistant_end")
    assert (written.folder / "model.safetensors").stat().st_mode & 0o777 == 0o666 & ~_umask()
    theirs = tokenizers.Tokenizer.from_file(str(written.folder / "tokenizer.json"))
    for text in ("Hello, 1234!", "  \n東京 🙂", ""):
        assert theirs.encode(text).ids == byte_tokenizer.encode(text)
    model, taken = read_directory(written.folder, "sft")
    again = opened(make_run("again", [model], taken, recipe="x", corpus="stdlib"))
    before, after = opened(plain_run).gpt.state_dict(), again.gpt.state_dict()
    assert again.config.model == opened(plain_run).config.model.model_copy(
        update={"window_short": again.config.model.window_short}
    )
    for name, tensor in before.items():
        kept = slice(265 if name in ROWS else None)
        assert torch.equal(after[name][kept], tensor[kept]), name
    ids = torch.randint(0, 265, (1, 60))
    with torch.inference_mode():
        assert torch.equal(again.gpt(ids), opened(plain_run).gpt(ids))


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_card_tells_what_it_is_and_nothing_of_this_machine(plain_run: RunDir, tmp_path: Path) -> None:
    for kind in ("transformers", "safetensors"):
        folder = export(checkpoint(plain_run), kind, tmp_path / kind).folder
        card = (folder / "README.md").read_text()
        assert card.startswith("---\nlibrary_name: ")
        assert "`jsonl:text.jsonl`" in card
        assert "Nothing was measured in this run." in card
        assert "imported from | `model.pt`" in card
        for path in folder.iterdir():
            assert b"/secret" not in path.read_bytes(), path


def test_what_transformers_has_no_place_for_is_named(random_gpt: Callable[..., GPT]) -> None:
    assert misfits(random_gpt(0, **PLAIN).config) == []
    for changes, name in (
        ({"value_embeddings": True}, "model.value_embeddings"),
        ({"residual_scalars": True}, "model.residual_scalars"),
        ({"backout": True}, "model.backout"),
        ({"smear": True}, "model.smear"),
        ({"window_pattern": "SL"}, "model.window_pattern=SL"),
        ({"qk_scale": 1.2}, "model.qk_scale=1.2"),
        ({"rope_dtype": "bfloat16"}, "model.rope_dtype=bfloat16"),
    ):
        (found,) = misfits(random_gpt(0, **{**PLAIN, **changes}).config)
        assert name in found


def test_a_model_that_does_not_fit_is_refused_and_nothing_written(tmp_path: Path, plain_run: RunDir) -> None:
    shutil.copytree(WRITTEN, tmp_path / "run")
    (path,) = (tmp_path / "run" / "checkpoints" / "sft").iterdir()
    with pytest.raises(UsageError, match=r"no place for value embeddings .*backout .*qk_scale") as error:
        export(path, "transformers", tmp_path / "out")
    assert "safetensors" in str(error.value.hint)
    with pytest.raises(UsageError, match=r"no GGUF is written .*logit_softcap"):
        export(checkpoint(plain_run), "gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(UsageError, match="isn't empty"):
        export(checkpoint(plain_run), "safetensors", tmp_path / "full")
    assert [each.name for each in (tmp_path / "full").iterdir()] == ["mine"]


def test_gists_and_focus_go_along(tmp_path: Path) -> None:
    """Sessions of an old run's model go on after a round trip: its networks are there to the last bit."""
    shutil.copytree(WRITTEN, tmp_path / "run")
    (path,) = (tmp_path / "run" / "checkpoints" / "sft").iterdir()
    export(path, "safetensors", tmp_path / "out")
    model, tokenizer, recipe = read_exported(tmp_path / "out")
    again = opened(make_run("again", [model], tokenizer, recipe=recipe, corpus="stdlib"))
    before = open_model(path)
    assert again.config.megacontext == before.config.megacontext
    assert before.nets is not None
    assert again.nets is not None
    for name, tensor in before.nets.state_dict().items():
        assert torch.equal(again.nets.state_dict()[name], tensor), name
    state = load_file(tmp_path / "out" / "model.safetensors")
    (name,) = [name for name in state if name.startswith("mc.")][:1]
    save_file({**state, name: torch.zeros(1, 2, 3)}, tmp_path / "out" / "model.safetensors")
    with pytest.raises(CheckpointError, match="doesn't hold the model"):
        make_run("other", [model], tokenizer, recipe=recipe, corpus="stdlib")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "of the type 'llama', not nanochat"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu', and ours is 'relu2'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type is 'yarn'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"intermediate_size": 33}, "widths don't divide"),
        ({"num_hidden_layers": 3}, "doesn't hold the model"),
        ({"vocab_size": None}, "."),
    ],
)
def test_other_models_of_transformers_are_refused(
    plain_run: RunDir, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = export(checkpoint(plain_run), "transformers", tmp_path / "out").folder
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))

    def take() -> None:
        model, taken = read_directory(folder, "sft")
        make_run("x", [model], taken, recipe="x", corpus="stdlib")

    with pytest.raises(CheckpointError, match=message):
        take()


def test_other_special_tokens_are_refused(plain_run: RunDir, tmp_path: Path) -> None:
    folder = export(checkpoint(plain_run), "transformers", tmp_path / "out").folder
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"][0]["content"] = "<s>"
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="special tokens aren't nanochat's nine"):
        read_directory(folder, "sft")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "x"}, "isn't what `mccore export"),
        ({"version": 2}, "isn't what `mccore export"),
        ({"stage": "encode"}, "damaged"),
        ({"step": -1}, "damaged"),
        ({"model": {"depth": 0}}, "damaged"),
        ({"megacontext": None}, "damaged"),
    ],
)
def test_damaged_folders(plain_run: RunDir, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = export(checkpoint(plain_run), "safetensors", tmp_path / "out").folder
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(CheckpointError, match=message):
        read_exported(folder)
    with pytest.raises(CheckpointError, match="can't read"):
        read_exported(tmp_path)
