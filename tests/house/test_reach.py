"""How far code may reach: no looking behind a protocol, no settings of a whole process, no words on standard output.

Exceptions stand here with their reason, and a list may only shrink.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.house.sources import Module, modules, room_of

# `getattr` by a fixed name with a default says: it may have it or not. A protocol says which. file -> whose attribute it is
MAYBE: dict[str, str] = {
    "mccore/contexts/check.py": "a tree that is opened in spite of damage may know which levels it has",
    "mccore/cli/__init__.py": "click: a group has commands, a command hasn't",
    "mccore/data/corpora/stdlib/builtins.py": "any object of the standard library",
    "mccore/errors.py": "an OSError has a cause, any other exception hasn't",
    "mccore/host/files.py": "flags of an operating system",
    "mccore/host/regular.py": "flags of an operating system",
    "mccore/host/text.py": "flags of an operating system; an OSError or a ValueError",
    "mccore/plugins/distributions.py": "importlib's metadata, which doesn't tell where a distribution lies",
    "mccore/plugins/registry.py": "import hooks of other packages",
    "mccore/runs/live/watch.py": "an error of ours, or the system's",
    "mccore/runtime/allocators.py": "the one place where an allocator's abilities are read",
    "mccore/telemetry/providers.py": "an error of ours, or a guest's",
    "mccore/train/checkpoint/write.py": "torch's error of many ranks, or another",
    "mccore/tui/app.py": "textual: a screen of ours, or one of its own",
    "mccore/tui/drawing/glyphs.py": "a stream that was put in place of standard output",
}

# file -> why it sets what a whole process shares
SETTERS: dict[str, str] = {
    "mccore/launch/stop_signal.py": "a stage's own process, at its start",
    "mccore/plugins/containment.py": "silences a plugin while it is imported, and puts the streams back",
    "mccore/runtime/runtime.py": "how many graphs torch.compile may keep, for a stage's own process",
    "mccore/serve/worker/__main__.py": "a server's own process, at its start",
    "mccore/train/gradients.py": "threads, device and precision of a rank's own process, at its start",
}

SETTER = re.compile(r"[\w.]+\.set_(?!blocking)")  # of one file, not of the process

# file -> why it prints
PRINTERS: dict[str, str] = {
    "mccore/eval/context/recall.py": "a test of the algorithm that is run by hand",
    "mccore/launch/stop_signal.py": "into the log of a stage",
    "mccore/launch/worker.py": "into the log of a stage",
}


def calls(module: Module, *names: str) -> Iterator[ast.Call]:
    """Calls of functions by their written names."""
    for node in module.nodes:
        if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
            yield node


def test_no_one_asks_what_kind_of_objective_it_is() -> None:
    """What differs between objectives, each says itself: `train.objective.Objective`."""
    asking = {
        f"{module}:{call.lineno}"
        for module in modules().values()
        for call in calls(module, "isinstance", "issubclass", "type")
        if call.args and "objective" in ast.unparse(call).lower()
    }
    assert asking == set()


def test_no_one_guesses_at_attributes() -> None:
    guessing = {
        str(module)
        for module in modules().values()
        for call in calls(module, "getattr")
        if len(call.args) == 3 and isinstance(call.args[1], ast.Constant)
    }
    assert guessing == set(MAYBE)


def test_no_function_is_found_among_globals() -> None:
    assert {str(m) for m in modules().values() if any(calls(m, "globals", "locals", "vars().__getitem__"))} == set()


def test_what_a_process_shares_is_set_by_its_owner() -> None:
    assert {str(module) for module in modules().values() if any(_settings(module))} == set(SETTERS)


def _settings(module: Module) -> Iterator[ast.AST]:
    """Attributes of imported modules that are assigned, also under a name of their own, and calls of their setters."""
    imported = {
        alias.asname or alias.name.split(".")[0]
        for node in module.nodes
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    shared = set(imported)
    for node in module.nodes:
        # `dynamo = torch._dynamo.config` is a name for a part of a module; constants and classes aren't.
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.value).endswith(".config")
            and _root(node.value) in imported
        ):
            shared |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    for node in module.nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _root(node) in shared:
            yield node
        if isinstance(node, ast.Call) and SETTER.match(ast.unparse(node.func)) and _root(node.func) in imported:
            yield node


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def test_no_one_prints_but_processes_with_a_log() -> None:
    assert {str(module) for module in modules().values() if any(calls(module, "print"))} == set(PRINTERS)


def test_every_exception_has_a_reason() -> None:
    tables = (MAYBE, SETTERS, PRINTERS)
    assert [file for table in tables for file, reason in table.items() if len(reason) < 10] == []
    assert {room_of(name.removesuffix(".py").replace("/", ".")) for name in SETTERS} <= {
        "launch", "plugins", "runtime", "serve", "train",
    }  # fmt: skip
