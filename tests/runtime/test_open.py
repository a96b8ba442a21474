"""A checkpoint is opened once, and nothing but the tokenizer it was trained with goes with it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mccore.errors import CheckpointError, UsageError
from mccore.megacontext.sessions.options import SessionOptions
from mccore.runs import checkpoints
from mccore.runs.rundir import RunDir
from mccore.runtime.open import OpenModel, open_model, open_on
from mccore.runtime.sessions import session_options

WRITTEN = Path(__file__).parents[1] / "support" / "old_build" / "runs" / "old"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    shutil.copytree(WRITTEN, tmp_path / "run")
    (path,) = (tmp_path / "run" / "checkpoints" / "sft").iterdir()
    return path


def test_every_file_is_checked_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summed: list[str] = []
    file_sha256 = checkpoints.file_sha256

    def counting(path: Path) -> str:
        summed.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(checkpoints, "file_sha256", counting)
    opened = open_on(checkpoint, "cpu")
    opened.engine()
    assert opened.sessions().model.gpt is opened.gpt
    assert sorted(summed) == ["meta.json", "model.safetensors"]


def test_another_tokenizer_is_an_error(checkpoint: Path) -> None:
    opened = open_model(checkpoint)
    other = OpenModel(opened.checkpoint, replace(opened.meta, tokenizer="another"), opened.config, opened.gpt, None)
    with pytest.raises(CheckpointError, match="another tokenizer") as error:
        other.engine()
    assert str(RunDir(checkpoint.parents[2]).tokenizer_dir) in error.value.message


def test_a_model_without_megacontext_has_no_sessions(checkpoint: Path) -> None:
    opened = open_model(checkpoint)
    plain = OpenModel(opened.checkpoint, opened.meta, opened.config, opened.gpt, None)
    with pytest.raises(UsageError, match="without MegaContext"):
        plain.sessions()


def test_flags_keep_their_names_from_the_command_to_the_limits(checkpoint: Path) -> None:
    opened = open_model(checkpoint)
    config = opened.config.megacontext
    assert session_options(config, wc_length=None, allocator=None) == SessionOptions.of(config)
    options = session_options(
        config, wc_length=96, refocus_interval=4, kv_policy="exact", allocator="spans", search="ngram"
    )
    assert (options.wc_length, options.refocus_interval, options.kv_policy) == (96, 4, "exact")
    assert (options.allocator.name, options.search.kind) == ("spans", "ngram")
    assert options.search.span_tokens == config.search.span_tokens
    limits = opened.sessions(options).model.limits(10_000)
    assert (limits.budget, limits.room) == (96, 4)
    with pytest.raises(UsageError, match="doesn't show what a search finds"):
        session_options(config, allocator="greedy", search="ngram")
