"""Find, list, load and build plugins: entry points by name, one module each.

`names` and `describe` read installed metadata and import no plugin; `load` imports exactly one and checks that it keeps its
contract; `build` makes the object. Every fault is a `PluginError` that names the distribution and module at fault, so one
broken plugin never stops a command that doesn't use it.

Pluggy's own entry-point loader isn't used: it imports everything, one ImportError stops it, and a duplicate name vanishes.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.machinery
import importlib.util
import os
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from mccore.errors import Blame, ConfigError, MccoreError, PluginError

if TYPE_CHECKING:
    import pluggy

    from mccore.api import (
        Allocator,
        AllocatorSpec,
        Extension,
        Options,
        Recipe,
        TelemetryProvider,
        TelemetrySpec,
        TreeBackend,
        TreeSpec,
    )
    from mccore.config import Choice

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


# --- listing: nothing is imported ---------------------------------------------------------------------------------------


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


def check() -> list[Plugin]:
    """`describe`, after loading every plugin that isn't disabled. Each fault is contained in its row."""
    rows = []
    for row in describe():
        if not row.problem and not row.disabled:
            try:
                load(row.kind, row.name)
            except PluginError as error:
                row = replace(row, problem=error.message)
        rows.append(row)
    return rows


def _entries(kind: KindName) -> list[metadata.EntryPoint]:
    return list(metadata.entry_points(group=KINDS[kind].group))


def _disabled() -> set[str]:
    return {item.strip() for item in os.environ.get(DISABLE_VARIABLE, "").split(",") if item.strip()}


def _is_disabled(kind: KindName, name: str) -> bool:
    return bool({name, f"{kind}:{name}"} & _disabled())


def _describe_entry(kind: KindName, entry: metadata.EntryPoint, entries: Sequence[metadata.EntryPoint]) -> Plugin:
    distribution = entry.dist
    name, version = (distribution.name, distribution.version) if distribution else ("unknown distribution", "")
    problem, doc = "", ""
    if entry.attr:
        problem = f"the entry point names `{entry.value}`; it must name a module"
    else:
        try:
            doc = _docstring(_locate(entry.module))
        except (ImportError, OSError, SyntaxError, ValueError) as error:
            problem = _one_line(error)
    twins = [other for other in entries if other.name == entry.name and other is not entry]
    if twins:
        others = ", ".join(sorted(str(_blame(other)) for other in twins))
        problem = f"the name {entry.name!r} is also registered by {others}"
    problem = problem or _unmet_requirement(distribution)
    summary = doc or (distribution.metadata.get_all("Summary") or [""] if distribution else [""])[0]
    return Plugin(kind, entry.name, entry.module, name, version, summary, problem, _is_disabled(kind, entry.name))


def _blame(entry: metadata.EntryPoint) -> Blame:
    return Blame(entry.dist.name, entry.dist.version, entry.module) if entry.dist else Blame("?", module=entry.module)


def _locate(module: str) -> Path | None:
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
    stated = [line for line in (distribution.requires if distribution else None) or () if line.startswith("mccore")]
    if not stated:
        return ""
    from packaging.requirements import InvalidRequirement, Requirement  # only where a requirement has to be read

    try:
        installed = metadata.version("mccore")
        for line in stated:
            requirement = Requirement(line)
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if requirement.name != "mccore" or not applies:
                continue
            if not requirement.specifier.contains(installed, prereleases=True):
                return f"it needs mccore {requirement.specifier}, and this is mccore {installed}"
    except InvalidRequirement as error:
        return f"its requirement on mccore can't be read: {_one_line(error)}"
    except (
        metadata.PackageNotFoundError
    ):  # mccore runs from a source tree that isn't installed: nothing to compare with
        return ""
    return ""


# --- loading: exactly one module ----------------------------------------------------------------------------------------


@overload
def load(kind: Literal["recipe"], name: str) -> Recipe: ...
@overload
def load(kind: Literal["tree"], name: str) -> Extension[TreeBackend]: ...
@overload
def load(kind: Literal["allocator"], name: str) -> Extension[Allocator]: ...
@overload
def load(kind: Literal["telemetry"], name: str) -> Extension[TelemetryProvider]: ...
@overload
def load(kind: KindName, name: str) -> Extension[Any] | Recipe: ...
def load(kind: KindName, name: str) -> Extension[Any] | Recipe:
    """Import the one module behind a name, check it against the hook specs and return what its hook returns.

    Raises PluginError: unknown, ambiguous, disabled, can't be imported, wrong hook or signature, wrong result.
    """
    row = find(kind, name)
    module = _import(row)
    impl = _register(row, module)
    return _checked(row, _call(row, impl))


def find(kind: KindName, name: str) -> Plugin:
    """The listing row of a plugin that can be loaded. Raises PluginError when there is none, or several."""
    noun = KINDS[kind].noun
    rows = [row for row in describe(kind) if row.name == name]
    if not rows:
        raise PluginError(f"there is no {noun} named {name!r}", hint=_hint_names(kind, name))
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


def _hint_authors(row: Plugin) -> str:
    return f"report it to the authors of {row.distribution}; without it: another {KINDS[row.kind].noun}"


@contextlib.contextmanager
def _contained(row: Plugin, doing: str) -> Iterator[None]:
    """Turn whatever plugin code raises, SystemExit included, into a PluginError that says where."""
    try:
        yield
    except (KeyboardInterrupt, PluginError):
        raise
    except MccoreError as error:
        error.blame = error.blame or row.blame
        raise
    except (Exception, SystemExit) as error:
        hint = _hint_missing(row, error) if isinstance(error, ModuleNotFoundError) else _hint_authors(row)
        raise PluginError(
            f"{KINDS[row.kind].noun} {row.name!r} failed while {doing}: {_one_line(error)}{_where(row, error)}",
            blame=row.blame,
            hint=hint,
        ) from error


def _import(row: Plugin) -> ModuleType:
    with _contained(row, "it was imported"):
        return importlib.import_module(row.module)


def _hint_missing(row: Plugin, error: ModuleNotFoundError) -> str:
    """What to install: the plugin's own extra where its distribution offers one by the plugin's name."""
    extras = metadata.metadata(row.distribution).get_all("Provides-Extra") or []
    wanted = f"{row.distribution}[{row.name}]" if row.name in extras else row.distribution
    return f"module {error.name!r} is missing: install it, or reinstall with `uv pip install '{wanted}'`"


def _register(row: Plugin, module: ModuleType) -> pluggy.HookCaller:
    """Register a module on a manager of its own and return the caller of its one hook."""
    import pluggy

    from mccore import hookspecs

    kind = KINDS[row.kind]
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(module, row.module)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise _invalid(row, _reason(error)) from error
    callers: list[pluggy.HookCaller] = manager.get_hookcallers(module) or []
    implemented = sorted(caller.name for caller in callers)
    if kind.hook not in implemented:
        raise _wrong_hook(row, module, implemented)
    if implemented != [kind.hook]:
        raise _invalid(row, f"it implements {', '.join(implemented)}; one entry point is one hook")
    return next(caller for caller in callers if caller.name == kind.hook)


def _reason(error: pluggy.PluginValidationError) -> str:
    """Pluggy's explanation in one line, without the module it repeats."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    useful = [line for line in lines if not line.startswith(("Plugin ", "unknown hook"))]
    unknown = [line for line in lines if line.startswith("unknown hook")]
    if unknown:
        hook = unknown[0].split("'")[1]
        close = get_close_matches(hook, [kind.hook for kind in KINDS.values()], n=1)
        return f"there is no hook {hook!r}" + (f"; did you mean {close[0]!r}?" if close else "")
    return "signature mismatch: " + "; ".join(useful)


def _wrong_hook(row: Plugin, module: ModuleType, implemented: Sequence[str]) -> PluginError:
    kind = KINDS[row.kind]
    hooks = {other.hook: other for other in KINDS.values()}
    if implemented:
        other = hooks[implemented[0]]
        return _invalid(
            row,
            f"wrong kind: it implements {other.hook}, the hook of kind {other.name!r}",
            hint=f"register it in the entry-point group {other.group!r} instead of {kind.group!r}",
        )
    if callable(getattr(module, kind.hook, None)):
        return _invalid(row, f"its function {kind.hook} isn't marked as a hook", hint="put `@hookimpl` above it")
    similar = [
        name
        for name in vars(module)
        if name not in hooks
        and callable(getattr(module, name))
        and (name.startswith("mccore_") or get_close_matches(name, hooks, n=1, cutoff=0.8))
    ]
    if similar:
        return _invalid(
            row, f"there is no hook {similar[0]!r}", hint=f"name it {kind.hook} and put `@hookimpl` above it"
        )
    return _invalid(row, f"it has no hook {kind.hook}", hint=f"define {kind.hook}() there, marked with `@hookimpl`")


def _invalid(row: Plugin, cause: str, hint: str = "") -> PluginError:
    return PluginError(
        f"{KINDS[row.kind].noun} {row.name!r} isn't valid: {cause}",
        blame=row.blame,
        hint=hint or _hint_authors(row),
    )


def _call(row: Plugin, hook: pluggy.HookCaller) -> object:
    with _contained(row, f"its hook {KINDS[row.kind].hook} ran"):
        return hook()


def _checked(row: Plugin, result: object) -> Extension[Any] | Recipe:
    """What a hook returned, if it is what the kind asks for."""
    from mccore.api import Extension, Options, Recipe
    from mccore.config import RunConfig

    hook = KINDS[row.kind].hook
    wanted: type = Recipe if row.kind == "recipe" else Extension
    if not isinstance(result, wanted):
        raise _invalid(row, f"{hook} returned {_type_name(result)} instead of {wanted.__name__}")
    if isinstance(result, Recipe):
        if not isinstance(result.config, RunConfig):
            raise _invalid(row, f"Recipe.config is {_type_name(result.config)} instead of RunConfig")
        return result
    assert isinstance(result, Extension)
    if not callable(result.build):
        raise _invalid(row, f"Extension.build is {_type_name(result.build)}, which can't be called")
    options = result.options
    if not (isinstance(options, type) and issubclass(options, Options)):
        raise _invalid(row, f"Extension.options is {options!r}; it must be a subclass of mccore.api.Options")
    if required := [name for name, field in options.model_fields.items() if field.is_required()]:
        raise _invalid(row, f"{options.__name__} has no default for {', '.join(required)}")
    with _contained(row, f"its default options ({options.__name__}) were made"):
        options().model_dump(mode="json")
    return result


# --- building -----------------------------------------------------------------------------------------------------------


@overload
def build(kind: Literal["tree"], choice: Choice, context: TreeSpec) -> TreeBackend: ...
@overload
def build(kind: Literal["allocator"], choice: Choice, context: AllocatorSpec) -> Allocator: ...
@overload
def build(kind: Literal["telemetry"], choice: Choice, context: TelemetrySpec) -> TelemetryProvider: ...
def build(kind: Literal["tree", "allocator", "telemetry"], choice: Choice, context: Any) -> Any:
    """Make the object a `Choice` stands for. Raises PluginError for a faulty plugin, ConfigError for faulty options."""
    from mccore import api

    extension = load(kind, choice.name)
    options = read_options(kind, choice, extension)
    row = find(kind, choice.name)
    with _contained(row, "it was built"):
        product = extension.build(options, context)
    protocol = getattr(api, KINDS[kind].product)
    if not isinstance(product, protocol):
        lacking = sorted(name for name in _members(protocol) if not hasattr(product, name))
        raise _invalid(row, f"build returned {_type_name(product)}, which lacks {', '.join(lacking)}")
    return product


def read_options(kind: KindName, choice: Choice, extension: Extension[Any]) -> Options:
    """A choice's options as an instance of the plugin's own model, defaults filled.

    Raises ConfigError naming each option that is unknown or invalid, with close matches and what there is.
    """
    from pydantic import ValidationError

    from mccore.config import describe_validation

    there = list(extension.options.model_fields)
    noun = KINDS[kind].noun
    for name in choice.options:
        if name not in there:
            close = get_close_matches(name, there, n=3)
            raise ConfigError(
                f"{noun} {choice.name!r} has no option {name!r}",
                hint=(f"did you mean {' or '.join(close)}? " if close else "")
                + (f"its options: {', '.join(there)}" if there else "it has no options"),
            )
    try:
        return extension.options.model_validate(choice.options)
    except ValidationError as error:
        raise ConfigError(
            f"{noun} {choice.name!r}: {describe_validation(error)}", hint=f"its options: {', '.join(there)}"
        ) from error


def _members(protocol: type) -> set[str]:
    """What a protocol asks for: its methods and annotated attributes."""
    return {name for name in (*vars(protocol), *protocol.__annotations__) if not name.startswith("_")}


# --- words --------------------------------------------------------------------------------------------------------------


def _type_name(value: object) -> str:
    return "nothing" if value is None else f"an object of type {type(value).__name__}"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _where(row: Plugin, error: BaseException) -> str:
    """The innermost line of the plugin's own module in a traceback, as ` (file:line)`."""
    with contextlib.suppress(ImportError, ValueError):
        source = str(_locate(row.module))
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
        return f" ({source}:{lines[-1]})" if lines else ""
    return ""
