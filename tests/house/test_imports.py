"""What mccore and its plugins may import of others: the seam, heavy packages, declared dependencies.

Read from the sources and, where it matters at run time, from `sys.modules` of a fresh interpreter.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.house.sources import modules, room_of

ROOT = Path(__file__).parents[2]

# Rooms and modules without torch, numpy and matplotlib at import: what a launcher, a monitor or a plugin's author loads.
KERNEL = {
    "api", "config", "errors", "events", "hookspecs", "host", "plugins", "resolve", "runs", "scaling", "units",
}  # fmt: skip
PLUGIN_MAY_IMPORT = {"api", "config", "errors", "events", "hookspecs"}
HEAVY = {"datasets", "matplotlib", "numpy", "pyarrow", "textual", "torch"}
KERNEL_PACKAGES = {"msgspec", "packaging", "pluggy", "psutil", "pydantic", "pynvml"}


@dataclass(frozen=True)
class Import:
    """One import: by whom, of what (dotted), and whether it happens when the importing module is imported."""

    file: Path
    line: int
    target: str
    at_import: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.target}"


def imports_of(file: Path) -> Iterator[Import]:
    """Every import of a file; `from mccore import x` counts as `mccore.x`."""

    def walk(node: ast.AST, at_import: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(file, child.lineno, alias.name, at_import)
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, f"{file}:{child.lineno}: relative import"
                base = child.module or ""
                if base == "mccore":
                    for alias in child.names:
                        yield Import(file, child.lineno, f"mccore.{alias.name}", at_import)
                else:
                    yield Import(file, child.lineno, base, at_import)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from walk(child, False)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, at_import and not inside)

    yield from walk(ast.parse(file.read_text(encoding="utf-8")), True)


@cache
def core_imports() -> tuple[Import, ...]:
    return tuple(each for file in sorted((ROOT / "mccore").rglob("*.py")) for each in imports_of(file))


@cache
def plugin_imports() -> tuple[Import, ...]:
    files = sorted((ROOT / "plugins").glob("*/mccore_*/**/*.py"))
    return tuple(each for file in files for each in imports_of(file))


def part_of(file: Path) -> str:
    """The module or package directly below mccore that a file belongs to."""
    return file.relative_to(ROOT / "mccore").parts[0].removesuffix(".py")


def imported_part(target: str) -> str | None:
    """The part of mccore that an import reaches into, None for other packages."""
    top, _, rest = target.partition(".")
    return (rest.partition(".")[0] or "__init__") if top == "mccore" else None


def test_plugins_import_the_seam_only() -> None:
    assert plugin_imports()
    wrong = [
        str(each) for each in plugin_imports() if (part := imported_part(each.target)) and part not in PLUGIN_MAY_IMPORT
    ]
    assert wrong == []


def test_plugins_do_not_import_each_other() -> None:
    wrong = [
        str(each)
        for each in plugin_imports()
        if each.target.startswith("mccore_")
        and each.target.partition(".")[0] != each.file.relative_to(ROOT / "plugins").parts[1]
    ]
    assert wrong == []


def test_core_never_imports_a_plugin() -> None:
    packages = {path.name for path in (ROOT / "plugins").glob("*/mccore_*")}
    assert packages
    assert [str(each) for each in core_imports() if each.target.partition(".")[0] in packages] == []


def test_the_kernel_needs_the_standard_library_and_small_packages() -> None:
    allowed = sys.stdlib_module_names | KERNEL_PACKAGES | {"mccore"}
    wrong = [
        str(each)
        for each in core_imports()
        if part_of(each.file) in KERNEL
        and each.target.partition(".")[0] not in allowed
        and (each.at_import or each.target.partition(".")[0] != "numpy")  # types of api.py
    ]
    assert wrong == []


def test_front_ends_load_nothing_heavy_when_imported() -> None:
    wrong = [
        str(each)
        for each in core_imports()
        if part_of(each.file) in ("cli", "tui")
        and each.at_import
        and each.target.partition(".")[0] in HEAVY - ({"textual"} if part_of(each.file) == "tui" else set())
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "project", ["pyproject.toml", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("plugins/*/pyproject.toml"))]
)
def test_every_import_is_declared(project: str) -> None:
    path = ROOT / project
    stated = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    requirements = list(stated["dependencies"])
    for extra in stated.get("optional-dependencies", {}).values():
        requirements += extra
    declared = {_normal(re.split(r"[\s\[<>=!~;]", line)[0]) for line in [*requirements, stated["name"]]}
    if path.parent == ROOT:
        declared.add("pytest")  # mccore.testing is for test suites, which have it
        found = core_imports()
    else:
        found = tuple(each for each in plugin_imports() if path.parent in each.file.parents)
    providers = packages_distributions()
    undeclared = []
    for each in found:
        top = each.target.partition(".")[0]
        if top in sys.stdlib_module_names:
            continue
        if top in providers:
            known = bool({_normal(name) for name in providers[top]} & declared)
        else:  # an extra that isn't installed here: its distribution is called after the package it brings
            known = any(name.startswith(_normal(top)) for name in declared)
        if not known:
            undeclared.append(str(each))
    assert undeclared == []


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# --- at run time ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["plugins"],
        ["plugins", "--json"],
        ["plugins", "new", "--help"],
        ["completion", "bash"],
    ],
    ids=" ".join,
)
def test_light_commands_load_no_heavy_package_and_no_plugin(arguments: list[str]) -> None:
    plugin_packages = {path.name for path in (ROOT / "plugins").glob("*/mccore_*")}
    loaded = _modules_after(f"from mccore.cli import main; main({arguments!r})")
    assert {name for name in loaded if name.partition(".")[0] in HEAVY | plugin_packages} == set()
    assert "mccore.cli" in loaded


@pytest.mark.parametrize("arguments", [["run", "--help"], ["run", "tiny", "--dry-run", "--json"]], ids=" ".join)
def test_preparing_a_run_loads_no_torch(arguments: list[str]) -> None:
    loaded = _modules_after(f"from mccore.cli import main; main({arguments!r})")
    assert {name for name in loaded if name.partition(".")[0] in HEAVY - {"numpy"}} == set()


def test_the_kernel_loads_nothing_heavy() -> None:
    names = [name for name in modules() if room_of(name) in KERNEL]
    loaded = _modules_after(f"import {', '.join(names)}")
    assert {name for name in loaded if name.partition(".")[0] in HEAVY} == set()


def _modules_after(code: str) -> set[str]:
    script = f"import sys\ntry:\n    {code}\nfinally:\n    print('\\nMODULES', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(done.stdout.rpartition("MODULES ")[2].split())
