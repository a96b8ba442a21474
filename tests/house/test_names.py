"""Names that stand in a table stand there alone: stages in `config/stages.py`, metrics in `events/metrics.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from mccore.config.stages import STAGES
from tests.house.sources import modules

# Stages whose names are plain words, which mean other things elsewhere.
WORDS = {"data", "tokenizer", "encode", "report"}

# file -> why it names a stage
STAGE_LITERALS: dict[str, str] = {
    "mccore/config/stages.py": "the table",
    "mccore/contexts/manifest.py": "the base of a session, a field of its state",
    "mccore/tasks/stdlib/needle.py": "a word that hides as a needle",
    "mccore/testing/telemetry.py": "an event made up for plugin authors",
}


def literals(tree: ast.AST) -> Iterator[str]:
    """Texts of a module that aren't docstrings, the fixed parts of f-strings included."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_stages_are_named_in_their_table_only() -> None:
    names = set(STAGES) - WORDS
    naming = {str(module) for module in modules().values() if names & set(literals(module.tree))}
    assert naming == set(STAGE_LITERALS)
