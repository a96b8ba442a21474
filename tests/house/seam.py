"""What plugins rely on, a line each: classes, fields and signatures of `api`, `hookspecs` and `errors`, names of the packages.

python -m tests.house.seam       writes tests/house/seam.txt again: first say in CHANGELOG.md what changed for authors
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import mccore.config
import mccore.events
import mccore.testing
from tests.house.sources import PACKAGE, ROOT

FROZEN = ROOT / "tests" / "house" / "seam.txt"


def surface() -> list[str]:
    """The lines, in the order of the files."""
    lines = [line for name in ("api", "hookspecs", "errors") for line in _module(name)]
    for package in (mccore.config, mccore.events, mccore.testing):
        lines += [f"{package.__name__.removeprefix('mccore.')}: {name}" for name in sorted(package.__all__)]
    return lines


def _module(name: str) -> Iterator[str]:
    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            yield f"{name}.{node.name}({bases})"
            for member in node.body:
                yield from (f"{name}.{node.name}.{line}" for line in _member(member))
        else:
            yield from (f"{name}.{line}" for line in _member(node))


def _member(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__init__"):
        result = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
        yield f"{node.name}({ast.unparse(node.args)}){result}"
    elif isinstance(node, ast.AnnAssign) and not ast.unparse(node.target).startswith("_"):
        default = "" if node.value is None else f" = {ast.unparse(node.value)}"
        yield f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)}{default}"


if __name__ == "__main__":
    FROZEN.write_text("\n".join(surface()) + "\n", encoding="utf-8")
