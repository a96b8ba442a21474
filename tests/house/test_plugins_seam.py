"""Plugins become objects in one place, and what they offer is declared, not looked for."""

from __future__ import annotations

import ast

from tests.house.sources import modules, room_of

# file -> why it builds plugins outside of runtime/
BUILDERS: dict[str, str] = {
    "mccore/telemetry/providers.py": "a launcher's providers live in a process without torch",
    "mccore/tui/panels.py": "panels are drawn by the monitor, which has no runtime",
    "mccore/tasks/plugged.py": "a task is opened by its name wherever one is used",
    "mccore/telemetry/probe.py": "a doctor sends through a provider without a run",
}

# Attributes that plugins' objects may have beyond their protocol.
ABILITIES = {"reads_scores", "reads_found", "recent_tokens"}


def test_plugins_are_built_in_runtime() -> None:
    building = {
        str(module)
        for module in modules().values()
        for node in module.nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("plugins.build", "extension.build")
        if room_of(module.name) not in ("runtime", "plugins")
    }
    assert building == set(BUILDERS)


def test_no_one_below_runtime_looks_for_what_a_plugin_offers() -> None:
    looking = {
        f"{module}:{node.lineno}"
        for module in modules().values()
        for node in module.nodes
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("getattr", "hasattr")
        and len(node.args) > 1
        and isinstance(node.args[1], ast.Constant)
        and node.args[1].value in ABILITIES
        and room_of(module.name) != "runtime"
    }
    assert looking == set()
