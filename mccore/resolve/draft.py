"""A configuration while it is put together: settings one by one, each remembered by what the user typed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NoReturn, get_origin

from pydantic import BaseModel, ValidationError

from mccore import plugins
from mccore.config import Choice, RunConfig, Section, describe_validation, walk_fields, walk_settings
from mccore.errors import ConfigError

Load = Callable[[Any, str], Any]

SEARCH = "megacontext.search.kind"

FINDER = "spans"  # the allocator to name to someone who wants a search

CHOICES: dict[str, plugins.KindName] = {"megacontext.tree": "tree", "megacontext.allocator": "allocator"}

TELEMETRY = "telemetry"

PROFILE = "hardware.gpu"

DERIVED = frozenset(described.path for described in walk_settings(RunConfig) if described.is_derived)

FIXED = ("schema_version", "recipe")  # known by other means than by setting them


@dataclass(frozen=True)
class Setting:
    """One value for one dotted path. `origin` is what to call it in an error; `text` says that the value is still unparsed."""

    path: str
    value: Any
    origin: str
    text: bool = False


def parse_set(text: str) -> Setting:
    """`a.b=c` as a setting. Raises ConfigError when there is no `=`."""
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise ConfigError(
            f"`--set {text}` is no assignment", hint="write --set PATH=VALUE, such as --set model.depth=8"
        )
    return Setting(path.strip(), value, f"--set {path.strip()}", text=True)


# --- settings onto values ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leaf:
    """A setting of one field of the schema; `rest` is what its path names below the field (a plugin's option, a key)."""

    path: str
    rest: tuple[str, ...]
    annotation: Any
    setting: Setting


def leaves_of(setting: Setting) -> Iterator[Leaf]:
    """A setting as settings of single fields: an object given for a section sets each of its keys."""
    model: type[BaseModel] = RunConfig
    parts = setting.path.split(".")
    for depth, part in enumerate(parts):
        name = part.replace("-", "_")
        info = model.model_fields.get(name)
        if info is None or (depth == 0 and name in FIXED):
            _refuse_path(setting)
        path, rest = ".".join([*parts[:depth], name]).replace("-", "_"), tuple(parts[depth + 1 :])
        annotation = info.annotation
        if not (isinstance(annotation, type) and issubclass(annotation, Section)) or annotation is Choice:
            yield Leaf(path, rest, annotation, setting)
            return
        model = annotation
    value = parse_value(setting, dict)
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"`{setting.origin}`: {path} is a section, not one value",
            hint=f"it has {', '.join(known for known in _settable() if known.startswith(f'{path}.'))}",
        )
    for key, inner in value.items():
        yield from leaves_of(Setting(f"{path}.{key}", inner, setting.origin))


@dataclass(frozen=True)
class PluginOption:
    """A setting of a plugin's option. `choice` is the path of the choice, for telemetry with the provider's name."""

    choice: str
    path: tuple[str, ...]
    setting: Setting


@dataclass
class Draft:
    """A configuration in the making. Options wait in `options` until all settings are in, so that the order of
    `--allocator` and its options doesn't matter."""

    values: dict[str, Any]
    options: list[PluginOption] = field(default_factory=list)

    def put(self, leaf: Leaf) -> None:
        """Set one field, or note an option of a plugin. Raises ConfigError for what the field can't take."""
        *sections, name = leaf.path.split(".")
        values = self.values
        for section in sections:
            values = values[section]
        if leaf.path in CHOICES:
            values[name] = self._choice(values[name], leaf)
        elif leaf.path == TELEMETRY and leaf.rest:
            self._note_options(f"{TELEMETRY}.{leaf.rest[0]}", leaf.rest[1:], leaf.setting)
        elif leaf.path == TELEMETRY:
            values[name] = self._providers(values[name], leaf.setting)
        elif get_origin(leaf.annotation) is dict and len(leaf.rest) == 1:
            values[name] = {**values[name], leaf.rest[0]: parse_value(leaf.setting, None)}
        elif leaf.rest:
            _refuse_path(leaf.setting)
        else:
            values[name] = parse_value(leaf.setting, leaf.annotation)

    def settle(self) -> None:
        """Write noted options into the choices as they are named now, and forget them."""
        for option in self.options:
            choice = self._find(option.choice)
            if choice is not None:
                choice["options"] = with_option(choice["options"], option.path, option.setting.value)
        self.options = []

    def validate(self, asked: Sequence[Leaf]) -> RunConfig:
        """The values as a configuration, plugin options still unread. Raises ConfigError that names what was asked."""
        try:
            return RunConfig.model_validate(self.values)
        except ValidationError as error:
            guilty = []
            for item in error.errors(include_url=False):
                path = path_of(item)
                origins = [
                    leaf.setting.origin for leaf in asked if path == leaf.path or path.startswith(leaf.path + ".")
                ]
                guilty += [f"`{origins[-1]}`"] if origins else []
                # Settings that contradict each other are reported of their section.
                guilty += [
                    f"`{leaf.setting.origin}`"
                    for leaf in asked
                    if leaf.path.startswith(f"{path}.") and f"{leaf.path.removeprefix(f'{path}.')}=" in item["msg"]
                ]
            hint = f"it was set by {' and '.join(dict.fromkeys(guilty))}" if guilty else None
            if hint and any(item["input"] == 0 and path_of(item) in DERIVED for item in error.errors()):
                hint += "; leave it out, or write null, and it is derived"
            raise ConfigError(describe_validation(error), hint=hint) from error

    def _find(self, path: str) -> dict[str, Any] | None:
        section, _, name = path.partition(".")
        if section == TELEMETRY:
            return next((choice for choice in self.values[TELEMETRY] if choice["name"] == name), None)
        found: dict[str, Any] = self.values[section][name]
        return found

    def _choice(self, choice: dict[str, Any], leaf: Leaf) -> dict[str, Any]:
        setting = leaf.setting
        if leaf.rest == ("name",):
            return _renamed(choice, parse_value(setting, str))
        if leaf.rest:
            self._note_options(leaf.path, leaf.rest, setting)
            return choice
        value = parse_value(setting, dict)
        if not isinstance(value, Mapping):
            return _renamed(choice, parse_value(setting, str))
        _check_choice(value, setting)
        if "options" in value:
            self._note_options(leaf.path, ("options",), Setting(setting.path, value["options"], setting.origin))
        return _renamed(choice, value.get("name", choice["name"]))

    def _providers(self, former: Sequence[dict[str, Any]], setting: Setting) -> list[dict[str, Any]]:
        """The telemetry providers of a list of names or objects. One that was there already keeps its options."""
        value = parse_value(setting, tuple)
        there = {choice["name"]: choice for choice in former}
        chosen: dict[str, dict[str, Any]] = {}
        for item in [value] if isinstance(value, str | Mapping) or not isinstance(value, Sequence) else value:
            if isinstance(item, Mapping):
                _check_choice(item, setting)
            name = item.get("name") if isinstance(item, Mapping) else item
            if not isinstance(name, str) or not name:
                raise ConfigError(f"`{setting.origin}`: {item!r} names no telemetry provider")
            chosen[name] = dict(there.get(name, {"name": name, "options": {}}))
            if isinstance(item, Mapping) and "options" in item:
                options = Setting(setting.path, item["options"], setting.origin)
                self._note_options(f"{TELEMETRY}.{name}", ("options",), options)
        return list(chosen.values())

    def _note_options(self, choice: str, rest: tuple[str, ...], setting: Setting) -> None:
        """Note a setting of plugin options; an object sets each of its keys."""
        if rest[:1] != ("options",):
            raise ConfigError(
                f"`{setting.origin}`: there is no setting {'.'.join([choice, *rest])}",
                hint=f"options are set by {choice}.options.{rest[0] if rest else 'NAME'}=VALUE",
            )
        if len(rest) > 1:
            self.options.append(PluginOption(choice, rest[1:], setting))
            return
        value = parse_value(setting, dict)
        if not isinstance(value, Mapping):
            raise ConfigError(f"`{setting.origin}`: options are an object", hint='write it as JSON: {"name": value}')
        for key, inner in value.items():
            self.options.append(PluginOption(choice, (key,), Setting(setting.path, inner, setting.origin)))


def path_of(item: Mapping[str, Any]) -> str:
    """The dotted path of one fault of a validation error."""
    return ".".join(str(part) for part in item["loc"])


def parse_value(setting: Setting, annotation: Any) -> Any:
    """A setting's value: JSON where the text is JSON, else the text itself.

    The schema has a say: where it wants text, `--set hardware.gpu=5090` is text; where it wants several, `a,b` is two.
    """
    if not setting.text:
        return setting.value
    text = str(setting.value)
    try:
        value = json.loads(text, parse_constant=str)  # NaN and Infinity aren't JSON: they stay text and fail validation
    except (
        ValueError,
        RecursionError,
    ):  # not JSON, or nested deeper than any setting: it stays text and fails validation
        value = text
    if annotation is str and not isinstance(value, str):
        return text
    if isinstance(value, str) and (annotation is tuple or get_origin(annotation) is tuple):
        return [part.strip() for part in value.split(",")]
    return value


def with_option(options: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """`options` with the value at a path within them, objects on the way made."""
    head, *rest = path
    if not rest:
        return {**options, head: value}
    inner = options.get(head)
    return {**options, head: with_option(inner if isinstance(inner, Mapping) else {}, tuple(rest), value)}


def _check_choice(value: Mapping[str, Any], setting: Setting) -> None:
    if unknown := sorted(set(value) - {"name", "options"}):
        raise ConfigError(
            f"`{setting.origin}`: a plugin is chosen by name and options, not {', '.join(map(repr, unknown))}",
            hint='write {"name": "...", "options": {...}}',
        )


def _renamed(choice: Mapping[str, Any], name: Any) -> dict[str, Any]:
    """A choice under a name; options belong to the plugin they were written for and go with it."""
    return {"name": name, "options": choice["options"] if choice["name"] == name else {}}


def _settable() -> list[str]:
    return [path for path, _ in walk_fields(RunConfig) if path not in FIXED]


def _refuse_path(setting: Setting) -> NoReturn:
    if setting.path == "recipe":
        raise ConfigError(f"`{setting.origin}`: a recipe is chosen by its name", hint="mccore run RECIPE")
    known = _settable()
    last = setting.path.rpartition(".")[2].replace("-", "_")
    # By the last name first: whole paths of one section resemble each other too much.
    close = [path for path in known if path.rpartition(".")[2] == last]
    close = close or [path for path in known if get_close_matches(last, [path.rpartition(".")[2]], cutoff=0.75)]
    close = get_close_matches(setting.path, close, n=3, cutoff=0) or get_close_matches(setting.path, known, n=3)
    raise ConfigError(
        f"`{setting.origin}`: there is no setting {setting.path!r}",
        hint=f"did you mean {' or '.join(close[:3])}?" if close else "`mccore run RECIPE --dry-run --json` shows all",
    )
