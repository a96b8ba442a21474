"""The same lines stand in one place.

Imports, decorators and the heads of definitions aren't counted: what two commands or two protocols take may be alike. The
list of exceptions may only shrink.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from tests.house.sources import PACKAGE, ROOT

SAME_LINES = 6

# files with the same lines -> why
ALIKE: dict[tuple[str, str], str] = {}


def body_lines(path: Path) -> list[str]:
    """The lines of a file's statements, without indentation, comments, docstrings and brackets that stand alone."""
    text = path.read_text(encoding="utf-8")
    lines, left_out = text.splitlines(), set[int]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            left_out |= set(range(first, node.body[0].lineno))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    kept = (line.strip() for number, line in enumerate(lines, start=1) if number not in left_out)
    return [line for line in kept if line.strip("()[]{},") and not line.startswith("#")]


def alike() -> dict[tuple[str, str], list[str]]:
    """Pairs of files -> the first lines that stand in both, or twice in one."""
    places: dict[tuple[str, ...], list[str]] = defaultdict(list)
    folders = [PACKAGE, *(ROOT / "plugins").glob("*/mccore_*")]
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        lines = body_lines(path)
        for start in range(len(lines) - SAME_LINES + 1):
            places[tuple(lines[start : start + SAME_LINES])].append(path.relative_to(ROOT).as_posix())
    found: dict[tuple[str, str], list[str]] = {}
    for block, files in places.items():
        if len(files) > 1:
            found.setdefault((files[0], files[1]), list(block))
    return found


def test_the_same_lines_stand_in_one_place() -> None:
    found = alike()
    assert {pair: lines for pair, lines in found.items() if pair not in ALIKE} == {}
    assert set(ALIKE) - set(found) == set(), "these are alike no more: take them out of the table"
