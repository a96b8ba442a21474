from __future__ import annotations

import json
from pathlib import Path

import pytest

from mccore.config import RunConfig
from mccore.errors import ConfigError
from mccore.runs.stored_config import read_config


def test_read_config(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(RunConfig(seed=7).to_json())
    assert read_config(path).seed == 7
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"run\.json is damaged: it isn't valid JSON"):
        read_config(path)
    with pytest.raises(ConfigError, match="can't read"):
        read_config(tmp_path / "none.json")
    path.write_text(json.dumps({**json.loads(RunConfig().to_json()), "unknown": 1}))
    with pytest.raises(ConfigError, match="unknown: unknown setting"):
        read_config(path)


def test_a_newer_run_is_told_as_newer(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**json.loads(RunConfig().to_json()), "schema_version": 9}))
    with pytest.raises(ConfigError, match=r"version 9.*up to 2") as caught:
        read_config(path)
    assert caught.value.hint == "use the version of mccore that wrote it"


def test_an_error_shows_a_line_of_what_was_given(
    tmp_path: Path,
) -> None:  # RF16: a truncated run.json printed all of itself
    path = tmp_path / "run.json"
    whole = RunConfig().to_json()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert len(caught.value.message) < 300
    path.write_text(json.dumps({**json.loads(whole), "seed": "x" * 5000, "recipe": list(range(5000))}))
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    assert len(caught.value.message) < 600
