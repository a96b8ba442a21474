"""Paths on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mccore.cli import main


@pytest.mark.parametrize(
    "arguments",
    [
        ["tok", "train", "", "--vocab-size", "300", "--out", "x"],
        ["tok", "train", ".", "--vocab-size", "300", "--out", ""],
        ["tok", "eval", "latest", "", "--plot", ""],
        ["context", "info", ""],
        ["context", "build", "", "--out", "x"],
        ["events", "export", "x", "--output", ""],
        ["eval", "context", "x", "--out", ""],
        ["plugins", "new", "allocator", "x", "--directory", ""],
        ["run", "--resume", ""],
    ],
    ids=" ".join,
)
def test_a_variable_that_is_not_set_is_no_path(tmp_path: Path, arguments: list[str], capsys, monkeypatch) -> None:
    """`--out "$OUT"` without OUT wrote into the directory one stood in, and `tok train "$TEXTS"` read it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("some text")
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert any(words in said for words in ("it is empty", "names no run"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
