"""The settings that a run can be launched with, and the command that says the same. No screen, no plugin code.

Values are texts as `--set PATH=VALUE` takes them: the command line is the one judge of what is valid.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mccore.config import RunConfig, walk_fields
from mccore.config.inputs import SettingInput, input_of, spell_value

# Chosen by widgets of their own at the top of the form: path -> the widget, "" for what a form doesn't choose.
OWN = {
    "schema_version": "",
    "recipe": "recipe",
    "megacontext.enabled": "megacontext",
    "megacontext.allocator": "allocator",
    "megacontext.tree": "tree",
    "telemetry": "telemetry",
    "stages": "stages",
    "hardware.gpu": "profile",
    "hardware.nproc": "ranks",
}
# How the command calls what has a widget of its own, and so what a refusal may name.
_FLAGS = {
    "megacontext": ("--mc",),
    "allocator": ("--allocator",),
    "tree": ("--tree", "--mc-tree"),
    "telemetry": ("--telemetry",),
    "profile": ("--gpu", "hardware.gpu"),
    "ranks": ("--nproc", "hardware.nproc"),
    "stages": ("--set stages",),
}
_PLUGINS = ("allocator", "tree")


def settings() -> list[SettingInput]:
    """Every setting of the schema that has no widget of its own, in its order."""
    return [input_of(path, info) for path, info in walk_fields(RunConfig) if path not in OWN]


def group_of(path: str) -> str:
    """The section that a setting belongs to."""
    return path.rpartition(".")[0] or "run"


def recipe_values(config: Mapping[str, Any]) -> dict[str, str]:
    """What a recipe says of each setting, by its path and as `--set` takes it."""
    return dict(_leaves(config, ""))


def _leaves(value: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, inner in value.items():
        path = f"{prefix}{name}"
        if isinstance(inner, Mapping) and inner and not path.endswith(".mixture"):
            yield from _leaves(inner, f"{path}.")
        else:
            yield path, spell_value(inner)


def option_prefix(kind: str, name: str) -> str:
    """What the paths of a plugin's options begin with."""
    return f"telemetry.{name}.options." if kind == "telemetry" else f"megacontext.{kind}.options."


def option_inputs(kind: str, name: str, told: Sequence[Mapping[str, Any]]) -> list[SettingInput]:
    """A plugin's options as settings, from what `mccore plugins show --json` says. Raises TypeError or KeyError for what isn't
    that."""
    prefix = option_prefix(kind, name)
    found = []
    for each in told:
        texts = {key: str(each[key]) for key in ("path", "description", "default", "widget", "bounds")}
        choices = tuple(str(choice) for choice in each["choices"])
        found.append(SettingInput(**{**texts, "path": prefix + texts["path"]}, choices=choices))  # type: ignore[arg-type]
    return found


@dataclass
class Form:
    """What was chosen. `sets` holds changed settings only, options of plugins among them."""

    recipe: str = "tiny"
    name: str = ""
    megacontext: bool = False
    allocator: str = ""
    tree: str = ""
    telemetry: tuple[str, ...] = ()
    ranks: str = ""
    profile: str = ""
    stages: str = ""
    sets: dict[str, str] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """The arguments of `mccore` that start this run."""
        words = ["run", self.recipe]
        words += ["--gpu", self.profile] if self.profile else []
        words += ["--mc"] if self.megacontext else []
        words += ["--allocator", self.allocator] if self.megacontext and self.allocator else []
        words += ["--tree", self.tree] if self.megacontext and self.tree else []
        for provider in self.telemetry:
            words += ["--telemetry", provider]
        words += ["--nproc", self.ranks] if self.ranks else []
        words += ["--name", self.name] if self.name else []
        words += ["--set", f"stages={self.stages}"] if self.stages else []
        for path, value in self.sets.items():
            if self.megacontext or not path.startswith(tuple(option_prefix(kind, "") for kind in _PLUGINS)):
                words += ["--set", f"{path}={value}"]
        return words

    def forget_options(self, kind: str, name: str = "") -> None:
        """Take back the options of a plugin that is no longer chosen."""
        prefix = option_prefix(kind, name)
        self.sets = {path: value for path, value in self.sets.items() if not path.startswith(prefix)}

    def blamed(self, words: str) -> set[str]:
        """What a refusal of the command names: paths of settings, and names of widgets."""
        found = {path for path in self.sets if _is_named(words, path)}
        found |= {own for own, flags in _FLAGS.items() if any(_is_named(words, flag) for flag in flags)}
        return found | ({"name"} if self.name and repr(self.name) in words else set())

    def to_json(self) -> dict[str, Any]:
        """A preset: everything but the name of the run."""
        return {
            "recipe": self.recipe,
            "megacontext": self.megacontext,
            "allocator": self.allocator,
            "tree": self.tree,
            "telemetry": list(self.telemetry),
            "ranks": self.ranks,
            "profile": self.profile,
            "stages": self.stages,
            "sets": self.sets,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Form:
        """A form from a preset. Raises ValueError for one that isn't."""
        names = ("recipe", "allocator", "tree", "ranks", "profile", "stages")
        texts = {name: data.get(name, "") for name in names}
        sets, telemetry = data.get("sets", {}), data.get("telemetry", [])
        if not all(isinstance(value, str) for value in (*texts.values(), *telemetry)) or not isinstance(sets, dict):
            raise ValueError("not a preset of the monitor")
        return cls(
            **texts,
            megacontext=bool(data.get("megacontext")),
            telemetry=tuple(telemetry),
            sets={str(path): str(value) for path, value in sets.items()},
        )


def _is_named(words: str, path: str) -> bool:
    """Whether words name a path or flag, as a whole."""
    return re.search(rf"(?<![\w.-]){re.escape(path)}(?![\w-]|\.\w)", words) is not None
