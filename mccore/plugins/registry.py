"""What is registered: plugins as installed metadata shows them, without importing any.

One entry point is one module is one plugin; its name is what a user types. `mccore.plugins` loads and builds them.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from mccore.errors import Blame, PluginError, UnknownPlugin

KindName = Literal["tree", "allocator", "telemetry", "recipe"]
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
}


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
    return sorted({entry.name for entry in _entries(kind) if not _is_disabled(kind, entry.name)})


def describe(kind: KindName | None = None) -> list[Plugin]:
    """Every registered plugin with what can be known without importing it, in the order of kinds and names."""
    rows = []
    for each in [kind] if kind else KINDS:
        entries = _entries(each)
        rows += [_describe_entry(each, entry, entries) for entry in sorted(entries, key=lambda e: (e.name, e.value))]
    return rows


def disabled_without_effect() -> list[str]:
    """Items of MCCORE_DISABLE_PLUGINS that match no plugin: a typing error that would otherwise go unseen."""
    known = {name for kind in KINDS for entry in _entries(kind) for name in (entry.name, f"{kind}:{entry.name}")}
    return sorted(_disabled() - known)


def _entries(kind: KindName) -> list[metadata.EntryPoint]:
    return list(metadata.entry_points(group=KINDS[kind].group))


def _module(entry: metadata.EntryPoint) -> str:
    """The module an entry point names, or "" when it names something else or nothing."""
    module = entry.value.partition("[")[0].strip()
    return module if all(part.isidentifier() for part in module.split(".")) else ""


def _disabled() -> set[str]:
    return {item.strip() for item in os.environ.get(DISABLE_VARIABLE, "").split(",") if item.strip()}


def _is_disabled(kind: KindName, name: str) -> bool:
    return bool({name, f"{kind}:{name}"} & _disabled())


def _describe_entry(kind: KindName, entry: metadata.EntryPoint, entries: Sequence[metadata.EntryPoint]) -> Plugin:
    distribution = entry.dist
    name, version = (distribution.name, distribution.version) if distribution else ("unknown distribution", "")
    problem, doc = "", ""
    module = _module(entry)
    if not module:
        problem = f"the entry point names {entry.value!r}; it must name a module"
    else:
        try:
            doc = _docstring(locate(module))
        except (ImportError, OSError, SyntaxError, ValueError) as error:
            problem = one_line(error)
    twins = [other for other in entries if other.name == entry.name and other is not entry]
    if twins:
        others = ", ".join(sorted(str(_blame(other)) for other in twins))
        problem = f"the name {entry.name!r} is also registered by {others}"
    problem = problem or _unmet_requirement(distribution)
    summary = doc or (distribution.metadata.get_all("Summary") or [""] if distribution else [""])[0]
    return Plugin(
        kind, entry.name, module or entry.value, name, version, summary, problem, _is_disabled(kind, entry.name)
    )


def _blame(entry: metadata.EntryPoint) -> Blame:
    module = _module(entry)
    return Blame(entry.dist.name, entry.dist.version, module) if entry.dist else Blame("?", module=module)


def locate(module: str) -> Path | None:
    """The source file of a module, found without importing it or its parents; None for one without a source file."""
    top, *rest = module.split(".")
    full_name = top
    spec = importlib.util.find_spec(top)
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError(f"no module named {full_name!r}" if spec is None else f"{full_name!r} is not a package")
        full_name = f"{full_name}.{part}"
        spec = importlib.machinery.PathFinder.find_spec(full_name, list(spec.submodule_search_locations))
    if spec is None:
        raise ImportError(f"no module named {full_name!r}")
    return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None


def _docstring(source: Path | None) -> str:
    """The first line of a module's docstring, without running the module."""
    if source is None:
        return ""
    doc = ast.get_docstring(ast.parse(source.read_bytes(), filename=str(source)))
    return doc.splitlines()[0].strip() if doc else ""


def _unmet_requirement(distribution: metadata.Distribution | None) -> str:
    """The distribution's requirement on mccore, if the installed mccore doesn't meet it."""
    required = (distribution.requires if distribution else None) or ()
    stated = [line for line in required if re.match(r"mccore\s*[(<>=!~]", line)]
    if not stated:
        return ""
    from packaging.requirements import InvalidRequirement, Requirement  # takes longer than the rest of a listing

    try:
        installed = metadata.version("mccore")
        for line in stated:
            requirement = Requirement(line)
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if applies and not requirement.specifier.contains(installed, prereleases=True):
                return f"it needs mccore {requirement.specifier}, and this is mccore {installed}"
    except InvalidRequirement as error:
        return f"its requirement on mccore can't be read: {one_line(error)}"
    except metadata.PackageNotFoundError:
        return ""  # mccore runs from a source tree that isn't installed: nothing to compare with
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
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
