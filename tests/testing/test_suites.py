"""The conformance suites catch what they are there to catch: each plugin of the zoo fails the test that names its fault.

`zoo/` has plugins that are wrong in one way each, and healthy ones they derive from, every one under its conformance suite:
the test named by `caught_by` has to fail, and the healthy classes have to pass. pytest doesn't collect them by itself.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

import mccore.testing
from mccore.testing import (
    AllocatorSuite,
    PanelSuite,
    RecipeSuite,
    TaskSuite,
    TelemetryProviderSuite,
    TreeBackendSuite,
)

ZOO = sorted((Path(__file__).parent / "zoo").glob("*.py"))
SUITES = (AllocatorSuite, PanelSuite, RecipeSuite, TaskSuite, TelemetryProviderSuite, TreeBackendSuite)


def load(file: Path) -> ModuleType:
    spec = spec_from_file_location(f"zoo_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ANIMALS, LIVES = {}, {}  # name -> the class, and the file it is in
for _file in ZOO:
    _found = {name: animal for name, animal in vars(load(_file)).items() if name.startswith("Test")}
    assert not _found.keys() & ANIMALS.keys()
    ANIMALS |= _found
    LIVES |= dict.fromkeys(_found, _file)
BROKEN = {name: animal.caught_by for name, animal in ANIMALS.items() if hasattr(animal, "caught_by")}
HEALTHY = sorted(set(ANIMALS) - set(BROKEN))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], list[str]]:
    """(class, test without parameters) -> what became of each of its cases, from one run of pytest over the zoo."""
    directory = tmp_path_factory.mktemp("zoo")
    chosen = [f"{LIVES[name]}::{name}" for name in HEALTHY]
    chosen += [f"{LIVES[name]}::{name}::{test}" for name, test in BROKEN.items()]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--tb=short",
         f"--rootdir={directory}", f"--basetemp={directory / 'tmp'}", f"--junitxml={directory / 'zoo.xml'}", *chosen],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=directory,
    )  # fmt: skip
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout + run.stderr
    seen: dict[tuple[str, str], list[str]] = {}
    for case in ElementTree.parse(directory / "zoo.xml").iter("testcase"):
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        animal, test = case.attrib["classname"].rpartition(".")[2], case.attrib["name"].partition("[")[0]
        seen.setdefault((animal, test), []).append(outcome)
    return seen


@pytest.mark.parametrize(("name", "test"), BROKEN.items(), ids=BROKEN)
def test_a_broken_plugin_is_caught(outcomes: dict[tuple[str, str], list[str]], name: str, test: str) -> None:
    assert "failure" in outcomes[name, test], f"{test} let {name} pass: {ANIMALS[name].__doc__}"


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_plugin_passes(outcomes: dict[tuple[str, str], list[str]], name: str) -> None:
    of_this = {test: seen for (animal, test), seen in outcomes.items() if animal == name}
    assert of_this
    assert {test: seen for test, seen in of_this.items() if {"failure", "error"} & set(seen)} == {}
    assert any("passed" in seen for seen in of_this.values())


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.__name__)
def test_every_test_of_a_suite_has_caught_something(suite: type) -> None:
    """A test that no fault of the zoo can fail might be one that can't fail at all."""
    tests = {name for name, _ in inspect.getmembers(suite, inspect.isfunction) if name.startswith("test_")}
    shown = {BROKEN[name] for name in BROKEN}
    assert tests - shown - PLAIN == set()


# Tests of one line or of a healthy tree only, each an assertion that another broken plugin would fail trivially.
PLAIN = {
    "test_is_a_tree_backend",
    "test_starts_empty",
    "test_reads_what_was_appended",
    "test_flush_changes_nothing_that_is_read",
    "test_an_existing_empty_directory_is_an_empty_tree",
}


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.__name__)
def test_what_to_override_is_said(suite: type) -> None:
    method = "recipe" if suite is RecipeSuite else "extension"
    with pytest.raises(NotImplementedError, match=rf"has to override {method}\(\)"):
        getattr(suite(), method)()


def test_suites_need_neither_torch_nor_hypothesis() -> None:
    code = "import sys, mccore.testing; print([name for name in ('torch', 'hypothesis') if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_all_names_are_there() -> None:
    assert all(hasattr(mccore.testing, name) for name in mccore.testing.__all__)
