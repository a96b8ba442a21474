"""Load and build plugins by name, one module each; list them through `mccore.plugins.registry`, whose functions are here too.

`load` imports exactly one module and checks that it keeps its contract; `build` makes the object. Every fault is a
`PluginError` that names the distribution and module at fault, so one broken plugin never stops a command that doesn't use it.

Pluggy's own entry-point loader isn't used: it imports everything, one ImportError stops it, and a duplicate name vanishes.
"""

from __future__ import annotations

import contextlib
import importlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, overload

from mccore.errors import ConfigError, MccoreError, PluginError
from mccore.plugins.containment import Escaped, guarded
from mccore.plugins.registry import (
    DISABLE_VARIABLE,
    KINDS,
    Kind,
    KindName,
    Plugin,
    describe,
    disabled_without_effect,
    find,
    locate,
    names,
    one_line,
)

if TYPE_CHECKING:
    import pluggy

    from mccore.api import (
        Allocator,
        AllocatorSpec,
        Extension,
        Options,
        Panel,
        PanelSpec,
        QuestionSource,
        Recipe,
        TaskSpec,
        TelemetryProvider,
        TelemetrySpec,
        TreeBackend,
        TreeSpec,
    )
    from mccore.config import Choice

__all__ = [
    "DISABLE_VARIABLE", "KINDS", "Kind", "KindName", "Plugin", "build", "builder", "check", "contained", "describe",
    "disabled_without_effect", "find", "load", "names", "read_options",
]  # fmt: skip


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
def load(kind: Literal["panel"], name: str) -> Extension[Panel]: ...
@overload
def load(kind: Literal["task"], name: str) -> Extension[QuestionSource]: ...
@overload
def load(kind: KindName, name: str) -> Extension[Any] | Recipe: ...
def load(kind: KindName, name: str) -> Extension[Any] | Recipe:
    """Import the one module behind a name, check it against the hook specs and return what its hook returns.

    Raises PluginError: unknown, ambiguous, disabled, can't be imported, wrong hook or signature, wrong result.
    """
    row = find(kind, name)
    module = _import(row)
    with contained(row, "its hook was looked up"):  # a module may answer `getattr` as it likes
        impl = _register(row, module)
    result = _call(row, impl)
    with contained(row, "its answer was looked at"):
        return _checked(row, result)


def _hint_authors(row: Plugin) -> str:
    return f"report it to the authors of {row.distribution}; without it: another {KINDS[row.kind].noun}"


@contextlib.contextmanager
def contained(row: Plugin, doing: str) -> Iterator[None]:
    """Turn whatever code of the plugin `row` raises, SystemExit included, into a PluginError that says where and `doing` what."""
    try:
        with guarded():
            yield
    except Escaped as escaped:
        error = escaped.__cause__ or escaped
        if isinstance(error, PluginError):
            raise error from error.__cause__
        if isinstance(error, MccoreError):
            error.blame = error.blame or row.blame
            raise error from error.__cause__
        hint = _hint_missing(row, error) if isinstance(error, ModuleNotFoundError) else _hint_authors(row)
        raise PluginError(
            f"{KINDS[row.kind].noun} {row.name!r} failed while {doing}: {one_line(error)}{_where(row, error)}",
            blame=row.blame,
            hint=hint,
        ) from error


def _import(row: Plugin) -> ModuleType:
    with contained(row, "it was imported"):
        return importlib.import_module(row.module)


def _hint_missing(row: Plugin, error: ModuleNotFoundError) -> str:
    """What to install: the plugin's own extra where its distribution offers one by the plugin's name."""
    wanted = f"{row.distribution}[{row.name}]" if row.name in row.extras else row.distribution
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
    with contained(row, f"its hook {KINDS[row.kind].hook} ran"):
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
    with contained(row, f"its default options ({options.__name__}) were made"):
        options().model_dump(mode="json")
    return result


# --- building -----------------------------------------------------------------------------------------------------------


@overload
def build(kind: Literal["tree"], choice: Choice, context: TreeSpec) -> TreeBackend: ...
@overload
def build(kind: Literal["allocator"], choice: Choice, context: AllocatorSpec) -> Allocator: ...
@overload
def build(kind: Literal["telemetry"], choice: Choice, context: TelemetrySpec) -> TelemetryProvider: ...
@overload
def build(kind: Literal["panel"], choice: Choice, context: PanelSpec) -> Panel: ...
@overload
def build(kind: Literal["task"], choice: Choice, context: TaskSpec) -> QuestionSource: ...
def build(kind: Literal["tree", "allocator", "telemetry", "panel", "task"], choice: Choice, context: Any) -> Any:
    """Make the object a `Choice` stands for. Raises PluginError for a faulty plugin, ConfigError for faulty options."""
    return builder(kind, choice)(context)


def builder(kind: KindName, choice: Choice) -> Callable[[Any], Any]:
    """`build` for any number of objects of one choice: looking a plugin up costs a hundred times what building a tree does.

    Raises as `build`, and so does what it returns.
    """
    from mccore import api

    extension = load(kind, choice.name)
    assert isinstance(extension, api.Extension)
    options = read_options(kind, choice, extension)
    row = find(kind, choice.name)
    protocol = getattr(api, KINDS[kind].product)

    def make(context: Any) -> Any:
        with contained(row, "it was built"):
            product = extension.build(options, context)
            if not isinstance(product, protocol):  # asks for its attributes, which may be properties
                lacking = sorted(name for name in _members(protocol) if not hasattr(product, name))
                raise _invalid(row, f"build returned {_type_name(product)}, which lacks {', '.join(lacking)}")
        return product

    return make


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


def _where(row: Plugin, error: BaseException) -> str:
    """The innermost line of the plugin's own module in a traceback, as ` (file:line)`."""
    with contextlib.suppress(Exception):
        source = str(locate(row.module))
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
        return f" ({source}:{lines[-1]})" if lines else ""
    return ""
