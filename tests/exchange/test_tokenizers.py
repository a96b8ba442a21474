"""Tokenizers that people have: the same ids, or the reason why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mccore.data.tokenizer.formats import write_huggingface, write_tiktoken
from mccore.data.tokenizer.tokenizer import Tokenizer
from mccore.errors import DataError
from mccore.exchange.tokenizers import read_any
from tests.exchange.reference import write_tokenizer


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return Tokenizer.train(["the theatre of the then, 1234 and the rest of it"], 275)


def test_every_form_gives_the_same_tokenizer(tmp_path: Path, trained: Tokenizer) -> None:
    trained.save(tmp_path / "ours")
    write_huggingface(trained, tmp_path / "tokenizer.json")
    write_tiktoken(trained, tmp_path / "ranks.tiktoken")
    pickled = write_tokenizer(tmp_path, trained)
    for path, pattern in (
        (tmp_path / "ours", None),
        (tmp_path / "ours" / "tokenizer.json", None),
        (tmp_path / "tokenizer.json", None),
        (tmp_path / "ranks.tiktoken", trained.pattern),
        (pickled, None),
    ):
        assert read_any(path, pattern).fingerprint == trained.fingerprint, path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalizer": {"type": "NFC"}}, "a normalizer"),
        ({"added_tokens": [{"id": 266, "content": "<think>", "special": False}]}, "added tokens that text turns into"),
        ({"model.ignore_merges": True}, "ignore_merges"),
        ({"splits": 2}, "2 splits, one after the other"),
        ({"removed": True}, "a split that takes what matches only"),
        ({"merges": "reversed"}, "merges of this tokenizer don't come in the order"),
    ],
)
def test_what_is_more_than_ranks_is_named(
    tmp_path: Path, trained: Tokenizer, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "tokenizer.json"
    write_huggingface(trained, path)
    content = json.loads(path.read_text())
    steps = content["pre_tokenizer"]["pretokenizers"]
    for name, value in changes.items():
        if name == "splits":
            steps.insert(0, steps[0])
        elif name == "removed":
            steps[0].update(behavior="Removed", invert=True)
        elif name == "merges":
            content["model"]["merges"].reverse()
        elif name == "model.ignore_merges":
            content["model"]["ignore_merges"] = value
        else:
            content[name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message) as error:
        read_any(path)
    assert str(path) in error.value.message


def test_ids_that_are_left_out_are_not_closed_up(tmp_path: Path, trained: Tokenizer) -> None:
    path = tmp_path / "ranks.tiktoken"
    write_tiktoken(trained, path)
    lines = path.read_text().splitlines()
    token, rank = lines[-1].split()
    path.write_text("\n".join([*lines[:-1], f"{token} {int(rank) + 5}"]) + "\n")
    with pytest.raises(DataError, match=f"leave out the id {rank}"):
        read_any(path, trained.pattern)


def test_files_that_are_none(tmp_path: Path, trained: Tokenizer) -> None:
    trained.save(tmp_path)
    (tmp_path / "tokenizer.json").rename(tmp_path / "other.json")
    for name, content, message in (
        ("other.json", None, "under another name than tokenizer.json"),
        ("empty", b"", r"empty"),
        ("list.json", b"[1]", "has no model"),
        ("pickle", b"\x80\x04.", "pickle"),
        ("model", b"\x0a\x07<unk>", "isn't a file of ranks"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            read_any(tmp_path / name, "gpt2")
    with pytest.raises(DataError, match="nowhere"):
        read_any(tmp_path / "nowhere")
