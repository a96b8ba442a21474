"""The plugin core against real installed metadata: packages on a temporary path with a real `*.dist-info`, no mocks."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from mccore import hookspecs, plugins
from mccore.api import (
    Allocator,
    AllocatorSpec,
    Budget,
    Edits,
    Extension,
    FocusView,
    LevelSpec,
    Options,
    Recipe,
    TelemetrySpec,
    TreeSpec,
)
from mccore.config import Choice, RunConfig
from mccore.errors import ConfigError, MccoreError, PluginError
from mccore.events import Event
from mccore.resolve.resolve import resolve

GROUPS = {kind.name: kind.group for kind in plugins.KINDS.values()}
Install = Callable[..., None]

GOOD = """
    '''Does what it says.

    More about it.
    '''
    from mccore.api import Extension, Options
    from mccore.hookspecs import hookimpl

    class GoodOptions(Options):
        depth: int = 3

    class Good:
        def __init__(self, options, spec):
            self.recent_tokens = options.depth

        def plan(self, view, budget):
            return None

    @hookimpl
    def mccore_allocator():
        return Extension(build=Good, options=GoodOptions, summary="good")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution of one module, as an installer leaves it on disk."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)

    def install(
        module: str,
        source: str | None,
        *,
        kind: plugins.KindName = "allocator",
        name: str | None = None,
        distribution: str | None = None,
        version: str = "1.2",
        value: str | None = None,
        metadata: str = "",
    ) -> None:
        distribution = distribution or module.replace("_", "-")
        if source is not None:
            path = site / Path(*module.split(".")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(source), encoding="utf-8")
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\nSummary: Summary of the package\n{metadata}",
            encoding="utf-8",
        )
        (info / "entry_points.txt").write_text(f"[{GROUPS[kind]}]\n{name or module} = {value or module}\n")
        importlib.invalidate_caches()

    yield install
    for module in set(sys.modules) - before:
        if str(getattr(sys.modules[module], "__file__", "")).startswith(str(site)):
            del sys.modules[module]


def fault(kind: plugins.KindName, name: str) -> str:
    """What a user reads when `load` fails."""
    with pytest.raises(PluginError) as caught:
        plugins.load(kind, name)
    return caught.value.render()


def row(kind: plugins.KindName, name: str) -> plugins.Plugin:
    return next(row for row in plugins.describe(kind) if row.name == name)


# --- listing -------------------------------------------------------------------------------------------------------------


def test_listing_reads_the_docstring_and_imports_nothing(install: Install) -> None:
    install("listed_pkg", GOOD)
    assert "listed_pkg" in plugins.names("allocator")
    assert row("allocator", "listed_pkg") == plugins.Plugin(
        "allocator", "listed_pkg", "listed_pkg", "listed-pkg", "1.2", "Does what it says."
    )
    assert "listed_pkg" not in sys.modules


def test_a_module_inside_a_package_is_found_without_importing_the_package(install: Install, tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "outer_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('a listing must not import this')")
    install("outer_pkg.inner", "'''Inner one.'''", name="inner", distribution="outer-pkg")
    assert row("allocator", "inner").summary == "Inner one."
    assert row("allocator", "inner").health == "ok"
    assert "outer_pkg" not in sys.modules


def test_without_a_docstring_the_distribution_speaks(install: Install) -> None:
    install("undocumented_pkg", "x = 1")
    assert row("allocator", "undocumented_pkg").summary == "Summary of the package"


@pytest.mark.parametrize(
    ("module", "source", "value", "health"),
    [
        ("gone_pkg", None, None, "no module named 'gone_pkg'"),
        ("gone_parent.inner", None, None, "no module named 'gone_parent'"),
        ("broken_syntax", "def (", None, "SyntaxError"),
        ("points_inside", GOOD, "points_inside:Good", "must name a module"),
        ("points_nowhere", GOOD, " ", "must name a module"),
        ("points_anywhere", GOOD, "not a module!", "must name a module"),
    ],
)
def test_listing_shows_what_is_wrong_on_disk(
    install: Install, module: str, source: str | None, value: str | None, health: str
) -> None:
    install(module, source, name="faulty", distribution="faulty-pkg", value=value)
    assert health in row("allocator", "faulty").health
    message = fault("allocator", "faulty")
    assert health in message
    assert "faulty-pkg 1.2" in message


def test_a_requirement_on_another_mccore_is_reported(install: Install) -> None:
    install("too_new", GOOD, metadata="Requires-Dist: mccore >=99\n")
    install("just_right", GOOD, metadata="Requires-Dist: mccore >=0.1\nRequires-Dist: mccore-other >=99\n")
    install("for_another_python", GOOD, metadata="Requires-Dist: mccore >=99; python_version < '3'\n")
    assert "needs mccore >=99" in row("allocator", "too_new").health
    assert "needs mccore >=99" in fault("allocator", "too_new")
    assert row("allocator", "just_right").health == "ok"
    assert row("allocator", "for_another_python").health == "ok"


# --- the seven faults, and some more -------------------------------------------------------------------------------------


def test_import_error(install: Install) -> None:
    install("imports_missing", "import no_such_module_at_all")
    message = fault("allocator", "imports_missing")
    assert "allocator 'imports_missing' failed while it was imported" in message
    assert "No module named 'no_such_module_at_all'" in message
    assert "imports_missing.py:1" in message
    assert "from: imports-missing 1.2 (imports_missing)" in message
    assert "hint: module 'no_such_module_at_all' is missing: install it" in message


def test_import_error_names_the_extra_that_brings_the_package(install: Install) -> None:
    install("wants_extra", "import no_such_module_at_all", name="fancy", metadata="Provides-Extra: fancy\n")
    assert "uv pip install 'wants-extra[fancy]'" in fault("allocator", "fancy")


@pytest.mark.parametrize("statement", ["raise SystemExit(3)", "import sys; sys.exit('bye')", "1 / 0"])
def test_a_module_that_ends_the_process_or_fails_is_contained(install: Install, statement: str) -> None:
    install("leaves", statement)
    message = fault("allocator", "leaves")
    assert "failed while it was imported" in message
    assert "from: leaves 1.2 (leaves)" in message


def test_signature_mismatch(install: Install) -> None:
    install(
        "wants_argument",
        """
        from mccore.hookspecs import hookimpl
        @hookimpl
        def mccore_allocator(config): ...
        """,
    )
    message = fault("allocator", "wants_argument")
    assert "signature mismatch" in message
    assert "config" in message
    assert "from: wants-argument 1.2 (wants_argument)" in message
    assert "hint:" in message


@pytest.mark.parametrize("marker", ["@hookimpl", ""])
def test_misspelt_hook(install: Install, marker: str) -> None:
    install(
        "misspelt",
        f"""
        from mccore.hookspecs import hookimpl
        {marker}
        def mccore_alocator(): ...
        """,
    )
    message = fault("allocator", "misspelt")
    assert "there is no hook 'mccore_alocator'" in message
    assert "mccore_allocator" in message.replace("mccore_alocator", "")
    assert "from: misspelt 1.2 (misspelt)" in message


def test_no_hook(install: Install) -> None:
    install("hookless", "x = 1")
    message = fault("allocator", "hookless")
    assert "it has no hook mccore_allocator" in message
    assert "from: hookless 1.2 (hookless)" in message
    assert "hint: define mccore_allocator()" in message


def test_unmarked_hook(install: Install) -> None:
    install("unmarked", "def mccore_allocator(): ...")
    assert "isn't marked as a hook" in fault("allocator", "unmarked")


def test_wrong_kind(install: Install) -> None:
    install("wrong_group", GOOD, kind="tree")
    message = fault("tree", "wrong_group")
    assert "wrong kind: it implements mccore_allocator, the hook of kind 'allocator'" in message
    assert "from: wrong-group 1.2 (wrong_group)" in message
    assert "hint: register it in the entry-point group 'mccore.allocators' instead of 'mccore.trees'" in message


def test_two_hooks_in_one_module(install: Install) -> None:
    both = GOOD + "\n    @hookimpl\n    def mccore_recipe():\n        return None\n"
    install("two_hooks", both)
    assert "one entry point is one hook" in fault("allocator", "two_hooks")


def test_duplicate_name(install: Install) -> None:
    install("first_pkg", GOOD, name="twin", version="1.0")
    install("second_pkg", GOOD, name="twin", version="2.0")
    message = fault("allocator", "twin")
    assert "first-pkg 1.0 (first_pkg)" in message
    assert "second-pkg 2.0 (second_pkg)" in message
    assert "hint: uninstall all but one of first-pkg, second-pkg" in message
    healths = [each.health for each in plugins.describe("allocator") if each.name == "twin"]
    assert ["second-pkg" in healths[0], "first-pkg" in healths[1]] == [True, True]
    assert "first_pkg" not in sys.modules


def test_unknown_name(install: Install) -> None:
    install("recency_pkg", GOOD, name="recency")
    install("a_tree", "x = 1", kind="tree", name="oak")
    message = fault("allocator", "recensy")
    assert "there is no allocator named 'recensy'" in message
    assert "did you mean recency?" in message
    assert "greedy" in message
    assert "'oak' is of kind 'tree'" in fault("allocator", "oak")


def test_a_hook_that_raises(install: Install) -> None:
    install("hook_raises", GOOD.replace("return Extension(", "raise ValueError('no good')\n        Extension("))
    message = fault("allocator", "hook_raises")
    assert "failed while its hook mccore_allocator ran: ValueError: no good" in message
    assert "hook_raises.py:" in message


@pytest.mark.parametrize(
    ("returned", "complaint"),
    [
        ("42", "returned an object of type int"),
        ("None", "returned nothing"),
        ("Extension(build=Good, options=dict)", "must be a subclass of mccore.api.Options"),
        ("Extension(build=Good, options=GoodOptions())", "must be a subclass of mccore.api.Options"),
        ("Extension(build='Good', options=GoodOptions)", "can't be called"),
        ("Extension(build=Good, options=Needy)", "Needy has no default for must, also"),
    ],
)
def test_a_hook_that_returns_something_else(install: Install, returned: str, complaint: str) -> None:
    needy = "class Needy(Options):\n        must: int\n        also: str\n\n    @hookimpl"
    source = GOOD.replace("@hookimpl", needy)
    source = source.replace('Extension(build=Good, options=GoodOptions, summary="good")', returned)
    install("returns_other", source)
    message = fault("allocator", "returns_other")
    assert complaint in message
    assert "from: returns-other 1.2 (returns_other)" in message


def test_a_recipe_must_hold_a_configuration(install: Install) -> None:
    source = """
        from mccore.api import Recipe
        from mccore.hookspecs import hookimpl
        @hookimpl
        def mccore_recipe():
            return Recipe(config={"model": {"depth": 4}})
    """
    install("dict_recipe", source, kind="recipe")
    assert "Recipe.config is an object of type dict instead of RunConfig" in fault("recipe", "dict_recipe")


def test_disabled(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("off_one", GOOD)
    install("off_two", GOOD)
    monkeypatch.setenv(plugins.DISABLE_VARIABLE, "allocator:off_one, off_two,tree:off_one")
    assert row("allocator", "off_one").health == "disabled"
    assert not {"off_one", "off_two"} & set(plugins.names("allocator"))
    assert "is disabled" in fault("allocator", "off_one")
    assert plugins.disabled_without_effect() == ["tree:off_one"]
    assert {each.health for each in plugins.check() if each.name.startswith("off_")} == {"disabled"}
    assert "off_two" not in sys.modules


def test_check_contains_each_fault(install: Install) -> None:
    install("sound", GOOD)
    install("exits", "raise SystemExit")
    install("empty", "")
    health = {each.name: each.health for each in plugins.check()}
    assert health["sound"] == "ok"
    assert "SystemExit" in health["exits"]
    assert "no hook" in health["empty"]


def test_a_broken_plugin_harms_no_other(install: Install) -> None:
    install("bystander", GOOD)
    install("broken_one", "raise RuntimeError('broken')")
    assert plugins.load("allocator", "bystander").summary == "good"
    assert "broken_one" not in sys.modules


# --- building ------------------------------------------------------------------------------------------------------------

SPEC = AllocatorSpec(block_size=4, max_lod=2)


def test_build_fills_defaults_and_validates(install: Install) -> None:
    install("buildable", GOOD)
    assert plugins.build("allocator", Choice(name="buildable"), SPEC).recent_tokens == 3
    assert plugins.build("allocator", Choice(name="buildable", options={"depth": "7"}), SPEC).recent_tokens == 7


def test_build_names_the_wrong_option(install: Install) -> None:
    install("optional", GOOD)
    with pytest.raises(ConfigError) as unknown:
        plugins.build("allocator", Choice(name="optional", options={"dpeth": 1}), SPEC)
    assert "has no option 'dpeth'" in unknown.value.message
    assert unknown.value.hint == "did you mean depth? its options: depth"
    with pytest.raises(ConfigError) as invalid:
        plugins.build("allocator", Choice(name="optional", options={"depth": "deep"}), SPEC)
    assert "depth" in invalid.value.message
    assert "'deep'" in invalid.value.message


def test_a_build_that_raises_is_blamed(install: Install) -> None:
    install("build_raises", GOOD.replace("self.recent_tokens = options.depth", "raise OSError('no disk')"))
    with pytest.raises(PluginError, match="failed while it was built: OSError: no disk"):
        plugins.build("allocator", Choice(name="build_raises"), SPEC)


def test_an_error_of_ours_from_a_build_keeps_its_words_and_gets_the_blame(install: Install) -> None:
    source = GOOD.replace(
        "self.recent_tokens = options.depth",
        "from mccore.errors import ConfigError; raise ConfigError('depth is too deep', hint='use 1')",
    )
    install("build_refuses", source)
    with pytest.raises(ConfigError, match="depth is too deep") as caught:
        plugins.build("allocator", Choice(name="build_refuses"), SPEC)
    assert caught.value.blame is not None
    assert caught.value.blame.distribution == "build-refuses"


def test_build_returns_what_the_kind_asks_for(install: Install) -> None:
    install("incomplete", GOOD.replace("def plan", "def paln"))
    with pytest.raises(PluginError, match="of type Good, which lacks plan"):
        plugins.build("allocator", Choice(name="incomplete"), SPEC)


# --- the hooks -----------------------------------------------------------------------------------------------------------


def test_every_kind_has_one_hook_and_the_hooks_are_these() -> None:
    declared = {name for name in vars(hookspecs) if name.startswith("mccore_")}
    assert declared == {kind.hook for kind in plugins.KINDS.values()}


def test_the_contracts_can_be_met_by_plain_classes() -> None:
    class Still:
        recent_tokens = 0

        def plan(self, view: FocusView, budget: Budget) -> Edits:
            raise AssertionError

    assert isinstance(Still(), Allocator)
    assert Extension(build=lambda options, spec: Still()).options is Options
    assert Recipe(config=RunConfig()).profiles == {}
    assert issubclass(PluginError, MccoreError)


# --- docs/plugins.md -----------------------------------------------------------------------------------------------------

PAGES = Path(__file__).parents[2] / "docs"
DOCS = (PAGES / "plugins.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", DOCS + (PAGES / "benchmarks.md").read_text(encoding="utf-8"), re.S)
EXAMPLES = {
    kind.name: next(block for block in BLOCKS if f"def {kind.hook}()" in block) for kind in plugins.KINDS.values()
}


def test_the_docs_give_every_hook_with_its_exact_signature() -> None:
    for kind in plugins.KINDS.values():
        signature = inspect.signature(getattr(hookspecs, kind.hook))
        written = str(signature).replace("'", "")
        assert f"| `{kind.name}` | `{kind.group}` | `{kind.hook}{written}` |" in DOCS


@pytest.mark.parametrize("kind", list(plugins.KINDS))
def test_the_docs_examples_are_plugins(install: Install, kind: plugins.KindName, tmp_path: Path) -> None:
    module = f"example_of_{kind}"
    install(module, EXAMPLES[kind], kind=kind)
    assert row(kind, module).health == "ok"
    assert row(kind, module).summary.endswith(".")
    found = plugins.load(kind, module)
    assert found.summary
    if isinstance(found, Recipe):
        config = resolve(module, gpu="h100")
        assert (config.model.depth, config.base.tokens, config.model.n_embd) == (12, 1_000_000_000, 768)
        return
    assert all(field.description for field in found.options.model_fields.values())


def test_the_docs_examples_do_their_work(install: Install, tmp_path: Path) -> None:
    for kind in ("tree", "allocator", "telemetry"):
        install(f"example_{kind}", EXAMPLES[kind], kind=kind)

    tree = plugins.build("tree", Choice(name="example_tree"), TreeSpec((LevelSpec((2,), "float32"),)))
    tree.append(0, np.ones((3, 2), dtype=np.float32))
    assert tree.read(0, 1, 3).tolist() == [[1.0, 1.0], [1.0, 1.0]]

    choice = Choice(name="example_allocator", options={"keep": 2})
    tokens = 12
    view = FocusView(
        level=np.zeros((1, tokens), dtype=np.int8),
        index=np.arange(tokens).reshape(1, -1),
        score=np.zeros((1, tokens), dtype=np.float32),
        age=np.zeros((1, tokens), dtype=np.int32),
        tokens=np.array([tokens]),
    )
    edits = plugins.build("allocator", choice, SPEC).plan(view, Budget(entries=7))
    assert edits.collapse.tolist() == [[0, 1, 0], [0, 1, 1]]

    spec = TelemetrySpec("a-run", tmp_path, 0, RunConfig())
    provider = plugins.build("telemetry", Choice(name="example_telemetry"), spec)
    provider.record(Event("step", 0.0, step=3, metrics={"loss": 1.5}))
    provider.close()
    assert (tmp_path / "rank0-losses.txt").read_text() == "3 1.5\n"


def test_the_docs_name_every_suite_and_setting() -> None:
    from mccore import testing

    suites = [name for name in testing.__all__ if name.endswith("Suite")]
    assert len(suites) == len(plugins.KINDS)
    for word in [*suites, plugins.DISABLE_VARIABLE, "uv sync --inexact"]:
        assert word in DOCS
