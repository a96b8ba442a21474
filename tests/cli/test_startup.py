"""What a command imports: nothing heavy where it only shows something."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "datasets", "pyarrow", "matplotlib", "textual", "starlette", "wandb", "opentelemetry")
PROGRAM = """
import contextlib, io, json, sys
from mccore.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    code = main(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_the_overview_needs_little_more_than_click(tmp_path, arguments):
    _, modules = imported(tmp_path, arguments)
    assert not {*HEAVY, "pydantic", "pluggy", "rich", "mccore.config"} & modules


@pytest.mark.parametrize(
    "arguments",
    [
        ["plugins"],
        ["run", "tiny", "--dry-run"],
        ["runs"],
        ["runs", "--help"],
        ["setup", "--help"],
        ["doctor", "--help"],
        ["chat", "--help"],
        ["report", "--help"],
        ["context", "build", "--help"],
        ["context", "verify", "--help"],
        ["bench", "context", "--help"],
        ["tok", "train", "--help"],
        ["tok", "eval", "--help"],
    ],
)
def test_a_command_that_only_shows_imports_nothing_heavy(tmp_path, arguments):
    code, modules = imported(tmp_path, arguments)
    assert code == 0
    assert not set(HEAVY) & modules


@pytest.mark.parametrize("arguments", [["run", "--help"], ["doctor"], ["plugins", "--check"]])
def test_a_command_that_loads_plugins_leaves_torch_out(tmp_path, arguments):
    _, modules = imported(tmp_path, arguments)
    assert "torch" not in modules


def test_a_context_is_looked_at_without_torch(tmp_path):
    state = {"format": "mccore session", "version": 1, "model": "m", "block_size": 4, "levels": 2, "stored": "torch.float32",
             "budget": 8, "kv_policy": "exact", "tokens": 0, "covered": 0, "cut": [], "age": [], "recent": [], "since": 0,
             "refocuses": 0, "seed": 0, "keys": None, "keys_sha256": None, "notes": {}}  # fmt: skip
    (tmp_path / "session.json").write_text(json.dumps(state))
    code, modules = imported(tmp_path, ["context", "info", str(tmp_path)])
    assert code == 0
    assert not set(HEAVY) & modules


def imported(directory, arguments):
    """Exit code of a command and the modules it has imported."""
    environ = {**os.environ, "MCCORE_BASE_DIR": str(directory / "base")}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, set(modules)
