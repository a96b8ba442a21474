"""The page docs/settings.md, written from the schema: `python -m mccore.resolve.page > docs/settings.md`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from mccore.config import Choice, Described, Need, RunConfig, walk_settings
from mccore.config.section import MAX_COUNT
from mccore.resolve.draft import FIXED
from mccore.resolve.flags import flag_table

_BOUNDS = ("ge", "gt", "le", "lt")
_INTRODUCTION = """# Settings

Every setting of a run, with its default in the schema. A recipe may have another:
`mccore run RECIPE --dry-run --json` shows what holds. `--set PATH=VALUE` sets any of them. Some have a flag too.

*derived* means that mccore computes the number from the others. `--set PATH=null` asks for that.
A setting that another one takes the effect from is refused; the last column says which.
"""


def render_page() -> str:
    """The whole page."""
    members = [described for described in walk_settings(RunConfig) if described.path not in FIXED]
    sharing: dict[str, set[str]] = {}
    for one in members:
        if "." in one.path:
            sharing.setdefault(one.group, set()).add(one.path.partition(".")[0])
    sharing["Run"] = set()
    groups: dict[str, list[Described]] = {}
    for one in members:
        groups.setdefault(_title(one, sharing), []).append(one)
    parts = [_INTRODUCTION]
    parts += [f"## {title}\n\n" + "\n".join(_table(members)) + "\n" for title, members in groups.items()]
    return "\n".join(parts)


def _title(described: Described, sharing: Mapping[str, set[str]]) -> str:
    """The group, with the section's name where stages of one shape share it."""
    section = described.path.partition(".")[0]
    return f"{described.group}: `{section}`" if len(sharing[described.group]) > 1 else described.group


def _table(members: list[Described]) -> Iterator[str]:
    flags = {flag.path: flag.names for flag in flag_table()}
    yield "| setting | default | values | what it is | flags | needs |"
    yield "|---|---|---|---|---|---|"
    for one in members:
        cells = (
            f"`{one.path}`",
            "*derived*" if one.is_derived else f"`{_spelled(_default(one))}`",
            _values(one),
            (one.info.description or "").removesuffix("."),
            ", ".join(f"`{name}`" for name in flags.get(one.path, ())),
            "; ".join(map(_need, one.needs)),
        )
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "\\n") for cell in cells) + " |"


def _default(one: Described) -> Any:
    """The default where the setting stands: two stages of one shape differ in theirs."""
    value: Any = RunConfig()
    for part in one.path.split("."):
        value = getattr(value, part)
    return value.name if isinstance(value, Choice) else value


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def _values(one: Described) -> str:
    """The values a setting takes, in a word or as bounds."""
    kind = one.kind
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    if kind not in (int, float):
        names = {bool: "true, false", str: "text", Choice: "a plugin"}
        return names.get(kind, "several" if get_origin(kind) is tuple else "an object")
    bounds = {name: getattr(item, name) for item in one.info.metadata for name in _BOUNDS if hasattr(item, name)}
    if kind is int:
        low = bounds.get("ge", bounds.get("gt", 0) + 1)
        return f"{low:,} or more" if bounds["le"] >= MAX_COUNT else f"{low:,} to {bounds['le']:,}"
    low = f"{bounds['ge']:g}" if "ge" in bounds else f"above {bounds['gt']:g}"
    high = f"{bounds['le']:g}" if "le" in bounds else f"below {bounds['lt']:g}"
    return f"{low} to {high}"


def _need(need: Need) -> str:
    if "one_of" in need:
        return f"`{need['path']}` is " + " or ".join(f"`{_spelled(value)}`" for value in need["one_of"])
    return (
        f"`{need['path']}` above {need['above']:g}" if "above" in need else f"`{need['path']}` below {need['below']:g}"
    )


if __name__ == "__main__":
    sys.stdout.write(render_page())
