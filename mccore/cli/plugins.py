"""`mccore plugins`: list what is installed, check it by loading it, start a new one."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import click

from mccore.errors import MccoreError, RunError, UsageError
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
    type=click.Path(path_type=Path),
    help="Directory of the new package; must be empty or not exist.  [default: ./mccore-KIND-NAME]",
)
def new(kind: registry.KindName, name: str, directory: Path | None) -> None:
    """Write a working plugin package of a KIND, to be chosen by NAME."""
    directory = directory or Path(f"mccore-{kind}-{name.replace('_', '-')}")
    for path in write_package(kind, name, directory):
        echo(path)
    echo(f"\nNext: cd {directory} && uv pip install -e . && mccore plugins --check && python -m pytest")


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

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_PARTS = "an options model, a class and the hook"
_TEXTS: dict[registry.KindName, dict[str, str]] = {
    "tree": {"usage": "mccore run tiny --mc --tree $name", "parts": _PARTS},
    "allocator": {"usage": "mccore run tiny --mc --allocator $name", "parts": _PARTS},
    "telemetry": {"usage": "mccore run tiny --telemetry $name", "parts": _PARTS},
    "panel": {"usage": "mccore monitor latest --once --panel $name", "parts": _PARTS},
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
