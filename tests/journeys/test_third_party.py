"""Plugins by somebody else: real wheels, built and installed into an environment of their own, used by the real command.

`toy/` is a package with one plugin of each kind; the skeletons of `mccore plugins new` are installed beside it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mccore.cli.plugins import write_package
from mccore.config import RunConfig
from mccore.plugins import KINDS
from mccore.runs.rundir import RunDir

TOY = Path(__file__).parent / "toy"
MAIN = "import sys; from mccore.cli import main; sys.exit(main())"
BUILD = """
import os, sys
from setuptools import build_meta
wheels, *projects = sys.argv[1:]
sys.argv[1:] = []
for project in projects:
    os.chdir(project)
    build_meta.build_wheel(wheels)
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment that has mccore from the one that runs the tests, and plugins of its own."""

    python: Path
    projects: dict[str, Path]
    home: Path

    def run(self, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("MCCORE_", "PYTHON"))}
        environ |= {"MCCORE_BASE_DIR": str(self.home), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run(
            [str(self.python), *command], cwd=cwd or self.home, env=environ, capture_output=True, text=True, timeout=240
        )

    def mccore(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("-c", MAIN, *arguments)


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    root = tmp_path_factory.mktemp("third-party")
    projects = {"toy": root / "toy"}
    shutil.copytree(TOY, projects["toy"], ignore=shutil.ignore_patterns("__pycache__"))
    for kind in KINDS:
        projects[kind] = root / f"new-{kind}"
        write_package(kind, f"fresh_{kind}", projects[kind])
    wheels = root / "wheels"
    subprocess.run(
        [sys.executable, "-c", BUILD, str(wheels), *map(str, projects.values())], check=True, capture_output=True
    )
    python = _make_environment(root / "venv", sorted(wheels.glob("*.whl")))
    home = root / "home"
    home.mkdir()
    return Environment(python, projects, home)


def _make_environment(path: Path, wheels: list[Path]) -> Path:
    """A virtual environment with the wheels installed, by uv or by pip, without an index."""
    uv = shutil.which("uv")
    without = [] if uv is None else ["--without-pip"]
    subprocess.run([sys.executable, "-m", "venv", *without, str(path)], check=True, capture_output=True)
    python = path / ("Scripts" if os.name == "nt" else "bin") / "python"
    installer = (
        [uv, "pip", "install", "--offline", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
    )
    subprocess.run([*installer, "--no-index", "--no-deps", *map(str, wheels)], check=True, capture_output=True)
    # mccore and its dependencies as they are here, editable or not; no copy, no download.
    site = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    here = sysconfig.get_path("purelib")
    (Path(site) / "zz_mccore_of_the_tests.pth").write_text(f"import site; site.addsitedir({here!r})\n")
    return python


def rows(environment: Environment, *flags: str) -> list[dict[str, str]]:
    done = environment.mccore("plugins", "--json", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    listed: list[dict[str, str]] = json.loads(done.stdout)
    return listed


def plan(environment: Environment, *arguments: str) -> dict[str, Any]:
    done = environment.mccore("run", *arguments, "--dry-run", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    config: dict[str, Any] = json.loads(done.stdout)["config"]
    return config


def test_everything_is_listed_and_passes_the_check(environment: Environment) -> None:
    listed = {(row["kind"], row["name"]): row for row in rows(environment, "--check")}
    for kind in KINDS:
        assert listed[kind, "toy"]["distribution"] == "mccore-toy"
        assert listed[kind, "toy"]["version"] == "3.1.4"
        assert listed[kind, "toy"]["health"] == "ok"
        assert listed[kind, f"fresh_{kind}"]["distribution"] == f"mccore-{kind}-fresh-{kind}"
        assert listed[kind, f"fresh_{kind}"]["health"] == "ok"
    assert listed["allocator", "toy"]["summary"] == "Forget the oldest first, whatever the scores say."
    assert listed["tree", "ram"]["distribution"] == "mccore-trees"


def test_a_run_uses_them(environment: Environment) -> None:
    config = plan(environment, "toy", "--mc", "--allocator", "toy")
    assert config["recipe"] == "toy"
    assert config["megacontext"]["allocator"] == {"name": "toy", "options": {"keep_tokens": 16, "eager": False}}
    assert config["megacontext"]["tree"] == {"name": "toy", "options": {}}
    assert config["telemetry"] == [{"name": "toy", "options": {"file": "tally.json"}}]


def test_flags_of_a_foreign_allocator_are_generated(environment: Environment) -> None:
    config = plan(
        environment, "tiny", "--mc", "--allocator_type=toy", "--allocator_keep_tokens", "7", "--allocator-eager"
    )
    assert config["megacontext"]["allocator"]["options"] == {"keep_tokens": 7, "eager": True}
    help_text = " ".join(environment.mccore("run", "toy", "--allocator", "toy", "--help").stdout.split())
    assert "--allocator-keep-tokens" in help_text
    assert "Newest tokens that stay tokens [default: 16]" in help_text  # the recipe's default, not the plugin's


def test_profiles_and_sets_reach_foreign_plugins(environment: Environment) -> None:
    config = plan(
        environment, "toy", "--mc", "--gpu", "wide", "--set", "telemetry.toy.options.file=t.json", "--telemetry", "toy",
        "--telemetry", "fresh_telemetry", "--tree", "fresh_tree",
    )  # fmt: skip
    assert config["model"]["n_embd"] == 64
    assert config["megacontext"]["allocator"]["options"]["keep_tokens"] == 32
    assert config["megacontext"]["tree"]["name"] == "fresh_tree"
    assert [(choice["name"], choice["options"]["file"]) for choice in config["telemetry"]] == [
        ("toy", "t.json"),
        ("fresh_telemetry", "fresh_telemetry.jsonl"),
    ]


def test_their_own_tests_pass(environment: Environment) -> None:
    """The suites of mccore.testing, subclassed by the toy package and by every skeleton, against the installed wheels."""
    files = [environment.projects["toy"] / "tests" / "conformance.py"]
    files += [environment.projects[kind] / "tests" / f"test_fresh_{kind}.py" for kind in KINDS]
    done = environment.run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *map(str, files))
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_a_skeleton_runs_by_its_readme(environment: Environment) -> None:
    """The command in each README is one that works. A panel needs a run to draw."""
    RunDir.create(environment.home / "runs", "one", RunConfig(recipe="tiny"))
    for kind in KINDS:
        text = (environment.projects[kind] / "README.md").read_text()
        command = next(line for line in text.splitlines() if line.startswith(("mccore run ", "mccore monitor ")))
        dry = [] if "--dry-run" in command or "monitor" in command else ["--dry-run"]
        done = environment.mccore(*command.split()[1:], *dry)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"fresh_{kind}" in done.stdout
