"""The sources of mccore as the house rules see them: modules, their imports, their definitions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mccore"


@dataclass(frozen=True)
class Module:
    """A file of mccore by its dotted name."""

    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """All nodes of the tree, walked once for all rules."""
        return tuple(ast.walk(self.tree))

    def __str__(self) -> str:
        return self.path.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Arrow:
    """One module of mccore imports another."""

    importer: Module
    line: int
    target: str

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


@dataclass(frozen=True)
class Definition:
    """A function, method or class: where it is, and how large."""

    module: Module
    name: str  # dotted inside the module
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

    @property
    def lines(self) -> int:
        return (self.node.end_lineno or self.node.lineno) - self.node.lineno + 1

    @property
    def key(self) -> str:
        return f"{self.module}:{self.name}"


@cache
def modules() -> dict[str, Module]:
    """Every module of mccore by its dotted name; templates of new plugins are no modules."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = Module(name, path)
    return found


def room_of(name: str) -> str:
    """The room of a module: the folder or module directly below mccore."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@cache
def arrows() -> tuple[Arrow, ...]:
    """Every import of one module of mccore by another, wherever in the file it stands."""
    return tuple(arrow for module in modules().values() for arrow in _arrows_of(module))


def _arrows_of(module: Module) -> Iterator[Arrow]:
    for node in module.nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "mccore":
                    yield Arrow(module, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "mccore":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield Arrow(module, node.lineno, whole if whole in modules() else node.module)


def circles() -> list[list[str]]:
    """Groups of modules that import each other in a loop."""
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for arrow in arrows():
        if arrow.target in graph and arrow.target != arrow.importer.name:
            graph[arrow.importer.name].add(arrow.target)
    while leaves := [name for name, targets in graph.items() if not targets]:
        for name in leaves:
            del graph[name]
        for targets in graph.values():
            targets.difference_update(leaves)
    # What is left reaches a loop; those that nothing in it imports only look on.
    while onlookers := [name for name in graph if not any(name in targets for targets in graph.values())]:
        for name in onlookers:
            del graph[name]
    return [sorted(graph)] if graph else []


@cache
def plugin_modules() -> tuple[Module, ...]:
    """Every module of the plugins that come with mccore, without their tests."""
    files = sorted(path for folder in (ROOT / "plugins").glob("*/mccore_*") for path in folder.rglob("*.py"))
    return tuple(Module(".".join(path.relative_to(ROOT / "plugins").with_suffix("").parts[1:]), path) for path in files)


@cache
def definitions() -> tuple[Definition, ...]:
    """Every class, function and method of mccore, nested ones included."""
    return tuple(each for module in modules().values() for each in definitions_of(module))


def definitions_of(module: Module) -> Iterator[Definition]:
    """Every class, function and method of a module, nested ones included."""

    def walk(node: ast.AST, prefix: str) -> Iterator[Definition]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield Definition(module, prefix + child.name, child)
                yield from walk(child, f"{prefix}{child.name}.")
            else:
                yield from walk(child, prefix)

    return walk(module.tree, "")
