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


def imported(directory, arguments):
    """Exit code of a command and the modules it has imported."""
    environ = {**os.environ, "MCCORE_BASE_DIR": str(directory / "base")}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, set(modules)
