"""What the standard library says about itself: every public function, class and method with its signature and docstring.

Docstrings of Python modules come from parsing their sources, never from importing them; those of objects written in C from
`stdlib_builtins`. Names are the public ones: `json.JSONDecoder`
rather than `json.decoder.JSONDecoder`, `os.path.join` rather than `posixpath.join`.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from mccore.data.corpora.stdlib.builtins import Described, written_in_c
from mccore.data.corpora.stdlib.prose import first_sentence
from mccore.data.corpora.stdlib.sources import SourceFile, source_files
from mccore.errors import DataError

Kind = Literal["function", "class", "method"]

# Where a private or platform module's names are publicly found.
_PUBLIC_MODULE = {
    "posixpath": "os.path",
    "genericpath": "os.path",
    "_collections_abc": "collections.abc",
    "_pydatetime": "datetime",
    "_pydecimal": "decimal",
    "_pyio": "io",
    "_bisect": "bisect",
    "_codecs": "codecs",
    "_collections": "collections",
    "_csv": "csv",
    "_datetime": "datetime",
    "_functools": "functools",
    "_heapq": "heapq",
    "_io": "io",
    "_operator": "operator",
    "_random": "random",
    "_signal": "signal",
    "_socket": "socket",
    "_struct": "struct",
    "_thread": "threading",
    "posix": "os",
}
# Demos, editors, installers and retired tools: their sources are in the corpus, their objects aren't worth asking about.
_NOT_REFERENCE = frozenset({
    "__future__", "antigravity", "config", "distutils", "encodings", "ensurepip", "idlelib", "lib2to3", "msilib", "ntpath",
    "nturl2path", "pydoc_data", "sre_compile", "sre_constants", "sre_parse", "test", "this", "turtledemo",
})  # fmt: skip


@dataclass(frozen=True)
class ApiObject:
    """A documented public object. `signature` has no annotations and no `self`; `doc` is the cleaned docstring."""

    module: str
    qualname: str
    kind: Kind
    signature: str
    doc: str
    summary: str

    @property
    def name(self) -> str:
        """What a user types; builtins go without their module."""
        return self.qualname if self.module == "builtins" else f"{self.module}.{self.qualname}"

    @property
    def last_name(self) -> str:
        return self.qualname.rsplit(".", 1)[-1]


@dataclass(frozen=True)
class ApiModule:
    """A public module: its docstring, its documented objects in source order, and every public top-level name.

    `listed` are the names it offers: those in `__all__`, those taken from its submodules and those written in C, or every name
    where there is no `__all__`.
    """

    name: str
    doc: str
    objects: tuple[ApiObject, ...]
    names: frozenset[str]
    listed: frozenset[str]


@dataclass(frozen=True)
class _Parsed:
    """What is kept of one source file: parsing all files first and keeping the trees costs five times as long."""

    module: str
    doc: str
    names: frozenset[str]
    all_names: tuple[str, ...]
    imports: tuple[
        tuple[str, str], ...
    ]  # (module, name or "*") that a package's __init__ takes from its own submodules
    objects: tuple[ApiObject, ...]


@lru_cache(maxsize=1)
def api_modules() -> tuple[ApiModule, ...]:
    """All public modules of the library, sorted by name. Takes about three seconds, once per process."""
    docs: dict[str, str] = {}
    objects: dict[str, dict[str, ApiObject]] = {}
    names: dict[str, set[str]] = {}
    listed: dict[str, set[str]] = {}
    parsed = [_parse(file) for file in source_files() if _is_reference(file.module)]
    exported = _exports(parsed)
    for source in parsed:
        public = _PUBLIC_MODULE.get(source.module, source.module)
        if _is_public(public):
            docs.setdefault(public, source.doc)
            names.setdefault(public, set()).update(source.names)
            listed.setdefault(public, set()).update(source.all_names or source.names)
        for found in source.objects:
            top = found.qualname.split(".")[0]
            home = exported.get((source.module, top), public)
            if _is_public(home):
                objects.setdefault(home, {}).setdefault(found.qualname, replace(found, module=home))
                names.setdefault(home, set()).add(top)
                if home != public or not source.all_names:
                    listed.setdefault(home, set()).add(top)
    for name, described in _written_in_c().items():
        public = _PUBLIC_MODULE.get(name, name)
        docs[public] = docs.get(public) or _clean(described["doc"])
        names.setdefault(public, set()).update(described["names"])
        listed.setdefault(public, set()).update(described["names"])
        for qualname, kind, signature, written in described["objects"]:
            doc = _clean(written)
            found = ApiObject(public, qualname, kind, signature, doc, first_sentence(doc))
            objects.setdefault(public, {}).setdefault(qualname, found)
    return tuple(
        ApiModule(
            name,
            docs.get(name, ""),
            tuple(objects.get(name, {}).values()),
            frozenset(names[name]),
            frozenset(listed[name]),
        )
        for name in sorted(names)
        if objects.get(name) or docs.get(name)
    )


def _written_in_c() -> Described:
    try:
        return written_in_c()
    except (RuntimeError, OSError, ValueError) as error:
        raise DataError(
            f"{sys.executable} can't be run to read the docstrings of built-in modules: {error}",
            hint="use a Python that can start itself as `python -I -S`",
        ) from error


def _is_reference(module: str) -> bool:
    parts = module.split(".")
    return parts[0] not in _NOT_REFERENCE and parts[-1] != "__main__"


def _is_public(module: str) -> bool:
    return not any(part.startswith("_") for part in module.split("."))


def _clean(doc: str | None) -> str:
    """A docstring without indentation, control characters or blanks at line ends."""
    if not doc:
        return ""
    doc = "".join(c for c in inspect.cleandoc(doc) if c == "\n" or c.isprintable())
    return "\n".join(line.rstrip() for line in doc.splitlines()).strip()


# --- Python sources ---------------------------------------------------------------------------------------------------


def _parse(file: SourceFile) -> _Parsed:
    tree = ast.parse(file.text)
    is_package = file.path.endswith("/__init__.py")
    return _Parsed(
        module=file.module,
        doc=_clean(ast.get_docstring(tree)),
        names=frozenset(_top_level_names(tree)),
        all_names=tuple(_all_names(tree)),
        imports=tuple(_own_imports(file.module, tree)) if is_package else (),
        objects=tuple(_objects_of_tree(file.module, tree)),
    )


def _own_imports(package: str, tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in _statements(tree.body):
        if isinstance(node, ast.ImportFrom) and node.module and node.level <= 1:
            source = f"{package}.{node.module}" if node.level else node.module
            if source.startswith(f"{package}."):
                yield from ((source, alias.name) for alias in node.names)


def _exports(parsed: list[_Parsed]) -> dict[tuple[str, str], str]:
    """(submodule, name) -> package, for the names that a package's `__init__` takes from its submodules."""
    all_names = {source.module: source.all_names for source in parsed}
    homes: dict[tuple[str, str], str] = {}
    for package in parsed:
        for submodule, taken in package.imports:
            for name in all_names.get(submodule, ()) if taken == "*" else (taken,):
                homes.setdefault((submodule, name), package.module)
    return homes


def _all_names(tree: ast.Module) -> Iterator[str]:
    """The strings put into `__all__`: assigned, added, extended or appended."""
    for node in _statements(tree.body):
        for constant in ast.walk(_put_into_all(node)):
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                yield constant.value


def _put_into_all(node: ast.stmt) -> ast.AST:
    """The expression that a statement assigns or adds to `__all__`; an empty tuple when it does neither."""
    if isinstance(node, ast.Assign) and any(_is_all(target) for target in node.targets):
        return node.value
    if isinstance(node, ast.AugAssign) and _is_all(node.target):
        return node.value
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
        called = node.value.func
        if called.attr in ("extend", "append") and _is_all(called.value):
            return ast.Tuple(node.value.args)
    return ast.Tuple([])


def _is_all(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "__all__"


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module or class, also those under `if` and `try`."""
    for node in body:
        if isinstance(node, ast.If):
            yield from _statements(node.body)
            yield from _statements(node.orelse)
        elif isinstance(node, ast.Try):
            yield from _statements(node.body)
            for handler in node.handlers:
                yield from _statements(handler.body)
            yield from _statements(node.orelse)
        else:
            yield node


def _top_level_names(tree: ast.Module) -> set[str]:
    return {
        node.name
        for node in _statements(tree.body)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }


def _objects_of_tree(module: str, tree: ast.Module) -> Iterator[ApiObject]:
    """Functions, classes and methods with a docstring, in source order; also `choice = _inst.choice` aliases."""
    classes: dict[str, ast.ClassDef] = {}
    instances: dict[str, ast.ClassDef] = {}
    for node in _statements(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _object(module, node.name, node, "function")
        elif isinstance(node, ast.ClassDef):
            classes[node.name] = node
            yield from _objects_of_class(module, node)
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            target, value = node.targets[0].id, node.value
            if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in classes:
                instances[target] = classes[value.func.id]
            elif isinstance(value, ast.Attribute) and isinstance(value.value, ast.Name) and value.value.id in instances:
                for method in instances[value.value.id].body:
                    if isinstance(method, ast.FunctionDef) and method.name == value.attr:
                        yield from _object(module, target, method, "function", bound=True)


def _objects_of_class(module: str, node: ast.ClassDef, prefix: str = "") -> Iterator[ApiObject]:
    if node.name.startswith("_"):
        return
    qualname = prefix + node.name
    doc = _clean(ast.get_docstring(node))
    members = list(_statements(node.body))
    init = next((m for m in members if isinstance(m, ast.FunctionDef) and m.name == "__init__"), None)
    if doc:
        signature = _signature(init.args, bound=True) if init else "()"
        yield ApiObject(module, qualname, "class", signature, doc, first_sentence(doc))
    for member in members:
        if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
            static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in member.decorator_list)
            prop = any(_is_property(decorator) for decorator in member.decorator_list)
            if not prop:
                yield from _object(module, f"{qualname}.{member.name}", member, "method", bound=not static)
        elif isinstance(member, ast.ClassDef):
            yield from _objects_of_class(module, member, f"{qualname}.")


def _is_property(decorator: ast.expr) -> bool:
    if isinstance(decorator, ast.Attribute) and decorator.attr in ("setter", "deleter"):
        return True
    return isinstance(decorator, ast.Name | ast.Attribute) and "property" in ast.unparse(decorator)


def _object(
    module: str, qualname: str, node: ast.FunctionDef | ast.AsyncFunctionDef, kind: Kind, bound: bool = False
) -> Iterator[ApiObject]:
    doc = _clean(ast.get_docstring(node))
    if doc and not qualname.rsplit(".", 1)[-1].startswith("_"):
        yield ApiObject(module, qualname, kind, _signature(node.args, bound), doc, first_sentence(doc))


def _signature(arguments: ast.arguments, bound: bool) -> str:
    """The parameters as a caller sees them: defaults but no annotations, and no `self` or `cls` when `bound`."""
    everything = [*arguments.posonlyargs, *arguments.args]
    if everything and (bound or everything[0].arg == "self"):
        first = everything[0]
        positional, plain = list(arguments.posonlyargs), list(arguments.args)
        (positional if positional else plain).remove(first)
        defaults = arguments.defaults[-(len(everything) - 1) :] if len(everything) > 1 else []
    else:
        positional, plain, defaults = list(arguments.posonlyargs), list(arguments.args), list(arguments.defaults)
    bare = ast.arguments(
        posonlyargs=[ast.arg(a.arg) for a in positional],
        args=[ast.arg(a.arg) for a in plain],
        vararg=ast.arg(arguments.vararg.arg) if arguments.vararg else None,
        kwonlyargs=[ast.arg(a.arg) for a in arguments.kwonlyargs],
        kw_defaults=arguments.kw_defaults,
        kwarg=ast.arg(arguments.kwarg.arg) if arguments.kwarg else None,
        defaults=defaults,
    )
    return f"({ast.unparse(bare)})"
