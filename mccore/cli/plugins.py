"""`mccore plugins`: list what is installed, check it by loading it, start a new one."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from mccore.cli.named_path import NamedPath
from mccore.errors import MccoreError, PluginError, RunError, UsageError
from mccore.host.terminal import echo, echo_json, one_line, style
from mccore.plugins import registry


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@click.option("--check", is_flag=True, help="Load every plugin, resolve every recipe; exit code 1 when one is faulty.")
@click.pass_context
def plugins(ctx: click.Context, as_json: bool, check: bool) -> int:
    """List and check plugins, or start a new one.

    Without --check nothing is imported: health is what the installed files show.
    """
    if ctx.invoked_subcommand is not None:
        return 0
    rows = check_all() if check else registry.describe()
    if as_json:
        echo_json([_as_json(row) for row in rows])
    else:
        _print_table(rows)
    for item in registry.disabled_without_effect():
        echo(f"note: {registry.DISABLE_VARIABLE} names {item!r}, which is no plugin", err=True)
    return 1 if check and any(row.problem for row in rows) else 0


@plugins.command()
@click.argument("kind", type=click.Choice(list(registry.KINDS)))
@click.argument("name")
@click.option(
    "--directory",
    type=NamedPath(path_type=Path),
    help="Directory of the new package; must be empty or not exist.  [default: ./mccore-KIND-NAME]",
)
def new(kind: registry.KindName, name: str, directory: Path | None) -> None:
    """Write a working plugin package of a KIND, to be chosen by NAME."""
    directory = directory or Path(f"mccore-{kind}-{name.replace('_', '-')}")
    for path in write_package(kind, name, directory):
        echo(path)
    echo(f"\nNext: cd {directory} && uv pip install -e . && mccore plugins --check && python -m pytest")


@plugins.command()
@click.argument("kind", type=click.Choice(list(registry.KINDS)))
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(kind: registry.KindName, name: str, as_json: bool) -> None:
    """All about the plugin NAME of a KIND: what it is from, its options, a recipe's settings, a panel's place."""
    detail = _detail(registry.find(kind, name))
    if as_json:
        echo_json(detail)
        return
    echo(style(f"{registry.KINDS[kind].noun} {name}", bold=True), f": {one_line(detail['summary'])}")
    echo(f"from {one_line(detail['distribution'])} {one_line(detail['version'])} ({one_line(detail['module'])})")
    for line in _lines_of(detail):
        echo(one_line(line))


def builtin_tasks() -> tuple[str, ...]:
    """Names of tasks that no plugin can have."""
    from mccore.tasks.catalogue import builtin_names

    return builtin_names()


# --- listing -------------------------------------------------------------------------------------------------------------


def check_all() -> list[registry.Plugin]:
    """`mccore.plugins.check`, and every recipe resolved with each of its profiles. What plugins print goes to stderr."""
    from mccore import plugins as loader
    from mccore.resolve.resolve import resolve

    rows = []
    with contextlib.redirect_stdout(sys.stderr):
        for row in loader.check():
            if row.kind == "recipe" and row.health == "ok":
                try:
                    for profile in ("", *loader.load("recipe", row.name).profiles):
                        resolve(row.name, gpu=profile)
                except MccoreError as error:
                    if error.blame in (None, row.blame):  # else it is another plugin's fault, and in that one's row
                        row = replace(row, problem=f"it can't be resolved: {error.message}")
            if row.kind == "task" and row.name in builtin_tasks():
                row = replace(row, problem="mccore itself has a task of this name, which is the one that is taken")
            rows.append(row)
    return rows


def _as_json(row: registry.Plugin) -> dict[str, str]:
    return {
        "kind": row.kind,
        "name": row.name,
        "distribution": row.distribution,
        "version": row.version,
        "module": row.module,
        "summary": row.summary,
        "health": row.health,
    }


def _detail(row: registry.Plugin) -> dict[str, Any]:
    """A plugin with what only loading it tells. What it prints goes to stderr. Raises PluginError for a faulty one."""
    from mccore import plugins as loader
    from mccore.config.inputs import inputs_of

    with contextlib.redirect_stdout(sys.stderr):
        loaded = loader.load(row.kind, row.name)
        detail: dict[str, Any] = {**_as_json(row), "summary": loaded.summary or row.summary}
        if row.kind == "recipe":
            from mccore.resolve.resolve import recipe_config

            config = recipe_config(row.name)
            profiles = {name: dict(overrides) for name, overrides in loaded.profiles.items()}
            return detail | {"profiles": profiles, "config": config.model_dump(mode="json")}
        if row.kind == "panel":
            detail |= _panel_detail(row)
        return detail | {"options": [asdict(each) for each in inputs_of(loaded.options, "")]}


def _panel_detail(row: registry.Plugin) -> dict[str, Any]:
    """Where a panel stands and what it reads."""
    from mccore.tui.panels import load_panel

    found = load_panel(row.name, Path())
    if found.panel is None:
        raise PluginError(f"panel {row.name!r} can't be shown: {found.problem}", blame=row.blame)
    return {"title": found.panel.title, "place": found.panel.place, "reads": list(found.panel.reads)}


def _lines_of(detail: Mapping[str, Any]) -> Iterator[str]:
    """What `show` says of a plugin below its head."""
    from mccore.config.inputs import spell_value

    if "config" in detail:
        yield f"stages    {' > '.join(detail['config']['stages'])}"
        for name, overrides in detail["profiles"].items():
            yield f"--gpu {name}: {', '.join(f'{path}={spell_value(value)}' for path, value in overrides.items())}"
        yield f"`mccore run {detail['name']} --dry-run` shows all of its settings and what they cost"
        return
    if "place" in detail:
        yield f"title     {detail['title']}"
        yield f"place     {_PLACES[detail['place']]}"
        yield f"reads     {', '.join(detail['reads']) or 'nothing in particular: it is always shown'}"
    if not detail["options"]:
        yield "it has no options"
    for option in detail["options"]:
        about = [option["bounds"], ", ".join(option["choices"]), f"default {option['default'] or 'none'}"]
        yield f"  {option['path']}: {option['description']} ({'; '.join(filter(None, about))})"


def _print_table(rows: list[registry.Plugin]) -> None:
    """Aligned columns, the summary cut to a terminal's width. By hand: a table library imports longer than this takes."""
    if not rows:
        echo("no plugins are installed")
        return
    cells = [("kind", "name", "distribution", "version", "health")]
    cells += [
        (
            row.kind,
            one_line(row.name),
            one_line(row.distribution),
            one_line(row.version),
            "faulty" if row.problem else row.health,
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    room = shutil.get_terminal_size().columns - sum(widths) - 2 * len(widths) if sys.stdout.isatty() else None
    for line, summary in zip(cells, ["summary", *(row.summary for row in rows)], strict=True):
        fields = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        summary = one_line(summary)
        if room is not None and len(summary) > room:
            summary = summary[: max(0, room - 1)] + "…"
        if line is cells[0]:
            echo(style("  ".join(fields), bold=True), "  ", summary)
        else:
            health = style(fields[4], fg={"ok": "green", "disabled": "yellow"}.get(line[4], "red"))
            echo("  ".join(fields[:4]), "  ", health, *(("  ", summary) if summary else ()))
    for row in rows:
        if row.problem:
            echo(f"\n{registry.KINDS[row.kind].noun} {row.name!r}: {row.problem}\nfrom: {row.blame}")


# --- a new package -------------------------------------------------------------------------------------------------------

_PLACES = {
    "plot": "among the curves, in the place of the metrics that it reads",
    "wide": "below the curves, over the whole width",
    "screen": "on a screen of its own",
}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_PARTS = "an options model, a class and the hook"
_TEXTS: dict[registry.KindName, dict[str, str]] = {
    "tree": {"usage": "mccore run tiny --mc --tree $name", "parts": _PARTS},
    "allocator": {"usage": "mccore run tiny --mc --allocator $name", "parts": _PARTS},
    "telemetry": {"usage": "mccore run tiny --telemetry $name", "parts": _PARTS},
    "panel": {"usage": "mccore monitor latest --once --panel $name", "parts": _PARTS},
    "task": {"usage": "mccore run tiny --set sft.mixture.$name=1000", "parts": _PARTS},
    "recipe": {"usage": "mccore run $name --dry-run", "parts": "a configuration, its profiles and the hook"},
}


def write_package(kind: registry.KindName, name: str, directory: Path) -> list[Path]:
    """Write a package with one plugin into an empty or new directory and return its files.

    Raises UsageError for a name that can't be used or is taken, RunError when the files can't be written.
    """
    from importlib.resources import files
    from string import Template

    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} can't be the name of a plugin",
            hint="use up to 40 lower-case letters, digits and underscores, starting with a letter",
        )
    if taken := [row for row in registry.describe(kind) if row.name == name]:
        raise UsageError(
            f"{registry.KINDS[kind].noun} {name!r} exists already, from {taken[0].blame}",
            hint="two of one name can't be used: choose another",
        )
    if kind == "task" and name in builtin_tasks():
        raise UsageError(f"task {name!r} exists already, in mccore itself", hint="choose another name")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} exists and isn't an empty directory", hint="choose another with --directory")
    module = f"mccore_{kind}_{name}"
    noun = registry.KINDS[kind].noun
    numpy = ', "numpy>=2.0"' if kind in ("tree", "allocator") else ""
    values = {
        "name": name,
        "kind": kind,
        "module": module,
        "distribution": module.replace("_", "-"),
        "group": registry.KINDS[kind].group,
        "noun": noun,
        "title": noun[:1].upper() + noun[1:],
        "class_name": "".join(part.capitalize() for part in name.split("_")),
        "dependencies": f'"mccore>=0.1"{numpy}, "pydantic>=2.10"',
        "usage": Template(_TEXTS[kind]["usage"]).substitute(name=name),
        "parts": _TEXTS[kind]["parts"],
    }
    templates = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        f"{module}/__init__.py": f"{kind}.py",
        f"tests/test_{name}.py": f"test_{kind}.py",
    }
    source = files("mccore.plugins") / "skeleton"
    texts = {
        path: Template((source / f"{template}.tmpl").read_text(encoding="utf-8")).substitute(values)
        for path, template in templates.items()
    }
    texts[f"{module}/py.typed"] = ""
    try:
        for path, text in texts.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"can't write {error.filename or directory}: {error.strerror}") from error
    return [directory / path for path in texts]
