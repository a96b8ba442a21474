"""The shape of the house: what may lie where, and how large a file, a class or a function may be.

Exceptions stand in `exceptions.py` with a reason. A list may only shrink: an exception that is no longer needed fails here.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict

from tests.house.exceptions import (
    LARGE_CLASSES,
    LARGE_FILES,
    LONG_FUNCTIONS,
    MANY_PARAMETERS,
    REPEATED_CLASSES,
    REPEATED_HELPERS,
    SHARED_PREFIXES,
)
from tests.house.sources import PACKAGE, Definition, definitions, definitions_of, modules, plugin_modules

TOP = {"__init__", "__main__", "api", "errors", "hookspecs", "units"}
FOLDER_FILES = 12  # beside subfolders; cli has one a command
FILE_LINES = 400
FUNCTION_LINES = 60
CLASS_LINES = 250
PARAMETERS = 6


def test_six_modules_at_the_top() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == TOP


def test_folders_are_small() -> None:
    counts = Counter(module.path.parent for module in modules().values() if module.path.stem != "__init__")
    large = {folder.name: count for folder, count in counts.items() if count > FOLDER_FILES and folder.name != "cli"}
    assert large == {}


def test_files_of_a_folder_share_no_prefix() -> None:
    """`report_plots` and `report_markdown` are a room that nobody built."""
    groups: dict[str, list[str]] = defaultdict(list)
    for module in modules().values():
        prefix, _, rest = module.path.stem.partition("_")
        if prefix and rest:
            groups[f"{module.path.parent.relative_to(PACKAGE).as_posix()}/{prefix}_"].append(module.path.name)
    assert {prefix for prefix, files in groups.items() if len(files) > 1} == set(SHARED_PREFIXES)


def test_files_are_short() -> None:
    long = {str(module) for module in modules().values() if len(module.text.splitlines()) > FILE_LINES}
    assert long == set(LARGE_FILES)


def test_functions_are_short() -> None:
    assert {each.key for each in functions() if each.lines > FUNCTION_LINES} == set(LONG_FUNCTIONS)


def test_classes_are_short() -> None:
    classes = (each for each in definitions() if isinstance(each.node, ast.ClassDef))
    assert {each.key for each in classes if each.lines > CLASS_LINES} == set(LARGE_CLASSES)


def test_functions_take_few_parameters() -> None:
    """Commands of the CLI get theirs from click, one an option."""
    many = {
        each.key
        for each in functions()
        if parameters(each) > PARAMETERS and not any("click" in ast.unparse(d) for d in each.node.decorator_list)
    }
    assert many == set(MANY_PARAMETERS)


def test_plugins_keep_the_same_sizes() -> None:
    assert len(plugin_modules()) > 30
    large = [str(module) for module in plugin_modules() if len(module.text.splitlines()) > FILE_LINES]
    for module in plugin_modules():
        for each in definitions_of(module):
            if isinstance(each.node, ast.ClassDef):
                large += [each.key] if each.lines > CLASS_LINES else []
            elif each.lines > FUNCTION_LINES or parameters(each) > PARAMETERS:
                large.append(each.key)
    assert large == []


def test_a_public_class_has_one_definition() -> None:
    names = Counter(
        each.name
        for each in definitions()
        if isinstance(each.node, ast.ClassDef) and "." not in each.name and not each.name.startswith("_")
    )
    assert {name for name, count in names.items() if count > 1} == set(REPEATED_CLASSES)


def test_a_private_helper_stands_at_most_twice() -> None:
    names = Counter(
        each.name for each in functions() if "." not in each.name and each.name.startswith("_") and each.name != "_"
    )
    assert {name for name, count in names.items() if count > 2} == set(REPEATED_HELPERS)


def functions() -> list[Definition]:
    return [each for each in definitions() if not isinstance(each.node, ast.ClassDef)]


def parameters(each: Definition) -> int:
    """How many parameters a caller sees: all but self and cls, `*args` and `**kwargs` as one each."""
    node = each.node
    assert not isinstance(node, ast.ClassDef)
    arguments = node.args
    named = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")]) + bool(arguments.vararg) + bool(arguments.kwarg)
