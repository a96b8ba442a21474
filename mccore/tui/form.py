"""The settings that a run can be launched with, and the command that says the same. No screen, no plugin code.

Values are texts as `--set PATH=VALUE` takes them: the command line is the one judge of what is valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

from mccore.config import RunConfig, walk_fields

Widget = Literal["switch", "choice", "number", "text"]
# Chosen by widgets of their own at the top of the form.
OWN = (
    "schema_version",
    "recipe",
    "megacontext.enabled",
    "megacontext.allocator",
    "megacontext.tree",
    "telemetry",
    "stages",
)


@dataclass(frozen=True)
class FormField:
    """One setting of the schema: where it is, what it means, how it is edited."""

    path: str
    description: str
    default: str
    widget: Widget
    choices: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """The section it belongs to."""
        return self.path.rpartition(".")[0] or "run"


def settings() -> list[FormField]:
    """Every setting of the schema, in its order."""
    return list(_settings())


def _settings() -> Iterator[FormField]:
    for path, info in walk_fields(RunConfig):
        if path in OWN:
            continue
        kind = info.annotation
        widget, choices = _widget_of(kind)
        shown = "" if info.is_required() else _spell(info.get_default(call_default_factory=True))
        yield FormField(path, info.description or "", shown, widget, choices)


def _widget_of(kind: Any) -> tuple[Widget, tuple[str, ...]]:
    if kind is bool:
        return "switch", ("true", "false")
    if get_origin(kind) is Literal:
        return "choice", tuple(str(each) for each in get_args(kind))
    if kind in (int, float):
        return "number", ()
    return "text", ()


def _spell(value: Any) -> str:
    import json

    if isinstance(value, str):
        return value
    try:
        return json.dumps(value)
    except TypeError:
        return str(value)


@dataclass
class Form:
    """What was chosen. `sets` holds changed settings only."""

    recipe: str = "tiny"
    name: str = ""
    megacontext: bool = False
    allocator: str = ""
    tree: str = ""
    telemetry: tuple[str, ...] = ()
    ranks: str = ""
    sets: dict[str, str] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """The arguments of `mccore` that start this run."""
        words = ["run", self.recipe]
        words += ["--mc"] if self.megacontext else []
        words += ["--allocator", self.allocator] if self.megacontext and self.allocator else []
        words += ["--tree", self.tree] if self.megacontext and self.tree else []
        for provider in self.telemetry:
            words += ["--telemetry", provider]
        words += ["--nproc", self.ranks] if self.ranks else []
        words += ["--name", self.name] if self.name else []
        for path, value in self.sets.items():
            words += ["--set", f"{path}={value}"]
        return words

    def to_json(self) -> dict[str, Any]:
        """A preset: everything but the name of the run."""
        return {
            "recipe": self.recipe,
            "megacontext": self.megacontext,
            "allocator": self.allocator,
            "tree": self.tree,
            "telemetry": list(self.telemetry),
            "ranks": self.ranks,
            "sets": self.sets,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Form:
        """A form from a preset. Raises ValueError for one that isn't."""
        texts = {name: data.get(name, "") for name in ("recipe", "allocator", "tree", "ranks")}
        sets, telemetry = data.get("sets", {}), data.get("telemetry", [])
        if not all(isinstance(value, str) for value in (*texts.values(), *telemetry)) or not isinstance(sets, dict):
            raise ValueError("not a preset of the monitor")
        return cls(
            **texts,
            megacontext=bool(data.get("megacontext")),
            telemetry=tuple(telemetry),
            sets={str(path): str(value) for path, value in sets.items()},
        )
