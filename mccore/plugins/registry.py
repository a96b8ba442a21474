"""What is registered: plugins as installed metadata shows them, without importing any.

One entry point is one module is one plugin; its name is what a user types. `mccore.plugins` loads and builds them.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Literal, NamedTuple

from mccore.errors import Blame, PluginError, UnknownPlugin
from mccore.plugins.distributions import Entry, Installed, installed

KindName = Literal["tree", "allocator", "telemetry", "recipe", "panel", "task"]
DISABLE_VARIABLE = "MCCORE_DISABLE_PLUGINS"


class Kind(NamedTuple):
    """Where plugins of one kind are registered and how they answer. `product` is the protocol in `mccore.api` that is built."""

    name: KindName
    group: str
    hook: str
    product: str
    noun: str


KINDS: dict[KindName, Kind] = {
    "tree": Kind("tree", "mccore.trees", "mccore_tree_backend", "TreeBackend", "tree backend"),
    "allocator": Kind("allocator", "mccore.allocators", "mccore_allocator", "Allocator", "allocator"),
    "telemetry": Kind(
        "telemetry", "mccore.telemetry", "mccore_telemetry_provider", "TelemetryProvider", "telemetry provider"
    ),
    "recipe": Kind("recipe", "mccore.recipes", "mccore_recipe", "RunConfig", "recipe"),
    "panel": Kind("panel", "mccore.panels", "mccore_panel", "Panel", "panel"),
    "task": Kind("task", "mccore.tasks", "mccore_task", "QuestionSource", "task"),
}


_GROUPS = frozenset(kind.group for kind in KINDS.values())


@dataclass(frozen=True)
class Plugin:
    """One row of the listing. `problem` is empty unless something is known to be wrong with it."""

    kind: KindName
    name: str
    module: str
    distribution: str
    version: str
    summary: str
    problem: str = ""
    disabled: bool = False
    extras: tuple[str, ...] = ()

    @property
    def health(self) -> str:
        """`ok`, `disabled`, or what is wrong."""
        return self.problem or ("disabled" if self.disabled else "ok")

    @property
    def blame(self) -> Blame:
        """Whom to report a fault to."""
        return Blame(self.distribution, self.version, self.module)


def names(kind: KindName) -> list[str]:
    """Names that `load` would accept for a kind, sorted."""
    return sorted({found.entry.name for found in _entries(kind) if not _is_disabled(kind, found.entry.name)})


def describe(kind: KindName | None = None) -> list[Plugin]:
    """Every registered plugin with what can be known without importing it, in the order of kinds and names."""
    rows = []
    for each in [kind] if kind else KINDS:
        entries = _entries(each)
        named: dict[str, list[_Registered]] = {}
        for entry in entries:
            named.setdefault(entry.entry.name, []).append(entry)
        rows += [_describe_entry(each, entry, named[entry.entry.name]) for entry in sorted(entries, key=_order)]
    return rows


def disabled_without_effect() -> list[str]:
    """Items of MCCORE_DISABLE_PLUGINS that match no plugin: a typing error that would otherwise go unseen."""
    known = {
        name for kind in KINDS for found in _entries(kind) for name in (found.entry.name, f"{kind}:{found.entry.name}")
    }
    return sorted(_disabled() - known)


def _order(found: _Registered) -> tuple[str, str]:
    return found.entry.name, found.entry.value


class _Registered(NamedTuple):
    """An entry point of one kind and the distribution it is from."""

    entry: Entry
    source: Installed


def _entries(kind: KindName) -> list[_Registered]:
    group = KINDS[kind].group
    return [
        _Registered(entry, source) for source in installed(_GROUPS) for entry in source.entries if entry.group == group
    ]


def _module(entry: Entry) -> str:
    """The module an entry point names, or "" when it names something else or nothing."""
    module = entry.value.partition("[")[0].strip()
    return module if all(part.isidentifier() for part in module.split(".")) else ""


def _disabled() -> set[str]:
    return {item.strip() for item in os.environ.get(DISABLE_VARIABLE, "").split(",") if item.strip()}


def _is_disabled(kind: KindName, name: str) -> bool:
    return bool({name, f"{kind}:{name}"} & _disabled())


def _describe_entry(kind: KindName, found: _Registered, namesakes: Sequence[_Registered]) -> Plugin:
    entry, source = found
    doc, module = "", _module(entry)
    problem = entry.problem or source.problem
    if not problem and not module:
        problem = f"the entry point names {entry.value!r}; it must name a module"
    elif not problem:
        doc, problem = _look_at(module)
    twins = [other for other in namesakes if other != found]
    if twins:
        named = ", ".join(sorted(str(_blame(other)) for other in twins))
        problem = f"the name {entry.name!r} is also registered by {named}"
    problem = problem or _unmet_requirement(source.requires)
    return Plugin(
        kind,
        entry.name,
        module or entry.value,
        source.name,
        source.version,
        doc or source.summary,
        problem,
        _is_disabled(kind, entry.name),
        source.extras,
    )


def _blame(found: _Registered) -> Blame:
    return Blame(found.source.name, found.source.version, _module(found.entry))


def _look_at(module: str) -> tuple[str, str]:
    """The first line of a module's docstring, and what is wrong with the module as far as that can be told without importing
    it: only that no finder of the interpreter has it, or that its source can't be compiled. Anything else loading decides."""
    try:
        source = locate(module)
    except ImportError as error:
        return "", one_line(error)
    except Exception:  # a finder of someone else's failed: unknown, not faulty
        return "", ""
    try:
        return _docstring(source), ""
    except SyntaxError as error:
        return "", one_line(error)
    except (Exception, MemoryError):  # too large or too deep for the parser here, or not for us to read
        return "", ""


def locate(module: str) -> Path | None:
    """The source file of a module, found without importing it or its parents; None for one without a source file.

    Every part is looked up by all finders of `sys.meta_path`, as an import does: editable installs bring their own. Raises
    ImportError where none of them knows the module, LookupError where importing its package may change that.
    """
    full_name = ""
    places: list[str] | None = None
    spec: ModuleSpec | None = None
    for part in module.split("."):
        if full_name and places is None:
            raise ImportError(f"{full_name!r} is not a package")
        full_name = f"{full_name}.{part}".lstrip(".")
        package = spec
        spec = _find_spec(full_name, places if "." in full_name else None)
        if spec is None and package is not None and package.origin is not None:
            raise LookupError(f"no finder knows {full_name!r} yet: its package may say more when it is imported")
        if spec is None:
            raise ImportError(f"no module named {full_name!r}")
        locations = spec.submodule_search_locations
        places = None if locations is None else _listed(locations)
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _find_spec(name: str, places: list[str] | None) -> ModuleSpec | None:
    loaded = getattr(sys.modules.get(name), "__spec__", None)
    if isinstance(loaded, ModuleSpec):
        return loaded
    for finder in sys.meta_path:
        find_spec = getattr(finder, "find_spec", None)
        found: ModuleSpec | None = find_spec(name, places) if find_spec is not None else None
        if found is not None:
            return found
    return None


def _listed(locations: Iterable[str]) -> list[str]:
    """Where a package's modules are. A namespace's own list would ask for its parent, which isn't imported."""
    path = getattr(locations, "_path", None)
    return [str(place) for place in (path if path is not None else locations)]


def _docstring(source: Path | None) -> str:
    """The first line of a module's docstring, without running the module."""
    if source is None:
        return ""
    doc = ast.get_docstring(ast.parse(source.read_bytes(), filename=str(source)))
    return doc.splitlines()[0].strip() if doc else ""


def _unmet_requirement(required: Sequence[str]) -> str:
    """The distribution's requirement on mccore, if the installed mccore doesn't meet it."""
    stated = [line for line in required if re.match(r"mccore\s*[(<>=!~]", line)]
    if not stated:
        return ""
    from packaging.requirements import InvalidRequirement, Requirement  # takes longer than the rest of a listing

    try:
        version = metadata.version("mccore")
        for line in stated:
            requirement = Requirement(line)
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if applies and not requirement.specifier.contains(version, prereleases=True):
                return f"it needs mccore {requirement.specifier}, and this is mccore {version}"
    except InvalidRequirement as error:
        return f"its requirement on mccore can't be read: {one_line(error)}"
    except Exception:
        return ""  # mccore runs from a source tree that isn't installed, or a marker that can't be evaluated
    return ""


def find(kind: KindName, name: str) -> Plugin:
    """The listing row of a plugin that can be loaded. Raises PluginError when there is none, or several."""
    noun = KINDS[kind].noun
    rows = [row for row in describe(kind) if row.name == name]
    if not rows:
        raise UnknownPlugin(f"there is no {noun} named {name!r}", hint=_hint_names(kind, name))
    row = rows[0]
    if row.disabled:
        raise PluginError(
            f"{noun} {name!r} is disabled", blame=row.blame, hint=f"take it out of {DISABLE_VARIABLE} to use it"
        )
    if len(rows) > 1:
        raise PluginError(
            f"{noun} {name!r} is registered {len(rows)} times: by {' and by '.join(str(each.blame) for each in rows)}",
            blame=row.blame,
            hint=f"uninstall all but one of {', '.join(sorted({each.distribution for each in rows}))}",
        )
    if row.problem:
        raise PluginError(f"{noun} {name!r} can't be used: {row.problem}", blame=row.blame, hint=_hint_reinstall(row))
    return row


def _hint_names(kind: KindName, name: str) -> str:
    there = names(kind)
    for other in KINDS:
        if other != kind and name in names(other):
            return f"{name!r} is of kind {other!r}; of kind {kind!r} there are: {', '.join(there) or 'none'}"
    close = get_close_matches(name, there, n=3, cutoff=0.7)
    return (f"did you mean {' or '.join(close)}? " if close else "") + f"there are: {', '.join(there) or 'none'}"


def _hint_reinstall(row: Plugin) -> str:
    return f"reinstall or update {row.distribution}, or report it to its authors; `mccore plugins` lists what is there"


def one_line(error: BaseException) -> str:
    """An error's type and words on one line, whatever its own `__str__` does."""
    try:
        text = " ".join(str(error).split())
    except BaseException:
        text = "(its message can't be shown)"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
