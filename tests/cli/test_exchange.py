"""`mccore import` and `mccore export` as a person uses them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mccore.cli import main
from mccore.data.tokenizer.tokenizer import Tokenizer
from tests.exchange.reference import make_state, write_checkpoint, write_tokenizer


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, byte_tokenizer: Tokenizer) -> Path:
    """nanochat's base directory with a model of 2025."""
    monkeypatch.setenv("MCCORE_BASE_DIR", str(tmp_path / "home"))
    base = tmp_path / "cache"
    for folder in ("base_checkpoints", "chatsft_checkpoints"):
        write_checkpoint(base / folder / "d3", make_state(False), late=False)
    write_tokenizer(base / "tokenizer", byte_tokenizer)
    return base


def test_in_and_talked_to_and_out(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "nanochat", str(cache), "--name", "d3", "--exact-rotary", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["run"], list(made["stages"])) == ("d3", ["base", "sft"])
    assert main(["runs", "show", "d3"]) == 0
    assert "finished" in capsys.readouterr().out
    assert main(["chat", "d3", "--prompt", "hi", "--max-new-tokens", "3", "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main(["export", "d3", "--format", "transformers", "--out", str(tmp_path / "hf"), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert (written["stage"], "README.md" in written["files"]) == ("sft", True)
    assert main(["import", "transformers", str(tmp_path / "hf"), "--name", "back"]) == 0
    assert "mccore chat back" in capsys.readouterr().out
    assert main(["export", "back", "--format", "safetensors", "--out", str(tmp_path / "own")]) == 0
    assert main(["import", "safetensors", str(tmp_path / "own"), "--name", "third"]) == 0


def test_what_is_wrong_is_said(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["import", "nanochat", str(cache), "--name", "d3"]
    assert main(command) == 0
    for arguments, code, words in (
        (command, 1, "exists already"),
        ([*command[:-1], "a/b"], 2, "can't be the name of a run"),
        (["import", "nanochat", "", "--name", "x"], 2, "it is empty"),
        (["import", "nanochat", str(cache), "--name", "x", "--stage", "rl"], 2, "no checkpoint of rl"),
        (["import", "nanochat", str(tmp_path / "no"), "--name", "x"], 2, "is no folder"),
        (["import", "transformers", str(cache), "--name", "x"], 2, "config.json"),
        (["import", "safetensors", str(cache), "--name", "x"], 2, "config.json"),
        (["export", "d3", "--format", "transformers", "--out", str(tmp_path / "o")], 2, "rounded rotary tables"),
        (["export", "d3", "--format", "gguf", "--out", str(tmp_path / "o")], 2, "llama.cpp"),
        (["export", "d3", "--format", "safetensors", "--out", str(cache)], 2, "isn't empty"),
        (["export", "d9", "--format", "safetensors", "--out", str(tmp_path / "o")], 2, "there is no run"),
        (["export", "d3", "--format", "safetensors", "--out", str(tmp_path / "o"), "--stage", "mid"], 2, "only of"),
    ):
        assert main(arguments) == code, arguments
        assert words in capsys.readouterr().err, arguments
    assert not (tmp_path / "o").exists()


def test_a_tokenizer_is_taken_and_trained_with(
    cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], byte_tokenizer: Tokenizer
) -> None:
    out = tmp_path / "mine"
    assert main(["import", "tokenizer", str(cache / "tokenizer" / "tokenizer.pkl"), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] == byte_tokenizer.fingerprint
    assert main(["import", "tokenizer", str(out), "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    wanted = ["run", "tiny", "--dry-run", "--json", "--set", f"tokenizer.source={out}"]
    assert main(wanted) == 0
    assert str(out) in capsys.readouterr().out
    assert main([*wanted, "--set", "tokenizer.max_chars=1000"]) == 2
    assert "isn't trained" in capsys.readouterr().err
