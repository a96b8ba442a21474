"""Every file of mccore has its tests, and everything that a plugin's author may rely on has one.

A file is covered by `tests/ROOM/test_FILE.py`, by a test that imports it, or by what the table below names: the test that
reaches it through the files that use it. The table may only shrink, and an entry that isn't needed fails.
"""

from __future__ import annotations

import ast
from functools import cache

import mccore.hookspecs
from mccore.events.types import EVENT_TYPES
from tests.house.sources import PACKAGE, ROOT, Module, modules

# test below tests/ -> files below mccore/ that it reaches
REACHED: dict[str, tuple[str, ...]] = {
    "cli/chat/test_command.py": ("cli/chat/front", "cli/chat/lines", "cli/chat/recorder", "cli/chat/terminal"),
    "cli/chat/test_sessions.py": ("cli/chat/commands",),
    "cli/test_exchange.py": ("cli/export", "cli/imports"),
    "exchange/test_outgoing.py": ("exchange/card",),
    "cli/test_serve.py": ("cli/chat/remote", "serve/http/app", "serve/http/serving"),
    "cli/test_startup.py": ("cli/completion", "cli/monitor"),
    "cli/test_run.py": ("cli/report", "resolve/refusals"),
    "cli/test_doctor.py": ("cli/telemetry",),
    "cli/test_bench.py": ("serve/cost",),
    "config/test_run.py": (
        "config/megacontext", "config/model", "config/needs", "config/section", "config/stages", "config/training",
    ),
    "data/corpora/test_files.py": ("data/corpora/records", "data/corpora/walk"),
    "data/corpora/test_remote.py": ("tasks/hub",),
    "eval/context/test_long_history.py": ("eval/context/far/routers",),
    "events/test_log.py": ("events/types",),
    "generate/test_engine.py": ("generate/tools",),
    "generate/test_scheduler.py": ("generate/readers",),
    "launch/test_launcher.py": (
        "launch/stage_process", "launch/stop_signal",
    ),
    "megacontext/networks/test_networks.py": ("megacontext/networks/encoder",),
    "megacontext/sessions/test_session.py": ("megacontext/sessions/history",),
    "megacontext/training/test_objective.py": (
        "megacontext/training/lens_loss", "megacontext/training/plain_pass", "megacontext/training/rebuild",
        "megacontext/training/variant_cuts", "megacontext/training/variants",
    ),
    "model/test_gpt.py": ("model/initialization",),
    "plugins/test_loading.py": ("plugins/distributions",),
    "report/test_collect.py": (
        "report/environment", "report/pages/evaluation", "report/pages/training", "report/shape",
    ),
    "runs/test_rundir.py": ("runs/lock",),
    "runtime/test_open.py": ("runtime/models",),
    "serve/http/test_guard.py": ("serve/http/routes",),
    "serve/test_server.py": (
        "serve/conversations", "serve/http/figures", "serve/http/openai", "serve/http/sessions",
    ),
    "stages/rl/test_stage.py": (
        "report/pages/rewards", "runtime/policy", "stages/observers/pass_at", "stages/rl/exercises",
    ),
    "stages/test_train.py": (
        "runtime/emitting", "stages/evaluate", "stages/focus", "stages/observers/focus", "stages/observers/resources",
        "stages/observers/samples", "stages/observers/steps", "stages/observers/timings",
        "stages/observers/validation", "runtime/stores",
    ),
    "tasks/benchmarks/test_benchmarks.py": (
        "runtime/benchmarks", "tasks/benchmarks/identity", "tasks/benchmarks/letters", "tasks/benchmarks/words",
    ),
    "tasks/test_catalogue.py": (
        "data/corpora/stdlib/builtins", "data/corpora/stdlib/pages", "tasks/stdlib/qa", "tasks/stdlib/spelling",
        "tasks/stdlib/words",
    ),
    "testing/test_suites.py": (
        "testing/allocators", "testing/extensions", "testing/panels", "testing/recipes", "testing/tasks", "testing/telemetry",
        "testing/trees",
    ),
    "train/checkpoint/test_write.py": ("train/checkpoint/tensor_files",),
    "tui/test_real_run.py": ("stages/report",),
    "tui/test_run_screens.py": (
        "tui/pages/report", "tui/screens/control", "tui/words",
    ),
}  # fmt: skip


def test_every_file_is_covered_by_a_test() -> None:
    own = {module.path for module in modules().values() if _has_its_own(module)}
    reached = {PACKAGE / f"{name}.py" for names in REACHED.values() for name in names}
    every = {module.path for module in modules().values() if module.path.stem not in ("__init__", "__main__")}
    assert sorted(str(path) for path in every - own - reached) == []
    assert sorted(str(path) for path in reached & own) == [], "these are covered directly: take them out of the table"
    assert sorted(str(path) for path in reached - every) == [], "there are no such files"


def test_the_tests_of_the_table_exist() -> None:
    assert [name for name in REACHED if not (ROOT / "tests" / name).is_file()] == []


def _has_its_own(module: Module) -> bool:
    place = module.path.relative_to(PACKAGE)
    return (ROOT / "tests" / place.parent / f"test_{place.stem}.py").exists() or module.name in _imported()


@cache
def _imported() -> frozenset[str]:
    """Modules of mccore that tests import by name."""
    found = set()
    for path in (ROOT / "tests").rglob("*.py"):
        if "house" in path.relative_to(ROOT).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
    return frozenset(found)


@cache
def _tests() -> str:
    """The text of all tests but these, those of plugins and the suites for authors included."""
    folders = [ROOT / "tests", *(ROOT / "plugins").glob("*/tests"), PACKAGE / "testing"]
    return "".join(
        path.read_text(encoding="utf-8")
        for folder in folders
        for path in sorted(folder.rglob("*.py"))
        if "house" not in path.relative_to(ROOT).parts
    )


def test_every_event_type_is_in_a_test_and_in_the_docs() -> None:
    page = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    assert len(EVENT_TYPES) > 20
    assert [name for name in EVENT_TYPES if f'"{name}"' not in _tests()] == []
    assert [name for name in EVENT_TYPES if f"`{name}`" not in page] == []


def test_every_hook_is_in_a_test_and_in_the_docs() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    hooks = [name for name in vars(mccore.hookspecs) if name.startswith("mccore_")]
    assert len(hooks) >= 5
    assert [name for name in hooks if name not in _tests() or name not in page] == []
